"""ViDoRe, versions 1 to 3: pages as pictures, and questions that pages answer; one data set, or a folder with any number of them.

    DATASET/{corpus,queries,qrels}/test-*.parquet   versions 2 and 3, and version 1 as `*_beir`; see beir_parquet.py
    DATASET/data/test-*.parquet                     version 1: query, image; a row for each question, and without a question for a page

In version 1 equal pages are one candidate and equal questions one query, for which all pages of its rows are relevant: so its own
conversion to the other form has it. Columns apart from these are not read. Each data set is a pool of its own where several are read.
The names of data sets that are not of ViDoRe are those of their folders. The split is test.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from mirepoix.components.ingestion.formats import beir_parquet
from mirepoix.components.ingestion.formats.beir_parquet import key_of
from mirepoix.components.ingestion.formats.benchmark_files import PICTURED, DataSet, Missing, refuse_missing, with_members
from mirepoix.components.ingestion.formats.fields import picture, records, text_of
from mirepoix.components.ingestion.formats.rows import Judgement, Query, Row, RowError, rowwise, unnamed_candidate
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

NAME = "vidore"
OVER = ("hf-images", "sentence-transformers")
SPLIT = "test"
PAGES = rf"(?:(?P<folder>.+)/)?(?:data|default)/{SPLIT}(?:[-_.][^/]*|/[^/]+)?\.parquet"
COLUMNS = ["query", "image"]
ORIGIN = "hf.co/vidore: huggingface-cli download vidore/NAME --repo-type dataset --local-dir NAME"
DATASETS = {
    "arxivqa_test_subsampled": "ArxivQA",
    "docvqa_test_subsampled": "DocVQA",
    "infovqa_test_subsampled": "InfoVQA",
    "tabfquad_test_subsampled": "TabFQuAD",
    "tatdqa_test": "TAT-DQA",
    "shiftproject_test": "Shift Project",
    "syntheticDocQA_artificial_intelligence_test": "AI",
    "syntheticDocQA_energy_test": "Energy",
    "syntheticDocQA_government_reports_test": "Government",
    "syntheticDocQA_healthcare_industry_test": "Healthcare",
    "esg_reports_v2": "ESG Reports",
    "economics_reports_v2": "Economics Reports",
    "biomedical_lectures_v2": "Biomedical Lectures",
    "esg_reports_human_labeled_v2": "ESG Reports, human-labeled",
    "vidore_v3_finance_en": "Finance (EN)",
    "vidore_v3_industrial": "Industrial",
    "vidore_v3_computer_science": "Computer Science",
    "vidore_v3_pharmaceuticals": "Pharmaceuticals",
    "vidore_v3_hr": "HR",
    "vidore_v3_finance_fr": "Finance (FR)",
    "vidore_v3_physics": "Physics",
    "vidore_v3_energy": "Energy, v3",
}
"""The data sets by the name of their repository, which version 1 also has with `_beir` after it."""


def detect(tree: SourceFiles) -> bool:
    folders = beir_parquet.files_of(tree, SPLIT).values()
    if any(len(parts) == len(beir_parquet.PARTS) and "image" in tree.schema(parts["corpus"][0]).names for parts in folders):
        return True
    return any({"query", "image", "image_filename"} <= set(tree.schema(files[0]).names) for files in _pages(tree).values())


def named_splits(tree: SourceFiles) -> set[str]:
    return {SPLIT}


def datasets(tree: SourceFiles) -> list[DataSet]:
    folders = sorted({*beir_parquet.files_of(tree, SPLIT), *_pages(tree)})
    return [DataSet(key_of(tree, folder).rpartition("/")[2], dataset_of(tree, folder), modality=PICTURED) for folder in folders]


def missing(tree: SourceFiles) -> list[Missing]:
    parts, pages = _read(tree)
    if not parts and not pages:
        return [Missing("corpus/, queries/ and qrels/ of a data set, or data/test-*.parquet", ORIGIN)]
    return [each for folder, found in sorted(parts.items()) for each in beir_parquet.missing_parts(folder, found, ORIGIN)]


def shards(tree: SourceFiles) -> list[Shard]:
    refuse_missing(tree, NAME, missing(tree))
    parts, pages = _read(tree)
    pieces: list[Shard] = []
    named: dict[str, str] = {}
    for folder in sorted({*parts, *pages}):
        name = dataset_of(tree, folder)
        if (other := named.setdefault(name, folder)) != folder or (folder in parts and folder in pages):
            raise Refused(f"{tree.path!r} has {name} twice, in {other or '.'} and in {folder or '.'}; leave one of them")
        if folder in parts:
            pieces += beir_parquet.shards_of(tree, NAME, folder, parts[folder])
        for file in pages.get(folder, ()):
            if absent := [name for name in COLUMNS if name not in tree.schema(file).names]:
                raise Refused(f"{tree.source(file)} has no column {', '.join(absent)}; give a data set of {NAME}, from {ORIGIN}")
            pieces += tree.parquet_shards(file, f"pages {folder}")
    return pieces


def dataset_of(tree: SourceFiles, folder: str) -> str:
    """The name of the data set in a folder, as boards print it."""
    last = key_of(tree, folder).rpartition("/")[2]
    return DATASETS.get(last.removesuffix("_beir"), last)


def _read(tree: SourceFiles) -> tuple[dict[str, dict[str, list[str]]], dict[str, list[str]]]:
    """The files of the data sets that are read, by folder: those in BEIR's parts, and those of version 1."""

    def read(folder: str) -> bool:
        return tree.reads_dataset(key_of(tree, folder).rpartition("/")[2], dataset_of(tree, folder))

    parts, pages = beir_parquet.files_of(tree, SPLIT), _pages(tree)
    return {folder: parts[folder] for folder in parts if read(folder)}, {folder: pages[folder] for folder in pages if read(folder)}


def _pages(tree: SourceFiles) -> dict[str, list[str]]:
    """The files of version 1 by their data set's folder."""
    found: dict[str, list[str]] = {}
    for file in tree.files(PAGES):
        match = re.fullmatch(PAGES, file, re.I)
        assert match is not None, file
        found.setdefault(match["folder"] or "", []).append(file)
    return found


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    folder = beir_parquet.folder_of(shard)
    several = len({folder for found in _read(tree) for folder in found}) > 1
    dataset, pool = dataset_of(tree, folder), key_of(tree, folder) if several else ""
    if shard.part.startswith("pages "):
        return with_members(pool, _rows(tree, shard, dataset, pool))
    return with_members(pool, beir_parquet.read_piece(tree, shard, dataset, pool))


def _rows(tree: SourceFiles, shard: Shard, dataset: str, pool: str) -> Iterator[Row]:
    source, key = tree.source(shard.file), key_of(tree, beir_parquet.folder_of(shard))

    def parse(line: int, row: dict[str, Any]) -> Iterator[Row]:
        if row["image"] is None:
            raise RowError("missing picture", "the cell is empty")
        page = unnamed_candidate("", (picture(tree, row["image"]),), source=source, line=line)
        yield page
        if text := text_of(row["query"]):
            name = f"{key}:{hashlib.sha256(text.encode(errors='surrogatepass')).hexdigest()[:32]}"
            yield Query(Item(name, text, source=source, line=line), SPLIT, named=False, dataset=dataset, pool=pool)
            yield Judgement(name, page.item.id, source=source, line=line)

    return rowwise("corpus", source, records(tree, shard, COLUMNS), parse)
