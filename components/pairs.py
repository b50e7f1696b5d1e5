"""Curated rows become pairs to train on and queries to evaluate with; each query gets an instruction in one of several wordings."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pyarrow as pa

from mirepoix.components.batches import PairRow, write_pairs
from mirepoix.components.corpus import PartWriter, read_part
from mirepoix.components.instructions import instructed
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, item_to_row, row_to_item
from mirepoix.models.options import option
from mirepoix.serving.store import Context, Outcome, Rows


@dataclass(frozen=True)
class PairsConfig:
    """Which pairs each training stage sees."""

    adapt_tasks: tuple[str, ...] = option(("t->t", "t->i", "i->t"), "tasks of the adaptation stage; empty: all")
    adapt_instructions: bool = option(False, "give the adaptation stage's queries instructions too")
    without_instruction: float = option(0.1, "share of queries that go without even so: a search without a target has none")
    instruct_tasks: tuple[str, ...] = option((), "tasks of the instruction stage; empty: all")

    def __post_init__(self) -> None:
        if not 0 <= self.without_instruction < 1:
            raise Refused(f"without_instruction is {self.without_instruction}; it is a share, give a number from 0 to below 1")


def work(context: Context, config: PairsConfig, curate: Path) -> Outcome:
    """Writes two stores of pairs, adapt/ and instruct/, and queries/ for evaluation."""
    corpus, queries, qrels = (read_part(curate, part) for part in ("corpus", "queries", "qrels"))
    split = dict(zip(queries["id"].to_pylist(), queries["split"].to_pylist(), strict=True))
    task = dict(zip(queries["id"].to_pylist(), queries["task"].to_pylist(), strict=True))
    judged = [(row["query_id"], row["item_id"]) for row in qrels.to_pylist() if row["relevance"] > 0]
    training = [pair for pair in judged if split[pair[0]] == "train"]
    if not training:
        raise Refused("no pair is left to train on: no row of qrels joins a query of the split 'train' with a candidate; check the splits")
    metrics: dict[str, float] = {}
    chosen = {"adapt": (config.adapt_tasks, config.adapt_instructions), "instruct": (config.instruct_tasks, True)}
    for name, (tasks, with_instruction) in chosen.items():
        unknown = sorted(set(tasks) - set(task.values()))
        if unknown:
            raise Refused(
                f"no query has the task {', '.join(unknown)} of pairs.{name}_tasks; the corpus has {', '.join(sorted(set(task.values())))}"
            )
        mine = [pair for pair in training if not tasks or task[pair[0]] in tasks]
        if not mine:
            raise Refused(f"no pair is left to train on for pairs.{name}_tasks={', '.join(tasks)}; those of 'train' are of other tasks")
        used = _rows_used(corpus, queries, mine)
        wording = partial(instructed, seed=context.seed, without=config.without_instruction) if with_instruction else _bare
        (context.folder / name).mkdir()
        write_pairs(context.folder / name, _items(corpus, queries, used, task, wording), _pair_rows(mine, used, task))
        metrics[f"{name}_pairs"] = len(mine)
        for family in sorted({task[pair[0]] for pair in mine}):
            metrics[f"{name}_pairs {family}"] = sum(task[pair[0]] == family for pair in mine)
    with PartWriter(context.folder, "queries") as writer:
        for batch in queries.to_batches(max_chunksize=1000):
            asked = [row for row in batch.to_pylist() if row["split"] != "train"]
            writer.write([{**row, **item_to_row(instructed(row_to_item(row), row["task"], context.seed))} for row in asked])
    counts = {
        "training_pairs": len(training),
        "evaluation_pairs": sum(split[query] != "train" for query, _ in judged),
        "judged_irrelevant": sum(relevance <= 0 for relevance in qrels["relevance"].to_pylist()),
    }
    return Outcome(
        Rows(qrels.num_rows, counts["training_pairs"] + counts["evaluation_pairs"], rejected=counts["judged_irrelevant"]),
        {**metrics, **counts},
    )


def _rows_used(corpus: pa.Table, queries: pa.Table, pairs: list[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """(part, id) of every item in `pairs` -> its row in the store, in the order of the parts."""
    wanted = {"queries": {query for query, _ in pairs}, "corpus": {item for _, item in pairs}}
    parts = {"queries": queries, "corpus": corpus}
    found = [(part, item) for part, table in parts.items() for item in table["id"].to_pylist() if item in wanted[part]]
    return {place: row for row, place in enumerate(found)}


def _bare(query: Item, task: str) -> Item:
    return replace(query, instruction="")


def _items(
    corpus: pa.Table, queries: pa.Table, used: dict[tuple[str, str], int], task: dict[str, str], wording: Callable[[Item, str], Item]
) -> Iterator[Item]:
    for part, table in (("queries", queries), ("corpus", corpus)):
        for batch in table.to_batches(max_chunksize=1000):
            for row in batch.to_pylist():
                if (part, row["id"]) in used:
                    item = row_to_item(row)
                    yield wording(item, task[item.id]) if part == "queries" else item


def _pair_rows(pairs: list[tuple[str, str]], used: dict[tuple[str, str], int], task: dict[str, str]) -> Iterator[PairRow]:
    for query, item in pairs:
        yield PairRow(f"{query}>{item}", used["queries", query], used["corpus", item], (), task[query])
