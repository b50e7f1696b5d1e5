"""What other settings against leakage would keep, where the ones in use leave little: counts for whoever has to choose."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from mirepoix.components.curation.leakage import TRAIN, Array, choose_held_out, leaking
from mirepoix.models.errors import Refused

SHARE = 0.1


def leakage_options(
    setting: str,
    kept: int,
    training: Array,
    held_out: Array,
    near: Array,
    content: Array,
    preference: Array,
) -> list[dict[str, Any]]:
    """For the setting in use, and for each that rejects less, the training queries and the held-out ones that it would keep.

    `training` and `held_out` are the rows of queries with an answer, before anything is rejected for leaking; `kept` is how many of the
    first are left.
    """

    def row(name: str, count: int) -> dict[str, Any]:
        return {"setting": f"curate.leakage={name}", "training": count, "held_out": len(held_out)}

    rows = [row(setting, kept)]
    if setting == "all":
        rows.append(row("queries", len(training) - len(leaking(near, content, training, held_out, preference))))
    return [*rows, row("off", len(training))]


def held_out_option(
    queries: Array, answers: Array, content: Array, names: Mapping[int, str], splits: list[str], seed: int
) -> list[dict[str, Any]]:
    """How many queries would be trained on and held out if all were called train, and a tenth of them were held out in whole groups.

    `queries` and `answers` are the rows of each positive judgement. Empty where the groups are too large.
    """
    eligible = np.unique(queries)
    try:
        moved = choose_held_out(queries, answers, content, eligible, dict(names), SHARE, seed)
    except Refused:
        return []
    renamed = ",".join(f"{split}={TRAIN}" for split in splits)
    setting = f"sources.splits={renamed if len(splits) == 1 else f'[{renamed}]'} with curate.held_out={SHARE}"
    return [{"setting": setting, "training": len(eligible) - len(moved), "held_out": len(moved)}]
