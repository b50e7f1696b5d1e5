"""Who stands in which row of a corpus."""

import numpy as np
import pyarrow as pa
import pytest

from mirepoix.components.corpus.parts import part_tables
from mirepoix.components.curation.row_index import ContentGroups, RowIndex
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


def test_candidates_and_queries_stand_in_one_numbering_and_are_found_each_among_their_own(folder):
    roster = RowIndex(folder)
    assert len(roster) == 8 and len(roster.triples) == 0
    assert roster.ids(roster.queries) == ["q1", "a", "q3"] and roster.id(2) == "c"
    assert roster.rows(pa.array(["a", "nobody", "b", "q1"]), roster.candidates).tolist() == [1, -1, 0, -1]
    assert roster.rows(pa.array(["a", "b", "q1"]), roster.queries).tolist() == [6, -1, 5]
    assert roster.rows(pa.array(["a"]), roster.triples).tolist() == [-1]
    assert roster.source_names(np.array([0, 2, 3, 5])) == ["web", "all", "", "web"]


def test_rows_are_preferred_by_source_line_and_id_and_what_is_late_comes_after(folder):
    roster = RowIndex(folder)
    late = np.zeros(len(roster), bool)
    assert roster.ids(roster.order(late)) == ["d", "c", "a", "q1", "q3", "e", "a", "b"]
    late[[2, 4]] = True
    assert roster.ids(roster.order(late)) == ["d", "a", "q1", "q3", "a", "b", "c", "e"]


def test_a_column_of_few_values_is_kept_as_numbers(folder):
    split = ContentGroups(part_tables(folder, "queries", ["split"], rows=1), "split", before=5)
    assert split[6] == "test" and split.of(np.array([5, 6, 7])) == ["train", "test", "train"]
    assert np.flatnonzero(split.among("train")).tolist() == [5, 7] and not split.among("nothing").any()
    split.set([7], "held_out")
    assert split[7] == "held_out" and np.flatnonzero(split.among("train")).tolist() == [5]


def test_a_corpus_without_rows_has_a_roster(tmp_path):
    roster = RowIndex(write_corpus(tmp_path / "bare", corpus=[], queries=[], qrels=[]))
    assert len(roster) == 0 and roster.order(np.zeros(0, bool)).tolist() == []
