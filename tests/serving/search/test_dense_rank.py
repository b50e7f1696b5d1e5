"""Many queries are ranked by FAISS to the same rankings as one at a time by numpy, ties included, over all items or over some."""

from dataclasses import replace

import numpy as np
import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.search import dense
from mirepoix.serving.search.dense import build, build_flat
from mirepoix.serving.search.index_config import IndexConfig
from tests.serving.search.test_dense import KINDS, names, unit

TEXT = Modality.TEXT


def rows(count, width=16, seed=0, copies=1):
    """Random rows, each so many times."""
    random = np.random.default_rng(seed)
    return np.repeat(unit(random.standard_normal((count // copies, width))), copies, axis=0)


def one_by_one(index, queries, k, among=None):
    found = [next(iter(index.rank(RaggedRows.single(queries[n : n + 1]), k, among))) for n in range(len(queries))]
    return [(positions.tolist(), scores.tolist()) for positions, scores in found]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("copies", [1, 3, 100])
@pytest.mark.parametrize("some", [False, True])
def test_many_queries_get_the_rankings_that_each_gets_alone(monkeypatch, kind, copies, some):
    monkeypatch.setattr(dense, "_COPIED", 4 * 16 * 70)  # 70 rows at a time
    monkeypatch.setattr(dense, "_AT_ONCE", 50)
    index = build(rows(600, copies=copies), names(600), [TEXT] * 600, replace(IndexConfig(), kind=kind))
    among = np.sort(np.random.default_rng(1).permutation(600)[:301]) if some else None
    queries = np.concatenate([rows(60, seed=2), rows(600, copies=copies)[:60]])
    for k in (1, 40, 301, 2000):
        ranked = [(positions.tolist(), scores.tolist()) for positions, scores in index.rank(RaggedRows.single(queries), k, among)]
        assert ranked == one_by_one(index, queries, k, among)
        for positions, scores in ranked:
            assert len(positions) == min(k, 301 if some else 600) or kind != "flat"
            assert all((-a, p) < (-b, q) for a, p, b, q in zip(scores, positions, scores[1:], positions[1:], strict=False))


def test_a_search_ranks_as_rank_does():
    index, queries = build(rows(300), names(300), [TEXT] * 300), rows(40, seed=3)
    found = [[(index.position(hit.id), hit.score) for hit in hits] for hits in index.search(RaggedRows.single(queries), 20)]
    assert found == [list(zip(p.tolist(), s.tolist(), strict=True)) for p, s in index.rank(RaggedRows.single(queries), 20)]


def test_among_no_items_nothing_is_found():
    index = build(rows(30), names(30), [TEXT] * 30)
    assert [len(positions) for positions, _ in index.rank(RaggedRows.single(rows(20)), 5, np.empty(0, np.int64))] == [0] * 20


def test_a_depth_of_none_is_refused_before_anything_is_ranked():
    with pytest.raises(Refused, match="k is 0; ask for at least one result"):
        build(rows(30), names(30), [TEXT] * 30).rank(RaggedRows.single(rows(2)), 0)


def test_the_scores_of_given_positions_are_those_of_the_ranking():
    index, queries = build(rows(100), names(100), [TEXT] * 100), RaggedRows.single(rows(3, seed=4))
    ranked = [dict(zip(p.tolist(), s.tolist(), strict=True)) for p, s in index.rank(queries, 100)]
    asked = [np.array([7, 99, 0, 7]), np.empty(0, np.int64), np.array([3])]
    assert [found.tolist() for found in index.scores(queries, asked)] == [
        [scores[n] for n in own] for scores, own in zip(ranked, asked, strict=True)
    ]


def test_an_index_of_batches_is_that_of_all_rows_at_once(tmp_path):
    whole, ids = rows(100), names(100)
    build(whole, ids, [TEXT] * 100, IndexConfig(kind="flat")).save(tmp_path / "one")
    build_flat((whole[start : start + 30] for start in range(0, 100, 30)), 16, ids, TEXT).save(tmp_path / "other")
    one, other = ({file.name: file.read_bytes() for file in (tmp_path / name).iterdir()} for name in ("one", "other"))
    assert one == other


@pytest.mark.parametrize("ids", [names(2), ["b", "a", "c"], ["a", "a", "b"]])
def test_ids_of_batches_are_as_many_sorted_and_each_once(ids):
    with pytest.raises(Refused, match=r"there are 3 rows and . ids; give one of each an item, sorted by id, each id once"):
        build_flat([rows(3)], 16, ids, TEXT)
