"""Results of an evaluation as others read them: a TaskResult of mteb, and the model-index of a model card on Hugging Face's hub.

Both have the same names of metrics, mteb's; their values are shares of 1.
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from mirepoix.models.errors import Refused

NAMES = {"nDCG": "ndcg", "AP": "map", "RR": "mrr", "R": "recall", "P": "precision", "Success": "hit_rate"}
"""mteb's names of measures by those of ir-measures."""
UNKNOWN = "und-Zyyy"
"""A language, and its script, that nobody has stated, in the codes that mteb uses."""
TASK = {"type": "information-retrieval", "name": "Retrieval"}
DIGITS = 6


@dataclass(frozen=True)
class Scored:
    """The scores of a model by one task, on one split of its data set."""

    task: str  # as mteb names it, where the task is one of mteb's
    dataset: str  # its id on the hub, or its name
    split: str
    metrics: Mapping[str, float]  # by the names of ir-measures, as nDCG@10
    main: str  # the name of the one that stands for all
    revision: str = ""  # of the data set
    subset: str = "default"
    languages: tuple[str, ...] = (UNKNOWN,)  # as eng-Latn

    def __post_init__(self) -> None:
        if self.main not in self.metrics:
            raise Refused(f"the main metric of {self.task} is {self.main!r}; give one of {', '.join(self.metrics) or 'some metrics'}")
        for name, value in self.metrics.items():
            if not math.isfinite(value):
                raise Refused(f"{name} of {self.task} is {value}; give a number")


def mteb_name(metric: str) -> str:
    """mteb's name of a metric that ir-measures names: of nDCG@10 ndcg_at_10."""
    name, _, cut = metric.partition("@")
    plain = NAMES.get(name) or re.sub(r"\W+", "_", name).strip("_").lower()
    return f"{plain}_at_{cut}" if cut else plain


def task_result(scored: Sequence[Scored], date: datetime | None = None) -> dict[str, Any]:
    """The content of mteb's TaskResult for the splits and subsets of one task."""
    tasks = {(each.task, each.revision) for each in scored}
    if len(tasks) != 1:
        raise Refused(f"a result is of one task at one revision, and these are {sorted(tasks)}; give those of each by themselves")
    ((task, revision),) = tasks
    scores: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in scored:
        if any(other["hf_subset"] == each.subset for other in scores[each.split]):
            raise Refused(f"{task} is scored twice on the subset {each.subset} of {each.split}; give one of the two")
        named = {mteb_name(name): round(value, DIGITS) for name, value in each.metrics.items()}
        about = {"hf_subset": each.subset, "languages": list(each.languages)}
        scores[each.split].append({**named, "main_score": named[mteb_name(each.main)], **about})
    return {
        "dataset_revision": revision,
        "task_name": task,
        "mteb_version": None,  # of mteb that computed them: none
        "scores": dict(scores),
        "evaluation_time": None,
        "kg_co2_emissions": None,
        "date": date.timestamp() if date else None,
        "evaluation_phases": None,
    }


def write_task_results(folder: str | Path, scored: Iterable[Scored], date: datetime | None = None) -> list[Path]:
    """Writes a file for each task, TASK.json, as mteb has them in the folder of a revision of a model; returns their paths."""
    folder = Path(folder)
    by_task: dict[str, list[Scored]] = defaultdict(list)
    for each in scored:
        if not re.fullmatch(r"[\w.()+-][\w.()+ -]*", each.task):
            raise Refused(f"the task {each.task!r} has characters that no name of a file has; give letters, digits, and . - _ ( )")
        by_task[each.task].append(each)
    contents = {folder / f"{task}.json": task_result(own, date) for task, own in by_task.items()}
    folder.mkdir(parents=True, exist_ok=True)
    for path, content in contents.items():
        path.write_text(json.dumps(content, indent=2) + "\n")
    return list(contents)


def model_index(name: str, scored: Iterable[Scored]) -> list[dict[str, Any]]:
    """The `model-index` in the head of a model card: a result for each task, its main metric first."""
    return [{"name": name, "results": [_result(each) for each in scored]}]


def _result(scored: Scored) -> dict[str, Any]:
    dataset = {"name": scored.task, "type": scored.dataset, "config": scored.subset, "split": scored.split, "revision": scored.revision}
    ordered = sorted(scored.metrics.items(), key=lambda item: item[0] != scored.main)
    return {
        "task": dict(TASK),
        "dataset": {key: value for key, value in dataset.items() if value},
        "metrics": [{"type": mteb_name(metric), "value": round(value, DIGITS), "name": metric} for metric, value in ordered],
    }
