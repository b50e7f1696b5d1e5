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
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.changes import Changes
from mirepoix.components.checks import CHECKED, Check, checked
from mirepoix.components.corpus import PARTS, PartWriter, part_files, part_rows, part_tables, read_part, source_name
from mirepoix.components.duplicates import NearRules, keepers, near_pairs
from mirepoix.components.facts import Facts
from mirepoix.components.kin import kin
from mirepoix.components.leaks import TRAIN, held_out, leaking
from mirepoix.components.texts import TextRules, clean
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.serving.pictures import PictureLimits
from mirepoix.serving.store import Context, Outcome, Rows

CANDIDATE, ANSWER, TRAINING, HELD_OUT = range(4)
"""Roles: a candidate, one that answers a held-out query, a training query or triple, a held-out query or triple."""
JUDGED = np.dtype([("query", "i8"), ("item", "i8"), ("relevance", "i4"), ("reason", "O"), ("detail", "O")])
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
    near_duplicates: str = option("merge", "merge: of near-equal candidates one is kept; keep: all are, and are written to kin/")
    leakage: str = option("all", "all: training keeps nothing like a held-out query or its answers; queries: nothing like its query; off")
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
        for name in ("max_rejected", "held_out"):
            if not 0 <= getattr(self, name) <= 1:
                raise Refused(f"{name} is {getattr(self, name)}; give a share from 0 to 1")
        for name, allowed in (("near_duplicates", ("merge", "keep")), ("leakage", ("all", "queries", "off"))):
            if getattr(self, name) not in allowed:
                raise Refused(f"{name} is {getattr(self, name)!r}; give {', '.join(allowed)}")
        for name in ("max_pictures", "batch_size", "picture_pixels", "shared_answers", "workers"):
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
        self.facts, self.changes = Facts(spool), Changes(spool)
        self.read = {part: part_rows(sources, part) for part in PARTS if part not in ("kin", "rejects")}
        ends = np.cumsum([0, *(self.read[part] for part in CHECKED)])
        self.candidates, self.queries, self.triples = (np.arange(*span) for span in pairwise(ends))
        self.reason = np.full(ends[-1], None, object)
        self.detail = np.full(ends[-1], "", object)
        self.why: Counter[tuple[str, str]] = Counter()  # reason, part

    def outcome(self) -> Outcome:
        self._check()
        self.places = _columns(self.sources, ["id", "source", "line"])
        self.ids = self.places["id"].to_pylist()
        splits = [table["split"] for part in ("queries", "triples") for table in part_tables(self.sources, part, ["split"])]
        self.split = np.array([None] * len(self.candidates) + [split for column in splits for split in column.to_pylist()], object)
        self._join()
        before = self._mixture(np.ones(len(self.judged), bool))
        moved = self._hold_out() if self.config.held_out else 0
        near, crowded = self._merge()
        self._leak(near)
        self._judge()
        written, large = self._write(near)
        after = self._mixture(np.equal(self.judged["reason"], None))
        merged = sum(count for (reason, _), count in self.why.items() if reason in MERGED)
        rejected = sum(self.why.values()) - merged
        kin_rows = written.pop("kin")
        metrics = {part: count for part, count in written.items() if self.read[part] or part in ("corpus", "queries", "qrels")}
        metrics |= {"exact_duplicates": self.why["exact duplicate", "corpus"], "near_duplicates": self.why["near-duplicate", "corpus"]}
        metrics |= {"kin": kin_rows, "large_kin_groups": large, "crowded": crowded, "held_out": moved}
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
        check = Check(limits, self.config.text, self.config.max_pictures, self.config.picture_pixels)
        done = 0
        for table in checked(self.sources, check, self.config.batch_size, self.config.workers):
            assert table["place"][0].as_py() == done, "Ray Data did not keep the order of the rows"
            here = slice(done, done + table.num_rows)
            self.reason[here], self.detail[here] = table["reason"].to_pylist(), table["detail"].fill_null("").to_pylist()
            self.facts.add(table)
            self.changes.add(done, table)
            done += table.num_rows
            self.context.report({"step": done, "total": len(self.reason)})
        assert done == len(self.reason), f"{len(self.reason)} rows went into the check and {done} came out"
        self.facts.seal()
        self.changes.seal()
        why = Counter(reason for reason in self.reason[self.candidates] if reason)
        lost, told = why.total(), ", ".join(f"{reason}: {count}" for reason, count in why.most_common())
        if lost == len(self.candidates):
            raise Refused(f"the corpus is empty after curation: all {lost} candidates were rejected ({told})")
        if lost > self.config.max_rejected * len(self.candidates):
            raise Refused(
                f"{lost} of the {len(self.candidates)} candidates were rejected ({told}), more than the share "
                f"curate.max_rejected={self.config.max_rejected}; mend the source, or raise it"
            )

    def _join(self) -> None:
        """The judgements with the rows of their query and candidate; -1 where there is none."""
        table = read_part(self.sources, "qrels", ["query_id", "item_id", "relevance"])
        self.judged = np.zeros(table.num_rows, JUDGED)
        for name, rows, column in (("query", self.queries, "query_id"), ("item", self.candidates, "item_id")):
            known = {self.ids[row]: row for row in rows.tolist()}
            if name == "item":
                self.known = known
            self.judged[name] = [known.get(id, -1) for id in table[column].to_pylist()]
        self.judged["relevance"], self.judged["reason"] = table["relevance"].to_numpy(), None

    def _alive(self, rows: Array) -> Array:
        return rows[[reason is None for reason in self.reason[rows]]]

    def _positive(self) -> Array:
        """The judgements of a query and an answer that are both still there."""
        fine = (self.judged["relevance"] > 0) & (self.judged["query"] >= 0) & (self.judged["item"] >= 0)
        positive = self.judged[fine]
        alive = np.equal(self.reason, None)
        return positive[alive[positive["query"]] & alive[positive["item"]]]

    def _hold_out(self) -> int:
        """Moves a share of the training queries of sources without other splits to a split of their own."""
        sources = {row: source_name(source) for row, source in zip(self.queries.tolist(), self._sources(self.queries), strict=True)}
        settled = {sources[row] for row in self.queries.tolist() if self.split[row] != TRAIN}
        eligible = [row for row in self._alive(self.queries).tolist() if sources[row] not in settled]
        if not eligible:
            raise Refused(f"held_out is {self.config.held_out}, but every source has queries of another split than train; set it to 0")
        positive, names = self._positive(), {row: self.ids[row] for row in eligible}
        asked, answers, share = positive["query"], positive["item"], self.config.held_out
        moved = held_out(asked, answers, self._contents(), np.array(eligible), names, share, self.context.seed)
        self.split[moved] = "held_out"
        return len(moved)

    def _sources(self, rows: Array) -> list[str]:
        return self.places["source"].take(pa.array(rows)).to_pylist()

    def _contents(self) -> Array:
        """A number for the content of each row; equal for equal rows."""
        return np.unique(self.facts.rows["content"].view([("", "u8"), ("", "u8")]), return_inverse=True)[1]

    def _merge(self) -> tuple[Array, int]:
        """Merges equal and near-equal candidates; returns all near-equal pairs of rows, and how many rows were crowded."""
        self.positive = self._positive()
        role = np.where(np.equal(self.split, TRAIN), TRAINING, HELD_OUT)
        role[self.candidates] = CANDIDATE
        role[self.positive["item"][role[self.positive["query"]] == HELD_OUT]] = ANSWER
        late = pa.array(np.isin(role, (CANDIDATE, TRAINING)))
        keys = [(key, "ascending") for key in ("late", "source", "line", "id")]
        order = pc.sort_indices(self.places.append_column("late", late), keys).to_numpy().astype(np.int64)
        self.preference = np.argsort(order)
        self.role, self.content, self.keeper = role, self._contents(), np.arange(len(role))
        heads: dict[int, int] = {}
        for row in self._alive(order[order < len(self.candidates)]).tolist():
            self.keeper[row] = heads.setdefault(int(self.content[row]), row)
        self._merged("exact duplicate")
        rows = self._alive(order)
        places, crowded = near_pairs(self.facts, rows, role[rows], self._wanted(), self.config.near)
        near = rows[places]
        if self.config.near_duplicates == "merge":
            stood = np.arange(len(role))
            stood[rows] = rows[keepers(places[(near < len(self.candidates)).all(1)], len(rows))]
            self.keeper = stood[self.keeper]
            self._merged("near-duplicate")
        for row in np.flatnonzero(self.keeper != np.arange(len(role))).tolist():
            self.detail[row] = self.ids[self.keeper[row]]
        return near, crowded

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
        self.reason[self._alive(self.candidates[self.keeper[self.candidates] != self.candidates])] = reason

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
        self.reason[row], self.detail[row] = f"leaks into {self.split[query]}", self.ids[origin]

    def _leak_by_evidence(self) -> None:
        row = len(self.candidates) + len(self.queries)
        for table in part_tables(self.sources, "triples", ["evidence"]):
            for evidence in table["evidence"].to_pylist():
                leaking = [self.known[id] for id in evidence if self.known.get(id) in self.leak]
                if leaking and self.role[row] == TRAINING and self.reason[row] is None:
                    self._leaked(row, leaking[0], self.leak[leaking[0]])
                row += 1

    def _judge(self) -> None:
        """Settles the judgements, and which queries keep an answer."""
        alive = np.equal(self.reason, None)
        best: dict[tuple[int, int], int] = {}
        for number, (query, item, relevance) in enumerate(self.judged[["query", "item", "relevance"]].tolist()):
            keeper = int(self.keeper[item]) if item >= 0 else -1
            leak = self.leak.get(keeper, self.leak.get(item))
            if keeper < 0 or not alive[keeper]:
                verdict = "answer was rejected", self.reason[keeper] if keeper >= 0 else "unknown item"
            elif query < 0 or not alive[query]:
                verdict = "query was rejected", self.reason[query] if query >= 0 else "unknown query"
            elif leak is not None and self.role[query] == TRAINING:
                verdict = f"leaks into {self.split[leak]}", self.ids[leak]
            else:
                loser, winner = number, best.setdefault((query, keeper), number)
                if relevance > self.judged["relevance"][winner]:
                    loser, winner = winner, number
                    best[query, keeper] = number
                number, verdict = (loser, ("judged twice", self.ids[keeper])) if loser != winner else (number, (None, ""))
            self.judged["reason"][number], self.judged["detail"][number] = verdict
        standing = np.equal(self.judged["reason"], None)
        answered = set(self.judged["query"][standing & (self.judged["relevance"] > 0)].tolist())
        for query in self._alive(self.queries).tolist():
            if query not in answered:
                self.reason[query] = "no answer is left"
        left = standing & ~np.equal(self.reason, None)[self.judged["query"]]
        self.judged["reason"][left], self.judged["detail"][left] = "query was rejected", "no answer is left"

    def _mixture(self, chosen: Array) -> Counter[tuple[str, str]]:
        """Training pairs of each source and task among the chosen judgements."""
        tasks = [task for table in part_tables(self.sources, "queries", ["task"]) for task in table["task"].to_pylist()]
        asked = self.judged["query"][chosen & (self.judged["relevance"] > 0) & (self.judged["query"] >= 0)]
        asked = asked[np.equal(self.split[asked], TRAIN)]
        return Counter(
            (source_name(source), tasks[query - len(self.candidates)])
            for query, source in zip(asked.tolist(), self._sources(asked), strict=True)
        )

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
        both = both[np.equal(self.reason, None)[both].all(1)]
        pairs, large = kin(kept, known["text"], known["pictures"], both)
        with PartWriter(self.context.folder, "kin") as writer:
            writer.write([{"item_id": self.ids[one], "kin_id": self.ids[other], "why": why} for one, other, why in pairs])
        return {**written, "kin": writer.written}, large

    def _write_part(self, part: str, rows: Array) -> int:
        if not part_files(self.sources, part):
            return 0
        first = int(rows[0]) if len(rows) else 0
        with PartWriter(self.context.folder, part) as writer:
            for table in self.changes.applied(first, part_tables(self.sources, part)):
                reasons = self.reason[first : first + table.num_rows]
                if part != "corpus":
                    split = pa.array(self.split[first : first + table.num_rows], pa.string())
                    table = table.set_column(table.schema.get_field_index("split"), "split", split)
                if part == "triples":
                    evidence = pa.array([self._passed_on(ids) for ids in table["evidence"].to_pylist()], pa.list_(pa.string()))
                    table = table.set_column(table.schema.get_field_index("evidence"), "evidence", evidence)
                writer.write(table.filter(pa.array(np.equal(reasons, None))))
                details = self.detail[first : first + table.num_rows]
                self._reject(part, table.select(["id", "source", "line"]), reasons, details)
                first += table.num_rows
        return writer.written

    def _passed_on(self, ids: list[str]) -> list[str]:
        """The candidates that are left of those named, each once."""
        rows = [int(self.keeper[self.known[id]]) for id in ids if id in self.known]
        return list(dict.fromkeys(self.ids[row] for row in rows if self.reason[row] is None))

    def _write_judgements(self) -> int:
        first = 0
        with PartWriter(self.context.folder, "qrels") as writer:
            for table in part_tables(self.sources, "qrels"):
                here = self.judged[first : first + table.num_rows]
                names = [f"{query} {item}" for query, item in zip(table["query_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)]
                told = pa.table({"id": pa.array(names, pa.string()), "source": table["source"], "line": table["line"]})
                self._reject("qrels", told, here["reason"], here["detail"])
                stand = [self.ids[self.keeper[item]] if item >= 0 else "" for item in here["item"].tolist()]
                table = table.set_column(table.schema.get_field_index("item_id"), "item_id", pa.array(stand, pa.string()))
                writer.write(table.filter(pa.array(np.equal(here["reason"], None))))
                first += table.num_rows
        return writer.written

    def _write_prompts(self) -> int:
        if not part_files(self.sources, "prompts"):
            return 0
        with PartWriter(self.context.folder, "prompts") as writer:
            for table in part_tables(self.sources, "prompts"):
                writer.write([{**row, "wording": clean(row["wording"])} for row in table.to_pylist()])
        return writer.written

    def _reject(self, part: str, told: pa.Table, reasons: Array, details: Array) -> None:
        lost = ~np.equal(reasons, None)
        self.why.update((reason, part) for reason in reasons[lost])
        columns = {name: told[name].filter(pa.array(lost)) for name in ("id", "source", "line")}
        columns |= {name: pa.array(values[lost], pa.string()) for name, values in (("reason", reasons), ("detail", details))}
        self.rejects.write(pa.table({"part": pa.array([part] * int(lost.sum()), pa.string()), **columns}))


def _columns(corpus: Path, names: list[str]) -> pa.Table:
    """Some columns of all rows of all parts, in their order."""
    schema = pa.schema([PARTS["corpus"].field(name) for name in names])
    return pa.concat_tables([schema.empty_table(), *(table for part in CHECKED for table in part_tables(corpus, part, names))])
