"""Runs in a storage as `compare` and `results` read them, whose values are worked by hand."""

import json

import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.serving.store import publish

QUERIES = [f"{place}:1" for place in range(12)]
TASKS = ["t->i"] * 8 + ["i->t"] * 4
TRAINED = [1.0] * 8 + [0.0, 1.0, 0.0, 1.0]
BEFORE = [0.0] * 8 + [0.0, 1.0, 0.0, 1.0]


def figures(values, dataset="a"):
    means = {task: sum(v for v, t in zip(values, TASKS, strict=True) if t == task) / TASKS.count(task) for task in ("t->i", "i->t")}
    return {"average": sum(means.values()) / 2, "low": 0.0, "high": 1.0, "tasks": means, "datasets": {dataset: means}}


def two_runs(home):
    """A storage with a run whose training changed something, and another one that has one encoder."""
    stored(home, "first-1", {"trained": TRAINED, "untrained": BEFORE, "bm25": BEFORE})
    stored(home, "second-2", {"encoder": BEFORE})
    return home


def stored(storage, name, systems, data="d" * 64, queries=QUERIES, board=None, dataset="a", judged=True):
    """A run in a storage, whose evaluation gave these values of R@5 to its systems."""
    rows, results = [], []
    for system, values in systems.items():
        for query, task, value in zip(queries, TASKS, values, strict=False):
            place = {"system": system, "pool": "target", "split": "test", "task": task, "dataset": dataset, "query": query}
            rows.append(place | {"R@5": value, "RR@10": value / 2, "R@1": value})
        counts = {"queries": {"t->i": 8, "i->t": 4}, "datasets": {dataset: {"t->i": 8, "i->t": 4}}}
        of = dict.fromkeys(("R@5", "RR@10", *(["Success@5"] if board else [])), figures(values, dataset))
        results.append({"system": system, "pool": "target", "split": "test", **counts, **of})
    targets = {}
    for stage in ("evaluate", "floors"):
        draft = storage / f"draft-{stage}-{name}"
        draft.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), draft / "queries.parquet")
        for system in systems:
            lines = [f"{query} Q0 {query} {1} {0.5} {system}\n{query} Q0 x:9 2 0.25 {system}\n" for query in queries]
            (draft / f"{system}-target.trec").write_text("".join(lines))
        (draft / "qrels.trec").write_text("".join(f"{query} 0 {query} 2\n" for query in queries if judged))
        target = storage / "artefacts" / stage / f"{abs(hash(name)) % 16**8:08x}{'0' * 8}"
        publish(draft, target, {})
        targets[stage] = str(target)
    headline = {"split": "test", "measure": "R@5", "called": "R@5", "pool": "target", "mean": "tasks", "below": {}}
    headline |= {system: figures(values) for system, values in systems.items()}
    report = {
        "recipe": "quickstart",
        "run": "2026-11-30 10:00:00",
        "data": {"digest": data, "rows": {}},
        "stages": [{"name": stage, "target": target, "digest": "e" * 64, "status": "done"} for stage, target in targets.items()],
        "headline": headline,
        "results": results,
        "began": 0.0,
        "ended": 1.0,
    }
    if board:
        report["board"] = {"name": board}
    folder = storage / "runs" / name
    folder.mkdir(parents=True)
    (folder / "report.json").write_text(json.dumps(report))
    (folder / "config.yaml").write_text("")
    return folder
