"""M-BEIR, as UniIR ships it:

    query/{train,val,test}/*.jsonl       qid, query_txt, query_img_path, query_modality, pos_cand_list, neg_cand_list, task_id
    cand_pool/{local,global}/*.jsonl     did, txt, img_path, modality
    qrels/{val,test}/*_qrels.txt         qid 0 did relevance task_id, between spaces
    instructions/*.tsv                   a header line, then query_modality, cand_modality, dataset, dataset_id, wording, wording, ...

Ids are "dataset:number", or the integers that UniIR maps them to. query/union_train (or _val, _test) is read if the split has no folder of
its own; the queries that it repeats to weight the data sets are read once. A candidate that is both in a global and in a local pool is
read once. Skipped rows are counted in a notice; a row that repeats an id with another content is rejected. The answers of a val or test
query are those of its qrels; for a query without qrels they are its pos_cand_list, without candidates of other data sets, as in UniIR's
evaluation. The answers of a training query are its lists, with its own data set first. Wordings are prompts for the queries whose ids have
the prefix of the data set. `query_src_content` and `src_content` are ignored.
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
from mirepoix.components.ingestion.formats.fields import grade_of, id_of, list_of, picture, refuse_unread, side, text_of
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Prompt, Query, Row, RowError, Unreadable, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import ELSE, Files, count_unsupported, fits, without_instruction
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality

NAME = "mbeir"
DATASETS = ("visualnews", "fashion200k", "webqa", "edis", "nights", "oven", "infoseek", "fashioniq", "cirr", "mscoco")  # by number
TASKS = ("t->i", "t->t", "t->it", "i->t", "i->i", "i->it", "it->t", "it->i", "it->it")  # by task_id
QUERIES_EACH, CANDIDATES_EACH = 500_000, 10_000_000  # ids that UniIR reserves for each data set
WORDS = {"i": "image", "t": "text"}
SPLITS = {"train": "train", "val": "validation", "test": "test"}
ROWS = r"\.jsonl(\.gz)?"
QUERY = ("qid", "query_txt", "query_img_path", "query_modality", "query_src_content", "pos_cand_list", "neg_cand_list", "task_id")
CANDIDATE = ("did", "txt", "img_path", "modality", "src_content")
CANDIDATE_CONTENT = ("txt", "img_path")  # compared where an id is repeated
QUERY_CONTENT = ("query_txt", "query_img_path", "pos_cand_list", "neg_cand_list", "task_id")


def hashed(name: str, each: int) -> int:
    """The integer that UniIR maps "dataset:number" to; `each` is `QUERIES_EACH` or `CANDIDATES_EACH`."""
    dataset, _, number = name.partition(":")
    if not (dataset.isdecimal() and number.isdecimal() and int(number) < each):
        raise ValueError(f"{name!r} is no dataset:number with a number below {each}")
    return int(dataset) * each + int(number)


def unhashed(number: int, each: int) -> str:
    """The id that UniIR mapped to the number; the inverse of `hashed`."""
    return f"{number // each}:{number % each}"


def dataset(name: str) -> str:
    """The data set's number, the prefix of an id."""
    return name.partition(":")[0]


def detect(tree: SourceFiles) -> bool:
    return bool(tree.files(rf"cand_pool/(local|global)/[^/]+{ROWS}") or tree.files(rf"query/(union_)?(train|val|test)/[^/]+{ROWS}"))


def shards(tree: SourceFiles) -> list[Shard]:
    found = [
        shard for pool in ("local", "global") for file in tree.files(rf"cand_pool/{pool}/[^/]+{ROWS}") for shard in tree.shards(file, pool)
    ]
    for split in SPLITS:
        files = tree.files(rf"query/{split}/[^/]+{ROWS}")
        found += [shard for file in files for shard in tree.shards(file, split)]
        if not files:  # one piece per file, so that its reader sees every repeated query
            found += [Shard(file, f"union_{split}") for file in tree.files(rf"query/union_{split}/[^/]+{ROWS}")]
    found += [shard for file in tree.files(r"qrels/(val|test)/[^/]+\.txt") for shard in tree.shards(file, "qrels")]
    return found + [Shard(file, "instructions") for file in tree.files(r"instructions/[^/]+\.tsv")]


def named_splits(tree: SourceFiles) -> set[str]:
    """The splits that there are queries of."""
    return {SPLITS[part] for shard in shards(tree) if (part := shard.part.removeprefix("union_")) in SPLITS}


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    source = tree.source(shard.file)
    if shard.part in ("local", "global"):
        pool = _Pool(tree, source, shard.part == "global")
        return pool.repeats.with_notice(source, rowwise("corpus", source, tree.records(shard), pool.rows))
    if shard.part == "qrels":
        return rowwise("qrels", source, tree.lines(shard), lambda line, text: [_judgement(text, source, line)])
    if shard.part == "instructions":
        lines = ((line, text) for line, text in tree.lines(shard) if line > 1)
        return rowwise("prompts", source, lines, lambda line, text: _prompts(text))
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
    """Reads candidates; those of a global pool that are also in a local pool are skipped."""

    def __init__(self, tree: SourceFiles, source: str, everywhere: bool):
        self.tree, self.source, self.everywhere = tree, source, everywhere
        self.local = _local(tree) if everywhere else np.empty((0, 2), np.uint64)
        self.repeats = _Repeats("candidates that a local pool has too")

    def rows(self, line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(row, CANDIDATE)
        name = _id(row["did"], CANDIDATES_EACH)
        if (before := _found(self.local, name)) is not None:
            return self.repeats.skip(name, line, _content(row, CANDIDATE_CONTENT), before)
        item = _item(self.tree, name, row.get("txt"), row.get("img_path"), row["modality"], self.source, line)
        return [Candidate(item, named=not self.everywhere)]  # the global pools of train, val and test overlap


def _local(tree: SourceFiles) -> np.ndarray:
    """The 64-bit hashes of id and content of each candidate of the local pools, sorted by id."""
    files = tuple(tree.files(rf"cand_pool/local/[^/]+{ROWS}"))
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
        self.split, self.training = SPLITS[split], split == "train"
        self.seen: dict[str, int] = {}  # id -> content hash, in a union file
        self.repeats = _Repeats("queries that are in the file more than once")
        self.judged = set() if self.training else _judged(tree, split, shard.file)

    def rows(self, line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(row, QUERY)
        name = _id(row["qid"], QUERIES_EACH)
        content = _content(row, QUERY_CONTENT)
        if name in self.seen:
            return self.repeats.skip(name, line, content, self.seen[name])
        item = _item(self.tree, name, row.get("query_txt"), row.get("query_img_path"), row["query_modality"], self.source, line)
        task = _task(row.get("task_id"))
        if task and task.partition("->")[0] != item.modality.letters:
            raise RowError("bad task", f"task_id {row['task_id']} is {task}, and the query has {item.modality.letters}")
        judgements = [] if name in self.judged else self._lists(name, row, line)
        if self.union:
            self.seen[name] = content
        return [Query(item, self.split, task), *judgements]

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
    files = named if named[0] in tree.sizes else tree.files(rf"qrels/{split}/[^/]+\.txt")
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


def _prompts(text: str) -> Iterable[Prompt]:
    columns = text.split("\t")
    if len(columns) < 5 or not columns[3].strip():
        raise RowError("bad row", f"{len(columns)} columns where query_modality, cand_modality, dataset, dataset_id and wordings belong")
    task = f"{_letters(columns[0])}->{_letters(columns[1])}"
    return [Prompt(task, wording, f"{columns[3].strip()}:") for wording in columns[4:] if wording.strip()]


# Writing


def write(target: Path, corpus: Path) -> Counter[str]:
    reader, dropped = CorpusReader(corpus), Counter({"triples": count_unsupported(corpus)["triples"]})
    wanted: dict[tuple[str, str], int] = {}  # data set and modality of candidates -> task
    with Files(target) as files:
        for query, split, task, judgements in reader.queries():
            folder = next((name for name, split_ in SPLITS.items() if split_ == split), None)
            if folder is None or task not in TASKS:
                what = f"split {split!r}" if folder is None else f"task {task!r}"
                raise Refused(f"{NAME} has no {what}, which {query.id} has; it has {', '.join(SPLITS.values())}, and {', '.join(TASKS)}")
            number = TASKS.index(task)
            wanted.setdefault((dataset(query.id), task.partition("->")[2]), number)
            stem = f"mbeir_{_name(query.id)}_task{number}_{folder}"
            files.row(f"query/{folder}/{stem}.jsonl", _query_row(files, query, number, judgements))
            for judgement in judgements:
                if folder != "train":
                    line = f"{judgement['query_id']} 0 {judgement['item_id']} {judgement['relevance']} {number}\n"
                    files.text(f"qrels/{folder}/{stem}_qrels.txt", line)
                dropped["grades of relevance"] += folder == "train" and judgement["relevance"] not in (0, 1)
                dropped["scores of a teacher"] += judgement["score"] is not None
        for item in reader.candidates():
            known = wanted.get((dataset(item.id), item.modality.letters))
            task = "" if known is None else f"_task{known}"
            row = {
                "did": _checked(without_instruction(item, dropped)).id,
                "txt": item.text or None,
                "img_path": _path(files, item),
                "modality": _word(item),
            }
            files.row(f"cand_pool/local/mbeir_{_name(item.id)}{task}_cand_pool.jsonl", row | {"src_content": None})
        _write_prompts(files, reader, dropped)
    return +dropped


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
        raise Refused(f"{NAME} takes ids of the form dataset:number, such as 9:42, and not {item.id!r}; {ELSE}")
    return fits(item, NAME, images=1)


def _name(name: str) -> str:
    number = dataset(name)
    return DATASETS[int(number)] if number.isdecimal() and int(number) < len(DATASETS) else f"dataset{number}"


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
            _name(source),
            source[:-1],
            *given,
        ]
        header = ["query_modality", "cand_modality", "dataset_name", "dataset_id", *(f"prompt_{number}" for number in range(1, 5))]
        files.text(file, "" if file in files else "\t".join(header) + "\n")
        files.text(file, "\t".join(columns) + "\n")
