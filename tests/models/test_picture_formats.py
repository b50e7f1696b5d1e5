"""Picture formats are recognised by the first bytes."""

from io import BytesIO

import pytest
from PIL import Image

from mirepoix.models.picture_formats import picture_format


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_each_format_is_named_as_pillow_names_it(form):
    file = BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, form)
    assert picture_format(file.getvalue()) == Image.open(file).format == form


@pytest.mark.parametrize("data", [b"", b"\x89PNG", b"GIF88a", b"RIFF\0\0\0\0WAVE", b"<svg/>"])
def test_other_bytes_have_no_format(data):
    assert picture_format(data) == ""
