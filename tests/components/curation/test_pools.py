"""Members of pools follow their candidates through curation, in whatever portions their ids are looked up."""

from collections import Counter

import numpy as np
import pytest

from mirepoix.components.corpus.parts import part_files, read_part
from mirepoix.components.curation import pools
from mirepoix.components.curation.pools import queries_with_answers, write_members
from mirepoix.components.curation.row_index import RowIndex
from mirepoix.components.curation.verdicts import Verdicts
from tests.components.fixtures import write_corpus

NAMED = [("p", "d0"), ("p", "d1"), ("q", "d2"), ("p", "d2"), ("q", "d3"), ("q", "d9"), ("q", "d1"), ("q", "d1")]


def members(folder):
    return [tuple(row.values()) for row in read_part(folder, "pools").to_pylist()]


@pytest.mark.parametrize(("found", "written"), [(pools.FOUND_AT_ONCE, pools.WRITTEN_AT_ONCE), (1, 2)])
def test_a_merged_candidate_passes_its_places_on_and_a_rejected_one_loses_them(tmp_path, monkeypatch, found, written):
    monkeypatch.setattr(pools, "FOUND_AT_ONCE", found)
    monkeypatch.setattr(pools, "WRITTEN_AT_ONCE", written)
    rows = [{"pool": pool, "item_id": item} for pool, item in NAMED]
    corpus = write_corpus(tmp_path / "in", corpus=[{"id": f"d{n}", "text": "x"} for n in range(4)], pools=rows)
    verdicts = Verdicts(4)
    verdicts.reject(np.array([2]), "exact duplicate")  # merged into d1
    verdicts.reject(np.array([3]), "damaged")
    why = Counter()
    assert write_members(tmp_path / "out", corpus, RowIndex(corpus), np.array([0, 1, 1, 3]), verdicts, why) == 3
    assert members(tmp_path / "out") == [("p", "d0"), ("p", "d1"), ("q", "d1")]
    assert why == {("member twice", "pools"): 3, ("candidate was rejected", "pools"): 2}


def test_a_corpus_without_pools_gets_none(tmp_path):
    corpus, why = write_corpus(tmp_path / "in", corpus=[{"id": "d0", "text": "x"}]), Counter()
    assert write_members(tmp_path / "out", corpus, RowIndex(corpus), np.arange(1), Verdicts(1), why) == 0
    assert part_files(tmp_path / "out", "pools") == [] and not why


def test_queries_with_answers_as_texts_are_found_by_their_rows(tmp_path):
    asked = [{"id": f"q{n}", "text": "?", "split": "test", "task": "t->t", "answers": given} for n, given in enumerate((None, ["a"], []))]
    corpus = write_corpus(tmp_path / "in", corpus=[{"id": "d0", "text": "x"}], queries=asked)
    assert queries_with_answers(corpus, RowIndex(corpus)).tolist() == [2]
    bare = write_corpus(tmp_path / "bare", corpus=[{"id": "d0", "text": "x"}])
    assert queries_with_answers(bare, RowIndex(bare)).tolist() == []
