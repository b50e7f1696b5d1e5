"""Rows of a part by their ids, a few at a time, without reading pictures that nobody asked for."""

from collections.abc import Container, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import part_files

ROWS = 16  # at a time: pictures are large


def picked(folder: Path, part: str, wanted: Container[str]) -> Iterator[pa.Table]:
    """The rows whose id is wanted, in the order of the part; of row groups without any, only the ids are read."""
    for file in part_files(folder, part):
        with pq.ParquetFile(file) as opened:
            for group in range(opened.num_row_groups):
                ids = opened.read_row_group(group, ["id"])["id"].to_pylist()
                keep = np.fromiter((id in wanted for id in ids), bool, len(ids))
                if not keep.any():
                    continue
                start = 0
                for batch in opened.iter_batches(batch_size=ROWS, row_groups=[group]):
                    here = keep[start : start + batch.num_rows]
                    start += batch.num_rows
                    if here.any():
                        yield pa.Table.from_batches([batch.filter(pa.array(here))])
