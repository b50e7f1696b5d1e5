"""Writes a canonical corpus as M-BEIR: queries by data set, task and split, qrels of val and test, pools, and instructions."""

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader, QueryOrigin
from mirepoix.components.ingestion.formats.mbeir_layout import (
    FORMAT,
    SPLITS,
    TASKS,
    WORDS,
    dataset,
    dataset_name,
    pool_file,
    query_file,
    query_pool,
)
from mirepoix.components.ingestion.formats.writing import ELSE, Files, count_unsupported, fits, without_instruction
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

NONE = "in_no_pool"
"""The end of the name of a pool of candidates that are in none, where others are."""


def write(target: Path, corpus: Path) -> Counter[str]:
    """Writes a canonical corpus; returns the counts of what the format cannot represent.

    Where the corpus has pools, their files have their members; else candidates are in the pool of their data set and modality.
    """
    reader, dropped = CorpusReader(corpus), Counter({"triples": count_unsupported(corpus)["triples"]})
    wanted: dict[tuple[str, str], int] = {}  # data set and modality of candidates -> task
    pools = {pool for pool in reader.pools if not pool_file(pool).startswith("cand_pool/global/")}
    for pool in reader.pools:
        if not re.fullmatch(r"[\w.-]+", pool):
            raise Refused(f"{FORMAT} has files of the names of pools, and {pool!r} cannot be one; {ELSE}")
    with Files(target) as files:
        for (query, split, task, judgements), origin in zip(reader.queries(), reader.origins(), strict=True):
            folder = next((name for name, split_ in SPLITS.items() if split_ == split), None)
            if folder is None or task not in TASKS:
                what = f"split {split!r}" if folder is None else f"task {task!r}"
                raise Refused(f"{FORMAT} has no {what}, which {query.id} has; it has {', '.join(SPLITS.values())}, and {', '.join(TASKS)}")
            number = TASKS.index(task)
            wanted.setdefault((dataset(query.id), task.partition("->")[2]), number)
            stem = query_file(origin.pool or f"{dataset_name(query.id)}_task{number}", folder)
            files.row(f"query/{folder}/{stem}.jsonl", _query_row(files, query, number, judgements))
            for judgement in judgements:
                if folder != "train":
                    line = f"{judgement['query_id']} 0 {judgement['item_id']} {judgement['relevance']} {number}\n"
                    files.text(f"qrels/{folder}/{stem}_qrels.txt", line)
                dropped["grades of relevance"] += folder == "train" and judgement["relevance"] not in (0, 1)
                dropped["scores of a teacher"] += judgement["score"] is not None
            dropped.update(_lost(origin, query.id, stem, query_pool(stem, folder, query.id, task, pools)))
        for item in reader.candidates():
            known = wanted.get((dataset(item.id), item.modality.letters))
            names = reader.pools_of(item.id)
            if not names:
                own = "" if known is None else f"_task{known}"
                names = [f"{dataset_name(item.id)}{own}" if not reader.pools else f"{dataset_name(item.id)}_{NONE}"]
                dropped["candidates that are in no pool"] += bool(reader.pools)
            _write_candidate(files, _checked(without_instruction(item, dropped)), names)
        _write_prompts(files, reader, dropped)
    return +dropped


def _lost(origin: QueryOrigin, query: str, stem: str, pool: str) -> Iterable[str]:
    """What a query has besides its content, and will not have when it is read again."""
    if origin.dataset not in ("", dataset_name(query, stem)):
        yield "names of data sets"
    if origin.pool not in ("", pool):
        yield "pools of queries"
    if origin.answers:
        yield "answers as texts"


def _write_candidate(files: Files, item: Item, pools: Iterable[str]) -> None:
    row = {"did": item.id, "txt": item.text or None, "img_path": _path(files, item), "modality": _word(item), "src_content": None}
    for pool in pools:
        files.row(pool_file(pool), row)


def _query_row(files: Files, query: Item, number: int, judgements: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "qid": _checked(query).id,
        "query_txt": query.text or None,
        "query_img_path": _path(files, query),
        "query_modality": _word(query),
        "query_src_content": None,
        "pos_cand_list": [judgement["item_id"] for judgement in judgements if judgement["relevance"] > 0],
        "neg_cand_list": [judgement["item_id"] for judgement in judgements if judgement["relevance"] <= 0],
        "task_id": number,
    }


def _checked(item: Item) -> Item:
    if not re.fullmatch(r"\d+:\d+", item.id):
        raise Refused(f"{FORMAT} takes ids of the form dataset:number, such as 9:42, and not {item.id!r}; {ELSE}")
    return fits(item, FORMAT, images=1)


def _path(files: Files, item: Item) -> str | None:
    return files.picture(item.images[0]) if item.images else None


def _word(item: Item) -> str:
    return ",".join(WORDS[letter] for letter in item.modality.letters)


def _write_prompts(files: Files, reader: CorpusReader, dropped: Counter[str]) -> None:
    wordings: dict[tuple[str, str], list[str]] = {}
    for prompt in reader.prompts():
        task, wording = prompt["task"], prompt["wording"]
        if re.fullmatch(r"\d+:", prompt["source"]) and task in TASKS and not re.search(r"[\t\r\n]", wording):
            wordings.setdefault((prompt["source"], task), []).append(wording)
        else:
            dropped["prompts"] += 1
    file = "instructions/query_instructions.tsv"
    for (source, task), given in wordings.items():
        query_letters, _, item_letters = task.partition("->")
        columns = [
            *(",".join(WORDS[letter] for letter in letters) for letters in (query_letters, item_letters)),
            dataset_name(source),
            source[:-1],
            *given,
        ]
        header = ["query_modality", "cand_modality", "dataset_name", "dataset_id", *(f"prompt_{number}" for number in range(1, 5))]
        files.text(file, "" if file in files else "\t".join(header) + "\n")
        files.text(file, "\t".join(columns) + "\n")
