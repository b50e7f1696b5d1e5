"""M-BEIR, as UniIR ships it:

    query/{train,val,test}/*.jsonl       qid, query_txt, query_img_path, query_modality, pos_cand_list, neg_cand_list, task_id
    cand_pool/{local,global}/*.jsonl     did, txt, img_path, modality
    qrels/{val,test}/*_qrels.txt         qid 0 did relevance task_id, between spaces
    instructions/*.tsv                   a header line, then query_modality, cand_modality, dataset, dataset_id, wording, wording, ...

Ids are "dataset:number", or the whole numbers that UniIR hashes them to. query/union_train (and its like) is read where there is no folder
of the split itself, and what it repeats to weigh its data sets is taken once. A candidate of a global pool that a local one has too is
taken once. What is left out so is counted in a notice; what has the id of another and differs from it is a fault. What answers a query of
val or test is told by its qrels, and where they do not name it by pos_cand_list, then without what bears the number of another data set,
as UniIR evaluates; for training the lists tell it, those of the query's own data set first. Wordings are prompts of the data set that the
ids of its queries begin with. `query_src_content` and `src_content` are left aside.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import grade_of, id_of, list_of, picture, side, text_of, unread
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Prompt, Query, Row, RowError, Unreadable, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import ELSE, Files, fits, unheld, unworded
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality

NAME = "mbeir"
WHAT = "M-BEIR: query/, cand_pool/, qrels/ and instructions/"
DATASETS = ("visualnews", "fashion200k", "webqa", "edis", "nights", "oven", "infoseek", "fashioniq", "cirr", "mscoco")  # by number
TASKS = ("t->i", "t->t", "t->it", "i->t", "i->i", "i->it", "it->t", "it->i", "it->it")  # by task_id
QUERIES_EACH, CANDIDATES_EACH = 500_000, 10_000_000  # what UniIR's hashes leave each data set
WORDS = {"i": "image", "t": "text"}
SPLITS = {"train": "train", "val": "validation", "test": "test"}
ROWS = r"\.jsonl(\.gz)?"
QUERY = ("qid", "query_txt", "query_img_path", "query_modality", "query_src_content", "pos_cand_list", "neg_cand_list", "task_id")
CANDIDATE = ("did", "txt", "img_path", "modality", "src_content")
SHOWN = ("txt", "img_path")  # what a candidate consists of
ASKED = ("query_txt", "query_img_path", "pos_cand_list", "neg_cand_list", "task_id")  # and a query


def hashed(name: str, each: int) -> int:
    """The whole number that UniIR makes of "dataset:number"; `each` is `QUERIES_EACH` or `CANDIDATES_EACH`."""
    dataset, _, number = name.partition(":")
    if not (dataset.isdecimal() and number.isdecimal() and int(number) < each):
        raise ValueError(f"{name!r} is no dataset:number with a number below {each}")
    return int(dataset) * each + int(number)


def unhashed(number: int, each: int) -> str:
    """The id of which UniIR made the number."""
    return f"{number // each}:{number % each}"


def dataset(name: str) -> str:
    """The number of the data set that an id begins with."""
    return name.partition(":")[0]


def detect(place: SourceFiles) -> bool:
    return bool(place.files(rf"cand_pool/(local|global)/[^/]+{ROWS}") or place.files(rf"query/(union_)?(train|val|test)/[^/]+{ROWS}"))


def shards(place: SourceFiles) -> list[Shard]:
    found = [
        shard
        for pool in ("local", "global")
        for file in place.files(rf"cand_pool/{pool}/[^/]+{ROWS}")
        for shard in place.shards(file, pool)
    ]
    for split in SPLITS:
        files = place.files(rf"query/{split}/[^/]+{ROWS}")
        found += [shard for file in files for shard in place.shards(file, split)]
        if not files:  # what repeats is seen only by one that reads the whole
            found += [Shard(file, f"union_{split}") for file in place.files(rf"query/union_{split}/[^/]+{ROWS}")]
    found += [shard for file in place.files(r"qrels/(val|test)/[^/]+\.txt") for shard in place.shards(file, "qrels")]
    return found + [Shard(file, "instructions") for file in place.files(r"instructions/[^/]+\.tsv")]


def read(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    source = place.source(shard.file)
    if shard.part in ("local", "global"):
        pool = _Pool(place, source, shard.part == "global")
        return pool.again.told(source, rowwise("corpus", source, place.records(shard), pool.rows))
    if shard.part == "qrels":
        return rowwise("qrels", source, place.lines(shard), lambda line, text: [_judgement(text, source, line)])
    if shard.part == "instructions":
        lines = ((line, text) for line, text in place.lines(shard) if line > 1)
        return rowwise("prompts", source, lines, lambda line, text: _prompts(text))
    queries = _Queries(place, shard, source)
    return queries.again.told(source, rowwise("queries", source, place.records(shard), queries.rows))


# Cells


def _id(value: Any, each: int) -> str:
    name = id_of(value)
    return unhashed(int(name), each) if name.isdecimal() else name


def _letters(word: Any) -> str:
    words = set(word.split(",")) if isinstance(word, str) else {word}
    if not words <= set(WORDS.values()):
        raise RowError("unknown modality", repr(word))
    return "".join(letter for letter, name in WORDS.items() if name in words)


def _item(place: SourceFiles, name: str, text: Any, path: Any, word: Any, source: str, line: int) -> Item:
    letters = _letters(word)
    made = side(text_of(text), (picture(place, path),) if path else ())
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


class _Again:
    """Rows that are left out as they were read before."""

    def __init__(self, what: str):
        self.what, self.count, self.first = what, 0, 0

    def take(self, name: str, line: int, content: int, before: int) -> list[Row]:
        """No rows, if the content is what it was before."""
        if content != before:
            raise RowError("duplicate id", f"{name} has another content than before")
        self.count, self.first = self.count + 1, self.first or line
        return []

    def told(self, source: str, rows: Iterator[Row]) -> Iterator[Row]:
        """The rows, and then how many were left out."""
        yield from rows
        if self.count:
            yield Notice(source, f"{self.what}: {self.count}, the first in line {self.first}; they are read once")


class _Pool:
    """Reads candidates; those of a global pool that stand in a local one are left to it."""

    def __init__(self, place: SourceFiles, source: str, everywhere: bool):
        self.place, self.source, self.everywhere = place, source, everywhere
        self.local = _local(place) if everywhere else np.empty((0, 2), np.uint64)
        self.again = _Again("candidates that a local pool has too")

    def rows(self, line: int, row: dict[str, Any]) -> list[Row]:
        unread(row, CANDIDATE)
        name = _id(row["did"], CANDIDATES_EACH)
        if (before := _found(self.local, name)) is not None:
            return self.again.take(name, line, _content(row, SHOWN), before)
        item = _item(self.place, name, row.get("txt"), row.get("img_path"), row["modality"], self.source, line)
        return [Candidate(item, named=not self.everywhere)]  # the global pools of train, val and test have some in common


def _local(place: SourceFiles) -> np.ndarray:
    """64 bits for the id of each candidate of a local pool, in order, and 64 for its content."""
    files = tuple(place.files(rf"cand_pool/local/[^/]+{ROWS}"))
    return _contents_of_pools(place.path, files, place.fingerprint(files))


@lru_cache(maxsize=4)
def _contents_of_pools(path: str, files: tuple[str, ...], fingerprint: str) -> np.ndarray:
    """What is in these pools, read once in a process and again when they change: each piece of a global pool asks for it."""
    place = SourceFiles(path)

    def found() -> Iterator[tuple[int, int]]:
        for file in files:
            with suppress(Unreadable):  # is told where its own pool is read
                for _, row in place.records(Shard(file)):
                    with suppress(RowError, KeyError, TypeError, ValueError):  # so is this
                        yield _hash(_id(row["did"], CANDIDATES_EACH)), _content(row, SHOWN)

    told = np.fromiter(found(), np.dtype((np.uint64, 2)))
    return told[np.argsort(told[:, 0], kind="stable")]


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest(), "little")


def _content(row: dict[str, Any], names: tuple[str, ...]) -> int:
    """64 bits of what stands under these names; a picture is told by its path."""
    return _hash(json.dumps([row.get(name) or None for name in names]))


def _found(told: np.ndarray, name: str) -> int | None:
    """The content that goes with an id."""
    place = np.searchsorted(told[:, 0], np.uint64(_hash(name)))
    return int(told[place, 1]) if place < len(told) and told[place, 0] == _hash(name) else None


class _Queries:
    """Reads queries, and what their lists say where no qrels do."""

    def __init__(self, place: SourceFiles, shard: Shard, source: str):
        self.place, self.source = place, source
        self.union, split = shard.part.startswith("union_"), shard.part.removeprefix("union_")
        self.split, self.training = SPLITS[split], split == "train"
        self.seen: dict[str, int] = {}  # of a union, with the content
        self.again = _Again("queries that stand there more than once")
        self.judged = set() if self.training else _judged(place, split, shard.file)

    def rows(self, line: int, row: dict[str, Any]) -> list[Row]:
        unread(row, QUERY)
        name = _id(row["qid"], QUERIES_EACH)
        content = _content(row, ASKED)
        if name in self.seen:
            return self.again.take(name, line, content, self.seen[name])
        item = _item(self.place, name, row.get("query_txt"), row.get("query_img_path"), row["query_modality"], self.source, line)
        task = _task(row.get("task_id"))
        if task and task.partition("->")[0] != item.modality.letters:
            raise RowError("bad task", f"task_id {row['task_id']} is {task}, and the query has {item.modality.letters}")
        told = [] if name in self.judged else self._lists(name, row, line)
        if self.union:
            self.seen[name] = content
        return [Query(item, self.split, task), *told]

    def _lists(self, name: str, row: dict[str, Any], line: int) -> list[Row]:
        positives, negatives = (
            [_id(value, CANDIDATES_EACH) for value in list_of(row.get(key), key)] for key in ("pos_cand_list", "neg_cand_list")
        )
        own = [other for other in positives if dataset(other) == dataset(name)]
        others = [other for other in positives if dataset(other) != dataset(name)] if self.training or not own else []
        if not positives:
            raise RowError("no answer", "pos_cand_list is empty")
        told = [(other, relevance) for relevance, names in ((1, own + others), (0, negatives)) for other in names]
        return [Judgement(name, other, relevance, source=self.source, line=line) for other, relevance in told]


def _judged(place: SourceFiles, split: str, file: str) -> set[str]:
    """The ids of queries that the qrels of a file, or else of its split, name."""
    stem = re.sub(rf"(?i){ROWS}$", "", file.rpartition("/")[2])
    named = [f"qrels/{split}/{stem}_qrels.txt"]
    files = named if named[0] in place.sizes else place.files(rf"qrels/{split}/[^/]+\.txt")
    found: set[str] = set()
    for qrels in files:
        with suppress(Unreadable):  # is told where the qrels are read
            for _, text in place.lines(Shard(qrels)):
                if isinstance(text, str) and (columns := text.split(maxsplit=1)):  # and so is what is no line of them
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


def _prompts(text: str) -> Iterable[Prompt]:
    columns = text.split("\t")
    if len(columns) < 5 or not columns[3].strip():
        raise RowError("bad row", f"{len(columns)} columns where query_modality, cand_modality, dataset, dataset_id and wordings belong")
    task = f"{_letters(columns[0])}->{_letters(columns[1])}"
    return [Prompt(task, wording, f"{columns[3].strip()}:") for wording in columns[4:] if wording.strip()]


# Writing


def write(target: Path, corpus: Path) -> Counter[str]:
    shelf, left = CorpusReader(corpus), Counter({"triples": unheld(corpus)["triples"]})
    wanted: dict[tuple[str, str], int] = {}  # the task of each data set that wants candidates of a modality
    with Files(target) as files:
        for query, split, task, judgements in shelf.queries():
            folder = next((name for name, split_ in SPLITS.items() if split_ == split), None)
            if folder is None or task not in TASKS:
                what = f"split {split!r}" if folder is None else f"task {task!r}"
                raise Refused(f"{NAME} has no {what}, which {query.id} has; it has {', '.join(SPLITS.values())}, and {', '.join(TASKS)}")
            number = TASKS.index(task)
            wanted.setdefault((dataset(query.id), task.partition("->")[2]), number)
            stem = f"mbeir_{_name(query.id)}_task{number}_{folder}"
            files.row(f"query/{folder}/{stem}.jsonl", _query_row(files, query, number, judgements))
            for told in judgements:
                if folder != "train":
                    line = f"{told['query_id']} 0 {told['item_id']} {told['relevance']} {number}\n"
                    files.text(f"qrels/{folder}/{stem}_qrels.txt", line)
                left["grades of relevance"] += folder == "train" and told["relevance"] not in (0, 1)
                left["scores of a teacher"] += told["score"] is not None
        for item in shelf.candidates():
            number = wanted.get((dataset(item.id), item.modality.letters))
            task = "" if number is None else f"_task{number}"
            row = {
                "did": _checked(unworded(item, left)).id,
                "txt": item.text or None,
                "img_path": _path(files, item),
                "modality": _word(item),
            }
            files.row(f"cand_pool/local/mbeir_{_name(item.id)}{task}_cand_pool.jsonl", row | {"src_content": None})
        _write_prompts(files, shelf, left)
    return +left


def _query_row(files: Files, query: Item, number: int, judgements: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "qid": _checked(query).id,
        "query_txt": query.text or None,
        "query_img_path": _path(files, query),
        "query_modality": _word(query),
        "query_src_content": None,
        "pos_cand_list": [told["item_id"] for told in judgements if told["relevance"] > 0],
        "neg_cand_list": [told["item_id"] for told in judgements if told["relevance"] <= 0],
        "task_id": number,
    }


def _checked(item: Item) -> Item:
    if not re.fullmatch(r"\d+:\d+", item.id):
        raise Refused(f"{NAME} takes ids of the form dataset:number, such as 9:42, and not {item.id!r}; {ELSE}")
    return fits(item, NAME, images=1)


def _name(name: str) -> str:
    number = dataset(name)
    return DATASETS[int(number)] if number.isdecimal() and int(number) < len(DATASETS) else f"dataset{number}"


def _path(files: Files, item: Item) -> str | None:
    return files.picture(item.images[0]) if item.images else None


def _word(item: Item) -> str:
    return ",".join(WORDS[letter] for letter in item.modality.letters)


def _write_prompts(files: Files, shelf: CorpusReader, left: Counter[str]) -> None:
    wordings: dict[tuple[str, str], list[str]] = {}
    for prompt in shelf.prompts():
        task, wording = prompt["task"], prompt["wording"]
        if re.fullmatch(r"\d+:", prompt["source"]) and task in TASKS and not re.search(r"[\t\r\n]", wording):
            wordings.setdefault((prompt["source"], task), []).append(wording)
        else:
            left["prompts"] += 1
    file = "instructions/query_instructions.tsv"
    for (source, task), given in wordings.items():
        asked, _, told = task.partition("->")
        columns = [*(",".join(WORDS[letter] for letter in letters) for letters in (asked, told)), _name(source), source[:-1], *given]
        header = ["query_modality", "cand_modality", "dataset_name", "dataset_id", *(f"prompt_{number}" for number in range(1, 5))]
        files.text(file, "" if file in files else "\t".join(header) + "\n")
        files.text(file, "\t".join(columns) + "\n")
