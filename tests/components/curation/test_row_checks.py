"""The rules for one row: limits come before decoding, each kind of picture is handled or rejected by name, the first rule is the reason."""

import io

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mirepoix.components.corpus.parts import PARTS, PartWriter
from mirepoix.components.curation.row_checks import TASK_BYTES, RowCheck, row_blocks, tasks
from mirepoix.components.curation.row_features import ROW
from mirepoix.components.curation.signatures import MAX_SIGNATURES, PICTURE_SIGNATURE
from mirepoix.components.curation.text_rules import TextRules
from mirepoix.models.item import Item, content_hash, item_to_row
from mirepoix.serving.pictures_config import PictureLimits

CHECK = RowCheck(PictureLimits(max_bytes=200_000, max_pixels=400_000), TextRules(), max_pictures=12, most_pixels=None)
RAMP = Image.fromarray(np.tile(np.linspace(0, 255, 48, dtype=np.uint8)[None, :, None], (36, 1, 3)))


def saved(picture, form="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(RAMP, "JPEG", exif=exif)


def checked(*items, check=CHECK):
    return check.checked(pa.Table.from_pylist([item_to_row(item) for item in items], schema=PARTS["corpus"])).to_pylist()


def outcome(item, check=CHECK):
    (row,) = checked(item, check=check)
    return row["reason"], row["detail"]


def opened(data):
    return Image.open(io.BytesIO(data))


FINE = {
    "JPEG": saved(RAMP, "JPEG"),
    "progressive JPEG": saved(RAMP, "JPEG", progressive=True),
    "PNG": saved(RAMP),
    "WEBP": saved(RAMP, "WEBP"),
    "grey": saved(RAMP.convert("L")),
}
MENDED = {
    "GIF": saved(RAMP, "GIF"),
    "CMYK": saved(RAMP.convert("CMYK"), "JPEG"),
    "palette": saved(RAMP.quantize(16)),
    "EXIF-rotated": turned(),
    "16-bit": saved(Image.fromarray(np.tile(np.linspace(0, 65535, 48).astype(np.uint16), (36, 1)))),
    "1-bit": saved(RAMP.convert("1")),
    "transparent": saved(RAMP.convert("RGBA")),
    "grey with transparency": saved(RAMP.convert("LA")),
}
BROKEN = {
    "empty": b"",
    "too many bytes": b"\xff\xd8\xff" + bytes(200_001),
    "unknown format": saved(RAMP, "BMP"),
    "too many pixels": saved(Image.new("1", (700, 700))),
    "too thin": saved(Image.new("1", (2000, 2))),
    "animated": saved(RAMP, "GIF", save_all=True, append_images=[RAMP.rotate(180)]),
    "damaged": saved(RAMP, "JPEG")[:-200],
}


@pytest.mark.parametrize("kind", FINE)
def test_a_plain_picture_is_kept_byte_for_byte(kind):
    (row,) = checked(Item("a", images=(FINE[kind],)))
    assert row["reason"] is row["images"] is None


@pytest.mark.parametrize("kind", MENDED)
def test_a_picture_of_another_kind_becomes_upright_rgb(kind):
    (row,) = checked(Item("a", images=(MENDED[kind],)))
    assert row["reason"] is None
    picture = opened(row["images"][0])
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    assert picture.size == ((36, 48) if kind == "EXIF-rotated" else (48, 36))


@pytest.mark.parametrize("reason", BROKEN)
@pytest.mark.parametrize("place", ["images", "video"])
def test_a_picture_that_cannot_be_kept_is_rejected_by_name(reason, place):
    assert outcome(Item("a", **{place: (BROKEN[reason],)})) == (reason, "")


def test_the_rejected_one_of_several_pictures_is_named():
    assert outcome(Item("a", images=(FINE["PNG"], BROKEN["damaged"], b""))) == ("damaged", "picture 2 of 3")
    assert outcome(Item("a", video=(FINE["PNG"],) * 3 + (b"",))) == ("empty", "frame 4 of 4")


def test_pictures_are_counted_before_any_is_decoded():
    assert outcome(Item("a", images=(b"x",), video=(b"x",) * 12))[0] == "too many pictures"
    assert outcome(Item("a", video=(FINE["PNG"],) * 12))[0] is None


def test_the_text_comes_before_the_pictures_which_come_in_their_order():
    assert outcome(Item("a", text="IMG_1234.jpg", images=(b"",)))[0] == "file name"
    assert outcome(Item("a", text=" \x00", images=(FINE["PNG"],)))[0] == "empty text"
    assert outcome(Item("a", images=(BROKEN["animated"],), video=(b"",)))[0] == "animated"


def test_a_row_beside_a_broken_one_is_checked_as_if_alone():
    good = Item("a", text="a ramp", images=(FINE["JPEG"],))
    together = checked(Item("x", images=(b"",)), good, Item("y", text="file.jpg"), Item("z", text="words alone"))
    assert [row["reason"] for row in together] == ["empty", None, "file name", None]
    alone = checked(good) + checked(Item("z", text="words alone"))
    assert [{**row, "place": 0} for row in (together[1], together[3])] == alone


@pytest.mark.parametrize(("form", "source"), [("JPEG", "JPEG"), ("PNG", "PNG"), ("PNG", "WEBP"), ("JPEG", "turned")])
def test_a_picture_above_the_budget_is_scaled_down_and_encoded_anew(form, source):
    budget = RowCheck(CHECK.limits, CHECK.rules, 12, most_pixels=400)
    data = turned() if source == "turned" else saved(RAMP, source)
    (row,) = checked(Item("a", images=(data,)), check=budget)
    picture = opened(row["images"][0])
    assert picture.format == form
    assert 300 < picture.width * picture.height <= 400
    assert (picture.width < picture.height) == (source == "turned")


def test_a_picture_within_the_budget_is_kept_byte_for_byte():
    assert (
        checked(Item("a", images=(FINE["JPEG"],)), check=RowCheck(CHECK.limits, CHECK.rules, 12, most_pixels=48 * 36))[0]["images"] is None
    )


def test_the_limits_hold_before_the_budget():
    assert outcome(Item("a", images=(BROKEN["too many pixels"],)), RowCheck(CHECK.limits, CHECK.rules, 12, 100))[0] == "too many pixels"


def test_text_and_instruction_are_cleaned_and_noted_only_where_they_change():
    dirty, plain = checked(Item("a", text="a <s> b", instruction="find\x00 it"), Item("b", text="a b", instruction="find it"))
    assert (dirty["text"], dirty["instruction"]) == ("a < s > b", "find it")
    assert plain["text"] is plain["instruction"] is None


def test_the_answer_of_a_triple_is_cleaned_and_must_not_be_empty():
    rows = [
        {**item_to_row(Item("a", text="what?")), "split": "train", "answer": answer, "evidence": []} for answer in ("<pad>x", "\x00", "")
    ]
    checked_rows = CHECK.checked(pa.Table.from_pylist(rows, schema=PARTS["triples"])).to_pylist()
    assert [(row["reason"], row["answer"]) for row in checked_rows] == [(None, "< pad >x"), ("empty answer", None), ("empty answer", None)]


def test_features_are_those_of_the_kept_content():
    mended, same = checked(Item("a", text="A  dog!", images=(MENDED["palette"],)), Item("b", text="A dog", images=(FINE["PNG"],)))
    one, other = (np.frombuffer(row["row"], ROW)[0] for row in (mended, same))
    assert one["content"].tobytes() == content_hash(Item("", "A  dog!", tuple(mended["images"])))[:16]
    assert one["text"] == other["text"] != 0
    assert one["pictures"] != other["pictures"]
    assert len(np.frombuffer(mended["signatures"], PICTURE_SIGNATURE)) == 1


def test_of_a_clip_some_frames_get_a_signature():
    (row,) = checked(Item("a", video=(FINE["PNG"],) * 12))
    assert len(np.frombuffer(row["signatures"], PICTURE_SIGNATURE)) == MAX_SIGNATURES == np.frombuffer(row["row"], ROW)[0]["signatures"]
    assert np.frombuffer(row["row"], ROW)[0]["frames"] == 12


def test_pieces_cover_every_row_once_in_order(tmp_path):
    for part, count in (("corpus", 25), ("queries", 7)):
        with PartWriter(tmp_path, part, rows_per_file=10) as writer:
            writer.write([{**item_to_row(Item(f"{part}{n}", "x")), "split": "train", "task": "t->t"} for n in range(count)])
    for rows in (1, 4, 10, 100):
        found = row_blocks(tmp_path, rows)
        assert [piece["part"] for piece in found] == sorted((piece["part"] for piece in found), key=("corpus", "queries").index)
        assert all(piece["rows"] <= rows for piece in found)
        checked_rows = [row for task in tasks(found, rows) for table in CHECK(pa.Table.from_pylist([task])) for row in table.to_pylist()]
        assert [row["place"] for row in checked_rows] == list(range(32))


def test_a_task_has_as_many_pieces_as_fit_and_at_least_one():
    def sizes(*pieces, rows=10):
        return [
            [piece["rows"] for piece in task["pieces"]] for task in tasks([{"rows": count, "bytes": size} for count, size in pieces], rows)
        ]

    assert sizes((4, 1), (4, 1), (4, 1), (10, 1), (1, 1)) == [[4, 4], [4], [10], [1]]
    assert sizes((1, TASK_BYTES), (1, 1), (1, TASK_BYTES - 1), (1, 2 * TASK_BYTES)) == [[1], [1, 1], [1]]
    assert sizes() == []
