"""ViDoRe: its three versions in one folder, one data set alone, equal pages and questions of version 1, and what is refused."""

import pytest

from mirepoix.components.ingestion.formats import vidore
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Member, Query
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.errors import Refused
from tests.components.ingestion.formats.format_cases import rows_of, write_files
from tests.components.ingestion.formats.miniatures import PICTURE, beir_pages, drawing, write_parquet
from tests.components.ingestion.formats.miniatures import vidore as sample


def pages_of(rows, query):
    """The pictures that answer a question, given by its text, with their grades."""
    items = {row.item.id: row.item for row in rows if isinstance(row, Candidate)}
    (name,) = {row.item.id for row in rows if isinstance(row, Query) and row.item.text == query}
    return [(items[row.item_id].images, row.relevance) for row in rows if isinstance(row, Judgement) and row.query_id == name]


def test_each_data_set_has_its_name_and_its_pool(tmp_path):
    rows = rows_of(vidore, sample(tmp_path / "s"))
    named = {(row.dataset, row.pool) for row in rows if isinstance(row, Query)}
    assert named == {("DocVQA", "docvqa_test_subsampled"), ("ESG Reports", "esg_reports_v2"), ("HR", "vidore_v3_hr")}
    places = [row.pool for row in rows if isinstance(row, Member)]
    assert {pool: places.count(pool) for pool in places} == {"docvqa_test_subsampled": 4, "esg_reports_v2": 6, "vidore_v3_hr": 6}


def test_in_version_1_equal_questions_are_one_with_all_pages_and_pages_without_a_question_are_candidates(tmp_path):
    rows = rows_of(vidore, sample(tmp_path / "s"))
    asked = [row for row in rows if isinstance(row, Query) and row.dataset == "DocVQA"]
    assert len({row.item.id for row in asked}) == 3 and not any(row.named for row in asked)
    assert pages_of(rows, "Which page has the candle?") == [((drawing(402),), 1), ((drawing(403),), 1)]
    assert pages_of(rows, "Which page has the anchor?") == pages_of(rows, "Where is the jacket?".replace("jacket", "fountain"))
    assert (drawing(401),) in {row.item.images for row in rows if isinstance(row, Candidate)}


def test_questions_of_every_language_are_read_with_their_grades(tmp_path):
    rows = rows_of(vidore, sample(tmp_path / "s"))
    esg = [row.item.text for row in rows if isinstance(row, Query) and row.dataset == "ESG Reports"]
    assert esg[0] == "On which page is the anchor?" and esg[3] == "Sur quelle page est anchor ?"
    judged = {(row.query_id, row.item_id): row.relevance for row in rows if isinstance(row, Judgement)}
    assert judged["vidore_v3_hr:0", "vidore_v3_hr:0"] == 2 and judged["vidore_v3_hr:0", "vidore_v3_hr:4"] == 1


def test_one_data_set_alone_has_the_name_of_its_folder_and_no_pool(tmp_path):
    rows = rows_of(vidore, beir_pages(tmp_path / "tatdqa_test_beir", 0))
    assert {(row.dataset, row.pool) for row in rows if isinstance(row, Query)} == {("TAT-DQA", "")}
    assert not any(isinstance(row, Member) for row in rows)
    rows = rows_of(vidore, beir_pages(tmp_path / "our_pages", 0))
    assert {row.dataset for row in rows if isinstance(row, Query)} == {"our_pages"}


def test_a_data_set_in_both_forms_is_refused(tmp_path):
    sample(tmp_path / "s")
    beir_pages(tmp_path / "s/docvqa_test_subsampled_beir", 0)
    with pytest.raises(Refused, match="DocVQA twice, in docvqa_test_subsampled and in docvqa_test_subsampled_beir; leave one"):
        rows_of(vidore, tmp_path / "s")


def test_a_folder_without_a_data_set_and_one_without_a_part_are_refused_with_their_origin(tmp_path):
    with pytest.raises(
        Refused, match=r"lacks corpus/, queries/ and qrels/ of a data set, or data/.*, which vidore needs; it comes from hf.co/vidore"
    ):
        rows_of(vidore, write_files(tmp_path / "s", {"a.txt": "x"}))
    (sample(tmp_path / "t") / "esg_reports_v2/qrels/test-00000-of-00001.parquet").unlink()
    with pytest.raises(Refused, match=r"lacks esg_reports_v2/qrels/\*.parquet, which vidore needs; it comes from hf.co/vidore"):
        rows_of(vidore, tmp_path / "t")


def test_pages_of_version_1_need_their_columns(tmp_path):
    write_parquet(tmp_path / "s/a/data/test-0.parquet", [{"image": {"bytes": drawing(1)}, "text": "x"}], image=PICTURE)
    with pytest.raises(Refused, match="has no column query"):
        rows_of(vidore, tmp_path / "s")
    assert not vidore.detect(SourceFiles(str(tmp_path / "s")))
