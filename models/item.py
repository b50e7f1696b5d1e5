"""Item (a query or a document) and Pair, their derived Modality, and their form as Arrow rows."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Any

import pyarrow as pa


class Modality(IntFlag):
    """Bit code of what an item consists of; MAMCL's mask compares codes for equality."""

    NONE = 0
    TEXT = 1
    IMAGE = 2
    VIDEO = 4

    @property
    def words(self) -> str:
        """The code in words: "text", "text and image", ..."""
        return " and ".join(str(bit.name).lower() for bit in type(self) if self & bit) or "nothing"

    @property
    def letters(self) -> str:
        """The code as M-BEIR writes it: "t", "i", "it", "v", ..."""
        return "".join(letter for bit, letter in _LETTERS if self & bit)

    @classmethod
    def of_letters(cls, letters: str) -> "Modality":
        """The code that `letters` names; the inverse of `letters`."""
        by_letter = {letter: bit for bit, letter in _LETTERS}
        unknown = set(letters) - set(by_letter)
        if unknown or not letters:
            raise ValueError(f"modality {letters!r} is unknown; give a combination of the letters i (image), v (video) and t (text)")
        code = cls.NONE
        for letter in letters:
            code |= by_letter[letter]
        return code


_LETTERS = ((Modality.IMAGE, "i"), (Modality.VIDEO, "v"), (Modality.TEXT, "t"))


@dataclass(frozen=True, slots=True)
class Item:
    """A query or a document with any of text, images and video: a passage, a captioned picture, a clip."""

    id: str
    text: str = ""
    images: tuple[bytes, ...] = ()  # encoded pictures
    video: tuple[bytes, ...] = ()  # encoded frames, in order
    instruction: str = ""  # wording of the task; not part of the content, so it has no modality
    source: str = ""  # the file that it was read from
    line: int = 0  # and the line or row in it, from 1

    @property
    def modality(self) -> Modality:
        code = Modality.TEXT if self.text.strip() else Modality.NONE
        if self.images:
            code |= Modality.IMAGE
        if self.video:
            code |= Modality.VIDEO
        return code


def worded(item: Item, between: str = " ") -> str:
    """The words of an item: its instruction, then its text."""
    return between.join(part for part in (item.instruction.strip(), item.text.strip()) if part)


def content_hash(item: Item) -> bytes:
    """A hash of text, images and video, without id, source and instruction: equal for one document under two ids."""
    whole = hashlib.sha256()
    for kind, parts in ((b"t", (item.text.encode(),)), (b"i", item.images), (b"v", item.video)):
        for part in parts:
            whole.update(kind + len(part).to_bytes(8, "little"))
            whole.update(part)
    return whole.digest()


def encoded_hash(item: Item) -> bytes:
    """A hash of all that an encoder reads of an item: its content and its instruction. Two items with equal ones have equal vectors."""
    return hashlib.sha256(content_hash(item) + item.instruction.encode()).digest()


def content_key(item: Item) -> int:
    """The content hash as a number that a column or a tensor of 64 bits can hold."""
    return int.from_bytes(content_hash(item)[:8], "little", signed=True)


@dataclass(frozen=True, slots=True)
class Pair:
    """A query with its positive, and with hard negatives if there are any."""

    id: str
    query: Item
    positive: Item
    negatives: tuple[Item, ...] = ()

    @property
    def task(self) -> str:
        """The task family as M-BEIR names it: "t->i", "it->t", ..."""
        return f"{self.query.modality.letters}->{self.positive.modality.letters}"


ITEM_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("text", pa.large_string(), nullable=False),
        pa.field("images", pa.large_list(pa.large_binary()), nullable=False),
        pa.field("video", pa.large_list(pa.large_binary()), nullable=False),
        pa.field("instruction", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
    ]
)


def item_to_row(item: Item) -> dict[str, Any]:
    """The item as a row of `ITEM_SCHEMA`."""
    return {
        "id": item.id,
        "text": item.text,
        "images": list(item.images),
        "video": list(item.video),
        "instruction": item.instruction,
        "source": item.source,
        "line": item.line,
    }


def row_to_item(row: dict[str, Any]) -> Item:
    """The item of a row; columns beyond `ITEM_SCHEMA` are ignored."""
    return Item(
        id=row["id"],
        text=row["text"] or "",
        images=tuple(bytes(image) for image in row["images"]),
        video=tuple(bytes(frame) for frame in row["video"]),
        instruction=row["instruction"] or "",
        source=row["source"] or "",
        line=int(row["line"] or 0),
    )


def items_to_table(items: Iterable[Item]) -> pa.Table:
    return pa.Table.from_pylist([item_to_row(item) for item in items], schema=ITEM_SCHEMA)


def table_to_items(table: pa.Table) -> list[Item]:
    return [row_to_item(row) for row in table.select(ITEM_SCHEMA.names).to_pylist()]


def take_items(table: pa.Table, rows: Sequence[int]) -> list[Item]:
    """The items in the given rows of a (memory-mapped) table, in that order."""
    return table_to_items(table.take(pa.array(rows, pa.int64())))
