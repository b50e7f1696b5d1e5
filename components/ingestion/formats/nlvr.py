"""Cornell NLVR as Parquet: sentences that are true of some pictures and false of others.

    <split>.parquet    image_name, image (PNG bytes), identifier ("presentation-position"), permutation, sentence, label, structured_rep

The sentence of a presentation is a query; its pictures of which it is true are the answers, the others are judged irrelevant.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.item import Item

NAME = "nlvr"
COLUMNS = ["image_name", "image", "identifier", "sentence", "label"]


def detect(tree: SourceFiles) -> bool:
    files = tree.files(r"[^/]+\.parquet")
    return bool(files) and set(COLUMNS) <= set(tree.schema(files[0]).names)


def shards(tree: SourceFiles) -> list[Shard]:
    return [shard for file in tree.files(r"[^/]+\.parquet") for shard in tree.parquet_shards(file)]


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    source, split = tree.source(shard.file), tree.split(shard.file)
    stem = shard.file.rpartition("/")[2].rpartition(".")[0]

    def parse(line: int, row: dict[str, Any]) -> Iterable[Row]:
        if not isinstance(row["label"], bool) or not row["image"] or not row["image_name"]:
            raise RowError("bad row", "image_name, image or label is empty")
        if not row["sentence"]:
            raise RowError("empty side", "the sentence is empty")
        picture = row["image_name"].removesuffix(".png")
        presentation = f"{stem}-{row['identifier'].partition('-')[0]}"
        yield Candidate(Item(picture, images=(row["image"],), source=source, line=line))
        yield Query(Item(presentation, row["sentence"], source=source, line=line), split, "t->i", named=False)
        yield Judgement(presentation, picture, int(row["label"]), source=source, line=line)

    def records() -> Iterator[tuple[int, Any]]:
        for first, table in tree.tables(shard, COLUMNS):
            yield from enumerate(table.to_pylist(), first)

    return rowwise("corpus", source, records(), parse)
