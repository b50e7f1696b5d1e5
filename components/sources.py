"""The first stage: any number of corpora, each in any known format, or the generated world, brought into one canonical form.

Rows come from the readers; ids are joined here, a row at a time: what stands twice, what names a candidate that is not there, and what
no reader could use is rejected with its file and line.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components import world as generated
from mirepoix.components.corpus import PartWriter, part_tables
from mirepoix.components.reading import FORMATS, opened, tables
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.options import option
from mirepoix.serving.store import Context, Outcome, Rows, refuse_credentials

NOTICES = 200  # a table of more is read by nobody
TASK = re.compile("[itv]+->[itv]+")


@dataclass(frozen=True)
class SourcesConfig:
    """Where the corpus comes from."""

    path: tuple[str, ...] = option((), "folders, files or URIs, each [NAME=][FORMAT+]PATH; empty: the generated world")
    format: str = option("auto", f"format of the paths that name none: auto, {', '.join(FORMATS)}")
    images: str | None = option(None, "folder or URI that the paths of pictures are relative to; null: the source's own")
    splits: tuple[str, ...] = option((), "splits that are called otherwise from here on: dev=train, ...")
    workers: int | None = option(None, "pieces that are read at a time; null: as many as the cluster's CPUs")
    fingerprint: str | None = option(None, "of the files at path, filled in when the run starts")
    world: generated.WorldConfig = option(generated.WorldConfig, "the generated world, for when path is empty")

    def __post_init__(self) -> None:
        assert not isinstance(self.path, str), "path is a tuple of paths"
        for path in (*self.path, *filter(None, [self.images])):
            refuse_credentials(path)
        if self.format not in ("auto", *FORMATS):
            raise Refused(f"sources.format is {self.format!r}; give auto, or one of {', '.join(FORMATS)}")
        if self.workers is not None and self.workers < 1:
            raise Refused(f"sources.workers is {self.workers}; give 1 or more, or null")
        for entry in self.splits:
            if not re.fullmatch(r"[^=\s]+=[^=\s]+", entry):
                raise Refused(f"sources.splits has {entry!r}; give old=new, such as dev=train")


def fingerprint(config: SourcesConfig) -> str:
    """What the files of all sources are known by; refuses a path that holds no corpus."""
    return "; ".join(f"{source.place.name}: {source.fingerprint()}" for source in opened(config.path, config.format, config.images))


def work(context: Context, config: SourcesConfig) -> Outcome:
    """Brings the corpus into canonical form."""
    if not config.path:
        return generated.work(context, config.world)
    sources = opened(config.path, config.format, config.images)
    with TemporaryDirectory(dir=context.folder) as spool:
        return _Join(context, config, Path(spool)).outcome(tables(sources, config.workers))


class _Join:
    """What has been read so far: which ids are there, and what waits for all of them."""

    def __init__(self, context: Context, config: SourcesConfig, spool: Path):
        self.context, self.path, self.spool = context, config.path, spool
        self.splits = dict(entry.split("=") for entry in config.splits)
        self.modality: dict[str, int] = {}  # of each candidate
        self.asked: dict[str, bool] = {}  # each query: whether its task is settled
        self.told: set[str] = set()  # each triple
        self.read = self.again = 0
        self.notices: list[dict[str, Any]] = []
        self.counts: Counter[tuple[str, str, str]] = Counter()  # source, part, what became of it

    def outcome(self, read: Iterable[pa.Table]) -> Outcome:
        parts = ("corpus", "queries", "qrels", "triples", "prompts", "rejects")
        self.writers = {part: PartWriter(self.context.folder, part) for part in parts}
        waiting = {part: PartWriter(self.spool, part) for part in ("queries", "qrels")}
        try:
            for table in read:
                for kind in pc.unique(table["kind"]).to_pylist():
                    self._take(kind, table.filter(pc.equal(table["kind"], kind)), waiting)
                self.read += pc.sum(pc.not_equal(table["kind"], "notices")).as_py() or 0
                self.context.report({"step": self.read})
            for writer in waiting.values():
                writer.close()
            first = self._judgements()
            self._pending(first)
            written = {part: writer.written for part, writer in self.writers.items()}
            if not written["corpus"]:
                self.writers["rejects"].close()
                raise Refused(
                    f"the corpus at {', '.join(self.path)} is empty: not one usable row in corpus/; {written['rejects']} rows were rejected"
                )
            for part, writer in self.writers.items():
                if writer.written or part in ("corpus", "queries", "qrels", "rejects"):
                    writer.close()
        finally:
            self.writers.clear()
        rejected = written.pop("rejects")
        rows = Rows(self.read, sum(written.values()), rejected, merged=self.again)
        metrics = {part: count for part, count in written.items() if count or part in ("corpus", "queries", "qrels")}
        table = [
            {"source": source, "part": part, "what": what, "count": count} for (source, part, what), count in sorted(self.counts.items())
        ]
        told = {**metrics, "rejected": rejected, **({"merged": self.again} if self.again else {})}
        return Outcome(rows, told, {"sources": table, "notices": self.notices[:NOTICES]})

    def _take(self, kind: str, table: pa.Table, waiting: dict[str, PartWriter]) -> None:
        if kind == "notices":
            self.notices += table.select(["source", "reason", "detail"]).to_pylist()
            return
        if kind in ("qrels", "prompts", "rejects"):
            writer = waiting.get(kind) or self.writers[kind]
            writer.write(table)
            self._count(table, table["part"] if kind == "rejects" else kind, table["reason"] if kind == "rejects" else "read")
            return
        if kind != "corpus":
            table = self._renamed(table)
        keep, later, reasons = [], [], []
        codes = _modalities(table)
        columns = [table[name].to_pylist() for name in ("id", "named", "split", "task")]
        for id, named, split, task, code in zip(*columns, codes, strict=True):
            known = {"corpus": self.modality, "queries": self.asked, "triples": self.told}[kind]
            reason = _fault(kind, id, split, task, code)
            again = reason is None and id in known
            if again and named:
                reason = "duplicate id"
            elif reason is None and not again:
                if kind == "corpus":
                    self.modality[id] = code
                elif kind == "queries":
                    self.asked[id] = bool(task)
                else:
                    self.told.add(id)
            self.again += again and not named
            fresh = reason is None and not again
            reasons.append(reason)
            keep.append(fresh and (kind != "queries" or bool(task)))
            later.append(fresh and not keep[-1])
        self.writers[kind].write(table.filter(pa.array(keep)))
        if any(later):
            waiting[kind].write(table.filter(pa.array(later)))
        self._reject(kind, table, reasons)
        self._count(table.filter(pc.is_null(pa.array(reasons, pa.string()))), kind, "read")

    def _renamed(self, table: pa.Table) -> pa.Table:
        splits = pa.array([self.splits.get(split, split) for split in table["split"].to_pylist()], pa.string())
        return table.set_column(table.schema.get_field_index("split"), "split", splits)

    def _judgements(self) -> dict[str, int]:
        """Writes the judgements whose query and candidate are there; returns the modality of the first answer of queries without a task."""
        first: dict[str, int] = {}
        seen: set[int] = set()
        for table in part_tables(self.spool, "qrels"):
            reasons, keep = [], []
            for query, item, relevance in zip(*(table[name].to_pylist() for name in ("query_id", "item_id", "relevance")), strict=True):
                reason, told = self._unjoined(query, item, relevance), hash((query, item, relevance))
                reasons.append(reason)
                keep.append(reason is None and told not in seen)
                self.again += reason is None and told in seen
                if keep[-1]:
                    seen.add(told)
                    if relevance > 0 and not self.asked[query]:
                        first.setdefault(query, self.modality[item])
            self.writers["qrels"].write(table.filter(pa.array(keep)))
            names = [f"{query} {item}" for query, item in zip(table["query_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)]
            self._reject("qrels", table.append_column("id", pa.array(names, pa.string())), reasons)
        return first

    def _unjoined(self, query: str, item: str, relevance: int | None) -> str | None:
        """Why a judgement joins nothing."""
        if not query or not item or relevance is None:
            return "bad row"
        if item not in self.modality:
            return "unknown item"
        return None if query in self.asked else "unknown query"

    def _pending(self, first: dict[str, int]) -> None:
        """Writes the queries that waited for their task."""
        for table in part_tables(self.spool, "queries"):
            rows = list(zip(table["id"].to_pylist(), _modalities(table), strict=True))
            tasks = [f"{Modality(code).letters}->{Modality(first[id]).letters}" if id in first else "" for id, code in rows]
            table = table.set_column(table.schema.get_field_index("task"), "task", pa.array(tasks, pa.string()))
            self.writers["queries"].write(table.filter(pa.array([bool(task) for task in tasks])))
            self._reject("queries", table, [None if task else "no answer" for task in tasks])

    def _reject(self, part: str, table: pa.Table, reasons: list[str | None]) -> None:
        if not any(reasons):
            return
        why = pa.array(reasons, pa.string())
        lost = table.append_column("why", why).filter(pc.is_valid(why))
        columns = {name: lost[name] for name in ("id", "source", "line")} | {"reason": lost["why"]}
        empty = pa.array([""] * lost.num_rows, pa.string())
        self.writers["rejects"].write(pa.table({"part": pa.array([part] * lost.num_rows, pa.string()), "detail": empty, **columns}))
        self._count(lost, part, lost["why"])

    def _count(self, table: pa.Table, part: Any, what: Any) -> None:
        sources = [(source or "").partition("/")[0] for source in table["source"].to_pylist()]
        parts = [part] * len(sources) if isinstance(part, str) else part.to_pylist()
        told = [what] * len(sources) if isinstance(what, str) else what.to_pylist()
        self.counts.update(zip(sources, parts, told, strict=True))


def _modalities(table: pa.Table) -> list[int]:
    texts = pc.greater(pc.utf8_length(pc.fill_null(table["text"], "")), 0).to_pylist()
    shown, moving = (pc.greater(pc.fill_null(pc.list_value_length(table[name]), 0), 0).to_pylist() for name in ("images", "video"))
    return [Modality.TEXT * t | Modality.IMAGE * i | Modality.VIDEO * v for t, i, v in zip(texts, shown, moving, strict=True)]


def _fault(kind: str, id: str, split: str | None, task: str | None, code: int) -> str | None:
    if not id or any(letter.isspace() for letter in id):
        return "bad id"
    if not code:
        return "empty side"
    if kind != "corpus" and not split:
        return "bad split"
    if kind == "queries" and task and not TASK.fullmatch(task):
        return "bad task"
    return None
