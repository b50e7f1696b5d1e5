"""The pairs stage: curated rows become training pairs and evaluation queries, each query with an instruction in one of several wordings.

The pairs are determined from ids alone; then every item is read once and written into each store that needs it. In a run without a
training there are no training pairs: queries of every split, none of which anything was trained on, are queries of evaluation.
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

from mirepoix.components.corpus.parts import PartWriter, held_out, part_tables, read_part, rows_with_ids, source_name
from mirepoix.components.pairs import mixture
from mirepoix.components.pairs.instructions import INSTRUCTIONS, WORDINGS, Wordings
from mirepoix.components.pairs.mixture import Group
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.components.pairs.store import UNSCORED, Known, PairRow, StoreWriter
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality, content_key, item_to_row, row_to_item

ANSWERS = "answers the same query by another row"
KIN = ["item_id", "kin_id"]
ALONE = "its query has no answer to train on"
UNCAPTIONED = "pairs.adapt_captions is on, and no picture or clip that is not held out has a text beside it; name pairs.adapt_tasks instead"
_Wording = Callable[[Item, str], Item]
"""A function that gives a query of a task its instruction."""


class QueryInfo(NamedTuple):
    """Split, task and source of a query, without its content."""

    split: str
    task: str
    source: str  # the first step of Item.source

    @property
    def group(self) -> Group:
        return self.source, self.task


@dataclass
class _Judgements:
    """The relevance judgements of the corpus, by ids."""

    queries: dict[str, QueryInfo]
    measured: set[str] = field(default_factory=set)  # queries of evaluation
    training: list[tuple[str, str]] = field(default_factory=list)  # a training query and an answer
    refuted: list[dict[str, Any]] = field(default_factory=list)  # rows of qrels of training queries with candidates judged irrelevant
    scores: dict[tuple[str, str, bool], float] = field(default_factory=dict)  # of a teacher, by query, candidate and relevance
    grades: dict[tuple[str, str], int] = field(default_factory=dict)  # of training pairs, where they are not 1
    evaluation: int = 0
    repeated: int = 0
    read: int = 0

    def scored(self, query: str, item: str, relevant: bool) -> float:
        """A teacher's score, or UNSCORED."""
        return self.scores.get((query, item, relevant), UNSCORED)


@dataclass
class _Store:
    """A store of pairs while it is written."""

    name: str
    wording: _Wording
    pairs: list[tuple[str, str]]
    groups: list[Group]
    counts: np.ndarray  # how often each pair occurs in an epoch
    negatives: dict[str, list[str]]  # by query
    writer: StoreWriter
    rows: dict[str, dict[str, int]] = field(default_factory=lambda: {"queries": {}, "corpus": {}})

    def __post_init__(self) -> None:
        in_epoch = [pair for pair, count in zip(self.pairs, self.counts, strict=True) if count]
        self.queries = {query for query, _ in in_epoch}
        self.documents = {item for _, item in in_epoch}
        self.documents.update(item for query in self.queries for item in self.negatives.get(query, ()))

    def add(self, part: str, item: Item, key: int) -> None:
        """Writes an item of a pair."""
        self.rows[part][item.id] = self.writer.add(item, key)


def work(context: Context, config: PairsConfig, curate: Path, passages: Path | None = None) -> Outcome:
    """Writes the stores of pairs, adapt/ and instruct/, queries/ for evaluation, and the instructions that a release serves with.

    `passages` is a folder of additional training pairs.
    """
    folders = [folder for folder in (curate, passages) if folder is not None]
    trainings = config.trained_tasks
    judgements = _read_judgements(folders, passages, trained=bool(trainings) or config.adapt_captions)
    if trainings and not judgements.training:
        raise Refused(
            "no pair is left to train on: no row of qrels joins a query of the split 'train' with a candidate; "
            "check the splits, and the rejects of curation; `mirepoix run search` searches a corpus without a training"
        )
    answered, answers = {query for query, _ in judgements.training}, set(judgements.training)
    negatives: dict[str, list[str]] = {}
    rejected = []
    for row in judgements.refuted:
        if (row["query_id"], row["item_id"]) in answers:
            rejected.append((row, ANSWERS))
        elif row["query_id"] not in answered:
            rejected.append((row, ALONE))
        else:
            negatives.setdefault(row["query_id"], []).append(row["item_id"])
    weights = mixture.resolve_weights(config.mixture, {judgements.queries[query].group for query in answered}) if trainings else {}
    wordings = Wordings(read_part(curate, "prompts").to_pylist(), INSTRUCTIONS if config.wordings == "all" else {})
    worded = config.without_instruction < 1
    instructed = partial(wordings.instructed, seed=context.seed, without=config.without_instruction) if worded else _bare
    adapted = instructed if config.adapt_instructions else _bare
    worded_by = {"adapt": adapted, "instruct": instructed}
    kin = [pair for folder in folders for pair in zip(*map(pa.ChunkedArray.to_pylist, read_part(folder, "kin", KIN).columns), strict=True)]
    dropped: set[tuple[str, str]] = set()
    available, notices = {judgements.queries[query].task for query in answered}, []
    with ExitStack() as stack:
        stores = []
        for name, tasks in trainings.items():
            if reason := training_problem(name, tasks, available):
                raise Refused(reason)
            pairs, counts = _weighed(name, tasks, judgements, weights, context.seed)
            if missing := [task for task in tasks if task not in available]:
                notices.append({"stage": name, "detail": f"tasks of pairs.{name}_tasks that no pair has: {', '.join(missing)}"})
            writer = stack.enter_context(StoreWriter(context.folder / name))
            groups = [judgements.queries[query].group for query, _ in pairs]
            stores.append(_Store(name, worded_by[name], pairs, groups, counts, negatives, writer))
        _write_items(context, folders, judgements, stores, partial(wordings.instructed, seed=context.seed) if worded else _bare)
        if config.adapt_captions:
            captions = _captions(curate, judgements, adapted, stack.enter_context(StoreWriter(context.folder / "adapt")))
            caption_groups = {*captions.groups}
            if not trainings:
                mixture.resolve_weights(config.mixture, caption_groups)  # refuses an entry that matches nothing
            caption_weights = {group: mixture.weight(config.mixture, group) for group in caption_groups}
            captions.counts = _counted("adapt", captions.groups, caption_weights, context.seed)
            stores = [captions, *stores]
        for store in stores:
            dropped |= _finish(store, judgements, kin)
    rejected += [(row, ANSWERS) for row in judgements.refuted if (row["query_id"], row["item_id"]) in dropped]
    with PartWriter(context.folder, "rejects") as rejects:
        rejects.write([_reject(row, reason) for row, reason in rejected])
    (context.folder / WORDINGS).write_text(json.dumps(wordings.served() if worded else {}, indent=1) + "\n")
    return _outcome(judgements, stores, rejected, notices)


def _outcome(
    judgements: _Judgements, stores: list[_Store], rejected: list[tuple[dict[str, Any], str]], notices: list[dict[str, str]]
) -> Outcome:
    why = Counter(reason for _, reason in rejected)
    metrics: dict[str, float] = {
        "training_pairs": len(judgements.training),
        "evaluation_pairs": judgements.evaluation,
        "hard_negatives": len(judgements.refuted) - len(rejected),
        **{f"rejected {reason}": count for reason, count in sorted(why.items())},
    }
    table = []
    for store in stores:
        rows = mixture.report(store.name, store.groups, store.counts)
        metrics[f"{store.name}_pairs"] = sum(row["after"] for row in rows)
        for task in sorted({row["task"] for row in rows}):
            metrics[f"{store.name}_pairs {task}"] = sum(row["after"] for row in rows if row["task"] == task)
            metrics[f"{store.name}_pairs_before {task}"] = sum(row["before"] for row in rows if row["task"] == task)
        table += rows
    written = judgements.read - len(rejected) - judgements.repeated
    return Outcome(Rows(judgements.read, written, len(rejected), judgements.repeated), metrics, {"mixture": table, "notices": notices})


def _read_judgements(folders: list[Path], passages: Path | None, trained: bool) -> _Judgements:
    """The queries and qrels of the folders, without the content of items; unless something is trained, all queries are of evaluation."""
    judgements = _Judgements({})
    for folder in folders:
        for table in part_tables(folder, "queries", ["id", "split", "task", "source"]):
            for id, split, task, source in zip(*(column.to_pylist() for column in table.columns), strict=True):
                if id in judgements.queries or (folder == passages and split != "train"):
                    problem = (
                        "is there twice" if id in judgements.queries else f"is of the split {split!r}, and passages are for training only"
                    )
                    raise Refused(f"query {id!r} in {folder} {problem}; correct the stage that wrote it")
                judgements.queries[id] = QueryInfo(split, task, source_name(source))
                if split != "train" or not trained:
                    judgements.measured.add(id)
    seen: set[tuple[str, str, bool]] = set()
    for folder in folders:
        for table in part_tables(folder, "qrels"):
            judgements.read += table.num_rows
            for row in table.to_pylist():
                pair = row["query_id"], row["item_id"]
                if pair[0] not in judgements.queries:
                    raise Refused(
                        f"qrels in {folder} name the query {pair[0]!r}, which is not in queries/; correct the stage that wrote them"
                    )
                relevant = row["relevance"] > 0
                if pair[0] in judgements.measured:
                    judgements.evaluation += relevant
                    continue
                if row["score"] is not None:
                    judgements.scores.setdefault((*pair, relevant), row["score"])
                if (*pair, relevant) in seen:
                    judgements.repeated += 1
                elif relevant:
                    judgements.training.append(pair)
                    if row["relevance"] > 1:
                        judgements.grades[pair] = row["relevance"]
                else:
                    judgements.refuted.append(row)
                seen.add((*pair, relevant))
    return judgements


def _weighed(
    name: str, tasks: tuple[str, ...], judgements: _Judgements, weights: dict[Group, float], seed: int
) -> tuple[list[tuple[str, str]], np.ndarray]:
    """The pairs of some tasks, and how often each occurs in an epoch."""
    pairs = [pair for pair in judgements.training if not tasks or judgements.queries[pair[0]].task in tasks]
    return pairs, _counted(name, [judgements.queries[query].group for query, _ in pairs], weights, seed)


def _counted(name: str, groups: list[Group], weights: dict[Group, float], seed: int) -> np.ndarray:
    """How often each pair occurs in an epoch of a stage."""
    counts = mixture.repeats(groups, weights, seed)
    if not counts.any():
        raise Refused(f"no pair is left to train on for the stage {name}: pairs.mixture leaves none of {len(groups)}; raise a weight")
    return counts


def training_problem(name: str, tasks: tuple[str, ...], available: set[str]) -> str:
    """Why a stage cannot train on the tasks of its config with pairs of the tasks `available`; empty if it can."""
    if tasks and available.isdisjoint(tasks):
        return f"no pair to train on has a task of pairs.{name}_tasks={','.join(tasks)}; name some of {', '.join(sorted(available))}"
    return ""


def _bare(query: Item, task: str) -> Item:
    return replace(query, instruction="")


def _write_items(context: Context, folders: list[Path], judgements: _Judgements, stores: list[_Store], wording: _Wording) -> None:
    """Streams queries and documents, each once, into the stores whose pairs name them, and evaluation queries into queries/."""
    wanted = {"queries": set().union(*(store.queries for store in stores)), "corpus": set().union(*(store.documents for store in stores))}
    measured = judgements.measured
    total, done = len(wanted["queries"]) + len(measured) + len(wanted["corpus"]), 0
    with PartWriter(context.folder, "queries") as evaluation:
        for part, folder in ((part, folder) for part in wanted for folder in folders):
            for table in rows_with_ids(folder, part, wanted[part] | measured if part == "queries" else wanted[part]):
                queries = []
                for row in table.to_pylist():
                    item = row_to_item(row)
                    if part == "queries" and item.id in measured:
                        queries.append({**row, **item_to_row(wording(item, row["task"]))})
                        continue
                    key = content_key(item)
                    for store in stores:
                        if item.id in (store.queries if part == "queries" else store.documents):
                            store.add(part, store.wording(item, row["task"]) if part == "queries" else item, key)
                evaluation.write(queries)
                done += table.num_rows
                context.report({"step": done, "total": total})
    for store in stores:
        if missing := store.documents - set(store.rows["corpus"]):
            raise Refused(f"qrels name the candidate {min(missing)!r}, which is not in corpus/; correct the stage that wrote them")


def _captions(curate: Path, judgements: _Judgements, wording: _Wording, writer: StoreWriter) -> _Store:
    """A store of the captioned items that are not held out: the caption is the query, the picture or clip without it the positive."""
    store, held = _Store("adapt", wording, [], [], np.zeros(0, int), {}, writer), held_out(curate)
    for table in part_tables(curate, "corpus"):
        for item in map(row_to_item, table.to_pylist()):
            seen = item.modality & ~Modality.TEXT
            if not seen or seen == item.modality or item.id in held:
                continue
            task = f"t->{seen.letters}"
            query = wording(replace(item, id=f"{item.id}#caption", images=(), video=()), task)
            bare = replace(item, id=f"{item.id}#bare", text="")
            judgements.queries[query.id] = QueryInfo("train", task, source_name(item.source))
            store.add("queries", query, content_key(query))
            store.add("corpus", bare, content_key(bare))
            store.rows["corpus"][item.id] = store.rows["corpus"][bare.id]  # kin name the item by its own id
            store.pairs.append((query.id, bare.id))
            store.groups.append(judgements.queries[query.id].group)
    if not store.pairs:
        raise Refused(UNCAPTIONED)
    return store


def _finish(store: _Store, judgements: _Judgements, kin: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Writes the pairs of a store; returns the negatives that turned out to be copies of an answer."""
    infos, queries, documents, keys = judgements.queries, store.rows["queries"], store.rows["corpus"], store.writer.keys
    answers: dict[tuple[str, int], set[int]] = {}
    for query, item in store.pairs:
        if query in queries and item in documents:
            answers.setdefault((infos[query].task, keys[queries[query]]), set()).add(keys[documents[item]])
    negatives: dict[str, list[str]] = {}
    dropped: set[tuple[str, str]] = set()
    for query in queries:
        known = answers[infos[query].task, keys[queries[query]]]
        named = dict.fromkeys(store.negatives.get(query, ()))
        negatives[query] = [item for item in named if keys[documents[item]] not in known]
        dropped.update((query, item) for item in named if keys[documents[item]] in known)
    rows = (
        PairRow(
            id=f"{query}>{item}",
            query=queries[query],
            positive=documents[item],
            negatives=[documents[negative] for negative in negatives[query]],
            task=infos[query].task,
            source=infos[query].source,
            scores=[judgements.scored(query, item, True), *(judgements.scored(query, negative, False) for negative in negatives[query])],
            grade=judgements.grades.get((query, item), 1),
        )
        for (query, item), count in zip(store.pairs, store.counts, strict=True)
        for _ in range(count)
    )
    known_answers = (
        Known(queries[query], documents[item], infos[query].task)
        for (query, item), count in zip(store.pairs, store.counts, strict=True)
        if not count and query in queries and item in documents
    )
    store.writer.finish(rows, known_answers, ((documents[a], documents[b]) for a, b in kin if a in documents and b in documents))
    return dropped


def _reject(row: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"part": "qrels", "id": f"{row['query_id']} {row['item_id']}", "reason": reason} | {
        name: row.get(name) for name in ("source", "line")
    }
