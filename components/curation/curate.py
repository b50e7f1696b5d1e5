"""Keeps each row or rejects it with a reason: what is broken, what is there twice, what leaks from a test, and what hung on them.

In this order, and the first that strikes is the reason:
    candidates   the rules for one row (`checks.Check`), exact duplicate, near-duplicate
    queries      the rules for one row, leaks into <split>, no answer is left
    triples      the rules for one row, leaks into <split>
    judgements   answer was rejected, query was rejected, leaks into <split>, judged twice

Of equal candidates the one is kept that answers a held-out query, then the one that comes first by source, line and id; judgements and
evidence pass on to it. Held out are all splits but "train".
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.corpus.parts import KIN_SCHEMA, PARTS, PartWriter, part_files, part_rows, part_tables, read_part
from mirepoix.components.corpus.text import TextRules, clean
from mirepoix.components.curation.edits import Edits
from mirepoix.components.curation.kin import WHY, kin
from mirepoix.components.curation.leakage import TRAIN, choose_held_out, first_of, leaking
from mirepoix.components.curation.near_duplicates import NearRules, keepers, near_pairs
from mirepoix.components.curation.row_checks import RowCheck, checked
from mirepoix.components.curation.row_features import RowFeatures
from mirepoix.components.curation.row_index import ContentGroups, RowIndex
from mirepoix.components.curation.verdicts import Verdicts
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown
from mirepoix.serving.pictures import PictureLimits
from mirepoix.serving.store import Context, Outcome, Rows

CANDIDATE, ANSWER, TRAINING, HELD_OUT = range(4)
"""Roles: a candidate, one that answers a held-out query, a training query or triple, a held-out query or triple."""
JUDGED = np.dtype([("query", "i8"), ("item", "i8"), ("relevance", "i4"), ("place", "i8")])  # place: by source and line
AT_ONCE = 100_000
MERGED = ("exact duplicate", "near-duplicate", "judged twice")
"""Reasons of rows that stand on in another one."""

Array = npt.NDArray


@dataclass(frozen=True)
class CurateConfig:
    """What is kept."""

    max_picture_bytes: int = option(20_000_000, "a larger picture is rejected before it is decoded")
    max_picture_pixels: int = option(25_000_000, "a picture with more pixels is rejected before it is decoded")
    max_pictures: int = option(256, "an item with more pictures and frames is rejected before they are decoded")
    picture_pixels: int | None = option(None, "a picture with more pixels is scaled down to as many and encoded anew; null: none is")
    text: TextRules = option(TextRules, "what a text must not be")
    near: NearRules = option(NearRules, "when two rows are near-equal")
    largest_kin: int = option(
        64, "most candidates with one text, or one picture, that are kin for that; more may be an empty phrase, and are only counted"
    )
    near_duplicates: Literal["merge", "keep"] = option("merge", "merge: of near-equal candidates one is kept; keep: all are, told in kin/")
    leakage: Literal["all", "queries", "off"] = option(
        "all", "all: training keeps nothing like a held-out query or its answers; queries: nothing like its query; off"
    )
    shared_answers: int = option(
        16, "an answer of more queries is a class or an entry of a knowledge base, which training may share with tests"
    )
    held_out: float = option(
        0.0, "share of the training queries that is moved to the split held_out, in sources that have only training rows"
    )
    max_rejected: float = option(0.2, "share of rejected candidates above which the stage fails: then the source is at fault, not a row")
    batch_size: int = option(2000, "most rows that a task checks")
    workers: int | None = option(None, "tasks that check at a time; null: as many as the cluster's CPUs")

    def __post_init__(self) -> None:
        refuse_unknown(self)
        for name in ("max_rejected", "held_out"):
            if not 0 <= getattr(self, name) <= 1:
                raise Refused(f"{name} is {getattr(self, name)}; give a share from 0 to 1")
        for name in ("max_pictures", "batch_size", "picture_pixels", "shared_answers", "largest_kin", "workers"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise Refused(f"{name} is {getattr(self, name)}; give 1 or more")


def work(context: Context, config: CurateConfig, sources: Path) -> Outcome:
    """Curates the corpus that `sources` brought in."""
    with TemporaryDirectory(dir=context.folder) as spool:
        return _Curation(context, config, sources, Path(spool)).outcome()


class _Curation:
    """All rows of corpus, queries and triples in one numbering, and what becomes of each."""

    def __init__(self, context: Context, config: CurateConfig, sources: Path, spool: Path):
        self.context, self.config, self.sources = context, config, sources
        self.facts, self.changes, self.roster = RowFeatures(spool), Edits(spool), RowIndex(sources)
        self.candidates, self.queries, self.triples = self.roster.candidates, self.roster.queries, self.roster.triples
        self.read = {part: part_rows(sources, part) for part in PARTS if part not in ("kin", "held", "rejects")}
        self.fates = Verdicts(len(self.roster))
        self.why: Counter[tuple[str, str]] = Counter()  # reason, part

    def outcome(self) -> Outcome:
        self._check()
        splits = (table for part in ("queries", "triples") for table in part_tables(self.sources, part, ["split"]))
        self.split = ContentGroups(splits, "split", before=len(self.candidates))
        self.task = ContentGroups(part_tables(self.sources, "queries", ["task"]), "task", before=len(self.candidates))
        self._join()
        before = self._mixture(np.ones(len(self.judged), bool))
        moved = self._hold_out() if self.config.held_out else 0
        near, crowded, unmet = self._merge()
        self._leak(near)
        self._judge()
        written, large = self._write(near)
        if not written["corpus"]:
            raise Refused(
                f"the corpus is empty after curation: all {len(self.candidates)} candidates were rejected; mirepoix validate names each"
            )
        after = self._mixture(self.verdicts.stand())
        merged = sum(count for (reason, _), count in self.why.items() if reason in MERGED)
        rejected = sum(self.why.values()) - merged
        told = {part: written.pop(part) for part in ("kin", "held")}
        metrics = {part: count for part, count in written.items() if self.read[part] or part in ("corpus", "queries", "qrels")}
        metrics |= {"exact_duplicates": self.why["exact duplicate", "corpus"], "near_duplicates": self.why["near-duplicate", "corpus"]}
        metrics |= {"kin": told["kin"], "large_kin_groups": large, "crowded": crowded, "crowded_unmet": unmet}
        metrics |= {"held_out": moved, "held_candidates": told["held"]}
        for (reason, _), count in sorted(self.why.items()):
            if reason not in MERGED:
                metrics[f"rejected {reason}"] = metrics.get(f"rejected {reason}", 0) + count
        tables = {
            "rejects": [{"reason": reason, "part": part, "count": count} for (reason, part), count in sorted(self.why.items())],
            "mixture": [{"source": key[0], "task": key[1], "before": count, "after": after[key]} for key, count in sorted(before.items())],
        }
        return Outcome(Rows(sum(self.read.values()), sum(written.values()), rejected, merged), metrics, tables)

    def _check(self) -> None:
        """The rules for one row, over all rows; notes what is needed to compare them."""
        limits = PictureLimits(max_bytes=self.config.max_picture_bytes, max_pixels=self.config.max_picture_pixels)
        check = RowCheck(limits, self.config.text, self.config.max_pictures, self.config.picture_pixels)
        done = 0
        for table in checked(self.sources, check, self.config.batch_size, self.config.workers):
            assert table["place"][0].as_py() == done, "Ray Data did not keep the order of the rows"
            for row in table.filter(table["reason"].is_valid()).select(["place", "reason", "detail"]).to_pylist():
                self.fates.lose(np.array([row["place"]]), row["reason"], [row["detail"] or ""])
            self.facts.add(table)
            self.changes.add(done, table)
            done += table.num_rows
            self.context.report({"step": done, "total": len(self.fates)})
        assert done == len(self.fates), f"{len(self.fates)} rows went into the check and {done} came out"
        self.facts.seal()
        self.changes.seal()
        why = self.fates.counted(self.candidates)
        lost, told = why.total(), ", ".join(f"{reason}: {count}" for reason, count in why.most_common())
        if lost > self.config.max_rejected * len(self.candidates):
            raise Refused(
                f"{lost} of the {len(self.candidates)} candidates were rejected ({told}), more than the share "
                f"curate.max_rejected={self.config.max_rejected}; mirepoix validate names each: mend the source, or raise it"
            )

    def _join(self) -> None:
        """The judgements with the rows of their query and candidate, and the rows of each triple's evidence; -1 where there is none."""
        table = read_part(self.sources, "qrels", ["query_id", "item_id", "relevance", "source", "line"])
        self.judged = np.zeros(table.num_rows, JUDGED)
        self.judged["place"][pc.sort_indices(table, [("source", "ascending"), ("line", "ascending")]).to_numpy()] = np.arange(
            len(self.judged)
        )
        self.judged["query"] = self.roster.rows(table["query_id"], self.queries)
        self.judged["item"] = self.roster.rows(table["item_id"], self.candidates)
        self.judged["relevance"] = table["relevance"].to_numpy()
        self.verdicts = Verdicts(len(self.judged))
        named = read_part(self.sources, "triples", ["evidence"])["evidence"]
        self.evidence = self.roster.rows(pc.list_flatten(named), self.candidates)
        self.evidence_ends = np.cumsum([0, *pc.list_value_length(named).to_pylist()])

    def _alive(self, rows: Array) -> Array:
        return rows[self.fates.stand(rows)]

    def _positive(self) -> Array:
        """The judgements of a query and an answer that are both still there."""
        fine = (self.judged["relevance"] > 0) & (self.judged["query"] >= 0) & (self.judged["item"] >= 0)
        positive = self.judged[fine]
        return positive[self.fates.stand(positive["query"]) & self.fates.stand(positive["item"])]

    def _hold_out(self) -> int:
        """Moves a share of the training queries of sources without other splits to a split of their own."""
        sources = dict(zip(self.queries.tolist(), self.roster.source_names(self.queries), strict=True))
        settled = {sources[row] for row in self.queries[~self.split.among(TRAIN)[self.queries]].tolist()}
        eligible = np.array([row for row in self._alive(self.queries).tolist() if sources[row] not in settled], np.int64)
        if not len(eligible):
            raise Refused(f"held_out is {self.config.held_out}, but every source has queries of another split than train; set it to 0")
        positive, names = self._positive(), dict(zip(eligible.tolist(), self.roster.ids(eligible), strict=True))
        asked, answers, share = positive["query"], positive["item"], self.config.held_out
        moved = choose_held_out(asked, answers, self._contents(), eligible, names, share, self.context.seed)
        self.split.set(moved, "held_out")
        return len(moved)

    def _contents(self) -> Array:
        """A number for the content of each row; equal for equal rows."""
        return np.unique(self.facts.rows["content"].view([("", "u8"), ("", "u8")]), return_inverse=True)[1]

    def _merge(self) -> tuple[Array, int, int]:
        """Merges equal and near-equal candidates; returns all near-equal pairs of rows, and how many rows were crowded and met not all."""
        self.positive = self._positive()
        role = np.where(self.split.among(TRAIN), TRAINING, HELD_OUT)
        role[self.candidates] = CANDIDATE
        role[self.positive["item"][role[self.positive["query"]] == HELD_OUT]] = ANSWER
        order = self.roster.order(np.isin(role, (CANDIDATE, TRAINING)))
        self.preference = np.argsort(order)
        self.role, self.content, self.keeper = role, self._contents(), np.arange(len(role))
        rows = self._alive(order[order < len(self.candidates)])
        _, first, equal = np.unique(self.content[rows], return_index=True, return_inverse=True)
        self.keeper[rows] = rows[first[equal]]
        self._merged("exact duplicate")
        rows = self._alive(order)
        places, crowded, unmet = near_pairs(self.facts, rows, role[rows], self._wanted(), self.config.near)
        near = rows[places]
        if self.config.near_duplicates == "merge":
            stood = np.arange(len(role))
            stood[rows] = rows[keepers(places[(near < len(self.candidates)).all(1)], len(rows))]
            self.keeper = stood[self.keeper]
            self._merged("near-duplicate")
        merged = np.flatnonzero(self.keeper != np.arange(len(role)))
        self.fates.explain(merged, self.roster.ids(self.keeper[merged]))
        return near, crowded, unmet

    def _wanted(self) -> Array:
        """Which roles are compared: candidates with candidates, and training with what is held out."""
        wanted = np.zeros((4, 4), bool)
        wanted[np.ix_((CANDIDATE, ANSWER), (CANDIDATE, ANSWER))] = True
        if self.config.leakage != "off":
            wanted[TRAINING, HELD_OUT] = wanted[HELD_OUT, TRAINING] = True
        if self.config.leakage == "all":
            for one, other in ((TRAINING, ANSWER), (CANDIDATE, HELD_OUT), (ANSWER, HELD_OUT)):
                wanted[one, other] = wanted[other, one] = True
        return wanted

    def _merged(self, reason: str) -> None:
        self.fates.lose(self._alive(self.candidates[self.keeper[self.candidates] != self.candidates]), reason)

    def _leak(self, near: Array) -> None:
        """Rejects training queries and triples that are like what is held out; notes the candidates that are like a held-out answer."""
        self.leak: dict[int, int] = {}  # candidate -> the first held-out query that it is like, or that it answers, or one like it answers
        if self.config.leakage == "off":
            return
        stood = self.keeper[self.positive["item"]]
        pairs = np.unique(np.stack([self.positive["query"], stood]), axis=1)  # a query may have judged several copies
        asked = np.bincount(pairs[1], minlength=len(self.role))[stood]
        asking = self.positive[(self.role[self.positive["query"]] == HELD_OUT) & (asked <= self.config.shared_answers)]
        for query, item in sorted(asking[["query", "item"]].tolist(), key=lambda pair: self.preference[pair[0]]):
            for row in (item, int(self.keeper[item])):
                self.leak.setdefault(row, query)
        answers = dict(self.leak)
        training = self._alive(np.flatnonzero(self.role == TRAINING))
        queries = np.flatnonzero(self.role == HELD_OUT)
        held = np.concatenate([self._alive(queries), [*answers] if self.config.leakage == "all" else []]).astype(np.int64)
        for row, origin in leaking(near, self.content, training, held, self.preference).items():
            self._leaked(row, origin, answers.get(origin, origin))
        if self.config.leakage == "queries":
            self.leak = {}
            return
        for one, other in np.concatenate([near, near[:, ::-1]]).tolist():
            if other < len(self.candidates) and (one in answers or self.role[one] == HELD_OUT):
                self.leak.setdefault(other, answers.get(one, one))
        for row, origin in leaking(near[:0], self.content, self._alive(self.candidates), queries, self.preference).items():
            self.leak.setdefault(row, origin)
        self._leak_by_evidence()

    def _leaked(self, row: int, origin: int, query: int) -> None:
        self.fates.lose(np.array([row]), f"leaks into {self.split[query]}", [self.roster.id(origin)])

    def _leak_by_evidence(self) -> None:
        stood = np.where(self.evidence >= 0, self.keeper[self.evidence], -1)
        tells = first_of(np.array([*self.leak], np.int64), self.evidence, stood)
        leaks = np.flatnonzero(tells >= 0)
        triple = np.searchsorted(self.evidence_ends, leaks, side="right") - 1
        told: set[int] = set()
        for number, item in zip(triple[::-1].tolist(), tells[leaks][::-1].tolist(), strict=True):  # of several the first tells
            row = int(self.triples[number])
            if self.role[row] == TRAINING and (self.fates.stand(np.array([row]))[0] or row in told):
                told.add(row)
                self._leaked(row, item, self.leak[item])

    def _judge(self) -> None:
        """Settles the judgements, and which queries keep an answer."""
        query, item = self.judged["query"], self.judged["item"]
        keeper = np.where(item >= 0, self.keeper[item], -1)
        self._judged_away("answer was rejected", keeper, "unknown item")
        self._judged_away("query was rejected", query, "unknown query")
        leak = np.full(len(self.roster) + 1, -1)  # the last: of -1
        leak[[*self.leak]] = [*self.leak.values()]
        leak = np.where(leak[keeper] >= 0, leak[keeper], leak[item])
        leaks = np.flatnonzero(self.verdicts.stand() & (leak >= 0) & (self.role[query] == TRAINING))
        for split in np.unique(self.split.codes[leak[leaks]]).tolist():
            here = leaks[self.split.codes[leak[leaks]] == split]
            self.verdicts.lose(here, f"leaks into {self.split.values[split]}", self.roster.ids(leak[here]))
        standing = np.flatnonzero(self.verdicts.stand())
        order = (self.judged["place"][standing], -self.judged["relevance"][standing], keeper[standing], query[standing])
        best = standing[np.lexsort(order)]
        again = best[1:][(query[best[1:]] == query[best[:-1]]) & (keeper[best[1:]] == keeper[best[:-1]])]
        self.verdicts.lose(again, "judged twice", self.roster.ids(keeper[again]))
        answered = np.zeros(len(self.roster), bool)
        answered[query[self.verdicts.stand() & (self.judged["relevance"] > 0)]] = True
        self.fates.lose(self._alive(self.queries[~answered[self.queries]]), "no answer is left")
        left = np.flatnonzero(self.verdicts.stand())
        left = left[~self.fates.stand(query[left])]
        self.verdicts.lose(left, "query was rejected", ["no answer is left"] * len(left))

    def _judged_away(self, reason: str, rows: Array, unknown: str) -> None:
        """Lets judgements go whose query or candidate, in the given rows, is not there or goes."""
        lost = np.flatnonzero(self.verdicts.stand() & ((rows < 0) | ~self.fates.stand(rows)))
        why = [unknown if row < 0 else self.fates.reason(row) for row in rows[lost].tolist()]
        self.verdicts.lose(lost, reason, why)

    def _mixture(self, chosen: Array) -> Counter[tuple[str, str]]:
        """Training pairs of each source and task among the chosen judgements."""
        asked = self.judged["query"][chosen & (self.judged["relevance"] > 0) & (self.judged["query"] >= 0)]
        asked = asked[self.split.among(TRAIN)[asked]]
        return Counter(zip(self.roster.source_names(asked), self.task.of(asked), strict=True))

    # Writing

    def _write(self, near: Array) -> tuple[dict[str, int], int]:
        """Writes all parts; returns how many rows each has, and how many groups of kin were too large."""
        with PartWriter(self.context.folder, "rejects") as self.rejects:
            written = {
                "corpus": self._write_part("corpus", self.candidates),
                "queries": self._write_part("queries", self.queries),
                "triples": self._write_part("triples", self.triples),
                "qrels": self._write_judgements(),
                "prompts": self._write_prompts(),
            }
        kept = self._alive(self.candidates)
        known = self.facts.rows[kept]
        both = near[(near < len(self.candidates)).all(1)]
        both = both[self.fates.stand(both).all(1)]
        pairs, why, large = kin(kept, known["text"], known["pictures"], both, self.config.largest_kin)
        with PartWriter(self.context.folder, "kin") as writer:
            for part in np.split(np.arange(len(pairs)), range(AT_ONCE, len(pairs), AT_ONCE)):
                ones, others = (pa.array(self.roster.ids(rows), pa.string()) for rows in pairs[part].T)
                writer.write(pa.table([ones, others, pa.array(np.array(WHY)[why[part]], pa.string())], KIN_SCHEMA.names))
        held = self._alive(np.unique(self.keeper[np.array([*self.leak], np.int64)]))
        with PartWriter(self.context.folder, "held") as told:
            told.write([{"item_id": id} for id in self.roster.ids(held)])
        return {**written, "kin": writer.written, "held": told.written}, large

    def _write_part(self, part: str, rows: Array) -> int:
        if not part_files(self.sources, part):
            return 0
        first = start = int(rows[0]) if len(rows) else 0
        with PartWriter(self.context.folder, part) as writer:
            for table in self.changes.applied(first, part_tables(self.sources, part)):
                here = np.arange(first, first + table.num_rows)
                if part != "corpus":
                    split = pa.array(self.split.of(here), pa.string())
                    table = table.set_column(table.schema.get_field_index("split"), "split", split)
                if part == "triples":
                    evidence = pa.array([self._passed_on(number) for number in (here - start).tolist()], pa.list_(pa.string()))
                    table = table.set_column(table.schema.get_field_index("evidence"), "evidence", evidence)
                writer.write(table.filter(pa.array(self.fates.stand(here))))
                self._reject(part, table.select(["id", "source", "line"]), self.fates, here)
                first += table.num_rows
        return writer.written

    def _passed_on(self, triple: int) -> list[str]:
        """The candidates that are left of a triple's evidence, each once."""
        named = self.evidence[self.evidence_ends[triple] : self.evidence_ends[triple + 1]]
        rows = self._alive(self.keeper[named[named >= 0]])
        return list(dict.fromkeys(self.roster.ids(rows)))

    def _write_judgements(self) -> int:
        first = 0
        with PartWriter(self.context.folder, "qrels") as writer:
            for table in part_tables(self.sources, "qrels"):
                here = np.arange(first, first + table.num_rows)
                names = [f"{query} {item}" for query, item in zip(table["query_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)]
                told = pa.table({"id": pa.array(names, pa.string()), "source": table["source"], "line": table["line"]})
                self._reject("qrels", told, self.verdicts, here)
                stands = self.verdicts.stand(here)
                table = table.filter(pa.array(stands))
                stood = self.roster.ids(self.keeper[self.judged["item"][here[stands]]])
                writer.write(table.set_column(table.schema.get_field_index("item_id"), "item_id", pa.array(stood, pa.string())))
                first += len(here)
        return writer.written

    def _write_prompts(self) -> int:
        if not part_files(self.sources, "prompts"):
            return 0
        with PartWriter(self.context.folder, "prompts") as writer:
            for table in part_tables(self.sources, "prompts"):
                writer.write([{**row, "wording": clean(row["wording"])} for row in table.to_pylist()])
        return writer.written

    def _reject(self, part: str, told: pa.Table, fates: Verdicts, here: Array) -> None:
        """Writes which of the rows go, given who they are."""
        lost = ~fates.stand(here)
        reasons, details = fates.reasons(here[lost]), fates.details(here[lost])
        self.why.update((reason, part) for reason in reasons)
        columns = {name: told[name].filter(pa.array(lost)) for name in ("id", "source", "line")}
        columns |= {name: pa.array(values, pa.string()) for name, values in (("reason", reasons), ("detail", details))}
        self.rejects.write(pa.table({"part": pa.array([part] * len(reasons), pa.string()), **columns}))
