"""What counts as an item in Python, and what is refused in one line that says where it stands."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.serving.in_process.items import read_item, read_items
from mirepoix.serving.pictures import read_picture
from mirepoix.serving.pictures_config import PictureLimits
from tests.serving.fixtures import drawing

DISC = drawing("disc", 0.6, 24)


@pytest.fixture
def file(tmp_path) -> Path:
    (tmp_path / "disc.png").write_bytes(DISC)
    return tmp_path / "disc.png"


def opened(data: bytes = DISC) -> Image.Image:
    return Image.open(BytesIO(data))


def pixels(item: Item) -> np.ndarray:
    (data,) = item.images
    return np.asarray(read_picture(data, PictureLimits()))


def test_a_text_a_file_a_picture_an_array_bytes_a_dict_and_an_item_stand_in_one_list(file):
    given = ["a disc", file, opened(), np.asarray(opened()), DISC, {"text": "a disc", "image": file}, Item("x", "a disc", (DISC,))]
    items, single = read_items(given, "items")
    assert not single
    assert [item.modality.letters for item in items] == ["t", "i", "i", "i", "i", "it", "it"]
    assert [item.id for item in items] == [f"items[{number}]" for number in range(7)]
    assert all((pixels(item) == np.asarray(opened())).all() for item in items[1:])
    assert items[1].images == items[4].images == items[5].images == (DISC,), "the bytes of a plain file are kept"


@pytest.mark.parametrize(
    "given", ["a disc", DISC, bytearray(DISC), np.zeros((4, 4), np.uint8), {"text": "a disc"}, Item("x", "a disc"), opened()]
)
def test_one_item_is_told_from_a_list(given):
    assert read_items(given, "items").single and not read_items([given], "items").single


def test_lists_are_whatever_can_be_gone_through_in_order():
    assert [item.text for item in read_items((word for word in ("a", "b")), "items").items] == ["a", "b"]
    assert [item.text for item in read_items(np.array(["a", "b"]), "items").items] == ["a", "b"]
    assert len(read_items(np.zeros((3, 8, 8, 3), np.uint8), "items").items) == 3


def test_a_dict_has_pictures_frames_and_an_instruction():
    item = read_item({"text": "a disc", "images": [DISC, opened()], "video": (DISC,) * 3, "instruction": "Find it."}, "query")
    assert item.modality == Modality.TEXT | Modality.IMAGE | Modality.VIDEO
    assert (len(item.images), len(item.video), item.instruction) == (2, 3, "Find it.")
    assert read_item({"text": "a", "image": None, "instruction": None}, "query") == Item("query", "a")


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr", "I;16"])
def test_a_decoded_picture_of_any_mode_is_read_as_its_file_is(mode):
    picture = opened().convert("RGB").convert(mode) if mode != "I;16" else Image.fromarray(np.full((24, 24), 40_000, np.uint16))
    buffer = BytesIO()
    (picture if mode not in ("CMYK", "YCbCr") else picture.convert("RGB")).save(buffer, "PNG")
    assert (pixels(read_item(picture, "items")) == np.asarray(read_picture(buffer.getvalue(), PictureLimits()))).all()


def test_a_transparent_palette_is_drawn_over_white_16_bits_as_8_and_a_turned_photograph_upright():
    clear = Image.new("P", (6, 4), 3)
    clear.info["transparency"] = 3
    assert (pixels(read_item(clear, "items")) == 255).all()
    assert (pixels(read_item(Image.new("I", (6, 4), 40_000), "items")) == 156).all()
    exif, buffer = Image.Exif(), BytesIO()
    exif[0x0112] = 6
    Image.new("RGB", (6, 4)).save(buffer, "JPEG", exif=exif)
    assert pixels(read_item(opened(buffer.getvalue()), "items")).shape == (6, 4, 3)


def animation() -> Image.Image:
    buffer = BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    return opened(buffer.getvalue())


class Tensor:
    """As torch's own, which a test of forms need not import."""

    __module__ = "torch"
    shape, dtype = (3, 8, 8), "torch.float32"


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ([], "items is an empty list; give at least one item"),
        (["a", ""], "items[1] is an empty text; give a text, a picture or a video"),
        (["a", "  \n"], "items[1] is an empty text; give a text, a picture or a video"),
        ("", "items is an empty text; give a text, a picture or a video"),
        ([{}], "items[0] is empty; give a text, a picture or a video"),
        ([Item("x", instruction="Find it.")], "items[0] is empty; give a text, a picture or a video"),
        (["a", None], "items[1] is None; give a text, a pathlib.Path of a picture, a PIL picture, "),
        (["a", 3], "items[1] is 3; give a text, "),
        ([["a"]], "items[0] is a list; give a text, "),
        (7.5, "items is 7.5; give a text, a pathlib.Path of a picture, "),
        ({"a", "b"}, "items is a set; give a text, "),
        ([np.zeros((3, 8))], "items[0] is an array of float64, 3 x 8; a picture is of uint8, height x width, or height x width x 3"),
        ([np.zeros((3, 8, 8), np.uint8)], "items[0] is an array of uint8, 3 x 8 x 8; a picture is of uint8, "),
        (np.zeros((0, 8), np.uint8), "items is an array of uint8, 0 x 8; a picture is of uint8, "),
        (Tensor(), "items is a tensor of torch.float32, 3 x 8 x 8; a numpy array of uint8, height x width x 3, is taken; give "),
        ([{"txt": "a"}], "items[0] has a field 'txt'; a dict has some of text, image, images, video, instruction"),
        ([{"text": 3}], "items[0]: text is 3; give a text"),
        (
            [{"text": "a", "image": "cat.png"}],
            "items[0]: image is the text 'cat.png'; give a pathlib.Path, a PIL picture, a numpy array or ",
        ),
        ([{"image": DISC, "images": [DISC]}], "items[0] has both image and images; give one picture as image, or a list of them as images"),
        ([{"images": DISC}], "items[0]: images is a bytes; give a list of pictures, each a pathlib.Path, "),
        ([{"video": [DISC, None]}], "items[0]: video[1] is None; give a pathlib.Path, "),
        ([Path("/nowhere/cat.png")], "items[0] (/nowhere/cat.png): there is no such file; give the path of a picture"),
        ([Path("/")], "items[0] (/) is a folder; give the pictures in it, one by one"),
        ([b""], "items[0]: the picture has no bytes"),
        ([DISC[:100]], "items[0]: the picture is truncated or damaged"),
        ([opened(DISC[:100])], "items[0]: the picture is truncated or damaged"),
        ([b"no picture"], "items[0]: the bytes are no JPEG, PNG, WEBP or GIF picture"),
        ([{"text": "a", "image": DISC[:100]}], "items[0]: image: the picture is truncated or damaged"),
        ([Item("x", images=(DISC[:100],))], "items[0]: the picture is truncated or damaged"),
        ([Image.new("1", (5001, 5000))], "items[0]: the picture has too many pixels; scale it down"),
        ([Image.new("1", (500, 4))], "items[0]: the picture's longer side is too many times its shorter one; crop it"),
        ([Image.new("RGB", (0, 5))], "items[0] is a picture of 0 x 5 pixels; give one that has some"),
        ("caf\udce9", "items: the text has '\\udce9', half of a character, which UTF-8 has not; decode the text anew"),
        ([{"text": "a", "instruction": "\udcff"}], "items[0]: the instruction has '\\udcff', half of a character"),
        ([animation()], "items[0]: the picture is animated; send one frame"),
    ],
)
def test_what_is_no_item_is_refused_in_one_line_with_its_place(given: Any, line: str):
    with pytest.raises(Refused) as refused:
        read_items(given, "items")
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)


def test_a_file_that_is_too_large_is_not_read(tmp_path):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(10 * 2**20 + 1)
    with pytest.raises(Refused, match=r"^items\[0\] \(.*huge.png\): the picture has too many bytes; send a smaller one$"):
        read_items([tmp_path / "huge.png"], "items")


def test_the_name_of_a_picture_file_is_a_text_and_warned_of_where_there_is_such_a_file(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    with pytest.warns(
        UserWarning, match=r"query is the text 'disc.png', and there is a file of that name; give pathlib.Path\('disc.png'\)"
    ):
        assert read_item("disc.png", "query") == Item("query", "disc.png")
    assert read_item("bar.png", "query") == Item("query", "bar.png")
