"""Data sets of page pictures in BEIR's three parts as Parquet, each in a folder of its own, as ViDoRe, VisRAG and MMEB-V2 publish them.

    corpus/SPLIT-00000-of-00002.parquet     corpus-id, image: the pages
    queries/SPLIT-00000-of-00001.parquet    query-id, query
    qrels/SPLIT-00000-of-00001.parquet      query-id, corpus-id, score: grades, 0 is judged irrelevant

The columns of ids may also be written with "_", the files as corpus/SPLIT/0000.parquet. Other columns (languages, answers, boxes) are not
read. Ids get the name of the folder as a prefix. Of a pair that is judged several times the highest grade counts, and of a grade 1.0 is 1.
"""

import re
from collections.abc import Iterator
from typing import Any

from mirepoix.components.ingestion.formats.benchmark_files import Missing, id_in
from mirepoix.components.ingestion.formats.fields import picture, records, side, text_of
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

PARTS = ("corpus", "queries", "qrels")
CORPUS_ID, QUERY_ID = ("corpus-id", "corpus_id"), ("query-id", "query_id")
COLUMNS = {"corpus": (CORPUS_ID, ("image",)), "queries": (QUERY_ID, ("query",)), "qrels": (QUERY_ID, CORPUS_ID, ("score",))}


def files_of(tree: SourceFiles, split: str) -> dict[str, dict[str, list[str]]]:
    """The files of each folder that has one of the three parts, by folder and part; "" is the folder of the source."""
    pattern = rf"(?:(?P<folder>.+)/)?(?P<part>{'|'.join(PARTS)})/{split}(?:[-_.][^/]*|/[^/]+)?\.parquet"
    found: dict[str, dict[str, list[str]]] = {}
    for file in tree.files(pattern):
        match = re.fullmatch(pattern, file, re.I)
        assert match is not None, file
        found.setdefault(match["folder"] or "", {}).setdefault(match["part"], []).append(file)
    return found


def missing_parts(folder: str, parts: dict[str, list[str]], origin: str) -> list[Missing]:
    """The parts that a data set lacks."""
    below = f"{folder}/" if folder else ""
    return [Missing(f"{below}{part}/*.parquet", origin) for part in PARTS if not parts.get(part)]


def shards_of(tree: SourceFiles, name: str, folder: str, parts: dict[str, list[str]]) -> list[Shard]:
    """The pieces of one data set that has all parts, each with "PART FOLDER" as its part; Refused if a column is missing."""
    pieces: list[Shard] = []
    for part in PARTS:
        for file in parts[part]:
            names = tree.schema(file).names
            if missing := [known[0] for known in COLUMNS[part] if not set(known) & set(names)]:
                raise Refused(f"{tree.source(file)} has no column {', '.join(missing)}; it has {', '.join(names)}; give {name}'s own files")
            named = f"{part} {folder}"
            pieces += [Shard(file, named)] if part == "qrels" else tree.parquet_shards(file, named)
    return pieces


def folder_of(shard: Shard) -> str:
    """The folder of the data set that a piece is of."""
    return shard.part.partition(" ")[2]


def key_of(tree: SourceFiles, folder: str) -> str:
    """The name of a data set in ids: its folder; that of the source itself is the source's last step."""
    return re.sub(r"\s+", "_", folder or tree.root.rpartition("/")[2] or tree.name)


def read_piece(
    tree: SourceFiles, shard: Shard, dataset: str, pool: str = "", split: str = "test", instructions: tuple[str, str] = ("", "")
) -> Iterator[Row]:
    """The rows of a piece; `instructions` are those of queries and of candidates."""
    part, key, source = shard.part.partition(" ")[0], key_of(tree, folder_of(shard)), tree.source(shard.file)
    if part == "qrels":
        return _judgements(tree, shard, key, source)

    def page(line: int, row: dict[str, Any]) -> list[Row]:
        if row["image"] is None:
            raise RowError("missing picture", "the cell is empty")
        id = id_in(key, _cell(row, CORPUS_ID))
        return [Candidate(Item(id, images=(picture(tree, row["image"]),), instruction=instructions[1], source=source, line=line))]

    def query(line: int, row: dict[str, Any]) -> list[Row]:
        text = side(text_of(row["query"]), what="query").text
        item = Item(id_in(key, _cell(row, QUERY_ID)), text, instruction=instructions[0], source=source, line=line)
        return [Query(item, split, dataset=dataset, pool=pool)]

    return rowwise(part, source, _records(tree, shard, part), page if part == "corpus" else query)


def _records(tree: SourceFiles, shard: Shard, part: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a piece with the columns that are read."""
    present = set(tree.schema(shard.file).names)
    columns = [next(name for name in known if name in present) for known in COLUMNS[part]]
    yield from records(tree, shard, columns)


def _cell(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if name in row), None)


def _judgements(tree: SourceFiles, shard: Shard, key: str, source: str) -> Iterator[Row]:
    """The judgements of a file, once for each pair, in the order of their first rows; rejected rows come before them."""
    grades: dict[tuple[str, str], tuple[int, int]] = {}

    def grade(line: int, row: dict[str, Any]) -> list[Row]:
        score = row["score"]
        if isinstance(score, bool) or not isinstance(score, (int, float)) or score != int(score):
            raise RowError("bad row", f"the score is {score!r:.80} and no whole number")
        pair = id_in(key, _cell(row, QUERY_ID)), id_in(key, _cell(row, CORPUS_ID))
        grades[pair] = max(grades.get(pair, (int(score), line)), (int(score), line), key=lambda found: found[0])
        return []

    yield from rowwise("qrels", source, _records(tree, shard, "qrels"), grade)
    for (query, page), (score, line) in grades.items():
        yield Judgement(query, page, score, source=source, line=line)
