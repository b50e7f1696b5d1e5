"""An average is over tasks, data sets or queries; the data sets of a board are its rows."""

import pytest

from mirepoix.components.evaluation.boards.registry import BOARDS
from mirepoix.components.evaluation.scoring.averaging import averaged

DATASETS, TASKS = ["a", "a", "b", "b", "b"], ["t->i", "i->t", "t->i", "t->i", "i->t"]


@pytest.mark.parametrize(
    ("mean", "parts"),
    [
        ("queries", [[0, 1, 2, 3, 4]]),
        ("tasks", [[1, 4], [0, 2, 3]]),
        ("datasets", [[1], [0], [4], [2, 3]]),
    ],
)
def test_every_query_is_in_one_part(mean, parts):
    assert [part.tolist() for part in averaged(DATASETS, TASKS, mean)] == parts


def test_a_row_of_a_board_is_one_part_with_all_tasks_that_it_holds_and_other_data_sets_keep_theirs_apart():
    datasets, tasks = ["MomentSeeker", "MomentSeeker", "other", "other"], ["t->v", "it->v", "t->v", "it->v"]
    parts = averaged(datasets, tasks, "datasets", BOARDS["mmeb_v2"])
    assert sorted(part.tolist() for part in parts) == [[0, 1], [2], [3]]
    parts = averaged(["webqa", "webqa"], ["t->t", "t->it"], "datasets", BOARDS["mbeir"])
    assert [part.tolist() for part in parts] == [[1], [0]], "M-BEIR has a row for each task"
