"""What other settings against leakage would keep, where the ones in use leave little: counts for whoever has to choose."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mirepoix.components.curation.leakage import TRAIN, Array, choose_held_out, leaking
from mirepoix.models.errors import Refused

SHARE = 0.1


def leakage_options(
    setting: str, kept: int, training: Array, held_out: Array, near: Array, content: Array, preference: Array
) -> list[dict[str, Any]]:
    """For the setting in use, and for each that rejects less, the training queries and the held-out ones that it would keep.

    `training` and `held_out` are the rows of queries with an answer, before anything is rejected for leaking; `kept` is how many of the
    first are left. Empty where all are.
    """
    if setting == "off" or kept == len(training):
        return []

    def row(name: str, count: int) -> dict[str, Any]:
        return {"setting": f"curate.leakage={name}", "training": count, "held_out": len(held_out)}

    rows = [row(setting, kept)]
    if setting == "all":
        rows.append(row("queries", len(training) - len(leaking(near, content, training, held_out, preference))))
    return [*rows, row("off", len(training))]


def held_out_option(
    options: Sequence[Mapping[str, Any]],
    rows: Array,
    answers: Array,
    content: Array,
    names: Mapping[int, str],
    splits: Iterable[str],
    seed: int,
    near: Array,
) -> list[dict[str, Any]]:
    """How many queries would be trained on and held out if all were called train, and a tenth of them were held out in whole groups.

    `rows` and `answers` are those of each positive judgement, and of triples, which are not counted; `names` are the ids of the queries.
    Near-equal rows are those that were found, which are fewer than a hold-out looks for. Empty where the options leave half of the training
    queries or more, and where the groups are too large.
    """
    if not options or 2 * options[0]["training"] > options[-1]["training"]:
        return []
    queries = np.array([*names], np.int64)
    asked = np.isin(rows, queries)
    try:
        moved = choose_held_out(rows[asked], answers[asked], content, queries, dict(names), SHARE, seed, near)
    except Refused:
        return []
    renamed = ",".join(f"{split}={TRAIN}" for split in sorted({*splits}))
    setting = f"sources.splits={renamed if ',' not in renamed else f'[{renamed}]'} with curate.held_out={SHARE}"
    return [{"setting": setting, "training": len(queries) - len(moved), "held_out": len(moved)}]


def nothing_to_hold_out(share: float, queries: int, accepted: int) -> str:
    """Why no query can be held out, and what to do: of so many queries, and of them so many that were not rejected."""
    given = f"held_out is {share}"
    if not queries:
        return (
            f"{given}, and there is no query to hold out: the sources have neither captions that are queries nor queries of their own; "
            "bring some, or give instruct=null curate.held_out=0 to search without a training (sources.captions=together makes no queries)"
        )
    if not accepted:
        return f"{given}, and all {queries} queries were rejected; mirepoix validate names each"
    return f"{given}, but every source has queries of another split than train; set it to 0"
