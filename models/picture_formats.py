"""The format of an encoded picture, by its first bytes, and the endings of picture files."""

PICTURE_ENDINGS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
"""The endings of the names of picture files."""
_MAGIC = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*"),
}


def picture_format(data: bytes) -> str:
    """The format as Pillow calls it: JPEG, PNG, WEBP, GIF, BMP or TIFF; empty for any other bytes."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    return next((name for name, starts in _MAGIC.items() if data.startswith(starts)), "")
