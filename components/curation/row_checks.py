"""The rules that look at one row alone, and what of the row is noted to compare it with all others; done by Ray Data, piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
import xxhash

from mirepoix.components.corpus.parts import PARTS, part_files
from mirepoix.components.corpus.text import TextRules, clean, numbers, split_words
from mirepoix.components.curation.edits import CHANGES_SCHEMA
from mirepoix.components.curation.row_features import FACTS_SCHEMA, ROW
from mirepoix.components.curation.signatures import looked_at, minhashes, picture_signature, shingles, sketch
from mirepoix.components.ray_tasks import one_task_per_row, stream_tables, worker_count
from mirepoix.models.item import Item, content_hash
from mirepoix.serving.pictures import PictureLimits, PictureRefused, checked_picture

CHECKED = ("corpus", "queries", "triples")
CHECK_SCHEMA = pa.schema(
    [pa.field("place", pa.int64()), *FACTS_SCHEMA, pa.field("reason", pa.string()), pa.field("detail", pa.string()), *CHANGES_SCHEMA]
)
AT_ONCE = 100
"""Rows of a piece that are in memory decoded and changed."""
TASK_BYTES = 2**27
"""What a task reads in all, if it is of more than one piece."""


@dataclass(frozen=True)
class RowCheck:
    """Checks the pieces of a task: what stands where in, facts and changes of each row out; every row comes out, in its order.

    The rules strike in this order, and the first is the reason: the count of pictures, those of the text, those of each picture in turn.
    """

    limits: PictureLimits
    rules: TextRules
    max_pictures: int
    most_pixels: int | None

    def __call__(self, task: pa.Table) -> Iterator[pa.Table]:
        for piece in chain.from_iterable(task["pieces"].to_pylist()):
            place = piece["place"]
            for table in _read(piece["part"], piece["file"], piece["group"], piece["start"], piece["rows"]):
                yield self.checked(table, place)
                place += table.num_rows

    def checked(self, table: pa.Table, place: int = 0) -> pa.Table:
        """The facts and changes of a table's rows, the first of which stands in the given place among all."""
        rows, told = [], []
        for number, row in enumerate(table.to_pylist(), place):
            fact, shingled = self._row(row)
            rows.append({"place": number, **fact})
            told.append(shingled)
        alone = [(row, shingled) for row, shingled in zip(rows, told, strict=True) if shingled is not None]
        signatures = minhashes([shingled for _, shingled in alone]) if alone else ()
        for (row, _), signature in zip(alone, signatures, strict=True):
            row["minhash"] = signature.tobytes()
        return pa.Table.from_pylist(rows, schema=CHECK_SCHEMA)

    def _row(self, row: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
        """What becomes of a row, and its shingles where it is of text alone."""
        text, tokens, reason = self._text(row)
        if reason is not None:
            return {**_NOTHING, "reason": reason, "detail": ""}, None
        try:
            kept, looks = self._pictures(row)
        except _Broken as broken:
            return {**_NOTHING, "reason": broken.reason, "detail": broken.detail}, None
        changed: dict[str, Any] = {
            name: pictures for name, pictures in kept.items() if any(a is not b for a, b in zip(pictures, row[name], strict=True))
        }
        changed |= {name: clean(row[name]) for name in ("instruction", "answer") if row.get(name) and clean(row[name]) != row[name]}
        if text != row["text"]:
            changed["text"] = text
        cut = shingles(tokens) if tokens else np.empty(0, np.uint64)
        held, alone = sketch(cut), bool(tokens) and not looks
        fact = np.zeros((), ROW)
        fact["content"] = content_hash(Item("", text, tuple(kept["images"]), tuple(kept["video"])))[:16]
        told = " ".join(numbers(text, tokens))
        fact["text"] = xxhash.xxh3_64_intdigest(f"{' '.join(tokens) or text}\n{told}".encode()) if text else 0
        fact["numbers"] = xxhash.xxh3_64_intdigest(told.encode())
        fact["pictures"] = _digest(kept)
        fact["tokens"], fact["images"], fact["frames"] = len(tokens), len(kept["images"]), len(kept["video"])
        fact["sketch"], fact["looks"], fact["minhash"] = len(held), len(looks), alone
        made = {"row": fact.tobytes(), "sketch": held.tobytes(), "looks": b"".join(seen.tobytes() for seen in looks), "minhash": b""}
        return {**made, **changed}, cut if alone else None

    def _text(self, row: dict[str, Any]) -> tuple[str, list[str], str | None]:
        text = clean(row["text"])
        if len(row["images"]) + len(row["video"]) > self.max_pictures:
            return text, [], "too many pictures"
        if row.get("answer") == "" or ("answer" in row and not clean(row["answer"])):
            return text, [], "empty answer"
        if not row["text"]:
            return text, [], None
        tokens = split_words(text)
        return text, tokens, self.rules.fault(row["text"], text, tokens)

    def _pictures(self, row: dict[str, Any]) -> tuple[dict[str, list[bytes]], list[np.ndarray]]:
        kept: dict[str, list[bytes]] = {"images": [], "video": []}
        places, place, looks = set(looked_at(len(row["images"]) + len(row["video"]))), 0, []
        for name, pictures in kept.items():
            for number, data in enumerate(row[name], 1):
                try:
                    plain, picture, extent = checked_picture(data, self.limits, self.most_pixels)
                except PictureRefused as refusal:
                    kind = "picture" if name == "images" else "frame"
                    raise _Broken(refusal.reason, f"{kind} {number} of {len(row[name])}" if len(row[name]) > 1 else "") from None
                pictures.append(plain)
                if place in places:
                    looks.append(picture_signature(picture, extent))
                place += 1
        return kept, looks


class _Broken(Exception):
    """Why a picture cannot be kept, and which of several."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


_NOTHING = {"row": np.zeros((), ROW).tobytes(), "sketch": b"", "looks": b"", "minhash": b""}
REASONS = ("too many pictures", "empty answer")
"""Why a row may go besides what its text and its pictures break."""


def _digest(kept: dict[str, list[bytes]]) -> int:
    whole = xxhash.xxh3_64()
    for name, pictures in kept.items():
        for data in pictures:
            whole.update(name.encode() + xxhash.xxh3_128_digest(data))
    return whole.intdigest() if any(kept.values()) else 0


# Pieces


def row_blocks(corpus: Path, rows: int) -> list[dict[str, Any]]:
    """Where the rows of all parts stand, in their order: row groups, or parts of one with at most so many rows."""
    found: list[dict[str, Any]] = []
    place = 0
    for part in CHECKED:
        for file in part_files(corpus, part):
            metadata = pq.read_metadata(file)
            for group in range(metadata.num_row_groups):
                size, held = metadata.row_group(group).num_rows, metadata.row_group(group).total_byte_size
                for start in range(0, size, rows):
                    here = {
                        "place": place + start,
                        "start": start,
                        "rows": min(rows, size - start),
                        "bytes": held * min(rows, size) // size,
                    }
                    found.append({"part": part, "file": file, "group": group, **here})
                place += size
    return found


def tasks(pieces: list[dict[str, Any]], rows: int) -> Iterator[dict[str, Any]]:
    """As many pieces at a time as are worth a task's start, which costs Ray Data a fifth of a second."""
    first, held, size = 0, 0, 0
    for number, piece in enumerate(pieces):
        if number > first and (held + piece["rows"] > rows or size + piece["bytes"] > TASK_BYTES):
            yield {"pieces": pieces[first:number]}
            first, held, size = number, 0, 0
        held, size = held + piece["rows"], size + piece["bytes"]
    if pieces:
        yield {"pieces": pieces[first:]}


def _read(part: str, file: str, group: int, start: int, rows: int) -> Iterator[pa.Table]:
    """The rows of a piece, some at a time."""
    stop, at = start + rows, 0
    with pq.ParquetFile(file) as opened:
        columns = [name for name in ("text", "images", "video", "instruction", "answer") if name in PARTS[part].names]
        for batch in opened.iter_batches(batch_size=AT_ONCE, row_groups=[group], columns=columns):
            first, last = max(start - at, 0), min(stop - at, batch.num_rows)
            if first < last:
                yield pa.Table.from_batches([batch.slice(first, last - first)])
            at += batch.num_rows
            if at >= stop:
                break


def checked(corpus: Path, check: RowCheck, rows: int, workers: int | None) -> Iterator[pa.Table]:
    """What the check says of each row of all parts, in their order, however many workers check them."""
    data = ray.data.DataContext.get_current()
    data.execution_options.preserve_order = True
    data.enable_progress_bars = False
    if work := list(tasks(row_blocks(corpus, rows), rows)):
        crowd = ray.data.TaskPoolStrategy(min(worker_count(workers), len(work)))
        yield from stream_tables(one_task_per_row(work).map_batches(check, batch_format="pyarrow", batch_size=None, compute=crowd))
