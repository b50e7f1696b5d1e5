"""Searches the index with every query of evaluation and computes metrics by split, task and pool.

Both the trained and the untrained encoder are measured. Without a training there is one encoder, and queries of every split are measured,
as `pairs` chose them; a corpus without any is not an error then: the result says that nothing was measured, and why.

The pool "universal" is the whole corpus, where a result of the wrong modality is an error; "target" holds only the items of the modality
that the task asks for.
"""

import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import part_rows, part_tables, read_part
from mirepoix.components.embedding.vectors import read_vectors
from mirepoix.components.evaluation.evaluate_config import POOLS, EvaluateConfig, released
from mirepoix.components.evaluation.metrics import MEASURES, interval, measured
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.serving.search.dense import Index
from mirepoix.serving.search.hits import Hit
from mirepoix.serving.search.open import open_index

DEPTH = max(k for _, k in MEASURES.values())


@dataclass(frozen=True)
class _Query:
    id: str
    split: str
    task: str
    relevant: frozenset[str]

    @property
    def target(self) -> Modality:
        return Modality.of_letters(self.task.split("->")[1])


def work(
    context: Context,
    config: EvaluateConfig,
    curate: Path,
    embed: Path,
    index: Path,
    untrained_embed: Path | None = None,
    untrained_index: Path | None = None,
) -> Outcome:
    """Measures all encoders on the same queries, and writes metrics.json, queries.parquet and TREC run files."""
    systems = {"encoder": (embed, index)}
    if untrained_embed is not None and untrained_index is not None:
        systems = {"trained": (embed, index), "untrained": (untrained_embed, untrained_index)}
    queries, unanswered = _queries(curate, embed)
    if not queries and "trained" in systems:
        raise Refused("there is nothing to evaluate: no query outside the split 'train' has an answer in the corpus")
    if not queries:
        return _unmeasured(context, curate, unanswered)
    config = replace(config, split=headline_split({query.split for query in queries}, config.split))
    rows = []
    for number, (system, (vectors, rows_of)) in enumerate(systems.items()):
        opened = open_index(rows_of)
        assert isinstance(opened, Index), rows_of
        for pool, rankings in _rankings(opened, vectors, queries).items():
            _write_run(context.folder / f"{system}-{pool}.trec", rankings, f"{system}-{pool}")
            for query in queries:
                ranking = [hit.id for hit in rankings[query.id]]
                rows.append(
                    {"system": system, "pool": pool, "split": query.split, "task": query.task, "query": query.id}
                    | measured(ranking, query.relevant)
                )
        context.report({"step": number + 1, "total": len(systems)})
    pq.write_table(pa.Table.from_pylist(rows), context.folder / "queries.parquet")
    _write_qrels(context.folder / "qrels.trec", queries)
    results = _results(rows, config, context.seed)
    summary: dict[str, Any] = {"headline": _headline(results, config), "results": results}
    (context.folder / "metrics.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    accounted = Rows(len(queries) + unanswered, len({row["query"] for row in rows}), rejected=unanswered)
    headline = summary["headline"] | {system: summary["headline"][system]["average"] for system in systems}
    return Outcome(accounted, _flat(summary), {"headline": [headline]})


def _unmeasured(context: Context, curate: Path, unanswered: int) -> Outcome:
    """The outcome for a corpus without a query that can be measured, with the reason; other arms may train on what queries it has."""
    of_train = "outside the split 'train' " if part_rows(curate, "qrels") else ""
    lacking = f"no query {of_train}has an answer in the corpus" if part_rows(curate, "queries") else "the corpus has no queries"
    why = f"no score was computed: {lacking}; bring queries, or captions that are read apart, as docs/your_pictures.md explains"
    (context.folder / "metrics.json").write_text(json.dumps({"results": [], "unmeasured": why}, indent=1, sort_keys=True) + "\n")
    return Outcome(Rows(unanswered, 0, rejected=unanswered), {}, {"notices": [{"detail": why}]})


def headline_split(there: Collection[str], wanted: str | None) -> str:
    """The split of the headline, among those measured, train last; refused where `wanted` is not one of them."""
    if wanted not in (None, *there):
        raise Refused(f"evaluate.split is {wanted!r}; the corpus has queries of {', '.join(sorted(there))}")
    return wanted or min(there, key=lambda split: (split == "train", split != "test", not split.startswith("test"), split))


def _queries(curate: Path, embed: Path) -> tuple[list[_Query], int]:
    """The queries with a relevant item, and the number of those without: held-out ones, and those of train that `pairs` had embedded."""
    relevant = defaultdict(set)
    for row in read_part(curate, "qrels").to_pylist():
        if row["relevance"] > 0:
            relevant[row["query_id"]].add(row["item_id"])
    embedded = {id for table in part_tables(embed, "queries", ["id"]) for id in table["id"].to_pylist()}
    rows = [
        row for row in read_part(curate, "queries", ["id", "split", "task"]).to_pylist() if row["split"] != "train" or row["id"] in embedded
    ]
    queries = [_Query(row["id"], row["split"], row["task"], frozenset(relevant[row["id"]])) for row in rows if relevant[row["id"]]]
    return queries, sum(not relevant[row["id"]] for row in rows)


def _rankings(index: Index, vectors: Path, queries: list[_Query]) -> dict[str, dict[str, list[Hit]]]:
    """For each pool, what the index finds for each query."""
    ids, _, encoded = read_vectors(vectors, "queries")
    place = {query: n for n, query in enumerate(ids)}
    found: dict[str, dict[str, list[Hit]]] = {pool: {} for pool in POOLS}
    by_target = defaultdict(list)
    for query in queries:
        by_target[query.target].append(query)
    for target, group in by_target.items():
        vectors_of_group = encoded[[place[query.id] for query in group]]
        for pool, modalities in (("universal", None), ("target", {target})):
            hits = index.search(vectors_of_group, DEPTH, modalities)
            found[pool].update({query.id: found_hits for query, found_hits in zip(group, hits, strict=True)})
    return found


def _write_run(file: Path, rankings: dict[str, list[Hit]], tag: str) -> None:
    """Writes a TREC run. Ties are lowered to the next smaller float, as trec_eval sorts by score and would break ties in another order."""
    with file.open("w") as out:
        for query, hits in sorted(rankings.items()):
            score = np.float32(np.inf)
            for rank, hit in enumerate(hits, 1):
                score = min(np.float32(hit.score), np.nextafter(score, np.float32(-np.inf)))
                out.write(f"{query} Q0 {hit.id} {rank} {score:.9g} {tag}\n")


def _write_qrels(file: Path, queries: list[_Query]) -> None:
    with file.open("w") as out:
        for query in sorted(queries, key=lambda query: query.id):
            for item in sorted(query.relevant):
                out.write(f"{query.id} 0 {item} 1\n")


def _results(rows: list[dict], config: EvaluateConfig, seed: int) -> list[dict]:
    """One entry per system, pool and split: each measure's average over the tasks with its interval, and by task."""
    grouped: dict[tuple[str, str, str], dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        grouped[row["system"], row["pool"], row["split"]][row["task"]].append(row)
    results = []
    for (system, pool, split), tasks in sorted(grouped.items()):
        entry = {"system": system, "pool": pool, "split": split, "queries": {task: len(own) for task, own in sorted(tasks.items())}}
        for measure in MEASURES:
            groups = {task: [row[measure] for row in own] for task, own in sorted(tasks.items())}
            low, high = interval(list(groups.values()), config.draws, seed)
            means = {task: round(float(np.mean(values)), 4) for task, values in groups.items()}
            entry[measure] = {
                "average": round(float(np.mean(list(means.values()))), 4),
                "low": round(low, 4),
                "high": round(high, 4),
                "tasks": means,
            }
        results.append(entry)
    return results


def _headline(results: list[dict], config: EvaluateConfig) -> dict:
    found = {entry["system"]: entry for entry in results if (entry["pool"], entry["split"]) == (config.pool, config.split)}
    headline = {"split": config.split, "measure": config.measure, "pool": config.pool}
    return headline | {system: found[system][config.measure] for system in found}


def _flat(summary: dict) -> dict[str, float]:
    """The metrics that are logged to MLflow."""
    headline = summary["headline"]
    systems = dict.fromkeys(entry["system"] for entry in summary["results"])
    metrics = {f"{system} {headline['measure']}": headline[system]["average"] for system in systems}
    for entry in summary["results"]:
        if entry["system"] == released(systems):
            metrics[f"{entry['split']} {entry['pool']} recall@5"] = entry["recall@5"]["average"]
    return metrics
