"""A training on nodes of which one is killed or taken away with notice: it goes on with fewer workers, and with more when there is room."""

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from mirepoix.components.training.job import make_job
from tests.components.training.plain_training import plain
from tests.components.training.toy_training import TOY, write_encoder, write_toys
from tests.components.training.workers.spot_cluster import train

CONFIG = replace(TOY, zero_stage=2, num_workers=2, min_workers=1, global_batch_size=4, save_steps=2, learning_rate=1e-3, grow_after=0.0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return write_encoder(tmp_path_factory.mktemp("elastic"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Path:
    return write_toys(tmp_path_factory.mktemp("pairs") / "mixed", ["i", "t", "t"] * 8)


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "rows.jsonl").read_text().splitlines()]


def assert_undisturbed(rows: list[dict], config, mixed: Path, encoder: Path) -> None:
    """Each step, however often it was made, has the loss of one process of plain torch, to rounding."""
    expected = plain(make_job(config, 7, mixed, encoder))
    assert sorted({row["step"] for row in rows}) == list(range(1, len(expected) + 1))
    for row in rows:
        assert row["loss"] == pytest.approx(expected[int(row["step"]) - 1]["loss"], abs=2e-4), row


def test_a_killed_node_leaves_a_training_with_fewer_workers_and_the_same_batches(tmp_path, mixed, encoder):
    config = replace(CONFIG, max_steps=6)
    ended = train(tmp_path, config, mixed, encoder, {3: "kill"})
    rows = rows_of(tmp_path)
    assert_undisturbed(rows, config, mixed, encoder)
    assert [(row["step"], row["workers"]) for row in rows] == [(1, 2), (2, 2), (3, 2), (3, 1), (4, 1), (5, 1), (6, 1)]
    ((_, line),) = ended["said"]
    assert line.endswith("; the training goes on from the checkpoint step_00000002-2 (restart 1 of 3 without a new checkpoint)")
    assert ended["metrics"]["step"] == 6
    assert ended["reserved"] == [], "the place of the worker that was missing at the end, or one that was reserved before the start"


@pytest.mark.soak
def test_a_training_shrinks_and_grows_as_nodes_come_and_go(tmp_path, mixed, encoder):
    config = replace(CONFIG, max_steps=14, save_steps=4)
    ended = train(tmp_path, config, mixed, encoder, {5: "kill", 7: "add", 10: "drain", 12: "add"})
    rows = rows_of(tmp_path)
    assert_undisturbed(rows, config, mixed, encoder)
    assert [row["step"] for row in rows] == [*range(1, 6), *range(5, 15)], (
        "the killed node took step 5 with it, and no other step was repeated"
    )
    firsts = [after for before, after in itertools.pairwise(rows) if before["workers"] != after["workers"]]
    assert [first["workers"] for first in firsts] == [1, 2, 1, 2]
    fifth, grown_at, taken_at, again_at = (int(first["step"]) for first in firsts)
    # A change of the cluster is noticed in the step after it, or in the one after that, and that step is the last of the workers before.
    assert fifth == 5 and grown_at in (8, 9) and taken_at in (11, 12) and again_at in (13, 14)
    (_, death), (_, grown), (moment, taken), (_, again) = ended["said"]
    assert death.endswith("; the training goes on from the checkpoint step_00000004-2 (restart 1 of 3 without a new checkpoint)")
    assert grown == f"there is room for more workers; the training starts again from the checkpoint step_{grown_at - 1:08d}-1"
    away = "the node of a worker is about to be taken away; the training starts again from the checkpoint"
    assert taken == f"{away} step_{taken_at - 1:08d}-2"
    assert again == f"there is room for more workers; the training starts again from the checkpoint step_{again_at - 1:08d}-1"
    assert moment < ended["deadlines"][0], "it had ended before the node was to be taken away"
