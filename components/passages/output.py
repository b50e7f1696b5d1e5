"""The output of the passages stage: passages, the queries that they answer, and the provenance of each passage.

The folder has the layout of a corpus with only the additions, and passages/ with the provenance, a row for each query.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import PartWriter
from mirepoix.components.stage import Outcome, Rows
from mirepoix.models.item import Item, content_hash, item_to_row

PASSAGE_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # vid2r or written
        pa.field("answer", pa.string(), nullable=False),  # the concise answer, or the caption, unchanged
        pa.field("model", pa.string(), nullable=False),  # the retriever of vid2r, or the language model
        pa.field("prompt", pa.string()),  # sha256 of the messages
        pa.field("sources", pa.list_(pa.string()), nullable=False),  # the triple or candidate, then the candidates that were used
        pa.field("cached", pa.bool_(), nullable=False),
        pa.field("prompt_tokens", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
    ]
)
_PARTS = ("corpus", "queries", "qrels", "rejects")
_UNPROMPTED = {"prompt": None, "cached": False, "prompt_tokens": 0, "tokens": 0}


class PassageWriter:
    """Writes the parts of the output, and counts written and rejected rows by reason."""

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind = folder, kind
        self.read = 0
        self.counts: Counter[str] = Counter()
        self._written: set[bytes] = set()  # content hashes of passages
        self._pending: list[dict[str, Any]] = []  # rows of passages/

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._parts = {part: stack.enter_context(PartWriter(self.folder, part)) for part in _PARTS}
            (self.folder / "passages").mkdir()
            self._provenance = stack.enter_context(pq.ParquetWriter(self.folder / "passages" / "part-00000.parquet", PASSAGE_SCHEMA))
            stack.callback(self._flush)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def add(self, query: Item, text: str, answer: str, **provenance: Any) -> str:
        """Writes a passage for a query and returns the passage's id; passages with equal text are one candidate."""
        plain = Item("", text, source=query.source, line=query.line)
        hashed = content_hash(plain)
        item = replace(plain, id=f"p-{hashed.hex()[:32]}")
        asking = replace(query, id=self.query_id(query.id))
        if hashed not in self._written:
            self._written.add(hashed)
            self._parts["corpus"].write([item_to_row(item)])
        self._parts["queries"].write([item_to_row(asking) | {"split": "train", "task": f"{asking.modality.letters}->t"}])
        self.judge(query, item.id, 1)
        self._pending.append({**_UNPROMPTED, **provenance, "item_id": item.id, "query_id": asking.id, "kind": self.kind, "answer": answer})
        if len(self._pending) == 1000:
            self._flush()
        self.counts["written"] += 1
        return item.id

    def query_id(self, id: str) -> str:
        """The id of the query made from the row with this id."""
        return f"{self.kind}/{id}"

    def judge(self, query: Item, item_id: str, relevance: int) -> None:
        """Writes a relevance judgement of a passage for a query."""
        row = {"query_id": self.query_id(query.id), "item_id": item_id, "relevance": relevance}
        self._parts["qrels"].write([{**row, "source": query.source, "line": query.line}])

    def reject(self, part: str, row: dict[str, Any], reason: str, detail: str) -> None:
        """Writes a row of the input that gives no passage to the rejects, with its reason."""
        place = {name: row[name] for name in ("id", "source", "line")}
        self._parts["rejects"].write([{"part": part, "reason": reason, "detail": detail, **place}])
        self.counts[reason] += 1

    def _flush(self) -> None:
        self._provenance.write_table(pa.Table.from_pylist(self._pending, PASSAGE_SCHEMA))
        self._pending = []

    @property
    def rejected(self) -> dict[str, int]:
        """The numbers of rejected rows by reason, the most frequent first."""
        return {reason: count for reason, count in self.counts.most_common() if reason != "written"}

    def outcome(self, metrics: dict[str, float]) -> Outcome:
        """The outcome of the stage, once everything is written."""
        written, rejected = self.counts["written"], self.rejected
        figures = {"written": written, "passages": len(self._written)} | {f"rejected {reason}": count for reason, count in rejected.items()}
        table = [{"outcome": name, "count": count} for name, count in {"written": written, **rejected}.items()]
        return Outcome(Rows(self.read, written, sum(rejected.values())), {**figures, **metrics}, {"passages": table} if self.read else {})
