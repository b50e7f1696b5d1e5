"""Rows of mteb become items with all that is in them, together in windows of bounded size."""

import numpy as np
import pytest
from PIL import Image

from mirepoix.components.evaluation import mteb_inputs
from mirepoix.components.evaluation.mteb_inputs import Row, read_batch, windows
from mirepoix.models.backbones.pictures import decoded
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving.in_process.items import LIMITS
from tests.serving.fixtures import drawing

RED, BLUE = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))


def read(**batch) -> list[Row]:
    return list(read_batch(batch, "Task: query", 5))


def colours(item: Item) -> list[tuple[int, ...]]:
    return [picture.getpixel((0, 0)) for picture in decoded(item, [*item.images, *item.video])]


def test_an_item_has_text_and_pictures_of_which_there_may_be_several_or_none():
    rows = read(id=["a", "b", "c"], text=["one", "two", "three"], image=[RED, [RED, BLUE], None])
    assert [(row.item.id, row.item.text, colours(row.item)) for row in rows] == [
        ("Task: query a", "one", [(255, 0, 0)]),
        ("Task: query b", "two", [(255, 0, 0), (0, 0, 255)]),
        ("Task: query c", "three", []),
    ]
    assert not any(row.instructed or row.item.instruction for row in rows)


def test_the_frames_of_a_clip_are_its_pictures_in_their_order():
    frames = np.stack([np.full((3, 20, 30), shade, np.uint8) for shade in (0, 90, 200)])
    (row,) = read(video=[frames])
    assert row.item.id == "Task: query 5" and not row.item.images
    assert colours(row.item) == [(0, 0, 0), (90, 90, 90), (200, 200, 200)]


def test_the_text_of_an_instructed_query_stands_apart_from_its_instruction():
    first, second = read(text=["cats But no dogs.", "birds"], query=["cats", "birds"], instruction=["But no dogs.", ""])
    assert (first.item.text, first.item.instruction, first.instructed) == ("cats", "But no dogs.", True)
    assert (second.item.text, second.item.instruction, second.instructed) == ("birds", "", False)


def test_a_row_with_nothing_in_it_has_no_item():
    assert [row.item is None for row in read(text=["", " \n", "x"], image=[None, [], None])] == [True, True, False]


def test_a_picture_that_is_larger_than_any_is_taken_is_made_smaller(monkeypatch):
    monkeypatch.setattr(mteb_inputs, "LIMITS", type(LIMITS)(max_pixels=300))
    (row,) = read(image=[RED])
    (picture,) = decoded(row.item, row.item.images)
    assert picture.size == (20, 15) and picture.getpixel((3, 3)) == (255, 0, 0)


def test_what_is_no_picture_is_refused_with_its_row():
    with pytest.raises(Refused, match=r"^Task: query q9: video\[0\] is an array of float32, 8 x 8 x 3; a picture is of uint8"):
        read(id=["q9"], video=[np.zeros((1, 3, 8, 8), np.float32)])


@pytest.mark.parametrize(("items", "octets", "sizes"), [(3, 1 << 30, [3, 3, 1]), (100, 1, [1] * 7), (100, 1 << 30, [7])])
def test_windows_hold_as_many_rows_and_bytes_as_they_may(items, octets, sizes, monkeypatch):
    monkeypatch.setattr(mteb_inputs, "WINDOW_ITEMS", items)
    monkeypatch.setattr(mteb_inputs, "WINDOW_BYTES", octets)
    rows = [Row(Item(str(number), images=(drawing("disc", 0.1),)), False) for number in range(7)]
    found = list(windows(iter(rows)))
    assert [len(window) for window in found] == sizes and [row for window in found for row in window] == rows
    assert list(windows([])) == []
