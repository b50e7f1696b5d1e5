"""What becomes of rows."""

from collections import Counter

import numpy as np

from mirepoix.components.curation.verdicts import Verdicts


def rows(*numbers):
    return np.array(numbers, np.int64)


def test_rows_stand_until_they_go_for_a_reason_and_the_last_one_tells():
    fates = Verdicts(5)
    assert fates.stand().tolist() == [True] * 5 and fates.reason(0) == ""
    fates.lose(rows(1, 3), "damaged", ["picture 2", ""])
    fates.lose(rows(4), "empty text")
    fates.lose(rows(3), "leaks into test", ["q7"])
    assert fates.stand(rows(0, 1, 2, 3, 4)).tolist() == [True, False, True, False, False]
    assert fates.reasons(rows(3, 0, 1)) == ["leaks into test", "", "damaged"]
    assert fates.details(rows(1, 3, 4)) == ["picture 2", "q7", ""]
    assert fates.counted(np.arange(5)) == Counter({"damaged": 1, "leaks into test": 1, "empty text": 1})
    assert fates.counted(rows(0, 1)) == Counter({"damaged": 1})


def test_something_can_be_said_of_rows_later():
    fates = Verdicts(3)
    fates.lose(rows(0, 2), "near-duplicate")
    fates.explain(rows(2, 0), ["a", "b"])
    assert fates.details(rows(0, 2)) == ["b", "a"]


def test_no_rows_change_nothing():
    fates = Verdicts(2)
    fates.lose(rows(), "damaged", [])
    assert fates.stand().all() and fates.counted(np.arange(2)) == Counter()
