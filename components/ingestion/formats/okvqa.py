"""OK-VQA as a retrieval of passages: questions about COCO's pictures, whose answers are looked for in passages.

    okvqa_full_clean_corpus.csv (or okvqa_full_corpus.csv)      kid, text: passages of a Google search
    retriever_test.json                                         the questions of the test set; see answer_passages.py
    val2014/COCO_val2014_000000000042.jpg                       their pictures, in any folder

or, for the corpus of 11 million passages of Wikipedia,

    all_blocks.txt                                              {"id": ..., "text": ...}, a line each
    test2014_pairs_cap_combine_sum.txt                          {"question_id", "image_id", "question"}, a line each
    mscoco_val2014_annotations.json                             OK-VQA's own answers by question_id

Without retriever_test.json, the questions of a Google search are OK-VQA's own: OpenEnded_mscoco_val2014_questions.json, with
mscoco_val2014_annotations.json. Files may be in any folder of the source, text files also as .gz. `images` is the folder of val2014, or
above it. A passage is relevant if it has one of the answers, so a query has `answers` and no judgements; all distinct answers count, as in
MIRe's evaluation. The data set is OKVQA-GS or OKVQA-WK11M, the split test.
"""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from mirepoix.components.ingestion.formats import answer_passages
from mirepoix.components.ingestion.formats.answer_passages import answers_of
from mirepoix.components.ingestion.formats.benchmark_files import (
    FIRST,
    PICTURED,
    UNPACKED,
    Missing,
    first_rows,
    json_object,
    missing_picture,
    needed_file,
    picture_at,
    refuse_missing,
)
from mirepoix.components.ingestion.formats.fields import id_of, text_of
from mirepoix.components.ingestion.formats.rows import Candidate, Query, Row, RowError, rowwise
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality

NAME = "okvqa"
OVER = ("folder", "vid2r")
GOOGLE, WIKIPEDIA = "OKVQA-GS", "OKVQA-WK11M"
CORPORA = (r"okvqa_full_clean_corpus\.csv(\.gz)?", r"okvqa_full_corpus\.csv(\.gz)?")
BLOCKS = r"all_blocks\.txt(\.gz)?"
RETRIEVER, PAIRS = r"retriever_test\.json(\.gz)?", r"test2014_pairs_cap_combine_sum\.txt(\.gz)?"
ANNOTATIONS, QUESTIONS = r"mscoco_val2014_annotations\.json", r"OpenEnded_mscoco_val2014_questions\.json"
PICTURE = "COCO_val2014_{:012d}.jpg"
PASSAGES = "RAVQA_v2_data.tar.gz at hf.co/datasets/BByrneLab/RAVQAV2Data (okvqa/.../passages)"
ORIGINS = {
    CORPORA[0]: Missing("okvqa_full_clean_corpus.csv", PASSAGES),
    RETRIEVER: Missing("retriever_test.json", PASSAGES),
    ANNOTATIONS: Missing("mscoco_val2014_annotations.json", "okvqa.allenai.org/download.html"),
    QUESTIONS: Missing("OpenEnded_mscoco_val2014_questions.json", "okvqa.allenai.org/download.html"),
    BLOCKS: Missing("all_blocks.txt", "ciir.cs.umass.edu/downloads/ORConvQA/all_blocks.txt.gz"),
    PAIRS: Missing("test2014_pairs_cap_combine_sum.txt", "ciir.cs.umass.edu/downloads/okvqa, in data"),
}
PICTURES_ORIGIN = "images.cocodataset.org/zips/val2014.zip"


def detect(tree: SourceFiles) -> bool:
    return any(_files(tree, name) for name in (*CORPORA, RETRIEVER, PAIRS, QUESTIONS))


def named_splits(tree: SourceFiles) -> set[str]:
    return {"test"}


def modality(tree: SourceFiles) -> Modality:
    return PICTURED


def missing(tree: SourceFiles) -> list[Missing]:
    found = [ORIGINS[pattern] for pattern in _wanted(tree) if not _files(tree, pattern)]
    name = "COCO_val2014_*.jpg, the pictures of the questions"
    if not tree.images and not _pictures(tree):
        return [*found, Missing(name, PICTURES_ORIGIN, UNPACKED)]
    if not found and (first := missing_picture(tree, _named_pictures(tree))):
        found.append(Missing(f"{name}, such as {first}", PICTURES_ORIGIN, UNPACKED))
    return found


def _wanted(tree: SourceFiles) -> tuple[str, ...]:
    """The files that the corpus, of which there is some file, consists of."""
    if _files(tree, BLOCKS, PAIRS) and not _files(tree, *CORPORA, RETRIEVER):
        return BLOCKS, PAIRS, ANNOTATIONS
    corpus = next((name for name in CORPORA if _files(tree, name)), CORPORA[0])
    own = not _files(tree, RETRIEVER) and _files(tree, QUESTIONS, ANNOTATIONS)
    return (corpus, QUESTIONS, ANNOTATIONS) if own else (corpus, RETRIEVER)


def _named_pictures(tree: SourceFiles) -> Iterator[list[str]]:
    """The places of the pictures of the first questions."""
    form = next(pattern for pattern in (RETRIEVER, PAIRS, QUESTIONS) if pattern in _wanted(tree))
    file = _files(tree, form)[0]
    rows = first_rows(tree, file) if form != QUESTIONS else islice(json_object(tree, file).get("questions") or [], FIRST)
    folder = _folder(tree)
    for row in rows:
        with suppress(KeyError, TypeError, ValueError):  # rejected when it is read
            yield _places(folder, f"{row['img_id']}.jpg" if form == RETRIEVER else PICTURE.format(int(row["image_id"])))


def shards(tree: SourceFiles) -> list[Shard]:
    corpus, blocks = _files(tree, *CORPORA), _files(tree, BLOCKS)
    if corpus and blocks:
        raise Refused(f"{tree.path!r} has the passages of {GOOGLE} ({corpus[0]}) and of {WIKIPEDIA} ({blocks[0]}); leave one of them")
    refuse_missing(tree, NAME, missing(tree))
    passages, folder = _wanted(tree)[0], _folder(tree)
    if passages == BLOCKS:
        pairs, annotations = _needed(tree, PAIRS), _needed(tree, ANNOTATIONS)
        return [*tree.shards(blocks[0], "blocks"), Shard(annotations, "answers"), Shard(pairs, f"pairs {folder}")]
    first = Shard(_files(tree, passages)[0], "passages")
    if retriever := _files(tree, RETRIEVER):
        return [first, Shard(retriever[0], f"retriever {folder}")]
    questions, annotations = _needed(tree, QUESTIONS), _needed(tree, ANNOTATIONS)
    return [first, Shard(annotations, "answers"), Shard(questions, f"questions {folder}")]


def _files(tree: SourceFiles, *names: str) -> list[str]:
    """The files of these names in any folder."""
    return tree.files(*(rf"(.*/)?{name}" for name in names))


def _needed(tree: SourceFiles, pattern: str) -> str:
    return needed_file(tree, NAME, pattern, ORIGINS[pattern])


def _pictures(tree: SourceFiles) -> str | None:
    """The first picture in the source."""
    return next((file for file in tree.sizes if file.rpartition("/")[2].startswith("COCO_val2014_")), None)


def _folder(tree: SourceFiles) -> str:
    """The folder of the pictures in the source; "." where `images` is another one."""
    return "." if tree.images else (_pictures(tree) or "").rpartition("/")[0] or "."


def _places(folder: str, file: str) -> list[str]:
    """Where a picture may lie."""
    return [f"{place}{file}" for place in (("", "val2014/", "coco/val2014/") if folder == "." else (f"{folder}/",))]


def read(tree: SourceFiles, shard: Shard) -> Iterator[Row]:
    source = tree.source(shard.file)
    kind, _, folder = shard.part.partition(" ")
    match kind:
        case "passages":
            return answer_passages.passages(tree, shard)
        case "blocks":
            return rowwise("corpus", source, tree.records(shard), lambda line, row: [_block(row, source, line)])
        case "answers":
            return iter(())  # they are read with the questions
        case "retriever":
            return answer_passages.questions(tree, shard, _Questions(tree, source, folder, GOOGLE).of_retriever)
        case "pairs":
            queries = _Questions(tree, source, folder, WIKIPEDIA, _answers(tree))
            return rowwise("queries", source, tree.records(shard), queries.of_image)
    queries = _Questions(tree, source, folder, GOOGLE, _answers(tree))
    numbered = enumerate(json_object(tree, shard.file).get("questions") or [], 1)
    return rowwise("queries", source, numbered, queries.of_image)


def _block(row: dict[str, Any], source: str, line: int) -> Candidate:
    text = text_of(row["text"])
    if not text:
        raise RowError("empty side", "the passage is empty")
    return Candidate(Item(id_of(row["id"]), text, source=source, line=line))


def _answers(tree: SourceFiles) -> dict[str, tuple[str, ...]]:
    """The answers of OK-VQA's annotations by the id of the question; a question without a usable one has none."""
    found: dict[str, tuple[str, ...]] = {}
    for row in json_object(tree, _needed(tree, ANNOTATIONS)).get("annotations") or []:
        answers = [given.get("answer") for given in row.get("answers") or []]
        texts = [answer.lower() for answer in answers if isinstance(answer, str) and answer.strip()]
        if texts:
            found[str(row.get("question_id"))] = answers_of(texts)
    return found


class _Questions:
    """Makes queries with their picture and answers; a question that a file repeats is one query."""

    def __init__(self, tree: SourceFiles, source: str, folder: str, dataset: str, answers: dict[str, tuple[str, ...]] | None = None):
        self.tree, self.source, self.folder, self.dataset, self.answers = tree, source, folder, dataset, answers or {}
        self.seen: set[str] = set()

    def of_retriever(self, line: int, row: dict[str, Any], question: str) -> Iterator[Row]:
        """A question of retriever_test.json, which names its picture and has its answers."""
        yield self._query(line, id_of(row["question_id"]), question, f"{row['img_id']}.jpg", answers_of(row["answers"]))

    def of_image(self, line: int, row: dict[str, Any]) -> Iterator[Row]:
        """A question that gives its picture by the number in COCO, and whose answers are in the annotations."""
        name = id_of(row["question_id"])
        if name in self.seen:
            return
        self.seen.add(name)
        if not (answers := self.answers.get(name, ())):
            raise RowError("no answer", f"the annotations have none for question {name}")
        question = text_of(row["question"]).strip()
        if not question:
            raise RowError("empty side", "the question is empty")
        yield self._query(line, name, question, PICTURE.format(int(row["image_id"])), answers)

    def _query(self, line: int, name: str, question: str, file: str, answers: tuple[str, ...]) -> Query:
        item = Item(name, question, (picture_at(self.tree, *_places(self.folder, file)),), source=self.source, line=line)
        return Query(item, "test", "it->t", dataset=self.dataset, answers=answers)
