"""Cornell NLVR: sentences that are true of some pictures and false of others, as published or as Parquet.

    <split>/<split>.json, <split>/images/<directory>/<split>-<identifier>-<permutation>.png
                       as published: a line for each example, with sentence, label ("true" or "false"), identifier ("presentation-position")
                       and directory; its picture is there in up to six permutations of its three boxes
    <split>.parquet    the same with a row for each picture: image_name, image (PNG bytes), identifier, permutation, sentence, label

The sentence of a presentation is a query; its pictures of which it is true are the answers, the others are judged irrelevant. Both layouts
give the same rows. Where a line names no directory, or another one than its pictures are in, they are found by their names. An example with
only some of its permutations is read with these, and a notice counts the others.

The hidden split was for the leaderboard alone. Its files (a name or folder with the word "hidden") are left out with a notice, unless
the path of the source ends in that folder or file; then their split is `hidden`, which is never trained on. Files whose lines have no
labels are left out with a notice too; where the source is such a file, its lines are rejected.
"""

import posixpath
import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

from mirepoix.components.ingestion.formats.fields import columns, data_files, records
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Query, Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles, is_ending
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

NAME = "nlvr"
COLUMNS = ["image_name", "image", "identifier", "sentence", "label"]
PERMUTATIONS = 6
HIDDEN = "hidden"
LEFT = "left"  # the part of a piece that is only named in a notice
_IDENTIFIER = re.compile(r"(\d+)-\d+")
_LABELS = {True: 1, False: 0, "true": 1, "false": 0}


def detect(tree: SourceFiles) -> bool:
    return bool(_tables(tree)) or any(_is_published(columns(tree, file)) for file in data_files(tree, "json", "jsonl")[:4])


def _tables(tree: SourceFiles) -> list[str]:
    files = tree.files(r"[^/]+\.parquet")
    return files if files and set(COLUMNS) <= set(tree.schema(files[0]).names) else []


def _is_published(names: Iterable[str]) -> bool:
    """Whether a line of JSON with these keys is an example of NLVR; NLVR2, of photographs by their URLs, is another format."""
    found = set(names)
    return {"sentence", "identifier"} <= found and "left_url" not in found and bool(found & {"label", "structured_rep"})


def shards(tree: SourceFiles) -> list[Shard]:
    found: list[Shard] = []
    left: list[str] = []
    for file in _tables(tree):
        if _is_left(tree, file):
            left.append(file)
        else:
            found += tree.parquet_shards(file)
    for file in data_files(tree, "json", "jsonl"):
        if _is_published(names := columns(tree, file)):
            if _is_left(tree, file) or ("label" not in names and not tree.only):
                left.append(file)
            else:
                found += tree.shards(file)
    if left and not found:
        raise Refused(f"{tree.path!r} has only the hidden split of NLVR ({', '.join(left)}); give the path of one of its files to read it")
    return found + [Shard(file, LEFT) for file in left]


def _is_left(tree: SourceFiles, file: str) -> bool:
    """Whether a file is of the hidden split, and the path that the user gave does not say that it is meant."""
    return _is_hidden(file) and not _is_hidden(tree.path.rstrip("/").rpartition("/")[2])


def _is_hidden(path: str) -> bool:
    return HIDDEN in re.split(r"[^a-z]+", path.lower())


def named_splits(tree: SourceFiles) -> set[str]:
    """The splits that the files are of."""
    return {_split(tree, shard.file) for shard in shards(tree) if shard.part != LEFT}


def _split(tree: SourceFiles, file: str) -> str:
    return HIDDEN if _is_hidden(file) else tree.split(file)


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    source = tree.source(shard.file)
    if shard.part == LEFT:
        words = "not read, as its lines have no labels"
        if _is_hidden(shard.file):
            words = f"not read, as it is the hidden split; to read it as the split {HIDDEN!r}, give the path of this file"
        return iter([Notice(source, words)])
    split = _split(tree, shard.file)
    return _table(tree, shard, split) if is_ending(shard.file, ".parquet") else _published(tree, shard, split)


def _example(
    split: str, prefix: str, identifier: Any, sentence: Any, label: Any, pictures: dict[str, bytes], at: tuple[str, int]
) -> Iterator[Row]:
    """The rows of an example: its pictures by their names, each judged."""
    source, line = at
    relevance = _LABELS.get(label.lower() if isinstance(label, str) else label)
    if relevance is None:
        raise RowError("bad row", "the label is neither true nor false")
    if not sentence:
        raise RowError("empty side", "the sentence is empty")
    if not isinstance(identifier, str) or not (parts := _IDENTIFIER.fullmatch(identifier)):
        raise RowError("bad row", f"the identifier is {identifier!r:.80}, and not of the form 10-0")
    presentation = f"{prefix}-{parts[1]}"
    for name, data in pictures.items():
        yield Candidate(Item(name, images=(data,), source=source, line=line))
        yield Query(Item(presentation, sentence, source=source, line=line), split, "t->i", named=False)
        yield Judgement(presentation, name, relevance, source=source, line=line)


def _table(tree: SourceFiles, shard: Shard, split: str) -> Iterator[Row]:
    source, stem = tree.source(shard.file), shard.file.rpartition("/")[2].rpartition(".")[0]

    def parse(line: int, row: dict[str, Any]) -> Iterable[Row]:
        if row["label"] is None or not row["image"] or not row["image_name"]:
            raise RowError("bad row", "image_name, image or label is empty")
        pictures = {row["image_name"].removesuffix(".png"): row["image"]}
        return _example(split, stem, row["identifier"], row["sentence"], row["label"], pictures, (source, line))

    return rowwise("corpus", source, records(tree, shard, COLUMNS), parse)


def _published(tree: SourceFiles, shard: Shard, split: str) -> Iterator[Row]:
    source, found, missing = tree.source(shard.file), _Pictures(tree, shard.file), 0

    def parse(line: int, row: dict[str, Any]) -> Iterable[Row]:
        nonlocal missing
        pictures = found.of(row["identifier"], row.get("directory"))
        rows = list(_example(split, found.prefix, row["identifier"], row.get("sentence"), row.get("label"), pictures, (source, line)))
        if not pictures:
            raise RowError("missing picture", f"{found.prefix}-{row['identifier']}-0.png, or any other of its permutations")
        missing += PERMUTATIONS - len(pictures)
        return rows

    yield from rowwise("corpus", source, tree.records(shard), parse)
    if missing:
        yield Notice(source, f"{missing} pictures of its examples are not there; each example is read with those that are")


class _Pictures:
    """The pictures of a file's examples, in their permutations."""

    def __init__(self, tree: SourceFiles, file: str):
        self.tree, self.folder = tree, posixpath.dirname(file)
        word = re.match(r"[^\W\d_]+", posixpath.basename(file))
        self.prefix = word[0] if word else ""  # "hidden" of hidden_final.json

    @cached_property
    def listed(self) -> dict[str, int]:
        """The files among which pictures are: of the other folder that they are in, or of the folder of a source that is one file."""
        if self.tree.images or self.tree.only:
            return SourceFiles(self.tree.images or self.tree.given_root).sizes
        return self.tree.sizes

    @cached_property
    def by_name(self) -> dict[str, str]:
        return {path.rpartition("/")[2]: path for path in self.listed if is_ending(path, ".png")}

    def of(self, identifier: str, directory: Any) -> dict[str, bytes]:
        """The pictures of an example by their names, without the ending."""
        found = {}
        for permutation in range(PERMUTATIONS):
            name = f"{self.prefix}-{identifier}-{permutation}"
            path = posixpath.join(self.folder, "images", str(directory), f"{name}.png")
            if path not in self.listed:
                path = self.by_name.get(f"{name}.png", "")
            if path:
                found[name] = self.tree.picture(path)
        return found
