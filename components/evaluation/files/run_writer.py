"""Writes rankings of places among ids as a TREC run, many queries at a time, by pyarrow."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from mirepoix.components.evaluation.files.runs import falling
from mirepoix.serving.search.dense import Ranking


class RunWriter:
    """A run file: `query Q0 item rank score tag`, ranks from 1, ties lowered as `runs.write_run` does it, at a tenth of its time."""

    def __init__(self, file: Path, tag: str):
        self._file, self._tag = file, tag

    def __enter__(self) -> Self:
        self._out = self._file.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()

    def write(self, queries: Sequence[str], ids: pa.ChunkedArray | pa.Array, ranked: Sequence[Ranking]) -> None:
        """Writes the rankings of queries, whose items are given by their places among the ids."""
        lengths = [len(places) for places, _ in ranked]
        if not sum(lengths):
            return
        once = pa.array(np.zeros(sum(lengths), np.int8))
        table = {
            "query": pa.array(queries, pa.string()).take(pa.array(np.repeat(np.arange(len(queries)), lengths))),
            "q0": pa.array(["Q0"]).take(once),
            "item": ids.take(pa.array(np.concatenate([places for places, _ in ranked]))),
            "rank": pa.array(np.concatenate([np.arange(1, length + 1) for length in lengths])),
            "score": pa.array(np.concatenate([falling(scores) for _, scores in ranked]).astype(np.float32)),
            "tag": pa.array([self._tag]).take(once),
        }
        if any(pc.any(pc.match_substring(table[name], '"')).as_py() for name in ("query", "item", "tag")):
            self._write_joined([*table.values()])
        else:
            pa_csv.write_csv(pa.table(table), self._out, pa_csv.WriteOptions(include_header=False, delimiter=" ", quoting_style="none"))

    def _write_joined(self, columns: Sequence[pa.ChunkedArray | pa.Array]) -> None:
        """As pyarrow's writer of CSV does it in half the time, which refuses a quotation mark."""
        texts = [column.cast(pa.large_string()) for column in columns]
        whole = [text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text for text in texts]
        lines = pc.binary_join_element_wise(*whole, pa.scalar(" ", pa.large_string()))
        self._out.writelines(f"{line}\n".encode() for line in lines.to_pylist())
