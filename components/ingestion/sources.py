"""The stage `sources`: converts any number of corpora, each in any supported format, or the generated world, to the canonical corpus.

Readers yield rows, and ids are joined here, a row at a time. Repeated ids, judgements of unknown ids, and rows that a reader could not use
are rejected with their file and line. In formats whose rows contain their candidates, equal candidates are merged; a different one under
the same id is rejected, with the judgements of it from that line on. A query with a task loses its positive judgements if none of the
candidates has the task's target modality. Members of pools that are no candidates are left out; a notice has their number. Queries,
triples and judgements of splits that are not to be read count as not read. If a file is unreadable from a line on, the run stops after all
other rows are read and joined; ids that the rest of that file may define are not reported as unknown.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.corpus.examples import Examples
from mirepoix.components.corpus.parts import TASK, PartWriter, modalities, part_tables, source_name
from mirepoix.components.ingestion.id_map import IdMap
from mirepoix.components.ingestion.pools import UNKNOWN, pool_writer, write_members
from mirepoix.components.ingestion.readers import Source, no_such_split, open_sources, tables
from mirepoix.components.ingestion.sources_config import COLUMN, EQUAL, SPLIT, SourcesConfig
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.components.synthetic import world as generated
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality

NOTICES = 200  # most rows of the table of notices
DEPENDENT_REASONS = {"qrels": ("unknown item", "unknown query", "bad task"), "queries": ("no answer",)}
"""Reasons that may be caused by the unreadable rest of a file, by part."""


def fingerprint(sources: Sequence[Source]) -> str:
    """The names, sizes and modification times of the files of all sources."""
    return "; ".join(f"{source.tree.name}: {source.fingerprint()}" for source in sources)


def opened(config: SourcesConfig, measured: bool = False) -> list[Source]:
    """Opens the sources of a config: their files are listed and their formats detected; refuses a path without a corpus.

    With `measured`, sources of benchmarks without all files that measuring needs are refused too.
    """
    read = config.splits, config.only_splits, config.uniir_texts, config.only_datasets
    sources = open_sources(config.path, config.format, config.images, config.columns, config.captions, *read, measured)
    names = [source.tree.name for source in sources]
    for field, pattern, entries in (("splits", SPLIT, config.splits), ("columns", COLUMN, config.columns)):
        for entry in entries:
            parts = pattern.fullmatch(entry)
            assert parts is not None, entry
            if parts["name"] and parts["name"] not in names:
                raise Refused(
                    f"sources.{field} has {entry!r}, and no source is called {parts['name']!r}; the sources are {', '.join(names)}"
                )
    return sources


def work(context: Context, config: SourcesConfig, sources: Sequence[Source] | None = None) -> Outcome:
    """Converts the sources to the canonical corpus; refuses sources that are unreadable in part or have no usable candidate.

    `sources` are those of the config where they were opened already, for their fingerprint.
    """
    outcome, refusal = read_sources(context, config, sources)
    if refusal:
        raise Refused(refusal)
    return outcome


def read_sources(context: Context, config: SourcesConfig, sources: Sequence[Source] | None = None) -> tuple[Outcome, str]:
    """Converts the sources as far as they are readable; also the reason for which a run would stop, empty if there is none."""
    if not config.path:
        if config.columns or config.captions != "apart":
            raise Refused(
                "sources.columns and sources.captions are for corpora, and sources.path names none; give a path, or leave them out"
            )
        if config.only_splits or config.only_datasets or config.uniir_texts:
            raise Refused(
                "sources.only_splits, only_datasets and uniir_texts are for corpora, and sources.path names none; give a path, or leave "
                "them out"
            )
        return generated.work(context, config.world), ""
    if sources is None:
        sources = opened(config)
    with TemporaryDirectory(dir=context.folder) as spool:
        return _Join(context, config, Path(spool)).outcome(tables(sources, config.workers))


class _Join:
    """Joins the ids of the rows read so far; judgements and queries without a task wait on disk until all ids are known."""

    def __init__(self, context: Context, config: SourcesConfig, spool: Path):
        self.context, self.path, self.spool = context, config.path, spool
        found = [parts for entry in config.splits if (parts := SPLIT.fullmatch(entry))]
        self.splits = {(parts["name"], parts["old"]): parts["new"] for parts in found}
        # By id: the content hash, and the modality of a candidate, or the target modality of a query's task (0: not known yet).
        self.known = {kind: IdMap("i8", "u1") for kind in ("corpus", "queries", "triples")}
        self.only_splits, self.splits_found = config.only_splits, set[str]()
        self.unread = IdMap()  # queries of splits that are not read
        self.unread_rows: Counter[tuple[str, str, str]] = Counter()  # source, split and part
        self.conflicts = IdMap("i8")  # rows that repeat an id with another content: kind, id, source and line, or from that line on
        self.read = self.merged = self.unreported = 0  # unreported: rejected, and not in rejects/
        self.skipped = 0  # of those read, rows of splits that are not
        self.notices: dict[tuple[str, str], None] = {}
        self.unreadable: list[str] = []  # errors of files that could not be read to the end
        self.truncated: tuple[str, ...] = ()  # id prefixes of the sources with such files
        self.last_source = ""  # with members of pools
        self.counts: Counter[tuple[str, str, str]] = Counter()  # source, part, and "read", EQUAL or the reason of the rejection
        self.examples = Examples()

    def outcome(self, read: Iterable[pa.Table]) -> tuple[Outcome, str]:
        parts = ("corpus", "queries", "qrels", "triples", "prompts", "rejects")
        self.writers = {part: PartWriter(self.context.folder, part) for part in parts} | {"pools": pool_writer(self.context.folder)}
        waiting = {part: PartWriter(self.spool, part) for part in ("queries", "qrels")} | {"pools": pool_writer(self.spool)}
        try:
            for table in read:
                for kind in pc.unique(table["kind"]).to_pylist():
                    self._add_rows(kind, table.filter(pc.equal(table["kind"], kind)), waiting)
                self.read += pc.sum(pc.not_equal(table["kind"], "notices")).as_py() or 0
                self.context.report({"step": self.read})
            for writer in waiting.values():
                writer.close()
            first = self._judgements()
            self._write_waiting_queries(first)
            self._write_members()
            written = {part: writer.written for part, writer in self.writers.items()}
            for part, writer in self.writers.items():
                if writer.written or part in ("corpus", "queries", "qrels", "rejects"):
                    writer.close()
        except Refused:
            self.writers["rejects"].close()  # the rejects so far help to repair the source
            raise
        finally:
            self.writers.clear()
        refusal = self._refusal(written)
        rejected = written.pop("rejects")
        rows = Rows(self.read - self.skipped, sum(written.values()), rejected + self.unreported, merged=self.merged)
        metrics = {part: count for part, count in written.items() if count or part in ("corpus", "queries", "qrels")}
        table = [
            {"source": source, "part": part, "what": what, "count": count}
            for (source, part, what), count in sorted(self.counts.items())
            if count
        ]
        totals = {**metrics, "rejected": rejected, **({"merged": self.merged} if self.merged else {})}
        for (source, split, part), count in sorted(self.unread_rows.items()):
            self._notice(source, f"{count} {part} of the split {split} are not read: sources.only_splits names others")
        notices = [{"source": source, "detail": detail} for source, detail in self.notices]
        return Outcome(rows, totals, {"sources": table, "notices": notices, "examples": self.examples.rows}), refusal

    def _refusal(self, written: dict[str, int]) -> str:
        """The reason for which a run stops; empty if there is none."""
        if self.unreadable:
            several = f"{len(self.unreadable)} files cannot be read; the first: " if len(self.unreadable) > 1 else ""
            return several + self.unreadable[0]
        if missing := [split for split in self.only_splits if split not in self.splits_found]:
            return no_such_split(missing[0], self.splits_found)
        if written["corpus"]:
            return ""
        return f"the corpus at {', '.join(self.path)} is empty: not one usable row in corpus/; {written['rejects']} rows were rejected"

    def _add_rows(self, kind: str, table: pa.Table, waiting: dict[str, PartWriter]) -> None:
        if kind == "notices":
            for source, detail in zip(table["source"].to_pylist(), table["detail"].to_pylist(), strict=True):
                self._notice(source, detail)
            return
        if kind == "pools":
            waiting[kind].write(table)
            self.counts.update((of, kind, "read") for of in table["of"].to_pylist())
            self.last_source = table["of"][-1].as_py()
            return
        if kind in ("qrels", "prompts", "rejects"):
            writer = waiting.get(kind) or self.writers[kind]
            writer.write(table)
            unreadable = table.filter(pc.equal(table["reason"], "unreadable")).select(["of", "source", "detail"]).to_pylist()
            self.unreadable += [f"{row['source']} {row['detail']}" for row in unreadable]
            self.truncated += tuple({f"{row['of']}/" if len(self.path) > 1 else "" for row in unreadable} - {*self.truncated})
            self._count(table, table["part"] if kind == "rejects" else kind, "read")
            if kind == "rejects":
                self._count(table, table["part"], table["reason"])
                parts, reasons, details = (table[name].to_pylist() for name in ("part", "reason", "detail"))
                self.examples.add(parts, table, reasons, details)
            return
        if kind != "corpus":
            table = self._of_read_splits(kind, self._renamed(table))
        keep, later, reasons, equal, conflicts = [], [], [], [], []
        codes = modalities(table)
        columns = [table[name].to_pylist() for name in ("id", "named", "split", "task", "content", "source", "line")]
        known = self.known[kind]
        found = known.find(columns[0])
        for id, named, split, task, content, source, line, code, (key, before) in zip(*columns, codes, found, strict=True):
            reason = _row_reason(kind, id, split, task, code)
            if kind != "corpus":
                content ^= hash(split)
            merged = reason is None and before is not None
            other = merged and before[0] != content
            if merged and (named or other):
                reason = "duplicate id"
                if other:  # judgements of this row are not judgements of the first one with the id
                    # A reader may yield a candidate without an id of its own once, and not again with later rows that judge it.
                    conflicts.append(((kind, id, source, line) if named or kind == "queries" else (kind, id, source), line))
            elif reason is None and not merged:
                known.recent[key] = content, code if kind == "corpus" else _target_modality(task)
            equal.append(merged and reason is None)
            fresh = reason is None and not merged
            reasons.append(reason)
            keep.append(fresh and (kind != "queries" or bool(task)))
            later.append(fresh and not keep[-1])
        for (_, line), (key, before) in zip(conflicts, self.conflicts.find(name for name, _ in conflicts), strict=True):
            if before is None:
                self.conflicts.recent[key] = (line or 0,)
        self.writers[kind].write(table.filter(pa.array(keep)))
        if any(later):
            waiting[kind].write(table.filter(pa.array(later)))
        self._count(table, kind, "read")
        self._reject(kind, table, reasons)
        self._merge(kind, table, equal)

    def _renamed(self, table: pa.Table) -> pa.Table:
        rows = zip(table["of"].to_pylist(), table["split"].to_pylist(), strict=True)
        splits = pa.array([self.splits.get((of, split)) or self.splits.get((None, split), split) for of, split in rows], pa.string())
        return table.set_column(table.schema.get_field_index("split"), "split", splits)

    def _of_read_splits(self, kind: str, table: pa.Table) -> pa.Table:
        """The rows without those of splits that are not read; the ids of queries are noted, since their judgements are no rejects."""
        self.splits_found.update(filter(None, pc.unique(table["split"]).to_pylist()))
        if not self.only_splits:
            return table
        read = pc.is_in(table["split"], pa.array([*self.only_splits, "", None]))  # rows without a split are rejected
        left = table.filter(pc.invert(read))
        self.skipped += left.num_rows
        self.unread_rows.update((of, split, kind) for of, split in zip(left["of"].to_pylist(), left["split"].to_pylist(), strict=True))
        if kind == "queries":
            for key, _ in self.unread.find(left["id"].to_pylist()):
                self.unread.recent[key] = ()
        return table.filter(read)

    def _without_unread(self, judgements: pa.Table) -> pa.Table:
        """The judgements without those of queries of splits that are not read."""
        names = judgements["query_id"].to_pylist()
        found = zip(self.known["queries"].find(names), self.unread.find(names), strict=True)
        unread = pa.array([query is None and other is not None for (_, query), (_, other) in found], pa.bool_())
        left = judgements.filter(unread)
        self.skipped += left.num_rows
        self.counts.subtract((source_name(source), "qrels", "read") for source in left["source"].to_pylist())
        return judgements.filter(pc.invert(unread))

    def _judgements(self) -> IdMap:
        """Writes the judgements whose query and candidate are known; returns the modality of the first answer by query.

        For a query with a task it is the first answer of the task's target modality.
        """
        first, seen = IdMap("u1"), IdMap()
        with PartWriter(self.spool / "other", "qrels") as others:
            for table in part_tables(self.spool, "qrels"):
                if self.only_splits:
                    table = self._without_unread(table)
                reasons, keep, other, equal = [], [], [], []
                columns = [table[name].to_pylist() for name in ("query_id", "item_id", "relevance", "source", "line")]
                rows = list(zip(*columns, strict=True))
                query_entry, item_entry = self.known["queries"].find(columns[0]), self.known["corpus"].find(columns[1])
                repeated, conflicts = seen.find(row[:3] for row in rows), self._in_conflict(rows)
                found = zip(rows, query_entry, item_entry, repeated, conflicts, first.find(columns[0]), strict=True)
                for (query, item, relevance, *_), (_, query_entry), (_, item_entry), (key, merged), conflicts, (
                    query_key,
                    answered,
                ) in found:
                    reason = _judgement_reason(query, item, relevance, query_entry, item_entry, conflicts)
                    fresh = reason is None and merged is None
                    reasons.append(reason)
                    equal.append(reason is None and merged is not None)
                    other.append(fresh and relevance > 0 and query_entry[1] not in (0, item_entry[1]))
                    keep.append(fresh and not other[-1])
                    if fresh:
                        seen.recent[key] = ()
                    if keep[-1] and relevance > 0 and answered is None:
                        first.recent[query_key] = (item_entry[1],)
                self.writers["qrels"].write(table.filter(pa.array(keep)))
                others.write(table.filter(pa.array(other)))
                self._reject("qrels", _with_ids(table), reasons)
                self._merge("qrels", _with_ids(table), equal)
        for table in part_tables(self.spool / "other", "qrels"):
            answers = [answer for _, answer in first.find(table["query_id"].to_pylist())]
            self.writers["qrels"].write(table.filter(pa.array([answer is not None for answer in answers])))
            self._reject("qrels", _with_ids(table), [None if answer else "bad task" for answer in answers], self._modality_details(table))
        return first

    def _modality_details(self, table: pa.Table) -> list[str]:
        """For each judgement a text that names the target modality of its query and the modality of its candidate."""
        query_entry, item_entry = (
            self.known[kind].find(table[name].to_pylist()) for kind, name in (("queries", "query_id"), ("corpus", "item_id"))
        )
        entries: Any = zip(query_entry, item_entry, strict=True)  # every id is known, so no entry is None
        codes = ((Modality(wanted[1]).letters, Modality(had[1]).letters) for (_, wanted), (_, had) in entries)
        return [f"the query's task asks for {wanted}, which none of its answers is; this one is {had}" for wanted, had in codes]

    def _in_conflict(self, rows: list[tuple[Any, ...]]) -> Iterator[bool]:
        """For each judgement whether its query or candidate, in its own line or before it, was rejected for repeating an id."""
        queries = self.conflicts.find(("queries", query, source, line) for query, _, _, source, line in rows)
        items = self.conflicts.find(("corpus", item, source, line) for _, item, _, source, line in rows)
        since = self.conflicts.find(("corpus", item, source) for _, item, _, source, _ in rows)
        for (*_, line), (_, query), (_, item), (_, first) in zip(rows, queries, items, since, strict=True):
            yield query is not None or item is not None or (first is not None and first[0] <= (line or 0))

    def _write_waiting_queries(self, first: IdMap) -> None:
        """Writes the queries without a task, which get one from the modality of their first answer."""
        for table in part_tables(self.spool, "queries"):
            rows = list(zip(first.find(table["id"].to_pylist()), modalities(table), strict=True))
            tasks = [f"{code.letters}->{Modality(answer[0]).letters}" if answer else "" for (_, answer), code in rows]
            table = table.set_column(table.schema.get_field_index("task"), "task", pa.array(tasks, pa.string()))
            self.writers["queries"].write(table.filter(pa.array([bool(task) for task in tasks])))
            self._reject("queries", table, [None if task else "no answer" for task in tasks])

    def _write_members(self) -> None:
        """Writes the members of pools; the number of those that are no candidates is in a notice for each pool."""
        equal, unknown = write_members(self.spool, self.known["corpus"], self.writers["pools"])
        self.merged += equal.total()
        self.unreported += unknown.total()
        for what, counts in ((EQUAL, equal), (UNKNOWN, unknown)):
            for pool, count in sorted(counts.items()):
                source = pool.partition("/")[0] if len(self.path) > 1 else self.last_source
                self.counts[source, "pools", what] += count
                if what == UNKNOWN and not self.truncated:
                    self._notice(source, f"{count} members of the pool {pool} are no candidates of the corpus, and left out")

    def _notice(self, source: str, detail: str) -> None:
        if len(self.notices) < NOTICES:
            self.notices[source, detail] = None

    def _merge(self, part: str, table: pa.Table, equal: list[bool]) -> None:
        """Counts the rows that equal an earlier one, which is kept."""
        if any(equal):
            merged = table.filter(pa.array(equal))
            self.merged += merged.num_rows
            self._count(merged, part, EQUAL)
            self.examples.add(part, merged, [EQUAL] * merged.num_rows)

    def _reject(self, part: str, table: pa.Table, reasons: list[str | None], details: list[str] | None = None) -> None:
        """Writes the rows that have a reason to rejects/, except those that may only lack the unreadable rest of a file."""
        if not any(reasons):
            return
        if self.truncated:
            ids, dependent = table["id"].to_pylist(), DEPENDENT_REASONS.get(part, ())
            missing = [reason in dependent and id.startswith(self.truncated) for reason, id in zip(reasons, ids, strict=True)]
            self.unreported += sum(missing)
            reasons = [None if unreported else reason for reason, unreported in zip(reasons, missing, strict=True)]
        why, details_column = pa.array(reasons, pa.string()), pa.array(details or [""] * len(reasons), pa.string())
        gone = pc.is_valid(why)
        rejected, why = table.filter(gone), why.filter(gone)
        columns = {name: rejected[name] for name in ("id", "source", "line")} | {"reason": why, "detail": details_column.filter(gone)}
        self.writers["rejects"].write(pa.table({"part": pa.array([part] * rejected.num_rows, pa.string()), **columns}))
        self._count(rejected, part, why)
        self.examples.add(part, rejected, why.to_pylist(), columns["detail"].to_pylist())

    def _count(self, table: pa.Table, part: Any, what: Any) -> None:
        sources = [source_name(source) for source in table["source"].to_pylist()]
        parts = [part] * len(sources) if isinstance(part, str) else part.to_pylist()
        outcomes = [what] * len(sources) if isinstance(what, str) else what.to_pylist()
        self.counts.update(zip(sources, parts, outcomes, strict=True))


@lru_cache(maxsize=100)
def _target_modality(task: str | None) -> int:
    """The target modality of a task; 0 if there is no task yet."""
    return Modality.of_letters(task.partition("->")[2]) if task else 0


def _with_ids(judgements: pa.Table) -> pa.Table:
    """Judgements with an id, "QUERY ITEM", by which rejects/ names them."""
    pairs = zip(judgements["query_id"].to_pylist(), judgements["item_id"].to_pylist(), strict=True)
    return judgements.append_column("id", pa.array([f"{query} {item}" for query, item in pairs], pa.string()))


def _judgement_reason(query: str, item: str, relevance: int | None, query_entry: Any, item_entry: Any, conflicts: bool) -> str | None:
    """The reason for which a judgement is rejected, or None."""
    if not query or not item or relevance is None:
        return "bad row"
    if conflicts:
        return "duplicate id"
    if item_entry is None:
        return "unknown item"
    return "unknown query" if query_entry is None else None


def _row_reason(kind: str, id: str, split: str | None, task: str | None, code: int) -> str | None:
    if not id or any(letter.isspace() for letter in id):
        return "bad id"
    if not code:
        return "empty side"
    if kind != "corpus" and not split:
        return "bad split"
    if kind == "queries" and task and not TASK.fullmatch(task):
        return "bad task"
    return None
