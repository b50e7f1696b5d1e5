"""M-BEIR, as UniIR ships it:

    query/{train,val,test}/*.jsonl       qid, query_txt, query_img_path, query_modality, pos_cand_list, neg_cand_list, task_id
    cand_pool/{local,global}/*.jsonl     did, txt, img_path, modality
    qrels/{val,test}/*_qrels.txt         qid 0 did relevance task_id, between spaces
    instructions/*.tsv                   a header line, then query_modality, cand_modality, dataset, dataset_id, wording, wording, ...

Ids are "dataset:number", or the integers that UniIR maps them to. query/union_train (or _val, _test) is read if the split has no folder of
its own; the queries that it repeats to weight the data sets are read once. A candidate that is in several pools is read once, and is a
member of each: of "mscoco_task0_test" in mbeir_mscoco_task0_test_cand_pool.jsonl, of "union" in mbeir_union_test_cand_pool.jsonl. A query
of val or test searches the pool of its file: that of its split, as MSCOCO's test has, else the one without a split in its name. Rows of
global pools that a local one has too are counted in a notice; a row that repeats an id with another content is rejected. The answers of a
val or test query are those of its qrels; for a query without qrels they are its pos_cand_list, without candidates of other data sets, as in
UniIR's evaluation. The answers of a training query are its lists, with its own data set first. Wordings are prompts for the queries whose
ids have the prefix of the data set. `query_src_content` and `src_content` are ignored.

With `only_datasets` (mscoco, or with the task mscoco_task0) the files of these data sets alone are opened, and no global pool but that of
training, whose candidates are in no local pool: of that the candidates whose ids are of these data sets are read. The name union adds the
whole global pools.

UniIR formats texts when it reads them; `sources.uniir_texts` does the same to candidates, prompts and queries. A query and its prompt are
formatted as one text, so the beginning of a query stays as it is where its data set has prompts.
"""

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np

from mirepoix.components.ingestion.formats.fields import grade_of, id_of, list_of, picture, refuse_unread, side, text_of
from mirepoix.components.ingestion.formats.mbeir_files import (
    ORIGIN,
    datasets,
    in_one_file,
    instruction_files,
    local_files,
    missing,
    named_splits,
    no_union,
    qrels_files,
    query_files,
    splits_read,
    union_files,
    whole_files,
)
from mirepoix.components.ingestion.formats.mbeir_layout import (
    CANDIDATES_EACH,
    DATASETS,
    FORMAT,
    QUERIES_EACH,
    ROWS,
    SPLITS,
    TASKS,
    UNION,
    WORDS,
    dataset,
    dataset_name,
    formatted,
    formatted_behind_prompt,
    names_of,
    pool_name,
    query_pool,
    unhashed,
    unit_of,
)
from mirepoix.components.ingestion.formats.mbeir_writing import write
from mirepoix.components.ingestion.formats.rows import (
    Candidate,
    Judgement,
    Member,
    Notice,
    Prompt,
    Query,
    Row,
    RowError,
    Unreadable,
    rowwise,
)
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.item import Item, Modality

__all__ = ["NAME", "ORIGIN", "datasets", "detect", "missing", "named_splits", "no_union", "read", "shards", "write"]

NAME = FORMAT

QUERY = ("qid", "query_txt", "query_img_path", "query_modality", "query_src_content", "pos_cand_list", "neg_cand_list", "task_id")
CANDIDATE = ("did", "txt", "img_path", "modality", "src_content")
CANDIDATE_CONTENT = ("txt", "img_path")  # compared where an id is repeated
QUERY_CONTENT = ("query_txt", "query_img_path", "pos_cand_list", "neg_cand_list", "task_id")


def detect(tree: SourceFiles) -> bool:
    return bool(tree.files(rf"cand_pool/(local|global)/[^/]+{ROWS}") or tree.files(rf"query/(union_)?(train|val|test)/[^/]+{ROWS}"))


def shards(tree: SourceFiles) -> list[Shard]:
    read = splits_read(tree)
    parts = (("local", local_files(tree)), ("global", whole_files(tree)))
    found = [shard for part, files in parts for file in files for shard in tree.shards(file, part)]
    for split in read:
        found += [shard for file in query_files(tree, split) for shard in tree.shards(file, split)]
        if in_one_file(tree, split):  # one piece per file, so that its reader sees every repeated query
            found += [Shard(file, f"union_{split}") for file in union_files(tree, split)]
    found += [shard for split in read if split != "train" for file in qrels_files(tree, split) for shard in tree.shards(file, "qrels")]
    return found + [Shard(file, "instructions") for file in instruction_files(tree)]


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    source = tree.source(shard.file)
    if shard.part in ("local", "global"):
        pool = _Pool(tree, source, pool_name(shard.file), shard.part == "global")
        return pool.repeats.with_notice(source, rowwise("corpus", source, tree.records(shard), pool.rows))
    if shard.part == "qrels":
        return rowwise("qrels", source, tree.lines(shard), lambda line, text: [_judgement(text, source, line)])
    if shard.part == "instructions":
        lines = ((line, text) for line, text in tree.lines(shard) if line > 1)
        return rowwise("prompts", source, lines, lambda line, text: _prompts(text, tree.uniir_texts))
    queries = _Queries(tree, shard, source)
    return queries.repeats.with_notice(source, rowwise("queries", source, tree.records(shard), queries.rows))


# Cells


def _id(value: Any, each: int) -> str:
    name = id_of(value)
    return unhashed(int(name), each) if name.isdecimal() else name


def _letters(word: Any) -> str:
    words = set(word.split(",")) if isinstance(word, str) else {word}
    if not words <= set(WORDS.values()):
        raise RowError("unknown modality", repr(word))
    return "".join(letter for letter, name in WORDS.items() if name in words)


def _item(tree: SourceFiles, name: str, text: Any, path: Any, word: Any, source: str, line: int) -> Item:
    letters = _letters(word)
    made = side(text_of(text), (picture(tree, path),) if path else ())
    if made.modality != Modality.of_letters(letters):
        raise RowError("unknown modality", f"it is called {word}, and has {made.modality.letters}")
    return Item(name, made.text, made.images, source=source, line=line)


def _task(number: Any) -> str:
    if number is None:
        return ""
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(TASKS):
        raise RowError("bad task", f"task_id {number!r} is not one of 0 to {len(TASKS) - 1}")
    return TASKS[number]


# Rows


class _Repeats:
    """Counts the rows that are skipped because they were read before."""

    def __init__(self, what: str):
        self.what, self.count, self.first = what, 0, 0

    def skip(self, name: str, line: int, content: int, before: int) -> list[Row]:
        """Counts a repeated row and returns no rows; RowError if its content differs."""
        if content != before:
            raise RowError("duplicate id", f"{name} has another content than before")
        self.count, self.first = self.count + 1, self.first or line
        return []

    def with_notice(self, source: str, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows, and then a notice with the count of skipped rows."""
        yield from rows
        if self.count:
            yield Notice(source, f"{self.what}: {self.count}, the first in line {self.first}; they are read once")


class _Pool:
    """Reads candidates as members of a pool; those of a global pool that are also in a local pool are members alone."""

    def __init__(self, tree: SourceFiles, source: str, name: str, everywhere: bool):
        self.tree, self.source, self.name = tree, source, name
        self.local = _local(tree) if everywhere else np.empty((0, 2), np.uint64)
        self.part = everywhere and not tree.reads_dataset(UNION)
        self.numbers = _numbers(tree) if self.part else None
        self.repeats = _Repeats("candidates that a local pool has too")

    def rows(self, line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(row, CANDIDATE)
        name = _id(row["did"], CANDIDATES_EACH)
        if self.numbers is not None and dataset(name) not in self.numbers:
            return []
        members = [] if self.part else [Member(self.name, name)]
        if (before := _found(self.local, name)) is not None:
            return [*self.repeats.skip(name, line, _content(row, CANDIDATE_CONTENT), before), *members]
        text = text_of(row.get("txt"))
        text = formatted(text) if self.tree.uniir_texts else text
        item = _item(self.tree, name, text, row.get("img_path"), row["modality"], self.source, line)
        return [Candidate(item, named=False), *members]  # pools overlap: those of MSCOCO's val and test have equal captions


def _numbers(tree: SourceFiles) -> set[str] | None:
    """The numbers before the ids of the data sets that are read; None where one is none of M-BEIR's."""
    names = {names_of(unit_of(file))[1] for file in query_files(tree, "train")}
    return {str(DATASETS.index(name)) for name in names} if names <= set(DATASETS) else None


def _local(tree: SourceFiles) -> np.ndarray:
    """The 64-bit hashes of id and content of each candidate of the local pools, sorted by id."""
    files = tuple(local_files(tree))
    return _contents_of_pools(tree.path, files, tree.fingerprint(files))


@lru_cache(maxsize=4)
def _contents_of_pools(path: str, files: tuple[str, ...], fingerprint: str) -> np.ndarray:
    """The hashes of these pools; cached per process until the files change, since every piece of a global pool needs them."""
    tree = SourceFiles(path)

    def found() -> Iterator[tuple[int, int]]:
        for file in files:
            with suppress(Unreadable):  # reported when the pool itself is read
                for _, row in tree.records(Shard(file)):
                    with suppress(RowError, KeyError, TypeError, ValueError):  # likewise
                        yield _hash(_id(row["did"], CANDIDATES_EACH)), _content(row, CANDIDATE_CONTENT)

    hashes = np.fromiter(found(), np.dtype((np.uint64, 2)))
    return hashes[np.argsort(hashes[:, 0], kind="stable")]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _content(row: dict[str, Any], names: tuple[str, ...]) -> int:
    """A 64-bit hash of the given fields; pictures count by their paths."""
    return _hash(json.dumps([row.get(name) or None for name in names]))


def _found(hashes: np.ndarray, name: str) -> int | None:
    """The content hash that belongs to an id, if the id is known."""
    position = np.searchsorted(hashes[:, 0], np.uint64(_hash(name)))
    return int(hashes[position, 1]) if position < len(hashes) and hashes[position, 0] == _hash(name) else None


class _Queries:
    """Reads queries, with judgements from their candidate lists where no qrels judge them."""

    def __init__(self, tree: SourceFiles, shard: Shard, source: str):
        self.tree, self.source = tree, source
        self.union, split = shard.part.startswith("union_"), shard.part.removeprefix("union_")
        self.split, self.training, self.file = SPLITS[split], split == "train", shard.file
        self.folder, self.pools = split, {pool_name(file) for file in tree.files(rf"cand_pool/local/[^/]+{ROWS}")}
        self.prompted = _prompted(tree) if tree.uniir_texts else set()
        self.seen: dict[str, int] = {}  # id -> content hash, in a union file
        self.repeats = _Repeats("queries that are in the file more than once")
        self.judged = set() if self.training else _judged(tree, split, shard.file)

    def rows(self, line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(row, QUERY)
        name = _id(row["qid"], QUERIES_EACH)
        content = _content(row, QUERY_CONTENT)
        if name in self.seen:
            return self.repeats.skip(name, line, content, self.seen[name])
        text, modality = self._text(name, row), row["query_modality"]
        item = _item(self.tree, name, text, row.get("query_img_path"), modality, self.source, line)
        task = _task(row.get("task_id"))
        if task and task.partition("->")[0] != item.modality.letters:
            raise RowError("bad task", f"task_id {row['task_id']} is {task}, and the query has {item.modality.letters}")
        judgements = [] if name in self.judged else self._lists(name, row, line)
        if self.union:
            self.seen[name] = content
        pool = query_pool(self.file, self.folder, name, task, self.pools)
        return [Query(item, self.split, task, dataset=dataset_name(name, self.file), pool=pool), *judgements]

    def _text(self, name: str, row: dict[str, Any]) -> str:
        text = text_of(row.get("query_txt"))
        if not self.tree.uniir_texts:
            return text
        return formatted_behind_prompt(text) if (dataset(name), _letters(row["query_modality"])) in self.prompted else formatted(text)

    def _lists(self, name: str, row: dict[str, Any], line: int) -> list[Row]:
        positives, negatives = (
            [_id(value, CANDIDATES_EACH) for value in list_of(row.get(key), key)] for key in ("pos_cand_list", "neg_cand_list")
        )
        own = [other for other in positives if dataset(other) == dataset(name)]
        others = [other for other in positives if dataset(other) != dataset(name)] if self.training or not own else []
        if not positives:
            raise RowError("no answer", "pos_cand_list is empty")
        judgements = [(other, relevance) for relevance, names in ((1, own + others), (0, negatives)) for other in names]
        return [Judgement(name, other, relevance, source=self.source, line=line) for other, relevance in judgements]


def _judged(tree: SourceFiles, split: str, file: str) -> set[str]:
    """The ids of the queries that are judged in the qrels of a file, or else of its split."""
    stem = re.sub(rf"(?i){ROWS}$", "", file.rpartition("/")[2])
    named = [f"qrels/{split}/{stem}_qrels.txt"]
    files = named if named[0] in tree.sizes else qrels_files(tree, split)
    found: set[str] = set()
    for qrels in files:
        with suppress(Unreadable):  # reported when the qrels themselves are read
            for _, text in tree.lines(Shard(qrels)):
                if isinstance(text, str) and (columns := text.split(maxsplit=1)):  # a bad line is rejected there
                    with suppress(ValueError):
                        found.add(_id(columns[0], QUERIES_EACH))
    return found


def _judgement(text: str, source: str, line: int) -> Judgement:
    columns = text.split()
    if len(columns) != 5:
        raise RowError("bad row", f"{len(columns)} columns where qid, 0, did, relevance and task_id belong")
    _task(int(columns[4]))
    query, document = _id(columns[0], QUERIES_EACH), _id(columns[2], CANDIDATES_EACH)
    return Judgement(query, document, grade_of(columns[3]), source=source, line=line)


def _prompted(tree: SourceFiles) -> set[tuple[str, str]]:
    """The numbers of data sets with the modalities of their queries that have prompts."""
    found: set[tuple[str, str]] = set()
    for file in instruction_files(tree):
        with suppress(Unreadable):  # reported when the instructions themselves are read
            for line, text in tree.lines(Shard(file)):
                if line > 1 and isinstance(text, str):
                    with suppress(RowError):
                        found.update((prompt.source[:-1], prompt.task.partition("->")[0]) for prompt in _prompts(text))
    return found


def _prompts(text: str, format_texts: bool = False) -> Iterable[Prompt]:
    columns = text.split("\t")
    if len(columns) < 5 or not columns[3].strip():
        raise RowError("bad row", f"{len(columns)} columns where query_modality, cand_modality, dataset, dataset_id and wordings belong")
    task = f"{_letters(columns[0])}->{_letters(columns[1])}"
    wordings = [formatted(wording) if format_texts else wording for wording in columns[4:] if wording.strip()]
    return [Prompt(task, wording, f"{columns[3].strip()}:") for wording in wordings if wording]
