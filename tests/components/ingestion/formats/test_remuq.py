"""ReMuQ: passages, questions with pictures of a TSV, and one passage that answers each."""

import json

import pytest

from mirepoix.components.ingestion.formats import remuq
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, Unreadable
from mirepoix.models.errors import Refused
from tests.components.ingestion.formats.format_cases import rejected_rows, rows_of
from tests.components.ingestion.formats.miniatures import drawing
from tests.components.ingestion.formats.miniatures import remuq as sample


def test_the_first_of_the_passages_of_a_question_answers_it(tmp_path):
    rows = rows_of(remuq, sample(tmp_path / "s"))
    assert [row.item.id for row in rows if isinstance(row, Candidate)] == [str(n) for n in range(10)]
    asked = [row for row in rows if isinstance(row, Query)]
    assert [(row.item.id, row.item.text, row.item.images, row.split, row.task, row.dataset, row.answers) for row in asked] == [
        (f"r{n}", f"Which thing is it, number {n}?", (drawing(80 + n),), "test", "it->t", "ReMuQ", ()) for n in range(3)
    ]
    judged = [(row.query_id, row.item_id, row.relevance) for row in rows if isinstance(row, Judgement)]
    assert judged == [("r0", "3", 1), ("r1", "4", 1), ("r2", "5", 1)]


def test_questions_may_be_json_lines(tmp_path):
    file = sample(tmp_path / "s") / "test.json"
    lines = "".join(json.dumps(row) + "\n" for row in json.loads(file.read_text()))
    file.unlink()
    (tmp_path / "s/remuq_test.jsonl").write_text(lines)
    assert len([row for row in rows_of(remuq, tmp_path / "s") if isinstance(row, Query)]) == 3


@pytest.mark.parametrize("number", ["30000003", "30000009", "40000001", "x"])
def test_a_picture_that_the_tsv_does_not_have_is_missing(tmp_path, number):
    file = sample(tmp_path / "s") / "test.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([rows[0], rows[1] | {"img_id": number}]))
    found = rows_of(remuq, tmp_path / "s")
    assert [(reason, line) for _, line, reason in rejected_rows(found)] == [("missing picture", 1)]


def test_a_line_index_that_is_not_of_the_tsv_stops_the_reading(tmp_path):
    (sample(tmp_path / "s") / "imgs.lineidx").write_text("0\n99999999\n")
    with pytest.raises(Unreadable, match="is not the byte offsets"):
        rows_of(remuq, tmp_path / "s")


@pytest.mark.parametrize("gone", ["open_corpus_10.csv", "test.json", "imgs.tsv", "imgs.lineidx"])
def test_a_source_without_a_file_that_it_needs_is_refused_with_its_origin(tmp_path, gone):
    (sample(tmp_path / "s") / gone).unlink()
    with pytest.raises(Refused, match=r"lacks .*, which remuq needs; it comes from the Google Drive folder"):
        rows_of(remuq, tmp_path / "s")
