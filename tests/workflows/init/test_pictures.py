"""The pictures of a folder are counted, and what would be rejected is named."""

from io import BytesIO

from PIL import Image

from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.workflows.init.pictures import look_at_pictures
from tests.components.ingestion.formats.format_cases import write_files


def picture(width: int, height: int, kind: str = "JPEG") -> bytes:
    buffer = BytesIO()
    Image.effect_noise((width, height), 60).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def test_they_are_counted_measured_and_checked(tmp_path):
    whole = picture(80, 60)
    files = {"a.jpg": whole, "x/b.JPG": picture(40, 30), "x/y/c.png": picture(400, 300, "PNG"), "cut.jpg": whole[: len(whole) // 2]}
    write_files(tmp_path, {**files, "empty.png": b"", "d.heic": b"x", "e.HEIC": b"x", "f.tif": picture(8, 8, "TIFF"), "notes.txt": "x"})
    found = look_at_pictures(SourceFiles(str(tmp_path)))
    assert (found.count, found.folders, found.looked) == (6, 2, 5)
    assert (found.usual, found.largest) == ("80 x 60", "400 x 300") and found.megapixels == 0.0048
    assert found.refused == (("cut.jpg", "damaged"), ("empty.png", "empty"))
    assert [(ending, count) for ending, count, _ in found.unread] == [("heic", 2), ("tif", 1)]
    assert found.bytes == sum(len(content) for name, content in files.items()) + len(picture(8, 8, "TIFF"))
    assert found.usable == 3 and 0 < found.seconds < 1


def test_a_picture_whose_header_is_longer_than_what_is_read_of_it_is_not_taken_for_damaged(tmp_path):
    buffer = BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG", comment=b"x" * 60_000)
    data = buffer.getvalue()
    (tmp_path / "a.jpg").write_bytes(data[:2] + data[2 : 2 + 60_006] * 6 + data[2:])
    found = look_at_pictures(SourceFiles(str(tmp_path)))
    assert found.refused == () and found.looked == 1


def test_a_folder_without_pictures_has_none(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    assert look_at_pictures(SourceFiles(str(tmp_path))).count == 0


def test_a_damaged_picture_is_not_the_largest(tmp_path):
    write_files(tmp_path, {"a.jpg": picture(80, 60), "b.jpg": picture(400, 300)[:-200]})
    found = look_at_pictures(SourceFiles(str(tmp_path)))
    assert found.refused == (("b.jpg", "damaged"),) and found.largest == "80 x 60"
