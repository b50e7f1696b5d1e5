"""Items of what mteb gives to an encoder: batches of rows, as columns of texts, pictures, clips, and instructions of queries."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mirepoix.models.item import Item
from mirepoix.serving.in_process.items import LIMITS, read_item

WINDOW_ITEMS, WINDOW_BYTES = 1024, 1 << 28
"""Most items that are encoded at once, and most bytes of their pictures: among many, items of similar length are found for a batch."""


class Row(NamedTuple):
    """A row of a task: its item, None where there is nothing in it, and whether it has an instruction of its own."""

    item: Item | None
    instructed: bool


def read_batch(batch: Mapping[str, Any], place: str, start: int) -> Iterator[Row]:
    """The rows of a batch; `place` and the number of the first one are for refusals, as far as rows have no ids.

    The text of a query that has an instruction stands alone in the column `query`; in `text` mteb has put the two together.
    """
    columns = {name: batch[name] for name in ("id", "text", "query", "instruction", "image", "video") if name in batch}
    count = max((len(column) for column in columns.values()), default=0)
    for number in range(count):
        row = {name: column[number] for name, column in columns.items()}
        instruction = row.get("instruction") or ""
        text: str = (row.get("query") if instruction else row.get("text")) or ""
        fields: dict[str, Any] = {
            "text": text,
            "images": _pictures(row.get("image")),
            "video": _frames(row.get("video")),
            "instruction": instruction,
        }
        empty = not (text.strip() or fields["images"] or fields["video"])
        yield Row(None if empty else read_item(fields, f"{place} {row.get('id', start + number)}"), bool(instruction))


def _pictures(given: Any) -> list[Image.Image]:
    """The pictures of a row, of which there may be one, several or none; one that is larger than any encoder reads is made smaller."""
    pictures = [] if given is None else list(given) if isinstance(given, list | tuple) else [given]
    for number, picture in enumerate(pictures):
        if picture.width * picture.height > LIMITS.max_pixels:
            scale = (LIMITS.max_pixels / (picture.width * picture.height)) ** 0.5
            pictures[number] = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))
    return pictures


def _frames(given: Any) -> Sequence[np.ndarray]:
    """The frames of a clip that mteb has sampled: frames x colours x height x width."""
    return [] if given is None else [np.ascontiguousarray(np.moveaxis(np.asarray(frame), 0, -1)) for frame in given]


def windows(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in their order, as many together as are encoded at once."""
    window: list[Row] = []
    size = 0
    for row in rows:
        window.append(row)
        size += sum(map(len, (*row.item.images, *row.item.video))) if row.item else 0
        if len(window) == WINDOW_ITEMS or size >= WINDOW_BYTES:
            yield window
            window, size = [], 0
    if window:
        yield window
