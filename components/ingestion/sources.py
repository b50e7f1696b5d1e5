"""The first stage: any number of corpora, each in any known format, or the generated world, brought into one canonical form.

Rows come from the readers; ids are joined here, a row at a time: what stands twice, what names a candidate that is not there, and what
no reader could use is rejected with its file and line. Where rows bring the candidates that they name, equal ones are one, and another
one under the same id is rejected, with what is judged of it in its file from there on. A query whose task is told, and none of whose
answers has the modality that the task asks for, loses them. Where a file cannot be read to its end a run stops, when the rest is
read and joined; what that file may still hold is not told as missing.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.corpus.parts import TASK, PartWriter, modalities, part_tables, source_name
from mirepoix.components.ingestion.readers import FORMATS, Source, opened, tables
from mirepoix.components.synthetic import world as generated
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.options import option
from mirepoix.serving.store import Context, Outcome, Rows, refuse_credentials

NOTICES = 200  # a table of more is read by nobody
SPLIT = re.compile(r"(?:(?P<name>[^:=\s]+):)?(?P<old>[^:=\s]+)=(?P<new>[^=\s]+)")
RECENT = 100_000  # ids that are held as Python objects
MISSING = {"qrels": ("unknown item", "unknown query", "bad task"), "queries": ("no answer",)}
"""Reasons that hang on what is not there, by part."""


@dataclass(frozen=True)
class SourcesConfig:
    """Where the corpus comes from."""

    path: tuple[str, ...] = option((), "folders, files or URIs, each [NAME=][FORMAT+]PATH; empty: the generated world")
    format: str = option("auto", f"format of the paths that name none: auto, {', '.join(FORMATS)}")
    images: str | None = option(None, "folder or URI that the paths of pictures are relative to; null: the source's own")
    splits: tuple[str, ...] = option((), "splits that are called otherwise: dev=train, or NAME:dev=train in the source NAME alone")
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
            if not SPLIT.fullmatch(entry):
                raise Refused(f"sources.splits has {entry!r}; give old=new, such as dev=train, or NAME:old=new for one source")


def fingerprint(config: SourcesConfig) -> str:
    """What the files of all sources are known by; refuses a path that holds no corpus."""
    return "; ".join(f"{source.place.name}: {source.fingerprint()}" for source in _opened(config))


def _opened(config: SourcesConfig) -> list[Source]:
    sources = opened(config.path, config.format, config.images)
    names = [source.place.name for source in sources]
    for entry in config.splits:
        told = SPLIT.fullmatch(entry)
        if told["name"] and told["name"] not in names:
            raise Refused(f"sources.splits has {entry!r}, and no source is called {told['name']!r}; the sources are {', '.join(names)}")
    return sources


def work(context: Context, config: SourcesConfig) -> Outcome:
    """Brings the corpus into canonical form."""
    outcome, refusal = brought(context, config)
    if refusal:
        raise Refused(refusal)
    return outcome


def brought(context: Context, config: SourcesConfig) -> tuple[Outcome, str]:
    """The corpus as far as it can be brought into canonical form, and why a run stops here; empty if it does not."""
    if not config.path:
        return generated.work(context, config.world), ""
    sources = _opened(config)
    with TemporaryDirectory(dir=context.folder) as spool:
        return _Join(context, config, Path(spool)).outcome(tables(sources, config.workers))


class Remembered:
    """Whole numbers by 64 bits of a name: the last ones in a dict, the others in sorted arrays, each much shorter than the one before."""

    def __init__(self, *types: str):
        self.types = ("i8", *types)  # of the name, and of each number
        self.recent: dict[int, tuple[int, ...]] = {}
        self.chunks: list[list[np.ndarray]] = []

    def find(self, names: Iterable[Hashable]) -> Iterator[tuple[int, tuple[int, ...] | None]]:
        """64 bits of each name, and what is remembered of it by the time that it is asked for."""
        if len(self.recent) >= RECENT:
            self._settle()
        keys = np.array([hash(name) for name in names], np.int64)
        found: list[tuple[int, ...] | None] = [None] * len(keys)
        for held, *columns in self.chunks:
            at = np.minimum(np.searchsorted(held, keys), len(held) - 1)
            for number in np.flatnonzero(held[at] == keys):
                found[number] = tuple(int(column[at[number]]) for column in columns)
        for key, old in zip(keys.tolist(), found, strict=True):
            yield key, self.recent.get(key, old)

    def _settle(self) -> None:
        rows = zip(*((key, *numbers) for key, numbers in self.recent.items()), strict=True)
        chunk = [np.array(column, type) for column, type in zip(rows, self.types, strict=True)]
        while True:
            order = np.argsort(chunk[0], kind="stable")
            chunk = [column[order] for column in chunk]
            if not self.chunks or len(self.chunks[-1][0]) > 4 * len(order):
                break
            chunk = [np.concatenate(pair) for pair in zip(self.chunks.pop(), chunk, strict=True)]
        self.chunks.append(chunk)
        self.recent = {}


class _Join:
    """What has been read so far: which ids are there, and what waits for all of them."""

    def __init__(self, context: Context, config: SourcesConfig, spool: Path):
        self.context, self.path, self.spool = context, config.path, spool
        found = [SPLIT.fullmatch(entry) for entry in config.splits]
        self.splits = {(told["name"], told["old"]): told["new"] for told in found}
        # Of each candidate, query and triple: its content, and its modality, or the one that its task asks for (0: it is not settled).
        self.known = {kind: Remembered("i8", "u1") for kind in ("corpus", "queries", "triples")}
        self.lost = Remembered("i8")  # what has the id of another: kind, id, source and line, or from that line on
        self.read = self.again = self.untold = 0
        self.notices: dict[tuple[str, str], None] = {}
        self.broken: list[str] = []  # what is wrong with files that could not be read to their end
        self.torn: tuple[str, ...] = ()  # what the ids begin with of sources that have such files
        self.counts: Counter[tuple[str, str, str]] = Counter()  # source, part, what became of it

    def outcome(self, read: Iterable[pa.Table]) -> tuple[Outcome, str]:
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
            for part, writer in self.writers.items():
                if writer.written or part in ("corpus", "queries", "qrels", "rejects"):
                    writer.close()
        except Refused:
            self.writers["rejects"].close()  # they tell what else is wrong
            raise
        finally:
            self.writers.clear()
        refusal = self._refusal(written)
        rejected = written.pop("rejects")
        rows = Rows(self.read, sum(written.values()), rejected + self.untold, merged=self.again)
        metrics = {part: count for part, count in written.items() if count or part in ("corpus", "queries", "qrels")}
        table = [
            {"source": source, "part": part, "what": what, "count": count} for (source, part, what), count in sorted(self.counts.items())
        ]
        told = {**metrics, "rejected": rejected, **({"merged": self.again} if self.again else {})}
        notices = [{"source": source, "detail": detail} for source, detail in self.notices]
        return Outcome(rows, told, {"sources": table, "notices": notices}), refusal

    def _refusal(self, written: dict[str, int]) -> str:
        """Why a run stops here."""
        if self.broken:
            several = f"{len(self.broken)} files cannot be read; the first: " if len(self.broken) > 1 else ""
            return several + self.broken[0]
        if written["corpus"]:
            return ""
        return f"the corpus at {', '.join(self.path)} is empty: not one usable row in corpus/; {written['rejects']} rows were rejected"

    def _take(self, kind: str, table: pa.Table, waiting: dict[str, PartWriter]) -> None:
        if kind == "notices":
            for told in zip(table["source"].to_pylist(), table["detail"].to_pylist(), strict=True):
                if len(self.notices) < NOTICES:
                    self.notices[told] = None
            return
        if kind in ("qrels", "prompts", "rejects"):
            writer = waiting.get(kind) or self.writers[kind]
            writer.write(table)
            broken = table.filter(pc.equal(table["reason"], "unreadable")).select(["of", "source", "detail"]).to_pylist()
            self.broken += [f"{row['source']} {row['detail']}" for row in broken]
            self.torn += tuple({f"{row['of']}/" if len(self.path) > 1 else "" for row in broken} - {*self.torn})
            self._count(table, table["part"] if kind == "rejects" else kind, table["reason"] if kind == "rejects" else "read")
            return
        if kind != "corpus":
            table = self._renamed(table)
        keep, later, reasons, lost = [], [], [], []
        codes = modalities(table)
        columns = [table[name].to_pylist() for name in ("id", "named", "split", "task", "content", "source", "line")]
        known = self.known[kind]
        found = known.find(columns[0])
        for id, named, split, task, content, source, line, code, (key, before) in zip(*columns, codes, found, strict=True):
            reason = _fault(kind, id, split, task, code)
            if kind != "corpus":
                content ^= hash(split)
            again = reason is None and before is not None
            other = again and before[0] != content
            if again and (named or other):
                reason = "duplicate id"
                if other:  # what is judged of this one is not to be said of that one
                    # A reader may give an unnamed candidate once, and not with the rows after it that name it too.
                    lost.append(((kind, id, source, line) if named or kind == "queries" else (kind, id, source), line))
            elif reason is None and not again:
                known.recent[key] = content, code if kind == "corpus" else _wanted(task)
            self.again += again and reason is None
            fresh = reason is None and not again
            reasons.append(reason)
            keep.append(fresh and (kind != "queries" or bool(task)))
            later.append(fresh and not keep[-1])
        for (_, line), (key, before) in zip(lost, self.lost.find(name for name, _ in lost), strict=True):
            if before is None:
                self.lost.recent[key] = (line or 0,)
        self.writers[kind].write(table.filter(pa.array(keep)))
        if any(later):
            waiting[kind].write(table.filter(pa.array(later)))
        self._reject(kind, table, reasons)
        self._count(table.filter(pc.is_null(pa.array(reasons, pa.string()))), kind, "read")

    def _renamed(self, table: pa.Table) -> pa.Table:
        told = zip(table["of"].to_pylist(), table["split"].to_pylist(), strict=True)
        splits = pa.array([self.splits.get((of, split)) or self.splits.get((None, split), split) for of, split in told], pa.string())
        return table.set_column(table.schema.get_field_index("split"), "split", splits)

    def _judgements(self) -> Remembered:
        """Writes the judgements whose query and candidate are there; returns of each query the modality of its first answer.

        Of one whose task is settled that is the first answer of the modality that the task asks for.
        """
        first, seen = Remembered("u1"), Remembered()
        with PartWriter(self.spool / "other", "qrels") as others:
            for table in part_tables(self.spool, "qrels"):
                reasons, keep, other = [], [], []
                columns = [table[name].to_pylist() for name in ("query_id", "item_id", "relevance", "source", "line")]
                rows = list(zip(*columns, strict=True))
                asked, shown = self.known["queries"].find(columns[0]), self.known["corpus"].find(columns[1])
                told, lost = seen.find(row[:3] for row in rows), self._lost(rows)
                found = zip(rows, asked, shown, told, lost, first.find(columns[0]), strict=True)
                for (query, item, relevance, *_), (_, asked), (_, shown), (key, again), lost, (asked_key, answered) in found:
                    reason = _unjoined(query, item, relevance, asked, shown, lost)
                    fresh = reason is None and again is None
                    reasons.append(reason)
                    self.again += reason is None and again is not None
                    other.append(fresh and relevance > 0 and asked[1] not in (0, shown[1]))
                    keep.append(fresh and not other[-1])
                    if fresh:
                        seen.recent[key] = ()
                    if keep[-1] and relevance > 0 and answered is None:
                        first.recent[asked_key] = (shown[1],)
                self.writers["qrels"].write(table.filter(pa.array(keep)))
                others.write(table.filter(pa.array(other)))
                self._reject("qrels", _called(table), reasons)
        for table in part_tables(self.spool / "other", "qrels"):
            answers = [answer for _, answer in first.find(table["query_id"].to_pylist())]
            self.writers["qrels"].write(table.filter(pa.array([answer is not None for answer in answers])))
            self._reject("qrels", _called(table), [None if answer else "bad task" for answer in answers], self._unlike(table))
        return first

    def _unlike(self, table: pa.Table) -> list[str]:
        """What each judgement's query asks for, and what its candidate is."""
        asked, shown = (self.known[kind].find(table[name].to_pylist()) for kind, name in (("queries", "query_id"), ("corpus", "item_id")))
        codes = ((Modality(wanted[1]).letters, Modality(had[1]).letters) for (_, wanted), (_, had) in zip(asked, shown, strict=True))
        return [f"the query's task asks for {wanted}, which none of its answers is; this one is {had}" for wanted, had in codes]

    def _lost(self, rows: list[tuple[Any, ...]]) -> Iterator[bool]:
        """Whether a judgement is of a query or candidate of its own line, or of one before it, that another has the id of."""
        queries = self.lost.find(("queries", query, source, line) for query, _, _, source, line in rows)
        items = self.lost.find(("corpus", item, source, line) for _, item, _, source, line in rows)
        since = self.lost.find(("corpus", item, source) for _, item, _, source, _ in rows)
        for (*_, line), (_, query), (_, item), (_, first) in zip(rows, queries, items, since, strict=True):
            yield query is not None or item is not None or (first is not None and first[0] <= (line or 0))

    def _pending(self, first: Remembered) -> None:
        """Writes the queries that waited for their task."""
        for table in part_tables(self.spool, "queries"):
            rows = list(zip(first.find(table["id"].to_pylist()), modalities(table), strict=True))
            tasks = [f"{code.letters}->{Modality(answer[0]).letters}" if answer else "" for (_, answer), code in rows]
            table = table.set_column(table.schema.get_field_index("task"), "task", pa.array(tasks, pa.string()))
            self.writers["queries"].write(table.filter(pa.array([bool(task) for task in tasks])))
            self._reject("queries", table, [None if task else "no answer" for task in tasks])

    def _reject(self, part: str, table: pa.Table, reasons: list[str | None], details: list[str] | None = None) -> None:
        """Writes which rows go and why; what may only miss the rest of a file goes untold."""
        if not any(reasons):
            return
        if self.torn:
            ids, hung = table["id"].to_pylist(), MISSING.get(part, ())
            missing = [reason in hung and id.startswith(self.torn) for reason, id in zip(reasons, ids, strict=True)]
            self.untold += sum(missing)
            reasons = [None if untold else reason for reason, untold in zip(reasons, missing, strict=True)]
        why, told = pa.array(reasons, pa.string()), pa.array(details or [""] * len(reasons), pa.string())
        gone = pc.is_valid(why)
        lost, why = table.filter(gone), why.filter(gone)
        columns = {name: lost[name] for name in ("id", "source", "line")} | {"reason": why, "detail": told.filter(gone)}
        self.writers["rejects"].write(pa.table({"part": pa.array([part] * lost.num_rows, pa.string()), **columns}))
        self._count(lost, part, why)

    def _count(self, table: pa.Table, part: Any, what: Any) -> None:
        sources = [source_name(source) for source in table["source"].to_pylist()]
        parts = [part] * len(sources) if isinstance(part, str) else part.to_pylist()
        told = [what] * len(sources) if isinstance(what, str) else what.to_pylist()
        self.counts.update(zip(sources, parts, told, strict=True))


@lru_cache(maxsize=100)
def _wanted(task: str | None) -> int:
    """The modality that a task asks for; 0: it is not settled."""
    return Modality.of_letters(task.partition("->")[2]) if task else 0


def _called(judgements: pa.Table) -> pa.Table:
    """Judgements with the names that they are rejected under."""
    pairs = zip(judgements["query_id"].to_pylist(), judgements["item_id"].to_pylist(), strict=True)
    return judgements.append_column("id", pa.array([f"{query} {item}" for query, item in pairs], pa.string()))


def _unjoined(query: str, item: str, relevance: int | None, asked: Any, shown: Any, lost: bool) -> str | None:
    """Why a judgement joins nothing."""
    if not query or not item or relevance is None:
        return "bad row"
    if lost:
        return "duplicate id"
    if shown is None:
        return "unknown item"
    return "unknown query" if asked is None else None


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
