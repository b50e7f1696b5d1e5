"""Pictures are found by the paths that tables have."""

import pytest

from mirepoix.components.ingestion.formats.listed_pictures import found_path
from mirepoix.components.ingestion.formats.rows import RowError
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from tests.components.ingestion.formats.format_cases import write_files


@pytest.fixture
def tree(tmp_path):
    return SourceFiles(str(write_files(tmp_path, {"a/p0.png": b"x", "p1.JPG": b"x", "b/two.png": b"x", "b/two.gif": b"x"})))


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("p0.png", "a/p0.png"),
        ("p0", "a/p0.png"),
        ("p1", "p1.JPG"),
        ("C:\\Users\\me\\pics\\p0.png", "a/p0.png"),
        ("/home/other/a/p0.png", "a/p0.png"),
        ("/home/other/p1.JPG", "p1.JPG"),
    ],
)
def test_a_name_without_its_ending_and_a_path_of_another_machine_are_found(tree, path, found):
    assert found_path(tree, "a", path) == found


def test_a_name_of_two_pictures_and_a_path_outside_of_the_folder_are_not_guessed(tree):
    assert found_path(tree, "", "b/two") == "b/two"
    for path in ("/home/other/gone.png", "../p1.JPG"):
        with pytest.raises(RowError, match="lies outside of the folder"):
            found_path(tree, "", path)
