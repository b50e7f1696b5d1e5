"""Candidates that share a text or a picture are kin, in pairs, unless so many do that it says nothing."""

import numpy as np

from mirepoix.components.kin import LARGEST, kin

NONE = np.empty((0, 2), np.int64)


def hashes(*values):
    return np.array(values, np.uint64)


def test_the_same_text_or_the_same_pictures_make_kin():
    pairs, large = kin(np.array([2, 5, 7, 9]), hashes(11, 12, 11, 0), hashes(0, 21, 22, 21), NONE)
    assert pairs == [(2, 7, "same text"), (5, 9, "same pictures")]
    assert large == 0


def test_nothing_is_not_the_same():
    assert kin(np.arange(4), hashes(0, 0, 0, 0), hashes(0, 0, 0, 0), NONE) == ([], 0)


def test_a_pair_is_told_once_and_near_duplicates_are_kin_too():
    near = np.array([[7, 2], [2, 5]])
    pairs, _ = kin(np.array([2, 5, 7]), hashes(11, 0, 11), hashes(0, 0, 0), near)
    assert pairs == [(2, 5, "near-duplicate"), (2, 7, "same text")]


def test_a_large_group_is_counted_and_left_out():
    rows = np.arange(2 * LARGEST + 1)
    pairs, large = kin(rows, np.where(rows <= LARGEST, 1, 2).astype(np.uint64), np.zeros(len(rows), np.uint64), NONE)
    assert large == 1
    assert len(pairs) == LARGEST * (LARGEST - 1) // 2
    assert all(one > LARGEST for one, _, _ in pairs)
