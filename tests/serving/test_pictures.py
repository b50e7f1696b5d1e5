"""Untrusted pictures: limits come before decoding, accepted ones are upright RGB, and refusals have fixed wordings."""

import pickle
import struct
import subprocess
import sys
import zlib
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirepoix.models.errors import Refused
from mirepoix.serving.pictures import LOOK, REASONS, PictureRefused, check_picture, checked_picture, encoded, plain_picture, read_picture
from mirepoix.serving.pictures_config import PictureLimits

LIMITS = PictureLimits()


def saved(picture: Image.Image, form: str, **options) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


def gradient(width: int = 40, height: int = 24) -> Image.Image:
    rows = np.linspace(0, 255, height)[:, None, None]
    columns = np.linspace(0, 255, width)[None, :, None]
    return Image.fromarray(np.concatenate([rows + 0 * columns, columns + 0 * rows, 128 + 0 * (rows + columns)], axis=2).astype(np.uint8))


def png_claiming(width: int, height: int, body: bytes = b"") -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def reason_of(data: bytes, limits: PictureLimits = LIMITS) -> str:
    with pytest.raises(PictureRefused) as refused:
        read_picture(data, limits)
    return refused.value.reason


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_every_format_that_is_taken_comes_out_as_rgb_of_its_size(form):
    data = saved(gradient(), form)
    picture = read_picture(data, LIMITS)
    assert (picture.mode, picture.size) == ("RGB", (40, 24))
    assert check_picture(data, LIMITS) == (form, 40, 24)


@pytest.mark.parametrize("form", ["BMP", "TIFF", "PPM", "ICO"])
def test_other_formats_are_refused_even_if_the_library_could_read_them(form):
    assert reason_of(saved(gradient(), form)) == "unknown format"


@pytest.mark.parametrize("data", [b"\x00" * 64, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"GIF88a" + b"\x00" * 20, b"R"])
def test_what_is_no_picture_is_refused(data):
    assert reason_of(data) == "unknown format"


def test_no_bytes_are_refused():
    assert reason_of(b"") == "empty"


def test_bytes_are_counted_before_anything_is_read():
    assert reason_of(b"\x00" * 101, PictureLimits(max_bytes=100)) == "too many bytes"


@pytest.mark.parametrize("side", [6_000, 10_000, 13_000, 65_000])
def test_a_header_that_claims_too_many_pixels_is_refused_without_decoding(side):
    assert reason_of(png_claiming(side, side)) == "too many pixels"


def test_a_picture_at_the_limit_is_taken_and_one_pixel_more_is_not():
    data = saved(gradient(), "PNG")
    assert read_picture(data, PictureLimits(max_pixels=40 * 24)).size == (40, 24)
    assert reason_of(data, PictureLimits(max_pixels=40 * 24 - 1)) == "too many pixels"


def test_a_strip_is_refused():
    assert read_picture(saved(Image.new("RGB", (1000, 10)), "PNG"), LIMITS).size == (1000, 10)
    assert reason_of(saved(Image.new("RGB", (1001, 10)), "PNG")) == "too thin"


def test_many_pixels_print_no_warning_of_the_library():
    code = (
        "import sys\n"
        "from mirepoix.serving.pictures import PictureLimits, check_picture\n"
        "print(check_picture(sys.stdin.buffer.read(), PictureLimits(max_pixels=1 << 30))[1:])\n"
    )
    picture = saved(Image.new("1", (10_000, 10_000)), "PNG")
    done = subprocess.run([sys.executable, "-c", code], input=picture, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"(10000, 10000)\n", b"")


def test_a_bomb_costs_no_memory():
    probe = (
        "import resource, sys\n"
        "from mirepoix.serving.pictures import PictureLimits, PictureRefused, read_picture\n"
        "data = sys.stdin.buffer.read()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try:\n"
        "    read_picture(data, PictureLimits())\n"
        "except PictureRefused as refused:\n"
        "    print(refused.reason, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    bomb = png_claiming(13_000, 13_000, b"\x00" * (13_000 * 3 + 1) * 200)
    done = subprocess.run([sys.executable, "-c", probe], input=bomb, capture_output=True, check=True)
    reason, grown = done.stdout.decode().rsplit(" ", 1)
    assert reason == "too many pixels" and int(grown) < 20


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_a_truncated_picture_is_refused(form, part):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    data = saved(noise, form)
    assert reason_of(data[: int(len(data) * part)]) == "damaged"


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animated_picture_is_refused_by_name(form):
    frames = [gradient(), gradient().rotate(180)]
    data = saved(frames[0], form, save_all=True, append_images=frames[1:], duration=50)
    assert reason_of(data) == "animated"


def test_a_png_whose_pixels_are_fewer_than_its_header_claims_is_refused():
    assert reason_of(png_claiming(100, 100, b"\x00" * 50)) == "damaged"


def test_cmyk_becomes_rgb_of_the_same_look():
    picture = read_picture(saved(Image.new("RGB", (16, 16), (200, 30, 30)).convert("CMYK"), "JPEG"), LIMITS)
    red, green, blue = picture.getpixel((8, 8))
    assert picture.mode == "RGB" and red > 150 and green < 80 and blue < 80


def test_a_sideways_photograph_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(gradient(40, 24), "JPEG", exif=exif, quality=95)
    upright = read_picture(data, LIMITS)
    assert upright.size == (24, 40)
    assert np.abs(np.asarray(upright, int) - np.asarray(gradient().rotate(-90, expand=True), int)).mean() < 6


def test_sixteen_bit_grey_keeps_its_greys():
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (4, 1))
    picture = read_picture(saved(Image.fromarray(ramp), "PNG"), LIMITS)
    assert picture.mode == "RGB"
    assert np.abs(np.asarray(picture)[0, :, 0].astype(int) - np.arange(256)).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_lies_on_white(mode):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0)).convert(mode)
    assert read_picture(saved(clear, "PNG"), LIMITS).getpixel((4, 4)) == (255, 255, 255)


def test_a_palette_with_a_transparent_colour_lies_on_white():
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    assert read_picture(saved(palette, "PNG", transparency=0), LIMITS).getpixel((4, 4)) == (255, 255, 255)
    assert read_picture(saved(palette, "PNG"), LIMITS).getpixel((4, 4)) == (0, 0, 0)


def test_bits_become_black_and_white():
    bits = Image.new("1", (8, 8), 1)
    assert read_picture(saved(bits, "PNG"), LIMITS).getpixel((0, 0)) == (255, 255, 255)


def test_a_plain_picture_passes_untouched_and_any_other_as_an_equal_png():
    plain = saved(gradient(), "JPEG")
    assert plain_picture(plain, LIMITS) is plain
    exif = Image.Exif()
    exif[0x0112] = 8
    for data in (saved(gradient(), "JPEG", exif=exif), saved(gradient().convert("CMYK"), "JPEG"), saved(gradient().convert("RGBA"), "PNG")):
        made = plain_picture(data, LIMITS)
        assert made.startswith(b"\x89PNG")
        assert np.array_equal(np.asarray(Image.open(BytesIO(made))), np.asarray(read_picture(data, LIMITS)))


@pytest.mark.parametrize("size", [(700, 525), (1030, 517), (90, 60), (3000, 70)])
def test_a_look_at_a_jpeg_shows_all_of_it_in_fewer_pixels_if_it_has_many(size):
    data = saved(gradient(*size), "JPEG", quality=95)
    _, look, (width, height) = checked_picture(data, LIMITS)
    assert min(look.size) >= min(LOOK, *size)
    assert look.size[0] - 1 < width <= look.size[0] and look.size[1] - 1 < height <= look.size[1]
    assert abs(width / height - size[0] / size[1]) < 1e-6 * size[0]
    whole = read_picture(data, LIMITS).resize((16, 16), Image.Resampling.BILINEAR)
    shown = look.resize((16, 16), Image.Resampling.BILINEAR, box=(0, 0, width, height))
    assert np.abs(np.asarray(whole, int) - np.asarray(shown, int)).max() <= 4


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_rows": 1}])
def test_a_jpeg_that_is_looked_at_coarsely_is_refused_wherever_it_is_cut_as_one_that_is_drawn_whole(options):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 400, 3), dtype=np.uint8))
    data = saved(noise, "JPEG", **options)

    def refusal(check, cut):
        try:
            check(data[:cut], LIMITS)
        except PictureRefused as refused:
            return refused.reason
        return None

    for cut in (3, 100, 400, 620, 700, *range(1000, len(data), len(data) // 40), len(data) - 3, len(data) - 2, len(data)):
        assert refusal(checked_picture, cut) == refusal(read_picture, cut), cut


@pytest.mark.parametrize(("form", "kept"), [("JPEG", "JPEG"), ("PNG", "PNG"), ("WEBP", "PNG"), ("GIF", "PNG")])
def test_a_picture_above_a_budget_of_pixels_is_scaled_down_and_looks_the_same(form, kept):
    data = saved(gradient(400, 300), form)
    made, look, extent = checked_picture(data, LIMITS, 30_000)
    picture = Image.open(BytesIO(made))
    assert (picture.format, picture.mode) == (kept, "RGB")
    assert picture.size == look.size == extent == (200, 150)
    whole = read_picture(data, LIMITS).resize((20, 15))
    assert np.abs(np.asarray(whole, int) - np.asarray(picture.resize((20, 15)), int)).max() <= 12
    assert checked_picture(data, LIMITS, 120_000).data == plain_picture(data, LIMITS)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_an_encoded_picture_carries_nothing_but_pixels(form):
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    picture = Image.open(BytesIO(saved(gradient(), "JPEG", exif=exif, comment=b"secret", icc_profile=b"mine", dpi=(123, 123))))
    picture.load()
    assert {"exif", "comment", "icc_profile", "dpi"} <= set(picture.info)
    bare = Image.frombytes("RGB", picture.size, picture.tobytes())
    assert encoded(picture, form) == saved(bare, form)
    assert picture.info["comment"] == b"secret", "the picture itself keeps what it has"


def test_a_picture_with_transparency_is_turned_upright_when_it_is_scaled_too():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(gradient(400, 300).convert("RGBA"), "PNG", exif=exif)
    assert Image.open(BytesIO(checked_picture(data, LIMITS, 30_000).data)).size == (150, 200)


def test_the_refusal_pickles_and_speaks_in_one_fixed_line():
    for reason, line in REASONS.items():
        refused = pickle.loads(pickle.dumps(PictureRefused(reason)))
        assert (refused.reason, str(refused)) == (reason, line) and "\n" not in line
        assert isinstance(refused, Refused)


def test_limits_that_allow_nothing_are_refused():
    with pytest.raises(Refused, match="max_pixels"):
        PictureLimits(max_pixels=0)


SEEDS = [saved(gradient(), form) for form in ("JPEG", "PNG", "WEBP", "GIF")]


@settings(max_examples=150, deadline=None)
@given(
    seed=st.sampled_from(SEEDS), cut=st.integers(0, 2000), flips=st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 255)), max_size=6)
)
def test_any_bytes_give_a_picture_or_a_fixed_reason(seed, cut, flips):
    data = bytearray(seed[: len(seed) - cut] if cut < 400 else seed)
    for place, mask in flips:
        if data:
            data[place % len(data)] ^= mask
    try:
        assert read_picture(bytes(data), LIMITS).mode == "RGB"
    except PictureRefused as refused:
        assert refused.reason in REASONS and refused.__cause__ is None
