"""WebQA as MARVEL and UniVL-DR ship it.

    all_docs.json                   {"snippet_id": "d1_0", "fact": "..."}, a line each: the passages
    all_imgs.json                   {"image_id": 30000000, "caption": "..."}, a line each: the captions of the pictures
    imgs.tsv                        the id of a picture, a tab, and the picture in base64
    imgs.lineidx.new                where each line of imgs.tsv starts, in bytes; without it, imgs.tsv is read once to find out
    train.json, dev.json, test.json questions: "qid" (or "Guid" or "id"), "Q", and "txt_posFacts", "img_posFacts", "txt_negFacts",
                                    "img_negFacts": ids, or objects with "snippet_id" or "image_id"
    test_qrels.txt                  `qid 0 id relevance`; where it is there, it is what is told of test.json, and the facts are not
                                    (train_qrels.txt and dev_qrels.txt likewise)

Questions are JSON lines, one JSON array, or one JSON object of questions by their ids, as WebQA's own file is. What else WebQA says of a
question (A, Qcate, topic, ...) is left aside. The facts that are negative are judged irrelevant.
"""

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader
from mirepoix.components.ingestion.formats.fields import id_of, list_of, text_of, unread
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, Row, RowError, Unreadable, rowwise, split_of
from mirepoix.components.ingestion.formats.source_files import LONGEST_LINE, Blocks, Shard, SourceFiles
from mirepoix.components.ingestion.formats.writing import Files, fits, unheld
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item

NAME = "webqa"
WHAT = "WebQA as MARVEL and UniVL-DR ship it: snippets, captioned pictures in a TSV with a line index, questions"
DOCS, CAPTIONS, PICTURES, INDEXES = "all_docs.json", "all_imgs.json", "imgs.tsv", ("imgs.lineidx.new", "imgs.lineidx")
FACTS = {
    "txt_posFacts": ("snippet_id", 1),
    "img_posFacts": ("image_id", 1),
    "txt_negFacts": ("snippet_id", 0),
    "img_negFacts": ("image_id", 0),
}
IDS = ("qid", "Guid", "id")
ASIDE = ("A", "EA", "Keywords_A", "Qcate", "topic", "split", "txt_Facts", "img_Facts")
FILES = {"train": "train.json", "validation": "dev.json", "test": "test.json"}
LINES = 1000  # of captions in a piece, at most: the pictures are what is long
PER_SERIES = 10_000_000  # WebQA's picture number n is line n % 10,000,000


def detect(place: SourceFiles) -> bool:
    return DOCS in place.sizes or CAPTIONS in place.sizes


def shards(place: SourceFiles) -> list[Shard]:
    """Snippets, captions (with the places of their pictures in `part`), questions, and judgements."""
    pieces = place.shards(DOCS, "docs") if DOCS in place.sizes else []
    if CAPTIONS in place.sizes:
        pieces += [Shard(PICTURES, "pictures"), *_caption_shards(place)]
    for file in place.files(r"(train|dev|val|test)\.json"):
        pieces += [Shard(file, "keyed")] if _is_keyed(place, file) else place.shards(file, "questions")
    return pieces + [shard for file in place.files(r"(train|dev|val|test)_qrels\.txt") for shard in place.shards(file, "qrels")]


def read(place: SourceFiles, shard: Shard) -> Iterator[Row]:
    source = place.source(shard.file)
    kind, _, places = shard.part.partition(" ")
    match kind:
        case "docs":
            return rowwise("corpus", source, place.records(shard), lambda line, row: [_snippet(row, source, line)])
        case "pictures":
            return iter(())  # they are read with their captions
        case "images":
            return _images(place, shard, places.split())
        case "qrels":
            return rowwise("qrels", source, place.lines(shard), lambda line, text: [_judgement(text, source, line)])
    records = _keyed(place, shard.file) if kind == "keyed" else place.records(shard)
    split, judged = split_of(shard.file), f"{shard.file[: -len('.json')]}_qrels.txt" in place.sizes
    return rowwise("queries", source, records, lambda line, row: _question(row, split, judged, source, line))


# Snippets, pictures and judgements


def _snippet(row: dict[str, Any], source: str, line: int) -> Candidate:
    unread(row, ("snippet_id", "fact", "title", "url"))
    fact = text_of(row["fact"])
    if not fact:
        raise RowError("empty side", "the fact is empty")
    return Candidate(Item(id_of(row["snippet_id"]), fact, source=source, line=line))


def _judgement(text: str, source: str, line: int) -> Judgement:
    cells = text.split()
    if len(cells) != 4:
        raise RowError("bad row", f"{len(cells)} columns and not `qid 0 id relevance`")
    return Judgement(cells[0], cells[2], int(cells[3]), source=source, line=line)


def _images(place: SourceFiles, shard: Shard, places: list[str]) -> Iterator[Row]:
    """The pictures of a piece of the captions, each from its place in imgs.tsv."""
    source, here = place.source(shard.file), ""

    def records() -> Iterator[tuple[int, Any]]:
        nonlocal here
        for (line, row), here in zip(place.records(shard), places, strict=True):  # noqa: B007
            yield line, row

    def parse(line: int, row: dict[str, Any]) -> list[Row]:
        unread(row, ("image_id", "caption", "title", "url", "imgUrl"))
        id, (start, size) = id_of(row["image_id"]), map(int, here.split("+"))
        if size > LONGEST_LINE:
            raise RowError("missing picture", f"the line of {id} in {PICTURES} is longer than {LONGEST_LINE >> 20} MiB")
        name, _, content = tsv.read_at(size, start).partition(b"\n")[0].partition(b"\t")
        if not size or name.decode(errors="replace").strip() != id:
            raise RowError("missing picture", f"{PICTURES} has no line for {id}")
        try:
            picture = base64.b64decode(content.strip(), validate=True)
        except binascii.Error as error:
            raise RowError("bad row", f"the picture of {id} is no base64: {error}") from error
        if not picture:
            raise RowError("missing picture", f"the line of {id} in {PICTURES} is empty")
        return [Candidate(Item(id, text_of(row.get("caption")), (picture,), source=source, line=line))]

    with place.open(PICTURES) as tsv:
        yield from rowwise("corpus", source, records(), parse)


# Where the pictures stand


def _caption_shards(place: SourceFiles) -> list[Shard]:
    """The captions in pieces, with start and size of each one's line in imgs.tsv, so that no piece has to look for them."""
    found, pieces = _places(place), []
    whole = Shard(CAPTIONS)
    if place.is_array(CAPTIONS):
        told: list[str] = []
        with suppress(Unreadable):  # is told where it is read
            told.extend(found(_id(row)) for _, row in place.records(whole))
        return [Shard(CAPTIONS, " ".join(["images", *told]))]
    with place.stream(CAPTIONS) as stream:
        start = at = 0
        first, told = 1, []
        for number, raw in enumerate(stream, 1):
            at += len(raw)
            if raw.strip():
                told.append(found(_id(raw)))
            if len(told) == LINES:
                pieces.append(Shard(CAPTIONS, " ".join(["images", *told]), start, at, first))
                start, first, told = at, number + 1, []
        if told:
            pieces.append(Shard(CAPTIONS, " ".join(["images", *told]), start, at, first))
    return pieces


def _id(caption: Any) -> str:
    """The id in a line of captions; none in one that is wrong, which its reader will say."""
    try:
        return str((json.loads(caption) if isinstance(caption, bytes) else caption)["image_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _places(place: SourceFiles) -> Callable[[str], str]:
    """What gives the start and size of a picture's line in imgs.tsv, as "start+size"; "0+0" where there is none."""
    if PICTURES not in place.sizes:
        raise Refused(f"{place.source(CAPTIONS)} has captions of pictures, and {PICTURES}, which holds them, is not beside it")
    whole = place.sizes[PICTURES]
    index = next((name for name in INDEXES if name in place.sizes), None)
    if index is None:
        ids, starts = _passed(place)
    else:
        with place.stream(index) as stream:
            lines = stream.read().split()
        if not all(map(bytes.isdigit, lines)) or max(map(int, lines), default=0) >= max(whole, 1):
            raise Refused(
                f"{place.source(index)} does not fit {PICTURES}: it is to be where each line of it starts, in bytes; leave it out"
            )
        ids, starts = None, np.array(lines, np.int64)
    ordered = np.unique(np.append(starts, whole))

    def told(start: int) -> str:
        return f"{start}+{ordered[np.searchsorted(ordered, start, 'right')] - start}"

    with place.open(PICTURES) as tsv:

        def named(start: int) -> str:
            return tsv.read_at(200, start).partition(b"\t")[0].decode(errors="replace").strip()

        if ids is None and len(starts) and all(_line_of(named(int(starts[n]))) == n for n in (0, len(starts) // 2, len(starts) - 1)):

            def by_number(id: str) -> str:
                line = _line_of(id)
                return told(int(starts[line])) if line is not None and line < len(starts) else "0+0"

            return by_number
        by_id: dict[str, int] = {}
        for start, id in zip(map(int, starts), ids if ids is not None else map(named, map(int, starts)), strict=True):
            by_id.setdefault(id, start)
    return lambda id: told(by_id[id]) if id in by_id else "0+0"


def _line_of(id: str) -> int | None:
    """The line at which WebQA has a picture by its number; the reader still compares the ids."""
    return int(id) % PER_SERIES if id.isascii() and id.isdigit() else None


def _passed(place: SourceFiles) -> tuple[list[str], np.ndarray]:
    """The ids of all lines of imgs.tsv and where they start, by reading it once."""
    ids, starts, at = [], [], 0
    with place.stream(PICTURES) as stream:
        while raw := stream.readline(LONGEST_LINE):
            if raw.strip():
                ids.append(raw[:200].partition(b"\t")[0].decode(errors="replace").strip())
                starts.append(at)
            at += len(raw)
    return ids, np.array(starts, np.int64)


# Questions


def _question(row: dict[str, Any], split: str, judged: bool, source: str, line: int) -> Iterator[Row]:
    unread(row, (*IDS, "Q", *FACTS, *ASIDE))
    id = id_of(next((row[name] for name in IDS if row.get(name) is not None), None))
    question = text_of(row.get("Q"))
    if not question:
        raise RowError("empty side", "Q, the question, is empty")
    yield Query(Item(id, question, source=source, line=line), split)
    for name, (key, relevance) in FACTS.items():
        for fact in list_of(row.get(name), name):
            item = id_of(fact[key] if isinstance(fact, dict) else fact)
            if not judged:
                yield Judgement(id, item, relevance, source=source, line=line)


def _is_keyed(place: SourceFiles, file: str) -> bool:
    """Whether a file is one object of objects: a question in JSON lines has texts and lists in it and no objects."""
    with place.stream(file) as stream:
        head = stream.read(4096).decode("utf-8-sig", errors="replace")
    return bool(re.match(r'\s*\{\s*"(\\.|[^"\\])*"\s*:\s*\{', head))


def _keyed(place: SourceFiles, file: str) -> Iterator[tuple[int, Any]]:
    """The values of one large JSON object with their lines, each an object with its key as "Guid"; read as far as the next one reaches."""
    text, at, line, decode = "", 0, 1, json.JSONDecoder().raw_decode
    with place.stream(file) as stream:
        blocks = Blocks(place.source(file), stream)
        while True:
            start = _GAP.match(text, at).end()
            line, at = line + text.count("\n", at, start), start
            if text.startswith("}", at):
                return blocks.finish(text[at + 1 :])
            try:
                key, end = decode(text, at)
                value, end = decode(text, _COLON.match(text, end).end())
            except (ValueError, AttributeError, RecursionError) as error:
                if blocks.ended or len(text) - at > LONGEST_LINE or not isinstance(error, (json.JSONDecodeError, AttributeError)):
                    words = f"line {line} is no JSON object of questions by their ids, or is cut off"
                    raise Unreadable(f"{place.source(file)} {words}", line) from error
                text, at = text[at:] + blocks.more(len(text) - at), 0  # a long value is not tried again for every block of it
                continue
            yield (
                line,
                {"Guid": key, **value} if isinstance(value, dict) else RowError("bad JSON", f"a {type(value).__name__} and no object"),
            )
            line, at = line + text.count("\n", at, end), end


_GAP, _COLON = re.compile(r"[\s,{]*"), re.compile(r"\s*:\s*")


# Writing


def write(target: Path, corpus: Path) -> Counter[str]:
    """All files of it but WebQA's own; returns the count of what has no place in them."""
    left: Counter[str] = unheld(corpus)
    shelf, pictures, start = CorpusReader(corpus), set(), 0
    target.mkdir(parents=True, exist_ok=True)
    with Files(target) as files, ExitStack() as stack:
        tsv = None
        for item in shelf.candidates():
            fits(item, NAME, images=1)
            if not item.images:
                files.row(DOCS, {"snippet_id": item.id, "fact": item.text})
                continue
            tsv = tsv or stack.enter_context((target / PICTURES).open("wb"))
            files.row(CAPTIONS, {"image_id": item.id, "caption": item.text})
            files.text(INDEXES[0], f"{start}\n")
            start += tsv.write(item.id.encode() + b"\t" + base64.b64encode(item.images[0]) + b"\n")
            pictures.add(item.id)
        for query, split, _, judgements in shelf.queries():
            fits(query, NAME, images=0)
            if split not in FILES:
                raise Refused(f"{NAME} has the splits {', '.join(FILES)}, and {query.id} is of {split!r}; rename it (sources.splits)")
            row: dict[str, Any] = {"qid": query.id, "Q": query.text} | {name: [] for name in FACTS}
            for told in judgements:
                kind, relevance = "img" if told["item_id"] in pictures else "txt", told["relevance"]
                row[f"{kind}_{'pos' if relevance > 0 else 'neg'}Facts"].append({FACTS[f"{kind}_posFacts"][0]: told["item_id"]})
                left["scores of a teacher"] += told["score"] is not None
                left["grades of relevance"] += split != "test" and relevance not in (0, 1)
                if split == "test":
                    files.text("test_qrels.txt", f"{query.id} 0 {told['item_id']} {relevance}\n")
            files.row(FILES[split], row)
    return +left
