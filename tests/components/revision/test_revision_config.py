"""Ids that are removed from a release: read from a file, and refused where the release has no such items."""

import pytest

from mirepoix.components.revision.revision_config import MergeConfig, listed_fingerprint, listed_ids, named, refuse_removal
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


@pytest.mark.parametrize(
    ("removed", "words"),
    [
        (["b.pngs"], "mine has no item 'b.pngs'; near to the first are b.png"),
        (["?", "a.png", "!", "?", "-", "+"], "mine has no item '?', '!', '-' and 1 more; its ids are such as a.png, b.png, folder/c.png"),
        (["C"], "mine has no item 'C'; near to the first are folder/c.png"),
        (["a.png", "b.png", "folder/c.png"], "all 3 items of mine would be removed, and a release needs one"),
    ],
)
def test_unknown_items_and_all_items_are_not_removed(removed, words):
    with pytest.raises(Refused) as refusal:
        refuse_removal("mine", ["a.png", "b.png", "folder/c.png"], removed)
    assert words in str(refusal.value)
    refuse_removal("mine", ["a.png", "b.png", "folder/c.png"], ["a.png", "b.png", "a.png"])


def test_few_ids_are_named_in_full():
    assert (named(["a"]), named(["a", "b", "c", "d", "e"])) == ("'a'", "'a', 'b', 'c' and 2 more")
