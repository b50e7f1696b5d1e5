"""Judgements are read and written in three forms, recognised by their columns, and a bad line is named."""

import gzip

import pytest

from mirepoix.components.evaluation.files.qrels import read_qrels, read_tasks, write_qrels
from mirepoix.models.errors import Refused

QRELS = {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1, "d3": -1}}
FORMS = {
    "beir": "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\nq2\td3\t-1\n",
    "trec": "q1 0 d1 2\nq1 0 d2 0\nq2 0 d2 1\nq2 0 d3 -1\n",
    "mbeir": "q1 0 d1 2 3\nq1 0 d2 0 3\nq2 0 d2 1 8\nq2 0 d3 -1 8\n",
}
TASKS = {"q1": 3, "q2": 8}


@pytest.fixture
def file(tmp_path):
    def written(text: str):
        (tmp_path / "qrels").write_text(text)
        return tmp_path / "qrels"

    return written


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_recognised_and_written_as_others_have_it(form, file, tmp_path):
    assert read_qrels(file(FORMS[form])) == read_qrels(file(FORMS[form]), form) == QRELS
    write_qrels(tmp_path / "out", QRELS, form, TASKS)
    assert (tmp_path / "out").read_text() == FORMS[form]
    write_qrels(tmp_path / "out.gz", QRELS, form, TASKS)
    assert gzip.decompress((tmp_path / "out.gz").read_bytes()).decode() == FORMS[form]
    assert read_qrels(tmp_path / "out.gz") == QRELS


@pytest.mark.parametrize("text", ["\n" + FORMS["beir"], FORMS["beir"].partition("\n")[2], FORMS["beir"].replace("\t", " ")])
def test_three_columns_are_judgements_with_or_without_names_above(text, file):
    assert read_qrels(file(text)) == QRELS


def test_the_tasks_of_queries_are_those_of_the_last_column(file):
    assert read_tasks(file(FORMS["mbeir"])) == TASKS
    with pytest.raises(Refused, match=r"qrels:1: 4 columns; the lines of M-BEIR have 5 \(judgements\) or 7 \(a run\)"):
        read_tasks(file(FORMS["trec"]))
    with pytest.raises(Refused, match=r"qrels:5: query 'q1' is of the task 4, and of 3 above"):
        read_tasks(file(FORMS["mbeir"] + "q1 0 d9 1 4\n"))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (FORMS["beir"] + "q3\td 4\t1\n", r":6: 4 columns, and a line has 3: query document relevance; no id has white space in it"),
        (FORMS["trec"] + "q3 0 d4 yes\n", r":5: 'yes' stands where a whole number belongs"),
        (FORMS["trec"] + "q3 0 d4 0.5\n", r":5: '0.5' stands where a whole number belongs"),
        (FORMS["trec"] + "q1 0 d1 1\n", r":5: document 'd1' is judged 1 for query 'q1', and 2 above"),
        ("query-id\tcorpus-id\tscore\n", r" has no judgement; give a file with a line for each"),
        ("q1\n", r":1: 1 column, and the lines of judgements have 3 \(beir\), 4 \(trec\), 5 \(mbeir\)"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line(text, why, file):
    with pytest.raises(Refused, match=rf"^\S*/qrels{why}"):
        read_qrels(file(text))


def test_a_pair_that_is_judged_twice_alike_counts_once(file):
    assert read_qrels(file(FORMS["trec"] + "q1 0 d1 2\n")) == QRELS


def test_what_a_line_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(Refused, match="id 'd 1' has white space in it"):
        write_qrels(tmp_path / "out", {"q": {"d 1": 1}}, "beir")
    with pytest.raises(Refused, match="query 'q2' has no id of a task"):
        write_qrels(tmp_path / "out", QRELS, "mbeir", {"q1": 3})
    with pytest.raises(Refused, match="the format of judgements is 'mteb'; give one of beir, trec, mbeir"):
        write_qrels(tmp_path / "out", QRELS, "mteb")
