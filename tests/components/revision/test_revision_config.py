"""Ids and sources that are removed from a release: read from a file, and refused where the release has no such items."""

import pytest

from mirepoix.components.revision.revision_config import MergeConfig, items_to_remove, listed_fingerprint, listed_ids, named
from mirepoix.models.errors import Refused


def test_ids_are_listed_one_on_a_line_and_may_have_spaces_within(tmp_path):
    (tmp_path / "ids").write_text("\ufeffa b\r\n\n  c  \n", encoding="utf-8")
    assert listed_ids(str(tmp_path / "ids")) == ("a b", "c") and listed_ids(None) == ()
    assert MergeConfig(remove=("x",), remove_listed=str(tmp_path / "ids")).removed == ("x", "a b", "c")


def test_the_fingerprint_of_a_list_is_that_of_its_ids(tmp_path):
    prints = set()
    for text in ("a\nb\n", "a\n\n b", "a\nc"):
        (tmp_path / "ids").write_text(text)
        prints.add(listed_fingerprint(str(tmp_path / "ids")))
    assert len(prints) == 2


IDS = ["a.png", "b.png", "folder/c.png", "x"]
SOURCES = {"mine/a.png": ["a.png", "x"], "mine/sub & more/c.png": ["folder/c.png"], "mine/rows.csv:12": ["b.png"]}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["b.pngs"], "mine has no item 'b.pngs'; near to the first are b.png"),
        (["?", "a.png", "!", "?", "-", "+"], "mine has no item '?', '!', '-' and 1 more; its ids are such as a.png, b.png, folder/c.png"),
        (["C"], "mine has no item 'C'; near to the first are folder/c.png"),
        (["mine/b.png"], "mine has no item 'mine/b.png'; near to the first are mine/a.png"),
        (["mine/rows.csv:13"], "mine has no item 'mine/rows.csv:13'; near to the first are mine/rows.csv:12"),
        (["mine/sub & more/"], "no item 'mine/sub & more/'; what is below mine/sub & more is given one by one: mine/sub & more/c.png"),
        (["mine/rows.csv"], "no item 'mine/rows.csv'; what is below mine/rows.csv is given one by one: mine/rows.csv:12"),
        (["sub"], "mine has no item 'sub'; near to the first are mine/sub & more/c.png"),
        (["./mine/a.png"], "mine has no item './mine/a.png'; near to the first are mine/a.png"),
        (IDS, "all 4 items of mine would be removed, and a release needs one"),
        ([*SOURCES], "all 4 items of mine would be removed, and a release needs one"),
    ],
)
def test_unknown_items_and_all_items_are_not_removed(given, words):
    with pytest.raises(Refused) as refusal:
        items_to_remove("mine", IDS, given, lambda: SOURCES)
    assert words in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("given", "removed"),
    [
        (["a.png", "b.png", "a.png"], {"a.png", "b.png"}),
        (["mine/a.png"], {"a.png", "x"}),
        (["mine/a.png", "x", "mine/rows.csv:12"], {"a.png", "x", "b.png"}),
        (["mine/sub & more/c.png"], {"folder/c.png"}),
    ],
)
def test_an_item_is_removed_by_its_id_or_with_all_others_of_its_source(given, removed):
    assert items_to_remove("mine", IDS, given, lambda: SOURCES) == removed


def test_what_is_an_id_and_a_source_is_the_id_and_sources_are_not_asked_for_ids_alone():
    def never():
        raise AssertionError

    assert items_to_remove("mine", IDS, ["x"], lambda: {"x": ["a.png"]}) == {"x"} == items_to_remove("mine", IDS, ["x"], never)


def test_few_ids_are_named_in_full():
    assert (named(["a"]), named(["a", "b", "c", "d", "e"])) == ("'a'", "'a', 'b', 'c' and 2 more")
