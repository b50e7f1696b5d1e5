"""The keep-or-reject reasons of rows."""

from collections import Counter

import numpy as np

from mirepoix.components.curation.verdicts import Verdicts


def rows(*numbers):
    return np.array(numbers, np.int64)


def test_rows_are_accepted_until_rejected_and_the_last_reason_counts():
    verdicts = Verdicts(5)
    assert verdicts.accepted().tolist() == [True] * 5 and verdicts.reason(0) == ""
    verdicts.reject(rows(1, 3), "damaged", ["picture 2", ""])
    verdicts.reject(rows(4), "empty text")
    verdicts.reject(rows(3), "leaks into test", ["q7"])
    assert verdicts.accepted(rows(0, 1, 2, 3, 4)).tolist() == [True, False, True, False, False]
    assert verdicts.reasons(rows(3, 0, 1)) == ["leaks into test", "", "damaged"]
    assert verdicts.details(rows(1, 3, 4)) == ["picture 2", "q7", ""]
    assert verdicts.count_by_reason(np.arange(5)) == Counter({"damaged": 1, "leaks into test": 1, "empty text": 1})
    assert verdicts.count_by_reason(rows(0, 1)) == Counter({"damaged": 1})


def test_details_can_be_set_after_the_rejection():
    verdicts = Verdicts(3)
    verdicts.reject(rows(0, 2), "near-duplicate")
    verdicts.add_details(rows(2, 0), ["a", "b"])
    assert verdicts.details(rows(0, 2)) == ["b", "a"]


def test_an_empty_rejection_changes_nothing():
    verdicts = Verdicts(2)
    verdicts.reject(rows(), "damaged", [])
    assert verdicts.accepted().all() and verdicts.count_by_reason(np.arange(2)) == Counter()
