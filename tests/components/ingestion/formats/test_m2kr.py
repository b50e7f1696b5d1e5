"""E-VQA and InfoSeek of M2KR: one of them or both, with answers, instructions and pictures in the published folders."""

import shutil

import pytest

from mirepoix.components.ingestion.formats import m2kr
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Member, Query
from mirepoix.models.errors import Refused
from tests.components.ingestion.formats.format_cases import rejected_rows, rows_of
from tests.components.ingestion.formats.miniatures import drawing, evqa, infoseek, passage, write_parquet


def queries_of(rows):
    return {row.item.id: row for row in rows if isinstance(row, Query)}


def test_a_question_has_its_picture_its_instruction_and_all_answers(tmp_path):
    rows = rows_of(m2kr, evqa(tmp_path / "s"))
    assert {row.item.id: row.item.text for row in rows if isinstance(row, Candidate)} == {f"EVQA:WikiWeb_{n}": passage(n) for n in range(8)}
    query = queries_of(rows)["EVQA:EVQA_1"]
    assert (query.item.text, query.item.images) == ("What is the bridge here?", (drawing(301),))
    assert query.item.instruction == "Using the provided image, obtain documents that address the subsequent question:"
    assert (query.split, query.task, query.dataset, query.pool) == ("test", "it->t", "E-VQA", "")
    assert query.answers == ("bridge", "nothing 1")
    assert not any(isinstance(row, Judgement | Member) for row in rows)


def test_both_in_one_folder_are_data_sets_with_pools_of_their_own(tmp_path):
    evqa(tmp_path / "s")
    rows = rows_of(m2kr, infoseek(tmp_path / "s"))
    assert {(row.dataset, row.pool) for row in queries_of(rows).values()} == {("E-VQA", "EVQA"), ("InfoSeek", "Infoseek")}
    places = [(row.pool, row.item_id) for row in rows if isinstance(row, Member)]
    assert len(places) == 16 and ("Infoseek", "Infoseek:WikiWeb_0") in places and ("EVQA", "EVQA:WikiWeb_0") in places


def test_pictures_of_infoseek_are_found_by_the_last_step_of_their_path(tmp_path):
    infoseek(tmp_path / "s")
    assert queries_of(rows_of(m2kr, tmp_path / "s"))["Infoseek:Infoseek_2"].item.images == (drawing(312),)
    shutil.move(tmp_path / "s/Infoseek", tmp_path / "elsewhere/val")
    for images in (tmp_path / "elsewhere/val",):
        assert queries_of(rows_of(m2kr, tmp_path / "s", images=str(images)))["Infoseek:Infoseek_2"].item.images == (drawing(312),)


def test_a_question_without_its_picture_or_without_answers_is_rejected(tmp_path):
    evqa(tmp_path / "s")
    (tmp_path / "s/EVQA/inat/val/0.jpg").unlink()
    row = {"question_id": "q", "question": "What?", "answers": [""], "img_path": "inat/val/1.jpg"}
    write_parquet(tmp_path / "s/EVQA_data/test-00001-of-00002.parquet", [row, row | {"answers": ["x"], "img_path": ""}])
    assert rejected_rows(rows_of(m2kr, tmp_path / "s")) == [
        ("s/EVQA_data/test-00000-of-00001.parquet", 1, "missing picture"),
        ("s/EVQA_data/test-00001-of-00002.parquet", 1, "no answer"),
        ("s/EVQA_data/test-00001-of-00002.parquet", 2, "missing picture"),
    ]


@pytest.mark.parametrize(
    ("gone", "words"),
    [("EVQA_passages", r"lacks EVQA_passages/test_passages-\*.parquet"), ("EVQA_data", r"lacks EVQA_data/test-\*.parquet")],
)
def test_a_data_set_without_one_of_its_parts_is_refused_with_its_origin(tmp_path, gone, words):
    shutil.rmtree(evqa(tmp_path / "s") / gone)
    with pytest.raises(Refused, match=f"{words}, which m2kr needs; it comes from hf.co/datasets/BByrneLab"):
        rows_of(m2kr, tmp_path / "s")


def test_a_file_without_a_column_that_is_read_is_refused(tmp_path):
    write_parquet(evqa(tmp_path / "s") / "EVQA_data/test-00000-of-00001.parquet", [{"question_id": "1", "question": "?"}])
    with pytest.raises(Refused, match="has no column img_path, answers; it has question_id, question"):
        rows_of(m2kr, tmp_path / "s")
