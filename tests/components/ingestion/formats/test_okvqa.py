"""OK-VQA: passages of a Google search or of Wikipedia, questions with their pictures and answers, and what is refused."""

import json
import shutil

import pytest

from mirepoix.components.ingestion.formats import okvqa
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query
from mirepoix.models.errors import Refused
from tests.components.ingestion.formats.format_cases import rejected_rows, rows_of, write_files
from tests.components.ingestion.formats.miniatures import drawing, passage
from tests.components.ingestion.formats.miniatures import okvqa as google
from tests.components.ingestion.formats.miniatures import okvqa_wikipedia as wikipedia


def queries_of(rows):
    return {row.item.id: row for row in rows if isinstance(row, Query)}


def test_a_question_has_its_picture_and_all_answers_and_no_judgements(tmp_path):
    rows = rows_of(okvqa, google(tmp_path / "s"))
    assert {row.item.id: row.item.text for row in rows if isinstance(row, Candidate)} == {f"g{n}": passage(n) for n in range(12)}
    asked = queries_of(rows)
    assert asked.keys() == {"1000", "1001", "1002", "1003"}
    first = asked["1000"]
    assert (first.item.images, first.split, first.task, first.dataset, first.pool) == ((drawing(0),), "test", "it->t", "OKVQA-GS", "")
    assert first.answers == ("Anchor", "no such 0")
    assert not any(isinstance(row, Judgement) for row in rows)


def test_the_caption_is_removed_from_the_question(tmp_path):
    asked = queries_of(rows_of(okvqa, google(tmp_path / "s")))
    assert [asked[name].item.text for name in ("1000", "1001")] == ["What is this thing number 0?", "What is this thing number 1?"]


def test_a_question_without_passages_is_left_out_as_in_the_published_evaluation(tmp_path):
    file = google(tmp_path / "s") / "passages/retriever_test.json"
    rows = json.loads(file.read_text())
    file.write_text(json.dumps([rows[0] | {"ctxs": []}, *rows[1:]]))
    found = rows_of(okvqa, tmp_path / "s")
    assert queries_of(found).keys() == {"1001", "1002", "1003"}
    assert rejected_rows(found) == []


def test_the_cleaned_corpus_is_read_before_the_other(tmp_path):
    google(tmp_path / "s")
    write_files(tmp_path / "s", {"passages/okvqa_full_corpus.csv": "kid,text\nx,other\n"})
    assert len([row for row in rows_of(okvqa, tmp_path / "s") if isinstance(row, Candidate)]) == 12
    (tmp_path / "s/passages/okvqa_full_clean_corpus.csv").unlink()
    assert [row.item.id for row in rows_of(okvqa, tmp_path / "s") if isinstance(row, Candidate)] == ["x"]


def test_pictures_are_found_in_another_folder_with_and_without_val2014(tmp_path):
    google(tmp_path / "s")
    shutil.move(tmp_path / "s/val2014", tmp_path / "coco/val2014")
    for images in (tmp_path / "coco", tmp_path / "coco/val2014", tmp_path):
        assert queries_of(rows_of(okvqa, tmp_path / "s", images=str(images)))["1002"].item.images == (drawing(2),)


def test_a_question_whose_picture_is_missing_is_rejected(tmp_path):
    google(tmp_path / "s")
    (tmp_path / "s/val2014/COCO_val2014_000000000003.jpg").unlink()
    assert rejected_rows(rows_of(okvqa, tmp_path / "s")) == [("s/passages/retriever_test.json", 1, "missing picture")]


def test_okvqas_own_questions_are_read_where_there_is_no_file_of_the_retriever(tmp_path):
    google(tmp_path / "s")
    wikipedia(tmp_path / "w")
    shutil.move(tmp_path / "w/mscoco_val2014_annotations.json", tmp_path / "s")
    (tmp_path / "s/passages/retriever_test.json").unlink()
    questions = {
        "questions": [{"question_id": 1001, "image_id": 2, "question": "What is it?"}, {"question_id": 9, "image_id": 1, "question": "?"}]
    }
    write_files(tmp_path / "s", {"OpenEnded_mscoco_val2014_questions.json": json.dumps(questions)})
    rows = rows_of(okvqa, tmp_path / "s")
    (query,) = queries_of(rows).values()
    assert (query.item.id, query.item.text, query.item.images, query.answers) == ("1001", "What is it?", (drawing(1),), ("bridge",))
    assert rejected_rows(rows) == [("s/OpenEnded_mscoco_val2014_questions.json", 2, "no answer")]


def test_the_corpus_of_wikipedia_is_asked_the_listed_questions_once_with_answers_in_lower_case(tmp_path):
    rows = rows_of(okvqa, wikipedia(tmp_path / "s"))
    assert [row.item.id for row in rows if isinstance(row, Candidate)] == [f"W_{n}@1" for n in range(8)]
    asked = [row for row in rows if isinstance(row, Query)]
    assert [row.item.id for row in asked] == ["1000", "1001", "1002"]
    assert asked[1].answers == ("bridge",) and asked[1].item.images == (drawing(1),) and asked[1].dataset == "OKVQA-WK11M"


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (
            "passages/okvqa_full_clean_corpus.csv",
            "lacks okvqa_full_clean_corpus.csv, which okvqa needs; it comes from RAVQA_v2_data.tar.gz",
        ),
        (
            "passages/retriever_test.json",
            "lacks retriever_test.json, which okvqa needs; it comes from RAVQA_v2_data.tar.gz",
        ),
        ("val2014", "lacks COCO_val2014_*.jpg, the pictures of the questions, which okvqa needs; it comes from images.cocodataset.org"),
    ],
)
def test_a_source_without_a_file_that_it_needs_is_refused_with_its_origin(tmp_path, gone, words):
    path = google(tmp_path / "s") / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(Refused) as refusal:
        rows_of(okvqa, tmp_path / "s")
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize("gone", ["all_blocks.txt", "mscoco_val2014_annotations.json", "data/test2014_pairs_cap_combine_sum.txt"])
def test_the_corpus_of_wikipedia_needs_its_passages_its_list_and_the_annotations(tmp_path, gone):
    (wikipedia(tmp_path / "s") / gone).unlink()
    with pytest.raises(Refused, match=f"^'.*' lacks {gone.rpartition('/')[2]}, which okvqa needs"):
        rows_of(okvqa, tmp_path / "s")


@pytest.mark.parametrize("sample", [google, wikipedia])
def test_a_folder_of_other_pictures_is_refused_with_the_first_that_it_lacks(tmp_path, sample):
    elsewhere = write_files(tmp_path / "elsewhere", {"COCO_val2014_000000000099.jpg": drawing(9)})
    with pytest.raises(Refused, match=r"lacks COCO_val2014_\*.jpg, .*, such as COCO_val2014_000000000001.jpg, .* or give sources.images"):
        rows_of(okvqa, sample(tmp_path / "s"), images=str(elsewhere))


def test_of_okvqas_own_files_the_one_that_is_missing_is_told(tmp_path):
    (google(tmp_path / "s") / "passages/retriever_test.json").unlink()
    write_files(tmp_path / "s", {"mscoco_val2014_annotations.json": '{"annotations": []}'})
    with pytest.raises(Refused, match=r"lacks OpenEnded_mscoco_val2014_questions.json, .* okvqa.allenai.org/download.html"):
        rows_of(okvqa, tmp_path / "s")


def test_both_corpora_in_one_folder_are_refused(tmp_path):
    google(tmp_path / "s")
    wikipedia(tmp_path / "s")
    with pytest.raises(Refused, match=r"OKVQA-GS .* and of OKVQA-WK11M"):
        rows_of(okvqa, tmp_path / "s")
