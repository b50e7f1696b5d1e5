"""Curated rows become pairs to train on and queries to evaluate with; each query gets an instruction in one of several wordings.

Which pairs there are is settled from ids alone; then every item is read once, and written into each store that has a use for it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from mirepoix.components.corpus.parts import PartWriter, part_tables, read_part, source_name
from mirepoix.components.corpus.picking import picked
from mirepoix.components.pairs import mixture
from mirepoix.components.pairs.instructions import WORDINGS, Wordings
from mirepoix.components.pairs.mixture import Group
from mirepoix.components.pairs.store import UNSCORED, Known, PairRow, StoreWriter, content_key
from mirepoix.components.passages import triples
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality, item_to_row, row_to_item
from mirepoix.models.options import option
from mirepoix.serving.store import Context, Outcome, Rows

ANSWERS = "answers the same query by another row"
KIN = ["item_id", "kin_id"]
ALONE = "its query has no answer to train on"
UNCAPTIONED = "pairs.adapt_captions is on, and no picture or clip that is not held out has a text beside it; name pairs.adapt_tasks instead"
_Wording = Callable[[Item, str], Item]
"""What gives a query of a task its instruction."""


@dataclass(frozen=True)
class PairsConfig:
    """Which pairs each training stage sees."""

    adapt_tasks: tuple[str, ...] | None = option(
        ("t->t", "t->i", "i->t"), "tasks of the adaptation stage, as far as the corpus has them; empty: all; null: where nothing is adapted"
    )
    adapt_captions: bool = option(
        False,
        "adapt in place of tasks on captions, which find the picture or clip that they stand beside (MARVEL); on none that is held out",
    )
    adapt_instructions: bool = option(False, "give the adaptation stage's queries instructions too")
    without_instruction: float = option(
        0.1, "share of training queries that go without even so: a search without a target has none; 1: no query has any, then or later"
    )
    instruct_tasks: tuple[str, ...] = option((), "tasks of the instruction stage, as far as the corpus has them; empty: all")
    mixture: tuple[str, ...] = option(
        (), "how often pairs stand in an epoch: SOURCE:TASK=WEIGHT with * for any, such as coco:t->i=2 or *:it->t=0.5; the last that fits"
    )

    def __post_init__(self) -> None:
        if not 0 <= self.without_instruction <= 1:
            raise Refused(f"without_instruction is {self.without_instruction}; it is a share, give a number from 0 to 1")
        for entry in self.mixture:
            mixture.parsed(entry)


class Asked(NamedTuple):
    """What is known of a query without its content."""

    split: str
    task: str
    source: str  # the first step of Item.source

    @property
    def group(self) -> Group:
        return self.source, self.task


@dataclass
class _Judged:
    """Who answers whom, and who does not, by ids."""

    asked: dict[str, Asked]
    training: list[tuple[str, str]] = field(default_factory=list)
    refuted: list[dict[str, Any]] = field(default_factory=list)  # rows of qrels: judged to be no answer, and of a query to train on
    scores: dict[tuple[str, str, bool], float] = field(default_factory=dict)  # of a teacher, by query, candidate and whether it answers
    evaluation: int = 0
    again: int = 0
    read: int = 0

    def scored(self, query: str, item: str, answers: bool) -> float:
        """A teacher's score, or that there is none."""
        return self.scores.get((query, item, answers), UNSCORED)


@dataclass
class _Store:
    """A store of pairs while it is written."""

    name: str
    wording: _Wording
    pairs: list[tuple[str, str]]
    groups: list[Group]
    counts: np.ndarray  # how often each pair stands in an epoch
    negatives: dict[str, list[str]]  # by query
    writer: StoreWriter
    rows: dict[str, dict[str, int]] = field(default_factory=lambda: {"queries": {}, "corpus": {}})

    def __post_init__(self) -> None:
        self.standing = [pair for pair, count in zip(self.pairs, self.counts, strict=True) if count]
        self.queries = {query for query, _ in self.standing}
        self.documents = {item for _, item in self.standing}
        self.documents.update(item for query in self.queries for item in self.negatives.get(query, ()))

    def add(self, part: str, item: Item, key: int) -> None:
        """Writes an item that some pair names."""
        self.rows[part][item.id] = self.writer.add(item, key)


def work(context: Context, config: PairsConfig, curate: Path, passages: Path | None = None) -> Outcome:
    """Writes the stores of pairs, adapt/ and instruct/, queries/ for evaluation, and in which words a release is to be asked.

    `passages` are further pairs to train on.
    """
    folders = [folder for folder in (curate, passages) if folder is not None]
    judged = _judged(folders, passages)
    if not judged.training:
        raise Refused(
            "no pair is left to train on: no row of qrels joins a query of the split 'train' with a candidate; "
            "check the splits, and the rejects of curation"
        )
    answered, answers = {query for query, _ in judged.training}, set(judged.training)
    negatives: dict[str, list[str]] = {}
    rejected = []
    for row in judged.refuted:
        if (row["query_id"], row["item_id"]) in answers:
            rejected.append((row, ANSWERS))
        elif row["query_id"] not in answered:
            rejected.append((row, ALONE))
        else:
            negatives.setdefault(row["query_id"], []).append(row["item_id"])
    weights = mixture.resolve_weights(config.mixture, {judged.asked[query].group for query in answered})
    wordings = Wordings(read_part(curate, "prompts").to_pylist())
    worded = config.without_instruction < 1
    instructed = partial(wordings.instructed, seed=context.seed, without=config.without_instruction) if worded else _bare
    chosen = {"instruct": (config.instruct_tasks, instructed)}
    adapted = instructed if config.adapt_instructions else _bare
    if config.adapt_tasks is not None and not config.adapt_captions:
        chosen = {"adapt": (config.adapt_tasks, adapted), **chosen}
    kin = [pair for folder in folders for pair in zip(*map(pa.ChunkedArray.to_pylist, read_part(folder, "kin", KIN).columns), strict=True)]
    dropped: set[tuple[str, str]] = set()
    there, notices = {judged.asked[query].task for query in answered}, []
    with ExitStack() as stack:
        stores = []
        for name, (tasks, wording) in chosen.items():
            if reason := untrainable(name, tasks, there):
                raise Refused(reason)
            pairs, counts = _weighed(name, tasks, judged, weights, context.seed)
            if missing := [task for task in tasks if task not in there]:
                notices.append({"stage": name, "detail": f"left aside of pairs.{name}_tasks, as no pair has them: {', '.join(missing)}"})
            writer = stack.enter_context(StoreWriter(context.folder / name))
            stores.append(_Store(name, wording, pairs, [judged.asked[query].group for query, _ in pairs], counts, negatives, writer))
        _write_items(context, folders, judged.asked, stores, partial(wordings.instructed, seed=context.seed) if worded else _bare)
        if config.adapt_captions:
            captions = _captions(curate, judged, adapted, stack.enter_context(StoreWriter(context.folder / "adapt")))
            groups = {group: mixture.weight(config.mixture, group) for group in {*captions.groups}}
            captions.counts = _counted("adapt", captions.groups, groups, context.seed)
            stores = [captions, *stores]
        for store in stores:
            dropped |= _finish(store, judged, kin)
    rejected += [(row, ANSWERS) for row in judged.refuted if (row["query_id"], row["item_id"]) in dropped]
    with PartWriter(context.folder, "rejects") as writer:
        writer.write([_reject(row, reason) for row, reason in rejected])
    (context.folder / WORDINGS).write_text(json.dumps(wordings.served() if worded else {}, indent=1) + "\n")
    return _outcome(judged, stores, rejected, notices)


def _outcome(judged: _Judged, stores: list[_Store], rejected: list[tuple[dict[str, Any], str]], notices: list[dict[str, str]]) -> Outcome:
    why = Counter(reason for _, reason in rejected)
    metrics: dict[str, float] = {
        "training_pairs": len(judged.training),
        "evaluation_pairs": judged.evaluation,
        "hard_negatives": len(judged.refuted) - len(rejected),
        **{f"rejected {reason}": count for reason, count in sorted(why.items())},
    }
    table = []
    for store in stores:
        told = mixture.report(store.name, store.groups, store.counts)
        metrics[f"{store.name}_pairs"] = sum(row["after"] for row in told)
        for task in sorted({row["task"] for row in told}):
            metrics[f"{store.name}_pairs {task}"] = sum(row["after"] for row in told if row["task"] == task)
            metrics[f"{store.name}_pairs_before {task}"] = sum(row["before"] for row in told if row["task"] == task)
        table += told
    written = judged.read - len(rejected) - judged.again
    return Outcome(Rows(judged.read, written, len(rejected), judged.again), metrics, {"mixture": table, "notices": notices})


def _judged(folders: list[Path], passages: Path | None) -> _Judged:
    """What the folders' queries and qrels say, without any content."""
    judged = _Judged({})
    for folder in folders:
        for table in part_tables(folder, "queries", ["id", "split", "task", "source"]):
            for id, split, task, source in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if id in judged.asked or (folder == passages and split != "train"):
                    fault = "stands twice" if id in judged.asked else f"is of the split {split!r}, and passages are trained on alone"
                    raise Refused(f"query {id!r} in {folder} {fault}; mend the stage that wrote it")
                judged.asked[id] = Asked(split, task, source_name(source))
    seen: set[tuple[str, str, bool]] = set()
    for folder in folders:
        for table in part_tables(folder, "qrels"):
            judged.read += table.num_rows
            for row in table.to_pylist():
                pair = row["query_id"], row["item_id"]
                if pair[0] not in judged.asked:
                    raise Refused(f"qrels in {folder} name the query {pair[0]!r}, which is not in queries/; mend the stage that wrote them")
                relevant = row["relevance"] > 0
                if row["score"] is not None:
                    judged.scores.setdefault((*pair, relevant), row["score"])
                if judged.asked[pair[0]].split != "train":
                    judged.evaluation += relevant
                elif (*pair, relevant) in seen:
                    judged.again += 1
                elif relevant:
                    judged.training.append(pair)
                else:
                    judged.refuted.append(row)
                seen.add((*pair, relevant))
    return judged


def _weighed(
    name: str, tasks: tuple[str, ...], judged: _Judged, weights: dict[Group, float], seed: int
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """The pairs of some tasks, and how often each stands in an epoch."""
    pairs = [pair for pair in judged.training if not tasks or judged.asked[pair[0]].task in tasks]
    return pairs, _counted(name, [judged.asked[query].group for query, _ in pairs], weights, seed)


def _counted(name: str, groups: list[Group], weights: dict[Group, float], seed: int) -> np.ndarray:
    """How often each pair stands in an epoch of a stage."""
    counts = mixture.repeats(groups, weights, seed)
    if not counts.any():
        raise Refused(f"no pair is left to train on for the stage {name}: pairs.mixture leaves none of {len(groups)}; raise a weight")
    return counts


def untrainable(name: str, tasks: tuple[str, ...], there: set[str]) -> str:
    """Why a stage cannot train on the tasks that it asks for, when training pairs have these; or nothing."""
    if tasks and there.isdisjoint(tasks):
        return f"no pair to train on has a task of pairs.{name}_tasks={','.join(tasks)}; name some of {', '.join(sorted(there))}"
    return ""


def _bare(query: Item, task: str) -> Item:
    return replace(query, instruction="")


def _write_items(context: Context, folders: list[Path], asked: dict[str, Asked], stores: list[_Store], wording: _Wording) -> None:
    """Streams queries and documents, each once, into the stores that name them, and what is to be evaluated into queries/."""
    wanted = {"queries": set().union(*(store.queries for store in stores)), "corpus": set().union(*(store.documents for store in stores))}
    held_out = {query for query, told in asked.items() if told.split != "train"}
    total, done = len(wanted["queries"]) + len(held_out) + len(wanted["corpus"]), 0
    with PartWriter(context.folder, "queries") as evaluation:
        for part, folder in ((part, folder) for part in wanted for folder in folders):
            for table in picked(folder, part, wanted[part] | held_out if part == "queries" else wanted[part]):
                asked_here = []
                for row in table.to_pylist():
                    item = row_to_item(row)
                    if part == "queries" and item.id in held_out:
                        asked_here.append({**row, **item_to_row(wording(item, row["task"]))})
                        continue
                    key = content_key(item)
                    for store in stores:
                        if item.id in (store.queries if part == "queries" else store.documents):
                            store.add(part, store.wording(item, row["task"]) if part == "queries" else item, key)
                evaluation.write(asked_here)
                done += table.num_rows
                context.report({"step": done, "total": total})
    for store in stores:
        if missing := store.documents - set(store.rows["corpus"]):
            raise Refused(f"qrels name the candidate {min(missing)!r}, which is not in corpus/; mend the stage that wrote them")


def _captions(curate: Path, judged: _Judged, wording: _Wording, writer: StoreWriter) -> _Store:
    """A store of what has a caption and is not held out: the caption asks, and the picture or clip without it answers."""
    store, held_out = _Store("adapt", wording, [], [], np.zeros(0, int), {}, writer), triples.held_out(curate)
    for table in part_tables(curate, "corpus"):
        for item in map(row_to_item, table.to_pylist()):
            seen = item.modality & ~Modality.TEXT
            if not seen or seen == item.modality or item.id in held_out:
                continue
            task = f"t->{seen.letters}"
            query = wording(replace(item, id=f"{item.id}#caption", images=(), video=()), task)
            bare = replace(item, id=f"{item.id}#bare", text="")
            judged.asked[query.id] = Asked("train", task, source_name(item.source))
            store.add("queries", query, content_key(query))
            store.add("corpus", bare, content_key(bare))
            store.rows["corpus"][item.id] = store.rows["corpus"][bare.id]  # as kin name it
            store.pairs.append((query.id, bare.id))
            store.groups.append(judged.asked[query.id].group)
    if not store.pairs:
        raise Refused(UNCAPTIONED)
    return store


def _finish(store: _Store, judged: _Judged, kin: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Writes what is said of the items; gives the negatives that turned out to be copies of an answer."""
    asked, queries, documents, keys = judged.asked, store.rows["queries"], store.rows["corpus"], store.writer.keys
    answers: dict[tuple[str, int], set[int]] = {}
    for query, item in store.pairs:
        if query in queries and item in documents:
            answers.setdefault((asked[query].task, keys[queries[query]]), set()).add(keys[documents[item]])
    negatives, dropped = {}, set()
    for query in queries:
        known = answers[asked[query].task, keys[queries[query]]]
        named = dict.fromkeys(store.negatives.get(query, ()))
        negatives[query] = [item for item in named if keys[documents[item]] not in known]
        dropped.update((query, item) for item in named if keys[documents[item]] in known)
    rows = (
        PairRow(
            id=f"{query}>{item}",
            query=queries[query],
            positive=documents[item],
            negatives=[documents[negative] for negative in negatives[query]],
            task=asked[query].task,
            source=asked[query].source,
            scores=[judged.scored(query, item, True), *(judged.scored(query, negative, False) for negative in negatives[query])],
        )
        for (query, item), count in zip(store.pairs, store.counts, strict=True)
        for _ in range(count)
    )
    beside = (
        Known(queries[query], documents[item], asked[query].task)
        for (query, item), count in zip(store.pairs, store.counts, strict=True)
        if not count and query in queries and item in documents
    )
    store.writer.finish(rows, beside, ((documents[a], documents[b]) for a, b in kin if a in documents and b in documents))
    return dropped


def _reject(row: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"part": "qrels", "id": f"{row['query_id']} {row['item_id']}", "reason": reason} | {
        name: row.get(name) for name in ("source", "line")
    }
