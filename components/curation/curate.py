"""The stage `curate`: keeps each row of the corpus, or rejects or merges it with a reason.

The checks of each part, in order; the first that fails is the reason:
    candidates   the checks of a single row (`row_checks.RowCheck`), exact duplicate, near-duplicate
    queries      the checks of a single row, leaks into <split>, no answer is left
    triples      the checks of a single row, leaks into <split>
    judgements   answer was rejected, query was rejected, leaks into <split>, judged twice
    members      candidate was rejected, member twice

Of equal candidates the one that answers a held-out query is kept, else the first by source, line and id; judgements and evidence of the
others are moved to it, and so is their place in pools. Every split but "train" is held out.
"""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mirepoix.components.corpus.examples import Examples
from mirepoix.components.corpus.parts import PARTS, PartWriter, part_files, part_rows, part_tables
from mirepoix.components.corpus.text import clean
from mirepoix.components.curation.curate_config import MERGED, CurateConfig
from mirepoix.components.curation.edits import Edits
from mirepoix.components.curation.kin import kin, write_kin
from mirepoix.components.curation.leakage import (
    ANSWER,
    CANDIDATE,
    HELD_OUT,
    TOGETHER,
    TRAIN,
    TRAINING,
    alike,
    choose_held_out,
    compared_roles,
    first_of,
    leaking,
    without_classes,
)
from mirepoix.components.curation.leakage_options import held_out_option, leakage_options, nothing_to_hold_out
from mirepoix.components.curation.near_duplicates import keepers, near_pairs
from mirepoix.components.curation.pools import queries_with_answers, write_members
from mirepoix.components.curation.row_checks import RowCheck, checked
from mirepoix.components.curation.row_features import RowFeatures
from mirepoix.components.curation.row_index import CodedColumn, RowIndex, evidence_rows, judged_rows
from mirepoix.components.curation.verdicts import Verdicts
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.errors import Refused
from mirepoix.serving.pictures_config import PictureLimits

Array = npt.NDArray


def work(context: Context, config: CurateConfig, sources: Path) -> Outcome:
    """Curates the corpus in the folder `sources`."""
    with TemporaryDirectory(dir=context.folder) as spool:
        return _Curation(context, config, sources, Path(spool)).outcome()


class _Curation:
    """The verdicts on all rows: candidates, queries and triples in one numbering, judgements in another."""

    def __init__(self, context: Context, config: CurateConfig, sources: Path, spool: Path):
        self.context, self.config, self.sources = context, config, sources
        self.features, self.edits, self.index = RowFeatures(spool), Edits(spool), RowIndex(sources)
        self.candidates, self.queries, self.triples = self.index.candidates, self.index.queries, self.index.triples
        self.read = {part: part_rows(sources, part) for part in PARTS if part not in ("kin", "held", "rejects")}
        self.row_verdicts = Verdicts(len(self.index))
        self.notices: list[str] = []
        self.why, self.examples = Counter[tuple[str, str]](), Examples()  # rejected rows by reason and part

    def outcome(self) -> Outcome:
        self._check()
        splits = (table for part in ("queries", "triples") for table in part_tables(self.sources, part, ["split"]))
        self.split = CodedColumn(splits, "split", before=len(self.candidates))
        self.task = CodedColumn(part_tables(self.sources, "queries", ["task"]), "task", before=len(self.candidates))
        self.judged = judged_rows(self.sources, self.index)
        self.judgement_verdicts = Verdicts(len(self.judged))
        self.evidence, self.evidence_ends = evidence_rows(self.sources, self.index)
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
        after = self._mixture(self.judgement_verdicts.accepted())
        merged = sum(count for (reason, _), count in self.why.items() if reason in MERGED)
        rejected = sum(self.why.values()) - merged
        related = {part: written.pop(part) for part in ("kin", "held")}
        metrics = {part: count for part, count in written.items() if self.read[part] or part in ("corpus", "queries", "qrels")}
        metrics |= {"exact_duplicates": self.why["exact duplicate", "corpus"], "near_duplicates": self.why["near-duplicate", "corpus"]}
        metrics |= {"kin": related["kin"], "large_kin_groups": large, "crowded": crowded, "crowded_unmet": unmet}
        metrics |= {"held_out": moved, "held_candidates": related["held"]}
        for (reason, _), count in sorted(self.why.items()):
            if reason not in MERGED:
                metrics[f"rejected {reason}"] = metrics.get(f"rejected {reason}", 0) + count
        tables: dict[str, list[dict[str, Any]]] = {
            "notices": [{"detail": detail} for detail in self.notices],
            "rejects": [{"reason": reason, "part": part, "count": count} for (reason, part), count in sorted(self.why.items())],
            "examples": self.examples.rows,
            "mixture": [{"source": key[0], "task": key[1], "before": count, "after": after[key]} for key, count in sorted(before.items())],
            "leakage": self._options(near),
        }
        return Outcome(Rows(sum(self.read.values()), sum(written.values()), rejected, merged), metrics, tables)

    def _check(self) -> None:
        """Checks every row by itself, and stores the features that rows are compared by."""
        limits = PictureLimits(max_bytes=self.config.max_picture_bytes, max_pixels=self.config.max_picture_pixels)
        check = RowCheck(limits, self.config.text, self.config.max_pictures, self.config.picture_pixels)
        done = 0
        for table in checked(self.sources, check, self.config.batch_size, self.config.workers):
            assert table["place"][0].as_py() == done, "Ray Data did not keep the order of the rows"
            for row in table.filter(table["reason"].is_valid()).select(["place", "reason", "detail"]).to_pylist():
                self.row_verdicts.reject(np.array([row["place"]]), row["reason"], [row["detail"] or ""])
            self.features.add(table)
            self.edits.add(done, table)
            done += table.num_rows
            self.context.report({"step": done, "total": len(self.row_verdicts)})
        assert done == len(self.row_verdicts), f"{len(self.row_verdicts)} rows went into the check and {done} came out"
        self.features.finish()
        self.edits.finish()
        why = self.row_verdicts.count_by_reason(self.candidates)
        lost, counts = why.total(), ", ".join(f"{reason}: {count}" for reason, count in why.most_common())
        if lost > self.config.max_rejected * len(self.candidates):
            raise Refused(
                f"{lost} of the {len(self.candidates)} candidates were rejected ({counts}), more than the share "
                f"curate.max_rejected={self.config.max_rejected}; mirepoix validate names each: repair the source, or raise it"
            )

    def _accepted(self, rows: Array) -> Array:
        return rows[self.row_verdicts.accepted(rows)]

    def _positive(self) -> Array:
        """The positive judgements whose query and candidate are both accepted so far."""
        fine = (self.judged["relevance"] > 0) & (self.judged["query"] >= 0) & (self.judged["item"] >= 0)
        positive = self.judged[fine]
        return positive[self.row_verdicts.accepted(positive["query"]) & self.row_verdicts.accepted(positive["item"])]

    def _hold_out(self) -> int:
        """Moves a share of the training queries to the split "held_out", in sources that have no split but "train".

        Triples go with the queries that they are like, or whose answers are their evidence.
        """
        rows = np.concatenate([self.queries, self.triples])
        sources = dict(zip(rows.tolist(), self.index.source_names(rows), strict=True))
        sources_with_splits = {sources[row] for row in rows[~self.split.among(TRAIN)[rows]].tolist()}
        eligible = np.array([row for row in self._accepted(rows).tolist() if sources[row] not in sources_with_splits], np.int64)
        count = int(np.isin(eligible, self.queries).sum())
        if not count:
            raise Refused(nothing_to_hold_out(self.config.held_out, len(self.queries), len(self._accepted(self.queries))))
        names, share = dict(zip(eligible.tolist(), self.index.ids(eligible), strict=True)), self.config.held_out
        content = self.features.contents()
        queries, answers = self._answered(content)
        order = self._accepted(self.index.order(np.zeros(len(self.index), bool)))
        related = alike(self.features, order, len(self.candidates), self.config.near, self.config.largest_kin)
        moved = choose_held_out(queries, answers, content, eligible, names, share, self.context.seed, related, self.triples)
        self.split.set(moved, "held_out")
        held, wanted = int(np.isin(moved, self.queries).sum()), round(share * count)
        if held != wanted:
            self.notices.append(f"held_out is {share}, {wanted} of {count} training queries, and {held} are held out: {TOGETHER}")
        return held

    def _answered(self, content: Array) -> tuple[Array, Array]:
        """Queries with their answers but for classes, and triples with their evidence."""
        positive = self._positive()
        positive = positive[without_classes(positive["query"], positive["item"], content, self.config.shared_answers)]
        triples = np.repeat(self.triples, np.diff(self.evidence_ends))
        fine = self.evidence >= 0
        fine[fine] = self.row_verdicts.accepted(self.evidence[fine]) & self.row_verdicts.accepted(triples[fine])
        return np.concatenate([positive["query"], triples[fine]]), np.concatenate([positive["item"], self.evidence[fine]])

    def _merge(self) -> tuple[Array, int, int]:
        """Merges equal and near-equal candidates, unless all are to be kept.

        Returns all near-equal pairs of rows, and two counts of rows in crowded buckets: those that were not compared with all rows of their
        own role, and those that were not compared with all of another role.
        """
        self.positive = self._positive()
        role = np.where(self.split.among(TRAIN), TRAINING, HELD_OUT)
        role[self.candidates] = CANDIDATE
        role[self.positive["item"][role[self.positive["query"]] == HELD_OUT]] = ANSWER
        order = self.index.order(np.isin(role, (CANDIDATE, TRAINING)))
        self.preference = np.argsort(order)
        self.role, self.content, self.keeper = role, self.features.contents(), np.arange(len(role))
        rows = self._accepted(order[order < len(self.candidates)])
        if self.config.exact_duplicates == "merge":
            _, first, equal = np.unique(self.content[rows], return_index=True, return_inverse=True)
            self.keeper[rows] = rows[first[equal]]
            self._reject_merged("exact duplicate")
        rows = self._accepted(order)
        places, crowded, unmet = near_pairs(self.features, rows, role[rows], compared_roles(self.config.leakage), self.config.near)
        near = rows[places]
        if self.config.near_duplicates == "merge":
            merged_into = np.arange(len(role))
            merged_into[rows] = rows[keepers(places[(near < len(self.candidates)).all(1)], len(rows))]
            self.keeper = merged_into[self.keeper]
            self._reject_merged("near-duplicate")
        merged = np.flatnonzero(self.keeper != np.arange(len(role)))
        self.row_verdicts.add_details(merged, self.index.ids(self.keeper[merged]))
        return near, crowded, unmet

    def _reject_merged(self, reason: str) -> None:
        self.row_verdicts.reject(self._accepted(self.candidates[self.keeper[self.candidates] != self.candidates]), reason)

    def _leak(self, near: Array) -> None:
        """Rejects training queries and triples near-equal to held-out rows, and collects candidates near-equal to such rows."""
        # candidate -> the first held-out query that it is near-equal to, or that it or a near-equal candidate answers
        self.leak_query: dict[int, int] = {}
        if self.config.leakage == "off":
            return
        kept_item = self.keeper[self.positive["item"]]
        pairs = np.unique(
            np.stack([self.positive["query"], kept_item]), axis=1
        )  # several copies of one candidate may be judged for a query
        query_counts = np.bincount(pairs[1], minlength=len(self.role))[kept_item]
        answers_of_tests = self.positive[(self.role[self.positive["query"]] == HELD_OUT) & (query_counts <= self.config.shared_answers)]
        for query, item in sorted(answers_of_tests[["query", "item"]].tolist(), key=lambda pair: self.preference[pair[0]]):
            for row in (item, int(self.keeper[item])):
                self.leak_query.setdefault(row, query)
        answers = dict(self.leak_query)
        training = self._accepted(np.flatnonzero(self.role == TRAINING))
        queries = np.flatnonzero(self.role == HELD_OUT)
        held = np.concatenate([self._accepted(queries), [*answers] if self.config.leakage == "all" else []]).astype(np.int64)
        for row, origin in leaking(near, self.content, training, held, self.preference).items():
            self._reject_leak(row, origin, answers.get(origin, origin))
        if self.config.leakage == "queries":
            self.leak_query = {}
            return
        for one, other in np.concatenate([near, near[:, ::-1]]).tolist():
            if other < len(self.candidates) and (one in answers or self.role[one] == HELD_OUT):
                self.leak_query.setdefault(other, answers.get(one, one))
        equal = np.concatenate([queries, np.array([*answers], np.int64)])  # candidates may be kept that equal an answer
        for row, origin in leaking(near[:0], self.content, self._accepted(self.candidates), equal, self.preference).items():
            self.leak_query.setdefault(row, answers.get(origin, origin))
        self._leak_by_evidence()

    def _reject_leak(self, row: int, origin: int, query: int) -> None:
        self.row_verdicts.reject(np.array([row]), f"leaks into {self.split[query]}", [self.index.id(origin)])

    def _options(self, near: Array) -> list[dict[str, Any]]:
        """What other settings against leakage would keep; nothing where no training query leaks."""
        answered = np.unique(self.positive["query"])
        training, held = (answered[self.role[answered] == role] for role in (TRAINING, HELD_OUT))
        same = self.content, self.preference
        rows = leakage_options(self.config.leakage, len(self._accepted(training)), training, held, near, *same)
        names = dict(zip(answered.tolist(), self.index.ids(answered), strict=True))
        return [
            *rows,
            *held_out_option(rows, *self._answered(self.content), self.content, names, self.split.of(held), self.context.seed, near),
        ]

    def _leak_by_evidence(self) -> None:
        """Rejects the training triples whose evidence is a leaking candidate."""
        kept_item = np.where(self.evidence >= 0, self.keeper[self.evidence], -1)
        leaking_item = first_of(np.array([*self.leak_query], np.int64), self.evidence, kept_item)
        leaks = np.flatnonzero(leaking_item >= 0)
        triple = np.searchsorted(self.evidence_ends, leaks, side="right") - 1
        rejected: set[int] = set()
        for number, item in zip(
            triple[::-1].tolist(), leaking_item[leaks][::-1].tolist(), strict=True
        ):  # backwards, so that the first leaking candidate of a triple is its detail
            row = int(self.triples[number])
            if self.role[row] == TRAINING and (self.row_verdicts.accepted(np.array([row]))[0] or row in rejected):
                rejected.add(row)
                self._reject_leak(row, item, self.leak_query[item])

    def _judge(self) -> None:
        """Rejects judgements of rejected rows, leaking and repeated ones, and then the queries without a positive judgement."""
        query, item = self.judged["query"], self.judged["item"]
        keeper = np.where(item >= 0, self.keeper[item], -1)
        self._reject_judgements("answer was rejected", keeper, "unknown item")
        self._reject_judgements("query was rejected", query, "unknown query")
        leak_query = np.full(len(self.index) + 1, -1)  # the last entry is the one that index -1 reads
        leak_query[[*self.leak_query]] = [*self.leak_query.values()]
        leak_query = np.where(leak_query[keeper] >= 0, leak_query[keeper], leak_query[item])
        leaks = np.flatnonzero(self.judgement_verdicts.accepted() & (leak_query >= 0) & (self.role[query] == TRAINING))
        for split in np.unique(self.split.codes[leak_query[leaks]]).tolist():
            here = leaks[self.split.codes[leak_query[leaks]] == split]
            self.judgement_verdicts.reject(here, f"leaks into {self.split.values[split]}", self.index.ids(leak_query[here]))
        accepted = np.flatnonzero(self.judgement_verdicts.accepted())
        order = (self.judged["place"][accepted], -self.judged["relevance"][accepted], keeper[accepted], query[accepted])
        best = accepted[np.lexsort(order)]
        again = best[1:][(query[best[1:]] == query[best[:-1]]) & (keeper[best[1:]] == keeper[best[:-1]])]
        self.judgement_verdicts.reject(again, "judged twice", self.index.ids(keeper[again]))
        answered = np.zeros(len(self.index), bool)
        answered[query[self.judgement_verdicts.accepted() & (self.judged["relevance"] > 0)]] = True
        answered[queries_with_answers(self.sources, self.index)] = True
        if self.config.unanswered == "keep":
            answered |= self.role == HELD_OUT
        self.row_verdicts.reject(self._accepted(self.queries[~answered[self.queries]]), "no answer is left")
        left = np.flatnonzero(self.judgement_verdicts.accepted())
        left = left[~self.row_verdicts.accepted(query[left])]
        self.judgement_verdicts.reject(left, "query was rejected", ["no answer is left"] * len(left))

    def _reject_judgements(self, reason: str, rows: Array, unknown: str) -> None:
        """Rejects the judgements whose query or candidate, in the given rows, is unknown or rejected."""
        lost = np.flatnonzero(self.judgement_verdicts.accepted() & ((rows < 0) | ~self.row_verdicts.accepted(rows)))
        why = [unknown if row < 0 else self.row_verdicts.reason(row) for row in rows[lost].tolist()]
        self.judgement_verdicts.reject(lost, reason, why)

    def _mixture(self, chosen: Array) -> Counter[tuple[str, str]]:
        """The count of training pairs by source and task among the chosen judgements."""
        queries = self.judged["query"][chosen & (self.judged["relevance"] > 0) & (self.judged["query"] >= 0)]
        queries = queries[self.split.among(TRAIN)[queries]]
        return Counter(zip(self.index.source_names(queries), self.task.of(queries), strict=True))

    # Writing

    def _write(self, near: Array) -> tuple[dict[str, int], int]:
        """Writes all parts; returns the row count of each, and the count of groups of equal content that were too large for kin/."""
        with PartWriter(self.context.folder, "rejects") as self.rejects:
            written = {
                "corpus": self._write_part("corpus", self.candidates),
                "queries": self._write_part("queries", self.queries),
                "triples": self._write_part("triples", self.triples),
                "qrels": self._write_judgements(),
                "prompts": self._write_prompts(),
                "pools": write_members(self.context.folder, self.sources, self.index, self.keeper, self.row_verdicts, self.why),
            }
        kept = self._accepted(self.candidates)
        known = self.features.rows[kept]
        both = near[(near < len(self.candidates)).all(1)]
        both = both[self.row_verdicts.accepted(both).all(1) & (self.content[both[:, 0]] != self.content[both[:, 1]])]  # equal ones are kin
        pairs, why, large = kin(kept, known["text"], known["pictures"], both, self.config.largest_kin)
        related = write_kin(self.context.folder, self.index, pairs, why)
        held = self._held_out_candidates(pairs)
        with PartWriter(self.context.folder, "held") as held_writer:
            held_writer.write([{"item_id": id} for id in self.index.ids(held)])
        return {**written, "kin": related, "held": held_writer.written}, large

    def _held_out_candidates(self, kin_pairs: Array) -> Array:
        """The accepted candidates that answer held-out queries, their kin, and those near-equal to such a query or answer."""
        positive = self.judgement_verdicts.accepted() & (self.judged["relevance"] > 0)
        answers = self.keeper[self.judged["item"][positive & (self.role[self.judged["query"]] == HELD_OUT)]]
        related = kin_pairs[np.isin(kin_pairs, answers).any(1)]
        return self._accepted(np.unique(np.concatenate([answers, related.ravel(), self.keeper[np.array([*self.leak_query], np.int64)]])))

    def _write_part(self, part: str, rows: Array) -> int:
        if not part_files(self.sources, part):
            return 0
        first = start = int(rows[0]) if len(rows) else 0
        with PartWriter(self.context.folder, part) as writer:
            for table in self.edits.applied(first, part_tables(self.sources, part)):
                here = np.arange(first, first + table.num_rows)
                if part != "corpus":
                    split = pa.array(self.split.of(here), pa.string())
                    table = table.set_column(table.schema.get_field_index("split"), "split", split)
                if part == "triples":
                    evidence = pa.array([self._evidence_of(number) for number in (here - start).tolist()], pa.list_(pa.string()))
                    table = table.set_column(table.schema.get_field_index("evidence"), "evidence", evidence)
                writer.write(table.filter(pa.array(self.row_verdicts.accepted(here))))
                self._reject(part, table.select(["id", "source", "line"]), self.row_verdicts, here)
                first += table.num_rows
        return writer.written

    def _evidence_of(self, triple: int) -> list[str]:
        """The ids of a triple's accepted evidence, merged candidates replaced by those that were kept, each once."""
        named = self.evidence[self.evidence_ends[triple] : self.evidence_ends[triple + 1]]
        rows = self._accepted(self.keeper[named[named >= 0]])
        return list(dict.fromkeys(self.index.ids(rows)))

    def _write_judgements(self) -> int:
        first = 0
        with PartWriter(self.context.folder, "qrels") as writer:
            for table in part_tables(self.sources, "qrels"):
                here = np.arange(first, first + table.num_rows)
                names = [f"{query} {item}" for query, item in zip(table["query_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)]
                named = pa.table({"id": pa.array(names, pa.string()), "source": table["source"], "line": table["line"]})
                self._reject("qrels", named, self.judgement_verdicts, here)
                accepted = self.judgement_verdicts.accepted(here)
                table = table.filter(pa.array(accepted))
                kept_ids = self.index.ids(self.keeper[self.judged["item"][here[accepted]]])
                writer.write(table.set_column(table.schema.get_field_index("item_id"), "item_id", pa.array(kept_ids, pa.string())))
                first += len(here)
        return writer.written

    def _write_prompts(self) -> int:
        if not part_files(self.sources, "prompts"):
            return 0
        with PartWriter(self.context.folder, "prompts") as writer:
            for table in part_tables(self.sources, "prompts"):
                writer.write([{**row, "wording": clean(row["wording"])} for row in table.to_pylist()])
        return writer.written

    def _reject(self, part: str, names: pa.Table, verdicts: Verdicts, rows: Array) -> None:
        """Writes the rejected ones of the rows to rejects/; `names` has their ids, sources and lines."""
        rejected = ~verdicts.accepted(rows)
        reasons, details = verdicts.reasons(rows[rejected]), verdicts.details(rows[rejected])
        self.why.update((reason, part) for reason in reasons)
        columns = {name: names[name].filter(pa.array(rejected)) for name in ("id", "source", "line")}
        self.examples.add(part, pa.table(columns), reasons, details)
        columns |= {name: pa.array(values, pa.string()) for name, values in (("reason", reasons), ("detail", details))}
        self.rejects.write(pa.table({"part": pa.array([part] * len(reasons), pa.string()), **columns}))
