"""The numbering of a corpus's rows."""

import numpy as np
import pyarrow as pa
import pytest

from mirepoix.components.corpus import parts
from mirepoix.components.corpus.parts import part_tables
from mirepoix.components.curation.row_index import CodedColumn, RowIndex, evidence_rows, judged_rows
from tests.components.fixtures import write_corpus


@pytest.fixture
def folder(tmp_path):
    candidates = [("b", "web/two.json", 4), ("a", "web/two.json", 4), ("c", "all/one.json", 9), ("d", "", 0), ("e", "web/two.json", 3)]
    queries = [("q1", "train", "t->t"), ("a", "test", "t->i"), ("q3", "train", "t->i")]
    return write_corpus(
        tmp_path / "corpus",
        corpus=[{"id": id, "text": "x", "source": source, "line": line} for id, source, line in candidates],
        queries=[{"id": id, "text": "x", "split": split, "task": task, "source": "web/q"} for id, split, task in queries],
        qrels=[],
    )


def test_candidates_and_queries_share_one_numbering_and_ids_are_looked_up_in_their_own_part(folder):
    index = RowIndex(folder)
    assert len(index) == 8 and len(index.triples) == 0
    assert index.ids(index.queries) == ["q1", "a", "q3"] and index.id(2) == "c"
    assert index.rows(pa.array(["a", "nobody", "b", "q1"]), index.candidates).tolist() == [1, -1, 0, -1]
    assert index.rows(pa.array(["a", "b", "q1"]), index.queries).tolist() == [6, -1, 5]
    assert index.rows(pa.array(["a"]), index.triples).tolist() == [-1]
    assert index.source_names(np.array([0, 2, 3, 5])) == ["web", "all", "", "web"]


def test_rows_are_preferred_by_source_line_and_id_and_late_rows_come_after(folder):
    index = RowIndex(folder)
    late = np.zeros(len(index), bool)
    assert index.ids(index.order(late)) == ["d", "c", "a", "q1", "q3", "e", "a", "b"]
    late[[2, 4]] = True
    assert index.ids(index.order(late)) == ["d", "a", "q1", "q3", "a", "b", "c", "e"]


def test_a_column_of_few_values_is_dictionary_encoded(folder):
    split = CodedColumn(part_tables(folder, "queries", ["split"], rows=1), "split", before=5)
    assert split[6] == "test" and split.of(np.array([5, 6, 7])) == ["train", "test", "train"]
    assert np.flatnonzero(split.among("train")).tolist() == [5, 7] and not split.among("nothing").any()
    split.set([7], "held_out")
    assert split[7] == "held_out" and np.flatnonzero(split.among("train")).tolist() == [5]


@pytest.mark.parametrize("at_once", [1, 2, 1000])
def test_judgements_and_evidence_are_joined_with_their_rows_however_many_at_once(tmp_path, monkeypatch, at_once):
    monkeypatch.setattr(parts, "JOINED", at_once)
    monkeypatch.setattr(parts, "GROUP_ROWS", 1)
    judged = [("q2", "d1", 2, "b", 1), ("q9", "d0", 0, "a", 2), ("q1", "d9", 1, "a", 1), ("q1", "d0", 1, None, None)]
    names = ("query_id", "item_id", "relevance", "source", "line")
    triple = {"text": "?", "split": "train", "answer": "x"}
    evidence = {"t1": ["d1", "d9"], "t2": [], "t3": ["d0"]}
    corpus = write_corpus(
        tmp_path / "corpus",
        corpus=[{"id": name, "text": "x"} for name in ("d0", "d1")],
        queries=[{"id": name, "text": "?", "split": "test", "task": "t->t"} for name in ("q1", "q2")],
        qrels=[dict(zip(names, row, strict=True)) for row in judged],
        triples=[{"id": name, "evidence": items, **triple} for name, items in evidence.items()],
    )
    found = judged_rows(corpus, RowIndex(corpus))
    assert found[["query", "item", "relevance", "place"]].tolist() == [(3, 1, 2, 2), (-1, 0, 0, 1), (2, -1, 1, 0), (2, 0, 1, 3)]
    rows, ends = evidence_rows(corpus, RowIndex(corpus))
    assert rows.tolist() == [1, -1, 0] and ends.tolist() == [0, 2, 2, 3]


def test_a_corpus_without_rows_has_an_index(tmp_path):
    index = RowIndex(write_corpus(tmp_path / "bare", corpus=[], queries=[], qrels=[]))
    assert len(judged_rows(tmp_path / "bare", index)) == 0 and evidence_rows(tmp_path / "bare", index)[1].tolist() == [0]
    assert len(index) == 0 and index.order(np.zeros(0, bool)).tolist() == []
