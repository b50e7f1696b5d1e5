"""Sizes, times and counts in words."""

from mirepoix.workflows.init.words import counted, duration, first_names, gigabytes


def test_sizes_and_times_are_said_in_fitting_units():
    assert [gigabytes(count) for count in (1.5e9, 2.5e6, 2900, 900, 1)] == ["1.5 GB", "2 MB", "3 kB", "900 bytes", "1 byte"]
    assert [duration(seconds) for seconds in (0.2, 80, 600, 7200)] == ["1 second", "80 seconds", "10 minutes", "2.0 hours"]


def test_one_is_said_in_the_singular():
    assert [counted(1, "picture"), counted(2000, "query"), counted(1, "query")] == ["1 picture", "2,000 queries", "1 query"]


def test_of_several_names_three_are_said_and_how_many_more_there_are():
    assert first_names(["a", "b", "c"]) == "a, b, c"
    assert first_names([*"abcde"]) == "a, b, c and 2 more"
