"""Small corpora of the tests of `validate` and `convert`."""

import io
import json
import random

from PIL import Image


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def picture(seed, side=48):
    rng = random.Random(seed)
    buffer = io.BytesIO()
    Image.frombytes("RGB", (side, side), rng.randbytes(3 * side * side)).save(buffer, "PNG")
    return buffer.getvalue()


TEXTS = {
    "a": "The lighthouse keeper counts ships.",
    "b": "Rain falls on the harbour.",
    "c": "An old clock strikes.",
    "d": "Bread is baked.",
}
