"""E-VQA and InfoSeek as PreFLMR's benchmark M2KR has them: questions about pictures, whose answers are looked for in passages.

    EVQA_data/test-*.parquet                    question_id, question, instruction, img_path, answers
    EVQA_passages/test_passages-*.parquet       passage_id, passage_content
    EVQA/<img_path>                             the pictures: inat/..., google-landmark/...
    Infoseek_data/, Infoseek_passages/          likewise
    Infoseek/<file of img_path>                 the pictures, also in Infoseek/val/

One of the two or both; each is a pool of its own where both are read. Pictures are looked for in these folders, in the source itself, and
in the same places of the folder that `images` gives. A passage is relevant if it has one of the answers, so a query has `answers` and no
judgements; the gold passages (`pos_item_ids`) and other columns are not read. Ids are EVQA:... and Infoseek:.... The split is test.
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from mirepoix.components.ingestion.formats.answer_passages import answers_of
from mirepoix.components.ingestion.formats.benchmark_files import (
    PICTURED,
    UNPACKED,
    DataSet,
    Missing,
    first_rows,
    id_in,
    missing_picture,
    picture_at,
    refuse_missing,
    with_members,
)
from mirepoix.components.ingestion.formats.fields import records, side, text_of
from mirepoix.components.ingestion.formats.rows import Candidate, Query, Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

NAME = "m2kr"
OVER = ("folder",)
ORIGIN = "hf.co/datasets/BByrneLab/multi_task_multi_modal_knowledge_retrieval_benchmark_M2KR"
PICTURES = "hf.co/datasets/BByrneLab/M2KR_Images"


class Part(NamedTuple):
    """One of the data sets."""

    dataset: str
    folders: tuple[str, ...]  # of its pictures, after img_path as it is
    base_name: bool = False  # whether only the last step of img_path counts


PARTS = {
    "EVQA": Part("E-VQA", ("EVQA",)),
    "Infoseek": Part("InfoSeek", ("Infoseek", "Infoseek/val", "Infoseek/infoseek_val_images"), base_name=True),
}
COLUMNS = {
    "data": ["question_id", "question", "img_path", "answers"],
    "passages": ["passage_id", "passage_content"],
}
INSTRUCTION = "instruction"


def _pattern(name: str, kind: str) -> str:
    return rf"(?:.*/)?{name}_{kind}/test{'_passages' if kind == 'passages' else ''}(?:[-_.][^/]*|/[^/]+)?\.parquet"


def detect(tree: SourceFiles) -> bool:
    return bool(tree.files(*(_pattern(name, "data") for name in PARTS)))


def named_splits(tree: SourceFiles) -> set[str]:
    return {"test"}


def datasets(tree: SourceFiles) -> list[DataSet]:
    return [DataSet(name, PARTS[name].dataset, modality=PICTURED) for name in _present(tree)]


def missing(tree: SourceFiles) -> list[Missing]:
    names = _read(tree)
    if not names:
        wanted = [name for name in PARTS if tree.reads_dataset(name, PARTS[name].dataset)]
        return [Missing(" or ".join(_wanted(name, "data") for name in wanted), ORIGIN)]
    found = [Missing(_wanted(name, kind), ORIGIN) for name in names for kind in COLUMNS if not tree.files(_pattern(name, kind))]
    for name in names:
        rows = [row for file in tree.files(_pattern(name, "data"))[:1] for row in first_rows(tree, file)]
        paths = [row.get("img_path") for row in rows]
        if first := missing_picture(tree, (_places(PARTS[name], path) for path in paths if isinstance(path, str) and path)):
            found.append(Missing(f"the pictures of {PARTS[name].dataset}, such as {first}", PICTURES, UNPACKED))
    return found


def shards(tree: SourceFiles) -> list[Shard]:
    refuse_missing(tree, NAME, missing(tree))
    pieces: list[Shard] = []
    for name in _read(tree):
        for kind in ("passages", "data"):
            for file in tree.files(_pattern(name, kind)):
                names = tree.schema(file).names
                if absent := [column for column in COLUMNS[kind] if column not in names]:
                    raise Refused(
                        f"{tree.source(file)} has no column {', '.join(absent)}; it has {', '.join(names)}; download it from {ORIGIN}"
                    )
                pieces += tree.parquet_shards(file, f"{kind} {name}")
    return pieces


def _present(tree: SourceFiles) -> list[str]:
    """The names of the data sets of which there is a file."""
    return [name for name in PARTS if tree.files(_pattern(name, "data"), _pattern(name, "passages"))]


def _read(tree: SourceFiles) -> list[str]:
    """The names of the data sets that are read."""
    return [name for name in _present(tree) if tree.reads_dataset(name, PARTS[name].dataset)]


def _wanted(name: str, kind: str) -> str:
    return f"{name}_{kind}/test{'_passages' if kind == 'passages' else ''}-*.parquet"


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    kind, _, name = shard.part.partition(" ")
    pool, source = name if len(_read(tree)) > 1 else "", tree.source(shard.file)

    def passage(line: int, row: dict[str, Any]) -> list[Row]:
        text = side(text_of(row["passage_content"]), what="passage_content").text
        return [Candidate(Item(id_in(name, row["passage_id"]), text, source=source, line=line))]

    def question(line: int, row: dict[str, Any]) -> list[Row]:
        images = (picture_at(tree, *_places(PARTS[name], text_of(row["img_path"]))),)
        text = text_of(row["question"])
        if not text:
            raise RowError("empty side", "the question is empty")
        wording = re.sub(r"\s+", " ", text_of(row.get(INSTRUCTION))).strip()
        item = Item(id_in(name, row["question_id"]), text, images, instruction=wording, source=source, line=line)
        return [Query(item, "test", "it->t", dataset=PARTS[name].dataset, pool=pool, answers=answers_of(row["answers"]))]

    columns = COLUMNS[kind] + [column for column in tree.schema(shard.file).names if kind == "data" and column == INSTRUCTION]

    if kind == "data":
        return rowwise("queries", source, records(tree, shard, columns), question)
    return with_members(pool, rowwise("corpus", source, records(tree, shard, columns), passage))


def _places(part: Part, path: str) -> list[str]:
    """Where a picture may lie, in the order of looking; RowError if the row names none."""
    if not path:
        raise RowError("missing picture", "img_path is empty")
    name = path.rpartition("/")[2] if part.base_name else path
    return [f"{folder}/{name}" for folder in part.folders] + list(dict.fromkeys([path, name]))
