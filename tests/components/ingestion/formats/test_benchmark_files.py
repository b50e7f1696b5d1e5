"""Files that must be there, ids of several data sets, pictures in one of several places, and members of pools."""

import pytest

from mirepoix.components.ingestion.formats import benchmark_files
from mirepoix.components.ingestion.formats.benchmark_files import Missing
from mirepoix.components.ingestion.formats.rows import Candidate, Member, Query, RowError, Unreadable
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import picture, write_files


def test_a_file_is_found_in_any_folder_and_refused_where_it_is_missing_or_there_twice(tmp_path):
    tree = SourceFiles(str(write_files(tmp_path, {"a/b/x.csv": "1", "a/y.csv": "1", "y.csv": "1"})))
    assert benchmark_files.needed_file(tree, "form", r"x\.csv", Missing("x.csv", "its page")) == "a/b/x.csv"
    with pytest.raises(Refused, match=r"has y.csv more than once: a/y.csv, y.csv; leave one of them"):
        benchmark_files.needed_file(tree, "form", r"y\.csv", Missing("y.csv", "its page"))
    with pytest.raises(Refused, match=r"lacks z.csv, which form needs; it comes from its page: put it there"):
        benchmark_files.needed_file(tree, "form", r"z\.csv", Missing("z.csv", "its page"))


def test_the_files_below_a_folder_are_not_those_of_one_whose_name_begins_alike(tmp_path):
    tree = SourceFiles(str(write_files(tmp_path, {"a/1": "x", "a/b/2": "x", "a-b/3": "x", "ab/4": "x"})))
    assert benchmark_files.files_below(tree, "a") == ["a/1", "a/b/2"]


@pytest.mark.parametrize(("given", "expected"), [(3, "set:3"), ("a b\tc", "set:a_b_c"), ("x:y", "set:x:y")])
def test_an_id_has_its_data_set_before_it_and_no_white_space(given, expected):
    assert benchmark_files.id_in("set", given) == expected


@pytest.mark.parametrize("given", [None, True, "", 1.5, ["a"]])
def test_what_is_no_id_is_rejected(given):
    with pytest.raises(RowError, match="bad id"):
        benchmark_files.id_in("set", given)


def test_a_picture_is_taken_from_the_first_place_that_has_it_and_else_the_first_is_named(tmp_path):
    tree = SourceFiles(str(write_files(tmp_path, {"b/x.png": picture(1), "c/x.png": picture(2)})))
    assert benchmark_files.picture_at(tree, "a/x.png", "b/x.png", "c/x.png") == picture(1)
    with pytest.raises(RowError, match=r"a/y.png"):
        benchmark_files.picture_at(tree, "a/y.png", "b/y.png")
    with pytest.raises(RowError, match="URL"):
        benchmark_files.picture_at(tree, "https://x/y.png", "b/x.png")


def test_candidates_have_a_place_in_the_pool_once(tmp_path):
    named, unnamed, query = Candidate(Item("1", "x")), Candidate(Item("c", "y"), named=False), Query(Item("q", "z"), "test")
    rows = [named, unnamed, query, unnamed]
    assert list(benchmark_files.with_members("p", rows)) == [named, Member("p", "1"), unnamed, Member("p", "c"), query, unnamed]
    assert list(benchmark_files.with_members("", rows)) == rows


def test_json_that_is_cut_off_or_no_object_cannot_be_read(tmp_path):
    tree = SourceFiles(str(write_files(tmp_path, {"a.json": '{"a": 1}', "b.json": '{"a"', "c.json": "[1]"})))
    assert benchmark_files.json_object(tree, "a.json") == {"a": 1}
    for file, words in (("b.json", "is no JSON, or is cut off"), ("c.json", "is a list and no object")):
        with pytest.raises(Unreadable, match=words):
            benchmark_files.json_object(tree, file)
