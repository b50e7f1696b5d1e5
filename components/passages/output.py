"""What is added to a corpus to train on: passages, the queries that they answer, and what each passage was made of.

The folder has the layout of a corpus and holds additions alone; beside the parts of a corpus stands passages/, a row for each query.
"""

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import PartWriter
from mirepoix.models.item import Item, content_hash, item_to_row
from mirepoix.serving.store import Outcome, Rows

PASSAGE_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),  # vid2r or written
        pa.field("answer", pa.string(), nullable=False),  # the concise answer, or the caption, as it stood
        pa.field("model", pa.string(), nullable=False),  # the retriever of vid2r, or the language model
        pa.field("prompt", pa.string()),  # sha256 of the messages
        pa.field("sources", pa.list_(pa.string()), nullable=False),  # the triple or candidate, then the candidates that went in
        pa.field("cached", pa.bool_(), nullable=False),
        pa.field("prompt_tokens", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
    ]
)
_PARTS = ("corpus", "queries", "qrels", "rejects")
_UNPROMPTED = {"prompt": None, "cached": False, "prompt_tokens": 0, "tokens": 0}


class PassageWriter:
    """The parts that are written, and what became of every row that was read."""

    def __init__(self, folder: Path, kind: str):
        self.folder, self.kind = folder, kind
        self.read = 0
        self.counts: Counter[str] = Counter()
        self._standing: set[bytes] = set()
        self._telling: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._parts = {part: stack.enter_context(PartWriter(self.folder, part)) for part in _PARTS}
            (self.folder / "passages").mkdir()
            self._told = stack.enter_context(pq.ParquetWriter(self.folder / "passages" / "part-00000.parquet", PASSAGE_SCHEMA))
            stack.callback(self._tell)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._stack.__exit__(*raised)

    def add(self, query: Item, text: str, answer: str, **told: Any) -> str:
        """The id of a new passage for a query, whose id tells what it came from; equal passages are one candidate."""
        plain = Item("", text, source=query.source, line=query.line)
        hashed = content_hash(plain)
        item = replace(plain, id=f"p-{hashed.hex()[:32]}")
        asking = replace(query, id=self.query_id(query.id))
        if hashed not in self._standing:
            self._standing.add(hashed)
            self._parts["corpus"].write([item_to_row(item)])
        self._parts["queries"].write([item_to_row(asking) | {"split": "train", "task": f"{asking.modality.letters}->t"}])
        self.judge(query, item.id, 1)
        self._telling.append({**_UNPROMPTED, **told, "item_id": item.id, "query_id": asking.id, "kind": self.kind, "answer": answer})
        if len(self._telling) == 1000:
            self._tell()
        self.counts["written"] += 1
        return item.id

    def query_id(self, id: str) -> str:
        """What the query that is made of a row is called."""
        return f"{self.kind}/{id}"

    def judge(self, query: Item, item_id: str, relevance: int) -> None:
        """Tells whether a passage answers a query."""
        row = {"query_id": self.query_id(query.id), "item_id": item_id, "relevance": relevance}
        self._parts["qrels"].write([{**row, "source": query.source, "line": query.line}])

    def reject(self, part: str, row: dict[str, Any], reason: str, detail: str) -> None:
        """Tells of a row of which no passage is made."""
        place = {name: row[name] for name in ("id", "source", "line")}
        self._parts["rejects"].write([{"part": part, "reason": reason, "detail": detail, **place}])
        self.counts[reason] += 1

    def _tell(self) -> None:
        self._told.write_table(pa.Table.from_pylist(self._telling, PASSAGE_SCHEMA))
        self._telling = []

    @property
    def lost(self) -> dict[str, int]:
        """The rejected rows by reason, the most frequent first."""
        return {reason: count for reason, count in self.counts.most_common() if reason != "written"}

    def outcome(self, metrics: dict[str, float]) -> Outcome:
        """What the stage returns, when all is written."""
        written, lost = self.counts["written"], self.lost
        figures = {"written": written, "passages": len(self._standing)} | {f"rejected {reason}": count for reason, count in lost.items()}
        table = [{"outcome": name, "count": count} for name, count in {"written": written, **lost}.items()]
        return Outcome(Rows(self.read, written, sum(lost.values())), {**figures, **metrics}, {"passages": table} if self.read else {})
