"""Pages in BEIR's three parts as Parquet: what is read, grades of pairs that are judged several times, missing parts and columns."""

import pytest

from mirepoix.components.ingestion.formats import beir_parquet
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.errors import Refused
from tests.components.ingestion.formats.format_cases import rejected_rows
from tests.components.ingestion.formats.miniatures import beir_pages, drawing, write_parquet


def read(folder, **settings):
    tree = SourceFiles(str(folder))
    ((place, parts),) = beir_parquet.files_of(tree, "test").items()
    pieces = beir_parquet.shards_of(tree, "pages", place, parts)
    return [row for piece in pieces for row in beir_parquet.read_piece(tree, piece, "Pages", **settings)]


@pytest.mark.parametrize("mark", ["-", "_"])
def test_pages_questions_and_grades_are_read_under_ids_of_their_folder(tmp_path, mark):
    rows = read(beir_pages(tmp_path / "esg", 10, mark=mark, grades=True), pool="esg", instructions=("Find it.", "A page."))
    pages = [row.item for row in rows if isinstance(row, Candidate)]
    assert [(item.id, item.images, item.instruction) for item in pages] == [(f"esg:{n}", (drawing(10 + n),), "A page.") for n in range(6)]
    asked = [row for row in rows if isinstance(row, Query)]
    assert [row.item.id for row in asked] == ["esg:0", "esg:1", "esg:2", "esg:3"]
    first = asked[0]
    assert (first.item.text, first.item.instruction) == ("On which page is the anchor?", "Find it.")
    assert (first.split, first.dataset, first.pool) == ("test", "Pages", "esg")


def test_of_a_pair_that_is_judged_twice_the_higher_grade_counts(tmp_path):
    judged = [
        (row.query_id, row.item_id, row.relevance) for row in read(beir_pages(tmp_path / "p", 0, grades=True)) if isinstance(row, Judgement)
    ]
    assert judged == [("p:0", "p:0", 2), ("p:1", "p:1", 2), ("p:2", "p:2", 2), ("p:0", "p:4", 1), ("p:3", "p:0", 2)]


def test_grades_may_be_written_as_fractions_of_one_and_no_others(tmp_path):
    beir_pages(tmp_path / "p", 0)
    rows = [{"query-id": 0, "corpus-id": 1, "score": score} for score in (1.0, 0.5)]
    write_parquet(tmp_path / "p/qrels/test-00000-of-00001.parquet", rows)
    found = read(tmp_path / "p")
    assert [row.relevance for row in found if isinstance(row, Judgement)] == [1]
    assert rejected_rows(found) == [("p/qrels/test-00000-of-00001.parquet", 2, "bad row")]


def test_files_of_the_converted_branch_are_read_too(tmp_path):
    beir_pages(tmp_path / "p", 0)
    for part in beir_parquet.PARTS:
        (tmp_path / "p" / part / "test").mkdir()
        (tmp_path / "p" / part / "test-00000-of-00001.parquet").rename(tmp_path / "p" / part / "test/0000.parquet")
    assert len([row for row in read(tmp_path / "p") if isinstance(row, Candidate)]) == 6


@pytest.mark.parametrize("part", beir_parquet.PARTS)
def test_a_part_that_a_data_set_lacks_is_told(tmp_path, part):
    (beir_pages(tmp_path / "p/a", 0) / part / "test-00000-of-00001.parquet").unlink()
    ((folder, parts),) = beir_parquet.files_of(SourceFiles(str(tmp_path / "p")), "test").items()
    assert beir_parquet.missing_parts(folder, parts, "its page") == [(f"a/{part}/*.parquet", "its page", "put it there")]


def test_a_part_without_a_column_that_is_read_is_refused(tmp_path):
    write_parquet(beir_pages(tmp_path / "p", 0) / "queries/test-00000-of-00001.parquet", [{"id": 1, "query": "x"}])
    with pytest.raises(Refused, match="has no column query-id; it has id, query"):
        read(tmp_path / "p")
