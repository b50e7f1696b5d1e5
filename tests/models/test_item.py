"""An item's modality follows from its content; its row form loses nothing."""

import pickle

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.models.item import ITEM_SCHEMA, Item, Modality, Pair, content_hash, items_to_table, row_to_item, table_to_items, take_items

ITEMS = st.builds(
    Item,
    id=st.text(min_size=1, max_size=8),
    text=st.text(max_size=20),
    images=st.lists(st.binary(max_size=8), max_size=3).map(tuple),
    video=st.lists(st.binary(max_size=8), max_size=3).map(tuple),
    instruction=st.text(max_size=8),
    source=st.text(max_size=8),
    line=st.integers(0, 2**40),
)


@pytest.mark.parametrize(
    ("item", "letters", "code"),
    [
        (Item("a", text="x"), "t", 1),
        (Item("a", images=(b"x",)), "i", 2),
        (Item("a", text="x", images=(b"x", b"y")), "it", 3),
        (Item("a", video=(b"x",)), "v", 4),
        (Item("a", text="x", video=(b"x",)), "vt", 5),
        (Item("a", text="x", images=(b"x",), video=(b"x",)), "ivt", 7),
        (Item("a"), "", 0),
        (Item("a", text=" \n", images=(b"x",)), "i", 2),
    ],
)
def test_modality_is_what_the_item_consists_of(item, letters, code):
    assert item.modality == code
    assert item.modality.letters == letters


def test_an_instruction_is_no_content():
    assert Item("q", images=(b"x",), instruction="find a text").modality == Modality.IMAGE


@pytest.mark.parametrize("code", range(1, 8))
def test_letters_name_the_code_back(code):
    assert Modality.of_letters(Modality(code).letters) == code


@pytest.mark.parametrize("letters", ["", "x", "tx", "text"])
def test_unknown_letters_are_refused_with_what_is_allowed(letters):
    with pytest.raises(ValueError, match=r"i \(image\), v \(video\) and t \(text\)"):
        Modality.of_letters(letters)


def test_a_pair_is_named_by_both_modalities():
    assert Pair("p", Item("q", text="x", images=(b"x",)), Item("d", text="y")).task == "it->t"


@given(st.lists(ITEMS, max_size=5))
def test_items_come_back_from_arrow_as_they_were(items):
    table = items_to_table(items)
    assert table.schema.equals(ITEM_SCHEMA)
    assert table_to_items(table) == items


@given(st.lists(ITEMS, min_size=1, max_size=5), st.data())
def test_rows_are_taken_in_the_order_asked_for(items, data):
    rows = data.draw(st.lists(st.integers(0, len(items) - 1), max_size=6))
    assert take_items(items_to_table(items), rows) == [items[row] for row in rows]


def test_columns_beyond_the_schema_are_left_aside():
    table = items_to_table([Item("a", text="x")]).append_column("split", pa.array(["train"]))
    assert table_to_items(table) == [Item("a", text="x")]
    assert row_to_item({**table.to_pylist()[0], "more": 1}) == Item("a", text="x")


def test_the_content_hash_is_of_content_alone_and_distinguishes_parts():
    items = [
        Item("a", text="ab"),
        Item("a", text="a", images=(b"b",)),
        Item("a", text="a", video=(b"b",)),
        Item("a", images=(b"a", b"b")),
        Item("a", images=(b"ab",)),
    ]
    assert len({content_hash(item) for item in items}) == len(items)
    assert content_hash(items[0]) == content_hash(Item("b", text="ab", instruction="find", source="s", line=3))


def test_items_are_values():
    item = Item("a", text="x", images=(b"x",))
    assert pickle.loads(pickle.dumps(item)) == item
    with pytest.raises(AttributeError):
        item.text = "y"
