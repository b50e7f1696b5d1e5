"""Which roles of rows are compared, by the setting against leakage."""

import numpy as np
import pytest

from mirepoix.components.curation.roles import ANSWER, CANDIDATE, HELD_OUT, TRAINING, compared_roles


@pytest.mark.parametrize(
    ("leakage", "besides"),
    [
        ("off", []),
        ("queries", [(TRAINING, HELD_OUT)]),
        ("all", [(TRAINING, HELD_OUT), (TRAINING, ANSWER), (CANDIDATE, HELD_OUT), (ANSWER, HELD_OUT)]),
    ],
)
def test_candidates_are_compared_with_each_other_and_training_with_what_is_held_out(leakage, besides):
    among = [(CANDIDATE, CANDIDATE), (ANSWER, ANSWER), (CANDIDATE, ANSWER)]
    wanted = {pair for one, other in [*among, *besides] for pair in ((one, other), (other, one))}
    assert {tuple(pair) for pair in np.argwhere(compared_roles(leakage)).tolist()} == wanted
