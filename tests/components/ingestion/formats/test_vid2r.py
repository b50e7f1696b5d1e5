"""ViD2R: questions about pictures, with the passage that answers them, the concise answer, or both."""

import json

import pytest

from mirepoix.components.ingestion.formats import sentencetransformers, vid2r
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, RejectedRow, Triple, unnamed_candidate
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.fixtures import write_corpus
from tests.components.ingestion.formats.format_cases import corpus_of, meaning, picture, rejected_rows, rows_of, write_files

RED, BLUE = picture(200), picture(10, "JPEG")
WHOLE = {"question": "Who designed it?", "image": "coco/1.png", "doc": "The tower is by Eiffel.", "answer": "Eiffel"}


def read(folder, records, **settings):
    files = {"coco/1.png": RED, "coco/2.jpg": BLUE, "ViD2R.json": json.dumps(records) if isinstance(records, list) else records}
    return rows_of(vid2r, write_files(folder, files), name="mine", **settings)


def test_a_record_is_a_query_with_its_passage_and_a_question_with_its_answer(tmp_path):
    at = {"source": "mine/ViD2R.json", "line": 1}
    item = Item("mine/ViD2R.json:1@coco", "Who designed it?", (RED,), **at)
    doc = unnamed_candidate("The tower is by Eiffel.", **at)
    assert read(tmp_path, [WHOLE]) == [
        doc,
        Query(item, "train"),
        Judgement(item.id, doc.item.id, 1, None, *at.values()),
        Triple(item, "train", "Eiffel", (doc.item.id,)),
    ]


def test_a_passage_alone_is_a_query_and_an_answer_alone_a_question(tmp_path):
    doc, answer = ({name: WHOLE[name] for name in ("question", "image", kind)} for kind in ("doc", "answer"))
    rows = read(tmp_path, [doc, answer])
    assert [type(row) for row in rows] == [Candidate, Query, Judgement, Triple]
    assert rows[3] == Triple(
        Item("mine/ViD2R.json:1.2@coco", WHOLE["question"], (RED,), source="mine/ViD2R.json", line=1), "train", "Eiffel"
    )


@pytest.mark.parametrize("question", ["query", "question"])
@pytest.mark.parametrize("image", ["image", "image_path", "img_path", "image_file"])
@pytest.mark.parametrize(
    ("doc", "answer"), [("doc", "answer"), ("passage", "response"), ("document", "short_answer"), ("context", "answer")]
)
def test_the_names_that_others_use_are_understood(tmp_path, question, image, doc, answer):
    record = {question: WHOLE["question"], image: WHOLE["image"], doc: WHOLE["doc"], answer: WHOLE["answer"], "question_id": 7}
    assert read(tmp_path, [record]) == read(tmp_path, [WHOLE])


def test_records_may_be_json_lines_and_the_file_names_the_split(tmp_path):
    text = json.dumps(WHOLE) + "\n\n" + json.dumps({**WHOLE, "image": "2.jpg"}) + "\n"
    write_files(tmp_path, {"data/val.jsonl": text, "coco/coco/1.png": RED, "coco/2.jpg": BLUE})
    rows = rows_of(vid2r, tmp_path / "data", name="mine", images=str(tmp_path / "coco"))
    assert [(row.item.id, row.split, row.item.images) for row in rows if isinstance(row, Query)] == [
        ("mine/val.jsonl:1@coco", "validation", (RED,)),
        ("mine/val.jsonl:3", "validation", (BLUE,)),
    ]


@pytest.mark.parametrize(
    ("image", "folder"),
    [
        ("my pictures/VG_100K/1.png", "@my_pictures/VG_100K"),
        ("1.png", ""),
        (["VG_100K/1.png"], "@VG_100K"),
        ({"path": "VG_100K/1.png"}, "@VG_100K"),
    ],
)
def test_the_id_has_the_folder_of_the_picture_so_that_folders_can_be_left_out(tmp_path, image, folder):
    files = {f"{where}1.png": RED for where in ("", "VG_100K/", "my pictures/VG_100K/")}
    rows = rows_of(vid2r, write_files(tmp_path / "mine", {"ViD2R.json": json.dumps([{**WHOLE, "image": image}] * 2), **files}))
    for kind in (Query, Triple):
        assert [row.item.id for row in rows if isinstance(row, kind)] == [f"mine/ViD2R.json:1{nth}{folder}" for nth in ("", ".2")]


def test_the_placeholder_is_taken_out_of_the_question(tmp_path):
    rows = read(tmp_path, [{**WHOLE, "question": question} for question in ("<image>\nWhat ?", "What ?\n<image>", "What ?")])
    assert [row.item.text for row in rows if isinstance(row, Query)] == ["What ?"] * 3


def test_each_kind_of_bad_row_is_rejected_with_its_line(tmp_path):
    wrong = [
        {"image": "nowhere.png"},
        {"image": None},
        {"image": "http://x/1.png"},
        {"image": "1.mp4"},
        {"image": ["coco/1.png", "coco/2.jpg"]},
        {"question": ""},
        {"question": "<image>"},
        {"question": "<image> <image> ?"},
        {"question": 3},
        {"doc": "", "answer": None},
        {"doc": ["a", "b"]},
        {"audio": "1.wav"},
    ]
    lines = [json.dumps({**WHOLE, **change}) for change in wrong]
    rows = read(tmp_path, "[" + ",\n".join([*lines, "7", json.dumps(WHOLE)]) + "]")
    assert rejected_rows(rows) == [
        ("mine/ViD2R.json", line, reason)
        for line, reason in enumerate(
            [
                *("missing picture", "missing picture", "URL", "video file", "missing picture", "empty side", "empty side"),
                *("placeholders", "bad row", "no answer", "bad row", "unread column", "bad JSON"),
            ],
            1,
        )
    ]
    assert len([row for row in rows if not isinstance(row, RejectedRow)]) == 4


def test_it_is_detected_by_its_first_record(tmp_path):
    others = {"query": "?", "image": "1.png", "passage": "x", "answer": "y"}
    for number, record in enumerate([WHOLE, {"question": "?", "img_path": "1.png", "response": "x"}, others]):
        tree = SourceFiles(str(write_files(tmp_path / str(number), {"x.json": json.dumps([record])})))
        assert vid2r.detect(tree) and not sentencetransformers.detect(tree)
    for number, record in enumerate(
        [{"query": "?", "pos": ["x"], "neg": []}, {"question": "?", "answer": "x"}, {"query": {}, "candidate": {}}]
    ):
        assert not vid2r.detect(SourceFiles(str(write_files(tmp_path / f"other{number}", {"x.json": json.dumps([record])}))))
    assert not vid2r.detect(SourceFiles(str(write_files(tmp_path / "none", {"x.txt": "x"}))))


def test_what_is_written_is_read_again(tmp_path):
    records = [
        WHOLE,
        {**WHOLE, "image": "coco/2.jpg", "answer": ""},
        {**WHOLE, "question": "What ?", "doc": ""},
    ]
    write_files(
        tmp_path / "in", {"coco/1.png": RED, "coco/2.jpg": BLUE, "train.json": json.dumps(records), "test.json": json.dumps([WHOLE])}
    )
    rows = rows_of(vid2r, tmp_path / "in")
    assert vid2r.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows)) == {}
    assert meaning(rows_of(vid2r, tmp_path / "out"), ids=False) == meaning(rows, ids=False)
    written = json.loads((tmp_path / "out" / "train.json").read_text())
    assert [{**record, "image": ""} for record in written] == [
        {name: text for name, text in {**record, "image": ""}.items() if text or name == "image"} for record in records
    ]


PASSAGE = {"id": "d", "text": "a passage"}
ASKED = {"id": "q", "text": "what ?", "images": [RED], "split": "train", "task": "it->t"}


@pytest.mark.parametrize(
    ("candidate", "query", "words"),
    [
        ({"images": [RED]}, {}, "holds passages of text, and candidate d is none"),
        ({}, {"images": []}, "holds questions about pictures, without <image> in them, and q is none"),
        ({}, {"text": ""}, "and q is none"),
        ({}, {"text": "what is <image> ?"}, "and q is none"),
        ({}, {"images": [RED, RED]}, "q has 2 pictures"),
        ({}, {"instruction": "Find."}, "no place for an instruction, and q has one"),
        ({}, {"split": "mine"}, "split 'mine'"),
    ],
)
def test_what_it_cannot_hold_is_refused(tmp_path, candidate, query, words):
    qrels = [{"query_id": "q", "item_id": "d"}]
    corpus = write_corpus(tmp_path / "corpus", corpus=[{**PASSAGE, **candidate}], queries=[{**ASKED, **query}], qrels=qrels)
    with pytest.raises(Refused) as refused:
        vid2r.write(tmp_path / "out", corpus)
    assert words in str(refused.value)


def test_what_it_has_no_place_for_is_counted(tmp_path):
    corpus = write_corpus(
        tmp_path / "corpus",
        corpus=[PASSAGE, *({**PASSAGE, "id": id} for id in ("d2", "d3", "d4"))],
        queries=[ASKED, {**ASKED, "id": "q2"}],
        qrels=[{"query_id": "q", "item_id": id, "relevance": grade} for id, grade in (("d", 2), ("d2", 0), ("d3", 1))],
    )
    assert vid2r.write(tmp_path / "out", corpus) == {
        "negatives": 1,
        "grades of relevance": 1,
        "queries without an answer": 1,
        "queries that are written as several rows": 1,
        "candidates that no query names": 1,
    }
