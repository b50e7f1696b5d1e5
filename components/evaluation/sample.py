"""A few held-out queries, and a bounded part of the corpus that has their answers: enough to see what an encoder finds, in little time."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import part_files, part_tables, read_part, rows_with_ids
from mirepoix.components.evaluation.scoring.measures import Measure
from mirepoix.components.evaluation.scoring.metrics import per_query
from mirepoix.models.errors import Refused
from mirepoix.models.item import ITEM_SCHEMA, Item, row_to_item, table_to_items
from mirepoix.serving.search.hits import Hit

if TYPE_CHECKING:
    from mirepoix.models.encoder import Encoder

GROUPS = 16
"""Most row groups that other documents are drawn from: all of a corpus of some 16,000 rows, and of a larger one no more is read."""
ANSWERS = 10
"""Most answers of a query that are searched for; one that is the label of a class may have thousands."""
DEPTHS = (1, 5, 10)


@dataclass(frozen=True)
class Asked:
    """A query, its task, and the ids of its answers among the documents of the sample."""

    item: Item
    task: str
    answers: frozenset[str]


@dataclass(frozen=True)
class Sample:
    """Queries, the documents that they are searched in, and how many there are of both in all."""

    queries: tuple[Asked, ...]
    documents: tuple[Item, ...]
    all_queries: int
    all_documents: int


def draw(pairs: Path, curate: Path, queries: int, documents: int, seed: int) -> Sample:
    """Draws queries of evaluation that have answers, of all tasks in turn, and documents: those answers, and others up to the number.

    Refused where `pairs` has no query of evaluation with an answer.
    """
    random = np.random.default_rng(seed)
    relevant: dict[str, list[str]] = defaultdict(list)
    judged = read_part(curate, "qrels", ["query_id", "item_id", "relevance"])
    for query, item, relevance in zip(*(column.to_pylist() for column in judged.columns), strict=True):
        if relevance > 0:
            relevant[query].append(item)
    by_task: dict[str, list[str]] = defaultdict(list)
    held_out = read_part(pairs, "queries", ["id", "task"])
    for id, task in zip(*(column.to_pylist() for column in held_out.columns), strict=True):
        if relevant.get(id):
            by_task[task].append(id)
    total = sum(map(len, by_task.values()))
    if not total:
        why = "none of its queries outside the split train has an answer" if held_out.num_rows else "no query is outside the split train"
        raise Refused(f"the run has no held-out query to try ({why}); curate.held_out=0.1 holds some out, and trains anew")
    shuffled = [[ids[place] for place in random.permutation(len(ids))] for _, ids in sorted(by_task.items())]
    turns = sorted((place, task, id) for task, ids in enumerate(shuffled) for place, id in enumerate(ids))
    chosen = [id for _, _, id in turns[:queries]]
    wanted = {id: frozenset(relevant[id][:ANSWERS]) for id in chosen}
    found, rows = _documents(curate, set().union(*wanted.values()), set().union(*(relevant[id] for id in chosen)), documents, random)
    there = {item.id for item in found}
    asked = {}
    for table in rows_with_ids(pairs, "queries", wanted):
        for row in table.to_pylist():
            asked[row["id"]] = Asked(row_to_item(row), row["task"], wanted[row["id"]] & there)
    return Sample(tuple(asked[id] for id in chosen if asked[id].answers), found, total, rows)


def _documents(
    curate: Path, answers: set[str], left_out: set[str], count: int, random: np.random.Generator
) -> tuple[tuple[Item, ...], int]:
    """The answers, and other documents up to the count, none of which is among those to leave out; and the rows of the corpus."""
    ids = [id for table in part_tables(curate, "corpus", ["id"]) for id in table["id"].to_pylist()]
    sizes = [size for file in part_files(curate, "corpus") for size in _group_sizes(file)]
    starts = np.cumsum([0, *sizes])
    groups = random.permutation(len(sizes))[:GROUPS]
    pool = np.concatenate([np.arange(starts[group], starts[group + 1]) for group in sorted(groups)])
    pool = pool[[ids[row] not in left_out for row in pool]]
    chosen: npt.NDArray[np.bool_] = np.fromiter((id in answers for id in ids), bool, len(ids))
    chosen[random.permutation(pool)[: max(0, count - int(chosen.sum()))]] = True
    tables = part_tables(curate, "corpus", ITEM_SCHEMA.names, chosen=chosen)
    return tuple(item for table in tables for item in table_to_items(table)), len(ids)


def _group_sizes(file: str) -> list[int]:
    metadata = pq.read_metadata(file)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def rankings(encoder: "Encoder", sample: Sample, batch_size: int, report: Callable[[int], None] | None = None) -> list[list[Hit]]:
    """For each query all documents of the sample, the best first; `report` is told how many documents are encoded."""
    from mirepoix.models.vectors import maxsim

    documents = encoder.encode(sample.documents, batch_size, report, role="document")
    queries = encoder.encode([asked.item for asked in sample.queries], batch_size, role="query")
    scores_QN = maxsim(queries, documents).numpy()
    items = sample.documents
    orders_QN = np.argsort(-scores_QN, axis=1, kind="stable")
    return [[Hit(items[n].id, float(scores_N[n])) for n in order_N] for order_N, scores_N in zip(orders_QN, scores_QN, strict=True)]


def first_rank(ranking: Sequence[Hit], answers: frozenset[str]) -> int:
    """The rank of the best answer, from 1."""
    return next(rank for rank, hit in enumerate(ranking, 1) if hit.id in answers)


def recalls(found: Sequence[Sequence[Hit]], sample: Sample) -> Mapping[str, float]:
    """Recall at 1, 5 and 10, averaged over the queries."""
    grades = [[int(hit.id in asked.answers) for hit in ranking] for ranking, asked in zip(found, sample.queries, strict=True)]
    values = per_query([Measure("R", depth) for depth in DEPTHS], grades, [[1] * len(asked.answers) for asked in sample.queries])
    return {name: float(value.mean()) for name, value in values.items()}
