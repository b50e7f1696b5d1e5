"""Candidates that share a text or a picture are kin, listed in pairs; groups above the size limit are counted and left out."""

from itertools import combinations

import numpy as np

from mirepoix.components.curation.kin import WHY, kin

NONE = np.empty((0, 2), np.int64)


def kin_pairs(rows, texts, pictures, near=NONE, largest=16):
    """Pairs with the reason of each, and how many groups are too large."""
    pairs, why, large = kin(np.asarray(rows), texts, pictures, near, largest)
    return [(*pair, WHY[number]) for pair, number in zip(pairs.tolist(), why.tolist(), strict=True)], large


def hashes(*values):
    return np.array(values, np.uint64)


def test_the_same_text_or_the_same_pictures_make_kin():
    pairs, large = kin_pairs([2, 5, 7, 9], hashes(11, 12, 11, 0), hashes(0, 21, 22, 21))
    assert pairs == [(2, 7, "same text"), (5, 9, "same pictures")]
    assert large == 0


def test_nothing_is_not_the_same():
    assert kin_pairs(range(4), hashes(0, 0, 0, 0), hashes(0, 0, 0, 0)) == ([], 0)
    assert kin_pairs([], hashes(), hashes()) == ([], 0)


def test_a_pair_is_listed_once_and_near_duplicates_are_kin_too():
    pairs, _ = kin_pairs([2, 5, 7], hashes(11, 0, 11), hashes(0, 0, 0), np.array([[7, 2], [5, 2]]))
    assert pairs == [(2, 5, "near-duplicate"), (2, 7, "same text")]


def test_all_of_a_group_are_kin_of_each_other():
    rows = [3, 8, 1, 30, 12, 7]
    assert kin_pairs(rows, hashes(5, 6, 5, 5, 6, 5), np.zeros(6, np.uint64))[0] == sorted(
        (*pair, "same text") for group in ([1, 3, 7, 30], [8, 12]) for pair in combinations(group, 2)
    )


def test_a_large_group_is_counted_and_left_out():
    rows = np.arange(33)
    pairs, large = kin_pairs(rows, np.where(rows <= 16, 1, 2).astype(np.uint64), np.zeros(33, np.uint64), largest=16)
    assert large == 1
    assert len(pairs) == 16 * 15 // 2
    assert all(one > 16 for one, _, _ in pairs)
