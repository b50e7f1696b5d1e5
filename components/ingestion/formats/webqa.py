"""WebQA as MARVEL and UniVL-DR ship it.

    all_docs.json                   {"snippet_id": "d1_0", "fact": "..."}, a line each: the passages
    all_imgs.json                   {"image_id": 30000000, "caption": "..."}, a line each: the captions of the pictures
    imgs.tsv                        the id of a picture, a tab, and the picture in base64
    imgs.lineidx.new                the id of each picture, a tab, and the byte offset of its line in imgs.tsv; also offsets alone, as in
                                    WebQA's own imgs.lineidx; without either, imgs.tsv is read once to find the offsets
    train.json, dev.json, test.json questions: "qid" (or "Guid" or "id"), "Q", and "txt_posFacts", "img_posFacts", "txt_negFacts",
                                    "img_negFacts": ids, or objects with "snippet_id" or "image_id"
    test_qrels.txt                  qid, id and relevance, between tabs, or `qid 0 id relevance`; where it exists, it replaces the
                                    judgements of the facts in test.json (train_qrels.txt and dev_qrels.txt likewise)

Questions are JSON lines, one JSON array, or one JSON object of questions by their ids, as in WebQA's own file. Other fields of WebQA's
questions (A, Qcate, topic, ...) are ignored. Negative facts are judged irrelevant. All questions are of the data set "webqa"; the task of
one follows from its first answer, a snippet or a captioned picture: MARVEL measures both among all candidates, and each among its own kind.
"""

import base64
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mirepoix.components.ingestion.formats.benchmark_files import PICTURED, Missing, picture_of_line
from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import id_of, list_of, refuse_unread, text_of
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, Row, RowError, Unreadable, rowwise, split_of
from mirepoix.components.ingestion.formats.source_files import LONGEST_LINE, Shard, SourceFiles
from mirepoix.components.ingestion.formats.streams import Blocks
from mirepoix.components.ingestion.formats.writing import Files, count_unsupported, fits
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality

NAME = "webqa"
DOCS, CAPTIONS, PICTURES, INDEXES = "all_docs.json", "all_imgs.json", "imgs.tsv", ("imgs.lineidx.new", "imgs.lineidx")
ORIGIN = "data.zip, to which the README of github.com/OpenMatch/MARVEL links (thunlp.oss-cn-qingdao.aliyuncs.com/UniVLDR/data.zip)"
FACTS = {
    "txt_posFacts": ("snippet_id", 1),
    "img_posFacts": ("image_id", 1),
    "txt_negFacts": ("snippet_id", 0),
    "img_negFacts": ("image_id", 0),
}
IDS = ("qid", "Guid", "id")
ASIDE = ("A", "EA", "Keywords_A", "Qcate", "topic", "split", "txt_Facts", "img_Facts")
FILES = {"train": "train.json", "validation": "dev.json", "test": "test.json"}
QUESTIONS = r"(train|dev|val|test)\.json"
LINES = 1000  # most captions in a piece, since their pictures are long
PER_SERIES = 10_000_000  # WebQA's picture number n is line n % 10,000,000


def detect(tree: SourceFiles) -> bool:
    return DOCS in tree.sizes or CAPTIONS in tree.sizes


def shards(tree: SourceFiles) -> list[Shard]:
    """Pieces of snippets, captions (with the locations of their pictures in `part`), questions, and judgements."""
    pieces = tree.shards(DOCS, "docs") if DOCS in tree.sizes else []
    if CAPTIONS in tree.sizes:
        pieces += [Shard(PICTURES, "pictures"), *_caption_shards(tree)]
    for file in (file for file in tree.files(QUESTIONS) if tree.reads(split_of(file))):
        pieces += [Shard(file, "keyed")] if _is_keyed(tree, file) else tree.shards(file, "questions")
    judged = [file for file in tree.files(r"(train|dev|val|test)_qrels\.txt") if tree.reads(split_of(file))]
    return pieces + [shard for file in judged for shard in tree.shards(file, "qrels")]


def named_splits(tree: SourceFiles) -> set[str]:
    """The splits that there are questions of."""
    return {split_of(file) for file in tree.files(QUESTIONS)}


def modality(tree: SourceFiles) -> Modality:
    return PICTURED if CAPTIONS in tree.sizes else Modality.TEXT


def missing(tree: SourceFiles) -> list[Missing]:
    """The benchmark searches snippets and pictures together, so it needs both, where a corpus to train on may have one of them."""
    needed = [DOCS, CAPTIONS, PICTURES, *(("test.json", "test_qrels.txt") if tree.reads("test") else ())]
    return [Missing(name, ORIGIN) for name in needed if name not in tree.sizes]


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    source = tree.source(shard.file)
    kind, _, places = shard.part.partition(" ")
    match kind:
        case "docs":
            return rowwise("corpus", source, tree.records(shard), lambda line, row: [_snippet(row, source, line)])
        case "pictures":
            return iter(())  # they are read with their captions
        case "images":
            return _images(tree, shard, places.split())
        case "qrels":
            return rowwise("qrels", source, tree.lines(shard), lambda line, text: [_judgement(text, source, line)])
    records = _keyed(tree, shard.file) if kind == "keyed" else tree.records(shard)
    split, judged = split_of(shard.file), f"{shard.file[: -len('.json')]}_qrels.txt" in tree.sizes
    return rowwise("queries", source, records, lambda line, row: _question(row, split, judged, source, line))


# Snippets, pictures and judgements


def _snippet(row: dict[str, Any], source: str, line: int) -> Candidate:
    refuse_unread(row, ("snippet_id", "fact", "title", "url"))
    fact = text_of(row["fact"])
    if not fact:
        raise RowError("empty side", "the fact is empty")
    return Candidate(Item(id_of(row["snippet_id"]), fact, source=source, line=line))


def _judgement(text: str, source: str, line: int) -> Judgement:
    cells = text.split()
    if len(cells) not in (3, 4):
        raise RowError("bad row", f"{len(cells)} columns and not qid, id and relevance, with or without a 0 after qid")
    return Judgement(cells[0], cells[-2], int(cells[-1]), source=source, line=line)


def _images(tree: SourceFiles, shard: Shard, places: list[str]) -> Iterator[Row]:
    """The pictures of a piece of the captions, each from its location in imgs.tsv."""
    source, here = tree.source(shard.file), ""

    def records() -> Iterator[tuple[int, Any]]:
        nonlocal here
        for (line, row), here in zip(tree.records(shard), places, strict=True):  # noqa: B007
            yield line, row

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        refuse_unread(row, ("image_id", "caption", "title", "url", "imgUrl"))
        id, (start, size) = id_of(row["image_id"]), map(int, here.split("+"))
        if size > LONGEST_LINE:
            raise RowError("missing picture", f"the line of {id} in {PICTURES} is longer than {LONGEST_LINE >> 20} MiB")
        if not size:
            raise RowError("missing picture", f"{PICTURES} has no line for {id}")
        picture = picture_of_line(tsv.read_at(size, start), id, PICTURES)
        return [Candidate(Item(id, text_of(row.get("caption")), (picture,), source=source, line=line))]

    with tree.open(PICTURES) as tsv:
        yield from rowwise("corpus", source, records(), parse)


# Locations of pictures


def _caption_shards(tree: SourceFiles) -> list[Shard]:
    """The pieces of the captions, with the start and size of each picture's line in imgs.tsv, so that no piece has to search for it."""
    found, pieces = _picture_locations(tree), []
    whole = Shard(CAPTIONS)
    if tree.is_array(CAPTIONS):
        locations: list[str] = []
        with suppress(Unreadable):  # reported when the piece is read
            locations.extend(found(_id(row)) for _, row in tree.records(whole))
        return [Shard(CAPTIONS, " ".join(["images", *locations]))]
    with tree.stream(CAPTIONS) as stream:
        start = at = 0
        first, locations = 1, []
        for number, raw in enumerate(stream, 1):
            at += len(raw)
            if raw.strip():
                locations.append(found(_id(raw)))
            if len(locations) == LINES:
                pieces.append(Shard(CAPTIONS, " ".join(["images", *locations]), start, at, first))
                start, first, locations = at, number + 1, []
        if locations:
            pieces.append(Shard(CAPTIONS, " ".join(["images", *locations]), start, at, first))
    return pieces


def _id(caption: Any) -> str:
    """The id in a line of captions; empty in a bad line, which is rejected when the piece is read."""
    try:
        return str((json.loads(caption) if isinstance(caption, bytes) else caption)["image_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _picture_locations(tree: SourceFiles) -> Callable[[str], str]:
    """A function from a picture's id to the start and size of its line in imgs.tsv, as "start+size"; "0+0" where there is none."""
    if PICTURES not in tree.sizes:
        raise Refused(f"{tree.source(CAPTIONS)} has captions of pictures, and {PICTURES}, which holds them, is not beside it")
    whole = tree.sizes[PICTURES]
    index = next((name for name in INDEXES if name in tree.sizes), None)
    ids: list[str] | None
    if index is None:
        ids, starts = _scan_ids(tree)
    else:
        with tree.stream(index) as stream:
            lines = [line.split() for line in stream.read().splitlines() if line.strip()]
        offsets = [line[-1] for line in lines]
        if (
            not all(map(bytes.isdigit, offsets))
            or max(map(int, offsets), default=0) >= max(whole, 1)
            or (columns := {*map(len, lines)}) - {1, 2}
            or len(columns) > 1
        ):
            raise Refused(
                f"{tree.source(index)} does not fit {PICTURES}: it must be the byte offsets of its lines, each behind the id of its "
                "picture or all without; correct it or leave it out"
            )
        ids = [line[0].decode(errors="replace") for line in lines] if columns == {2} else None
        starts = np.array(offsets, np.int64)
    ordered = np.unique(np.append(starts, whole))

    def location(start: int) -> str:
        return f"{start}+{ordered[np.searchsorted(ordered, start, 'right')] - start}"

    with tree.open(PICTURES) as tsv:

        def named(start: int) -> str:
            return tsv.read_at(200, start).partition(b"\t")[0].decode(errors="replace").strip()

        if ids is None and len(starts) and all(_line_of(named(int(starts[n]))) == n for n in (0, len(starts) // 2, len(starts) - 1)):

            def by_number(id: str) -> str:
                line = _line_of(id)
                return location(int(starts[line])) if line is not None and line < len(starts) else "0+0"

            return by_number
        by_id: dict[str, int] = {}
        for start, id in zip(map(int, starts), ids if ids is not None else map(named, map(int, starts)), strict=True):
            by_id.setdefault(id, start)
    return lambda id: location(by_id[id]) if id in by_id else "0+0"


def _line_of(id: str) -> int | None:
    """The line of a picture in WebQA's own order, from its number; the reader compares the ids again."""
    return int(id) % PER_SERIES if id.isascii() and id.isdigit() else None


def _scan_ids(tree: SourceFiles) -> tuple[list[str], np.ndarray]:
    """The id and offset of every line of imgs.tsv, found by reading it once."""
    ids, starts, at = [], [], 0
    with tree.stream(PICTURES) as stream:
        while raw := stream.readline(LONGEST_LINE):
            if raw.strip():
                ids.append(raw[:200].partition(b"\t")[0].decode(errors="replace").strip())
                starts.append(at)
            at += len(raw)
    return ids, np.array(starts, np.int64)


# Questions


def _question(row: dict[str, Any], split: str, judged: bool, source: str, line: int) -> Iterator[Row]:
    refuse_unread(row, (*IDS, "Q", *FACTS, *ASIDE))
    id = id_of(next((row[name] for name in IDS if row.get(name) is not None), None))
    question = text_of(row.get("Q"))
    if not question:
        raise RowError("empty side", "Q, the question, is empty")
    yield Query(Item(id, question, source=source, line=line), split, dataset=NAME)
    for name, (key, relevance) in FACTS.items():
        for fact in list_of(row.get(name), name):
            item = id_of(fact[key] if isinstance(fact, dict) else fact)
            if not judged:
                yield Judgement(id, item, relevance, source=source, line=line)


def _is_keyed(tree: SourceFiles, file: str) -> bool:
    """Whether a file is one JSON object of objects; a question in JSON lines has no objects among its values."""
    with tree.stream(file) as stream:
        head = stream.read(4096).decode("utf-8-sig", errors="replace")
    return bool(re.match(r'\s*\{\s*"(\\.|[^"\\])*"\s*:\s*\{', head))


def _keyed(tree: SourceFiles, file: str) -> Iterator[tuple[int, Any]]:
    """The values of one large JSON object with their lines, parsed one at a time, each an object with its key as "Guid"."""
    text, at, line, decode = "", 0, 1, json.JSONDecoder().raw_decode
    with tree.stream(file) as stream:
        blocks = Blocks(tree.source(file), stream)
        while True:
            gap = _GAP.match(text, at)
            assert gap is not None  # it matches no text too
            start = gap.end()
            line, at = line + text.count("\n", at, start), start
            if text.startswith("}", at):
                return blocks.finish(text[at + 1 :])
            try:
                key, end = decode(text, at)
                if (colon := _COLON.match(text, end)) is None:
                    raise AttributeError("no colon after a key")
                value, end = decode(text, colon.end())
            except (ValueError, AttributeError, RecursionError) as error:
                if blocks.ended or len(text) - at > LONGEST_LINE or not isinstance(error, (json.JSONDecodeError, AttributeError)):
                    words = f"line {line} is no JSON object of questions by their ids, or is cut off"
                    raise Unreadable(f"{tree.source(file)} {words}", line) from error
                text, at = (
                    text[at:] + blocks.more(len(text) - at),
                    0,
                )  # blocks grow with the value, so a long one is not parsed again for every block
                continue
            yield (
                line,
                {"Guid": key, **value} if isinstance(value, dict) else RowError("bad JSON", f"a {type(value).__name__} and no object"),
            )
            line, at = line + text.count("\n", at, end), end


_GAP, _COLON = re.compile(r"[\s,{]*"), re.compile(r"\s*:\s*")


# Writing


def write(target: Path, corpus: Path) -> Counter[str]:
    """Writes all files but WebQA's own; returns the counts of what the format cannot represent."""
    dropped: Counter[str] = count_unsupported(corpus)
    reader, pictures, start = CorpusReader(corpus), set(), 0
    target.mkdir(parents=True, exist_ok=True)
    with Files(target) as files, ExitStack() as stack:
        tsv = None
        for item in reader.candidates():
            fits(item, NAME, images=1)
            if not item.images:
                files.row(DOCS, {"snippet_id": item.id, "fact": item.text})
                continue
            tsv = tsv or stack.enter_context((target / PICTURES).open("wb"))
            files.row(CAPTIONS, {"image_id": item.id, "caption": item.text})
            files.text(INDEXES[0], f"{item.id}\t{start}\n")
            start += tsv.write(item.id.encode() + b"\t" + base64.b64encode(item.images[0]) + b"\n")
            pictures.add(item.id)
        for query, split, _, judgements in reader.queries():
            fits(query, NAME, images=0)
            if split not in FILES:
                raise Refused(f"{NAME} has the splits {', '.join(FILES)}, and {query.id} is of {split!r}; rename it (sources.splits)")
            row: dict[str, Any] = {"qid": query.id, "Q": query.text} | {name: [] for name in FACTS}
            for judgement in judgements:
                kind, relevance = "img" if judgement["item_id"] in pictures else "txt", judgement["relevance"]
                row[f"{kind}_{'pos' if relevance > 0 else 'neg'}Facts"].append({FACTS[f"{kind}_posFacts"][0]: judgement["item_id"]})
                dropped["scores of a teacher"] += judgement["score"] is not None
                dropped["grades of relevance"] += split != "test" and relevance not in (0, 1)
                if split == "test":
                    files.text("test_qrels.txt", f"{query.id}\t{judgement['item_id']}\t{relevance}\n")
            files.row(FILES[split], row)
    return +dropped
