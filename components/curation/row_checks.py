"""Checks of a single row, and the features of it that it is compared with other rows by.

Rows are checked in pieces: those of a small corpus in this process, those of a large one by tasks of Ray Data.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from mirepoix.components import ray_tasks
from mirepoix.components.corpus.parts import PARTS, part_files
from mirepoix.components.corpus.text import clean, numbers, split_words
from mirepoix.components.curation.edits import EDITS_SCHEMA
from mirepoix.components.curation.row_features import FEATURES_SCHEMA, ROW
from mirepoix.components.curation.signatures import minhashes, picture_signature, sampled_pictures, shingles, sketch
from mirepoix.components.curation.text_rules import TextRules
from mirepoix.components.ray_tasks import SMALL_ROWS, data_context, one_task_per_row, stream_tables, worker_count
from mirepoix.models.item import Item, content_hash
from mirepoix.serving.pictures import PictureRefused, checked_picture
from mirepoix.serving.pictures_config import PictureLimits

CHECKED = ("corpus", "queries", "triples")
CHECK_SCHEMA = pa.schema(
    [pa.field("place", pa.int64()), *FEATURES_SCHEMA, pa.field("reason", pa.string()), pa.field("detail", pa.string()), *EDITS_SCHEMA]
)
BATCH_ROWS = 100
"""Rows that are decoded and in memory at a time."""
TASK_BYTES = 2**27
"""Most bytes that a task of several pieces reads."""


@dataclass(frozen=True)
class RowCheck:
    """Checks the pieces of a task; yields a verdict, features and edits for every row, in order.

    The rules are applied in this order, and the first that fails is the reason: the count of pictures, the text, each picture in turn.
    """

    limits: PictureLimits
    rules: TextRules
    max_pictures: int
    most_pixels: int | None

    def __call__(self, task: pa.Table) -> Iterator[pa.Table]:
        for piece in chain.from_iterable(task["pieces"].to_pylist()):
            yield from self.piece(piece)

    def piece(self, piece: dict[str, Any]) -> Iterator[pa.Table]:
        """Verdicts, features and edits of the rows of a piece, in batches."""
        place = piece["place"]
        for table in _read(piece["part"], piece["file"], piece["group"], piece["start"], piece["rows"]):
            yield self.checked(table, place)
            place += table.num_rows

    def checked(self, table: pa.Table, place: int = 0) -> pa.Table:
        """Verdicts, features and edits of a table's rows; `place` is the number of the first row among all."""
        rows, shingles_of_rows = [], []
        for number, row in enumerate(table.to_pylist(), place):
            fact, shingled = self._row(row)
            rows.append({"place": number, **fact})
            shingles_of_rows.append(shingled)
        alone = [(row, shingled) for row, shingled in zip(rows, shingles_of_rows, strict=True) if shingled is not None]
        minhash_values = minhashes([shingled for _, shingled in alone]) if alone else ()
        for (row, _), signature in zip(alone, minhash_values, strict=True):
            row["minhash"] = signature.tobytes()
        return pa.Table.from_pylist(rows, schema=CHECK_SCHEMA)

    def _row(self, row: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray | None]:
        """Verdict, features and edits of a row, and its shingles if it is text alone."""
        text, tokens, reason = self._text(row)
        if reason is not None:
            return {**_NO_FEATURES, "reason": reason, "detail": ""}, None
        try:
            pictures_kept, signatures = self._pictures(row)
        except _RejectedPicture as broken:
            return {**_NO_FEATURES, "reason": broken.reason, "detail": broken.detail}, None
        changed: dict[str, Any] = {
            name: pictures for name, pictures in pictures_kept.items() if any(a is not b for a, b in zip(pictures, row[name], strict=True))
        }
        changed |= {name: clean(row[name]) for name in ("instruction", "answer") if row.get(name) and clean(row[name]) != row[name]}
        if text != row["text"]:
            changed["text"] = text
        hashes = shingles(tokens) if tokens else np.empty(0, np.uint64)
        kept_hashes, alone = sketch(hashes), bool(tokens) and not signatures
        features = np.zeros((), ROW)
        features["content"] = content_hash(Item("", text, tuple(pictures_kept["images"]), tuple(pictures_kept["video"])))[:16]
        digits = " ".join(numbers(text, tokens))
        features["text"] = xxhash.xxh3_64_intdigest(f"{' '.join(tokens) or text}\n{digits}".encode()) if text else 0
        features["numbers"] = xxhash.xxh3_64_intdigest(digits.encode())
        features["pictures"] = _digest(pictures_kept)
        features["tokens"], features["images"], features["frames"] = len(tokens), len(pictures_kept["images"]), len(pictures_kept["video"])
        features["sketch"], features["signatures"], features["minhash"] = len(kept_hashes), len(signatures), alone
        fields = {
            "row": features.tobytes(),
            "sketch": kept_hashes.tobytes(),
            "signatures": b"".join(signature.tobytes() for signature in signatures),
            "minhash": b"",
        }
        return {**fields, **changed}, hashes if alone else None

    def _text(self, row: dict[str, Any]) -> tuple[str, list[str], str | None]:
        text = clean(row["text"])
        if len(row["images"]) + len(row["video"]) > self.max_pictures:
            return text, [], "too many pictures"
        if row.get("answer") == "" or ("answer" in row and not clean(row["answer"])):
            return text, [], "empty answer"
        if not row["text"]:
            return text, [], None
        tokens = split_words(text)
        return text, tokens, self.rules.violation(row["text"], text, tokens)

    def _pictures(self, row: dict[str, Any]) -> tuple[dict[str, list[bytes]], list[np.ndarray]]:
        kept: dict[str, list[bytes]] = {"images": [], "video": []}
        places, place, signatures = set(sampled_pictures(len(row["images"]) + len(row["video"]))), 0, []
        for name, pictures in kept.items():
            for number, data in enumerate(row[name], 1):
                try:
                    plain, picture, extent = checked_picture(data, self.limits, self.most_pixels)
                except PictureRefused as refusal:
                    kind = "picture" if name == "images" else "frame"
                    raise _RejectedPicture(refusal.reason, f"{kind} {number} of {len(row[name])}" if len(row[name]) > 1 else "") from None
                pictures.append(plain)
                if place in places:
                    signatures.append(picture_signature(picture, extent))
                place += 1
        return kept, signatures


class _RejectedPicture(Exception):
    """A picture that is rejected: the reason, and which of several it is."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


_NO_FEATURES = {"row": np.zeros((), ROW).tobytes(), "sketch": b"", "signatures": b"", "minhash": b""}
REASONS = ("too many pictures", "empty answer")
"""Reasons of a rejected row besides those of its text and of its pictures."""


def _digest(kept: dict[str, list[bytes]]) -> int:
    whole = xxhash.xxh3_64()
    for name, pictures in kept.items():
        for data in pictures:
            whole.update(name.encode() + xxhash.xxh3_128_digest(data))
    return whole.intdigest() if any(kept.values()) else 0


# Pieces


def row_blocks(corpus: Path, rows: int) -> list[dict[str, Any]]:
    """The pieces of all parts, in order: a row group each, or a slice of one with at most `rows` rows."""
    found: list[dict[str, Any]] = []
    place = 0
    for part in CHECKED:
        for file in part_files(corpus, part):
            metadata = pq.read_metadata(file)
            for group in range(metadata.num_row_groups):
                size, group_bytes = metadata.row_group(group).num_rows, metadata.row_group(group).total_byte_size
                for start in range(0, size, rows):
                    span = {
                        "place": place + start,
                        "start": start,
                        "rows": min(rows, size - start),
                        "bytes": group_bytes * min(rows, size) // size,
                    }
                    found.append({"part": part, "file": file, "group": group, **span})
                place += size
    return found


def tasks(pieces: list[dict[str, Any]], rows: int) -> Iterator[dict[str, Any]]:
    """The pieces in groups that are worth the start-up of a task, which takes Ray Data a fifth of a second."""
    first, count, size = 0, 0, 0
    for number, piece in enumerate(pieces):
        if number > first and (count + piece["rows"] > rows or size + piece["bytes"] > TASK_BYTES):
            yield {"pieces": pieces[first:number]}
            first, count, size = number, 0, 0
        count, size = count + piece["rows"], size + piece["bytes"]
    if pieces:
        yield {"pieces": pieces[first:]}


def _read(part: str, file: str, group: int, start: int, rows: int) -> Iterator[pa.Table]:
    """The rows of a piece, in batches."""
    stop, at = start + rows, 0
    with pq.ParquetFile(file) as opened:
        columns = [name for name in ("text", "images", "video", "instruction", "answer") if name in PARTS[part].names]
        for batch in opened.iter_batches(batch_size=BATCH_ROWS, row_groups=[group], columns=columns):
            first, last = max(start - at, 0), min(stop - at, batch.num_rows)
            if first < last:
                yield pa.Table.from_batches([batch.slice(first, last - first)])
            at += batch.num_rows
            if at >= stop:
                break


def is_small(corpus: Path) -> bool:
    """Whether the rows of the corpus are checked and compared in this process, without Ray."""
    return _are_small(row_blocks(corpus, SMALL_ROWS))


def _are_small(pieces: list[dict[str, Any]]) -> bool:
    return ray_tasks.is_small(sum(piece["rows"] for piece in pieces), sum(piece["bytes"] for piece in pieces))


def checked(corpus: Path, check: RowCheck, rows: int, workers: int | None) -> Iterator[pa.Table]:
    """The checked rows of all parts in order, whatever the number of workers."""
    pieces = row_blocks(corpus, rows)
    if _are_small(pieces):
        for piece in pieces:
            yield from check.piece(piece)
        return
    from ray.data import TaskPoolStrategy

    data_context()
    work = list(tasks(pieces, rows))
    pool = TaskPoolStrategy(min(worker_count(workers), len(work)))
    yield from stream_tables(one_task_per_row(work).map_batches(check, batch_format="pyarrow", batch_size=None, compute=pool))
