"""The files of M-BEIR that are read, by split and data set, and those that measuring needs and that are not there."""

import re

from mirepoix.components.ingestion.formats.benchmark_files import (
    PICTURED,
    UNPACKED,
    DataSet,
    Missing,
    files_below,
    first_rows,
    missing_picture,
    some_of,
)
from mirepoix.components.ingestion.formats.mbeir_layout import (
    MEASURED,
    ROWS,
    SPLITS,
    UNION,
    expected_pool,
    is_read,
    is_read_whole,
    names_of,
    pool_file,
    pool_name,
    task_of,
    unit_of,
)
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality

ORIGIN = "hf.co/datasets/TIGER-Lab/M-BEIR"


def datasets(tree: SourceFiles) -> list[DataSet]:
    """Those of the splits that are read, and the union where there is its file."""
    units = dict.fromkeys(unit_of(file) for split in splits_read(tree) for file in _rows_in(tree, f"query/{split}"))
    tasks = {unit: task_of(unit) for unit in units}
    letters = {unit: tasks[unit].replace("->", "") for unit in units}
    found = [
        DataSet(unit, names_of(unit)[1], (), tasks[unit], Modality.of_letters(letters[unit]) if letters[unit] else Modality.NONE)
        for unit in units
    ]
    whole = [pool for pool in map(pool_name, _rows_in(tree, "cand_pool/global")) if pool == UNION]
    return found + [DataSet(UNION, "", modality=PICTURED) for _ in whole]


def missing(tree: SourceFiles) -> list[Missing]:
    """The benchmark needs for each file of test queries its local pool and its judgements, the instructions, and the pictures."""
    queries, pools, found = query_files(tree, "test"), {pool_name(file): file for file in local_files(tree)}, list[Missing]()
    if not queries and not _rows_in(tree, "query/union_test"):
        found.append(Missing("query/test/mbeir_*_test.jsonl", ORIGIN))
    shared = [file for file in qrels_files(tree, "test") if unit_of(file) not in set(map(unit_of, queries))]
    judged = {unit_of(file) for file in qrels_files(tree, "test")}
    for unit in map(unit_of, queries):
        pool = expected_pool(unit, "test")
        if not {unit, f"{unit}_test"} & set(pools):
            found.append(Missing(f"cand_pool/local/mbeir_{pool}_cand_pool.jsonl, the candidates of {unit}", ORIGIN))
        if unit not in judged and not shared:
            found.append(Missing(f"qrels/test/mbeir_{unit}_test_qrels.txt, the judgements of {unit}", ORIGIN))
    if not instruction_files(tree):
        found.append(Missing("instructions/query_instructions.tsv", ORIGIN))
    named = {file: unit_of(file) for file in (*queries, *pools.values(), *whole_files(tree))}
    firsts = {file: first for file in named if (first := _missing_picture(tree, file))}
    if firsts:
        units = list(dict.fromkeys(named[file] for file in firsts))
        what = f"the pictures of {some_of(units)}, such as {next(iter(firsts.values()))}"
        leave = f", or leave {UNION} out (sources.only_datasets)" if units == [UNION] else ""
        found.append(Missing(what, f"mbeir_images.tar.gz.part-* at {ORIGIN}", f"join and {UNPACKED}{leave}"))
    return found


def _missing_picture(tree: SourceFiles, file: str) -> str:
    """The first picture that the rows of a file begin with, if none of these is there; empty if one is."""
    paths = (row.get("query_img_path") or row.get("img_path") for row in first_rows(tree, file))
    return missing_picture(tree, ((path,) for path in paths if path))


def no_union(tree: SourceFiles) -> str:
    """What would have the pool of all read; empty where it is: as a file, or as the sixteen local pools of the test split alone."""
    if any(pool_name(file) == UNION for file in whole_files(tree)):
        return ""
    if splits_read(tree) == ["test"] and set(MEASURED) <= {unit_of(file) for file in local_files(tree)}:
        return ""
    chosen = f"add {UNION} to sources.only_datasets" if tree.only_datasets else ""
    there = any(each.name == UNION for each in datasets(tree))
    return " and ".join(filter(None, ["" if there else f"bring {pool_file(UNION)} from {ORIGIN}", chosen]))


def named_splits(tree: SourceFiles) -> set[str]:
    """The splits that there are queries of."""
    return {name for split, name in SPLITS.items() if query_files(tree, split) or _rows_in(tree, f"query/union_{split}")}


def splits_read(tree: SourceFiles) -> list[str]:
    """The splits that are read, as folders name them."""
    return [split for split, name in SPLITS.items() if tree.reads(name)]


def _is_read(tree: SourceFiles, file: str) -> bool:
    """Whether the data set of a file is read."""
    return tree.reads_dataset(*names_of(unit_of(file)))


def _files_in(tree: SourceFiles, folder: str, ending: str) -> list[str]:
    """The files with an ending in a folder, without a look at the millions of pictures in others."""
    return [file for file in files_below(tree, folder) if re.fullmatch(rf"{folder}/[^/]+{ending}", file, re.I)]


def _rows_in(tree: SourceFiles, folder: str) -> list[str]:
    """The files of rows in a folder."""
    return _files_in(tree, folder, ROWS)


def query_files(tree: SourceFiles, split: str) -> list[str]:
    """The files of queries of a split that are read."""
    return [file for file in _rows_in(tree, f"query/{split}") if _is_read(tree, file)]


def in_one_file(tree: SourceFiles, split: str) -> bool:
    """Whether the queries of a split are in no files by data set."""
    return not _rows_in(tree, f"query/{split}")


def union_files(tree: SourceFiles, split: str) -> list[str]:
    """The files with the queries of all data sets; Refused where some data sets are chosen, which is by the names of files."""
    files = _rows_in(tree, f"query/union_{split}")
    if files and tree.only_datasets:
        raise Refused(
            f"{tree.source(files[0])} has the queries of all data sets, and sources.only_datasets chooses among files; "
            f"bring query/{split}/ from {ORIGIN}, or leave the split out (sources.only_splits)"
        )
    return files


def qrels_files(tree: SourceFiles, split: str) -> list[str]:
    """The judgements that are read: those of the data sets, and of a file that is named after none."""
    units = set(map(unit_of, _rows_in(tree, f"query/{split}")))
    return [file for file in _files_in(tree, f"qrels/{split}", r"\.txt") if _is_read(tree, file) or unit_of(file) not in units]


def local_files(tree: SourceFiles) -> list[str]:
    """The local pools that are read."""
    files = {file: pool_name(file) for file in _rows_in(tree, "cand_pool/local")}
    return [file for file, pool in files.items() if is_read(pool, files.values(), splits_read(tree)) and _is_read(tree, file)]


def whole_files(tree: SourceFiles) -> list[str]:
    """The global pools that are read."""
    files = {file: pool_name(file) for file in _rows_in(tree, "cand_pool/global")}
    train = f"{UNION}_train"
    every = tree.reads_dataset(UNION)
    return [file for file, pool in files.items() if is_read_whole(pool, splits_read(tree)) and (every or pool == train)]


def instruction_files(tree: SourceFiles) -> list[str]:
    """The files of instructions, which are of all data sets."""
    return _files_in(tree, "instructions", r"\.tsv")
