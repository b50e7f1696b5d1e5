"""MMEB: training and evaluation rows by their columns, and bad rows rejected with their numbers."""

import pyarrow.parquet as pq
import pytest

from mirepoix.components.ingestion.formats import mmeb
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, rejected_rows, rows_of, write_files
from tests.components.ingestion.formats.samples import BLUE, RED
from tests.components.ingestion.formats.samples import mmeb as sample


def examples(rows):
    """Each query with its split, instruction, and judgements by content."""
    items = {row.item.id: row.item for row in rows if isinstance(row, Candidate)}
    found = []
    for row in rows:
        if isinstance(row, Query):
            judgements = [
                (items[other.item_id], other.relevance) for other in rows if isinstance(other, Judgement) and other.query_id == row.item.id
            ]
            shown = [(item.text or item.images, relevance) for item, relevance in judgements]
            found.append((row.item.id, row.item.text, row.item.images, row.item.instruction, row.split, shown))
    return found


def test_rows_of_both_kinds_are_read_by_their_columns(tmp_path):
    rows = rows_of(mmeb, sample(tmp_path / "s"))
    news, voc = "s/N24News/test-00000-of-00001.parquet", "s/VOC2007/original-00000-of-00001.parquet"
    assert examples(rows) == [
        (f"{news}:1", "", (RED,), "Name the thing.", "test", [("stop sign", 1), ("rose", 0), ("stop sign", 0)]),
        (f"{news}:2", "a sea", (), "Find it.", "test", [((BLUE,), 1), ((RED,), 0)]),
        (f"{news}:3", "a sign", (), "Find it.", "test", [((RED,), 1), ((BLUE,), 0)]),
        (f"{voc}:1", "What is it?\n", (RED,), "", "train", [("a stop sign", 1), ("a rose", 0)]),
        (f"{voc}:2", "the sea", (), "", "train", [((BLUE,), 1)]),
    ]
    targets = [row.item for row in rows if isinstance(row, Candidate) and row.item.source == news and row.item.images]
    assert [(item.instruction, item.line) for item in targets] == [("Represent the given image.", 2), ("Represent the given image.", 2)]


def test_pictures_are_found_from_the_folder_that_is_given(tmp_path):
    rows = [{"qry": "<|image_1|>\nq", "qry_image_path": "a.png", "pos_text": "p", "pos_image_path": ""}]
    write_files(tmp_path, {"data/train.jsonl": rows, "pictures/a.png": RED})
    found = rows_of(mmeb, tmp_path / "data", images=str(tmp_path / "pictures"))
    assert [row.item.images for row in found if isinstance(row, Query)] == [(RED,)]


TRAIN = {"qry": "q", "qry_image_path": "", "pos_text": "p", "pos_image_path": ""}
EVAL = {"qry_inst": "Find.", "qry_text": "q", "qry_img_path": "", "tgt_inst": "", "tgt_text": ["p", "n"], "tgt_img_path": ["", ""]}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (TRAIN | {"qry": ""}, "empty side"),
        (TRAIN | {"pos_text": None}, "empty side"),
        (TRAIN | {"qry": "<|image_1|>"}, "placeholders"),
        (TRAIN | {"qry_image_path": "a.png"}, "placeholders"),
        (TRAIN | {"pos_text": "<|image_1|><|image_1|>", "pos_image_path": "a.png"}, "placeholders"),
        (TRAIN | {"neg_text": "<|image_1|>"}, "placeholders"),
        (TRAIN | {"pos_image_path": "gone.png"}, "missing picture"),
        (TRAIN | {"pos_image_path": "https://x/a.png"}, "URL"),
        (TRAIN | {"dataset": "x"}, "unread column"),
        (TRAIN | {"qry": 3}, "bad row"),
        (EVAL | {"tgt_text": ["p", ""]}, "empty side"),
        (EVAL | {"tgt_text": [], "tgt_img_path": []}, "no answer"),
        (EVAL | {"tgt_img_path": [""]}, "bad row"),
        (EVAL | {"tgt_img_path": ["", "gone.png"]}, "missing picture"),
        (EVAL | {"qry_inst": "<|image_1|> Find."}, "placeholders"),
        (EVAL | {"tgt_text": ["<|image_1|>", "n"]}, "placeholders"),
        (EVAL | {"qry_text": ""}, "empty side"),
        (EVAL | {"split": "test"}, "unread column"),
    ],
)
def test_each_bad_row_is_rejected_with_its_number(tmp_path, row, reason):
    good = EVAL if "qry_inst" in row else TRAIN
    rows = rows_of(mmeb, write_files(tmp_path / "s", {"rows.jsonl": [good, row, good], "a.png": RED}))
    assert rejected_rows(rows) == [("s/rows.jsonl", 2, reason)]
    assert [query for query, *_ in examples(rows)] == ["s/rows.jsonl:1", "s/rows.jsonl:3"]


def test_a_candidate_of_a_bad_row_is_given_with_the_next_good_one(tmp_path):
    bad = EVAL | {"tgt_text": ["p", "new", ""], "tgt_img_path": None}
    rows = rows_of(mmeb, write_files(tmp_path, {"rows.jsonl": [EVAL, bad, EVAL | {"tgt_text": ["new", "p"]}]}))
    assert [(row.item.text, row.item.line) for row in rows if isinstance(row, Candidate)] == [("p", 1), ("n", 1), ("new", 3)]


def test_an_evaluation_row_may_leave_the_placeholder_and_the_other_kind_of_target_out(tmp_path):
    row = {"qry_text": "q", "qry_img_path": "a.png", "tgt_img_path": ["b.png", "a.png"]}
    rows = rows_of(mmeb, write_files(tmp_path, {"rows.jsonl": [row], "a.png": RED, "b.png": BLUE}))
    assert [(text, images, judgements) for _, text, images, _, _, judgements in examples(rows)] == [
        ("q", (RED,), [((BLUE,), 1), ((RED,), 0)])
    ]


def test_columns_that_are_written_are_mmebs(tmp_path):
    rows = [Candidate(Item("p", "p", (BLUE,))), Candidate(Item("n", "n"))]
    for name, split in (("a", "train"), ("b", "test")):
        rows += [Query(Item(name, "q", (RED,)), split), Judgement(name, "p"), Judgement(name, "n", 0)]
    out = tmp_path / "out"
    mmeb.write(out, corpus_of(tmp_path / "corpus", rows))
    [train], [test] = (pq.read_table(out / f"{name}.parquet").to_pylist() for name in ("train", "test"))
    red, blue = train["qry_image_path"], train["pos_image_path"]
    assert ((out / red).read_bytes(), (out / blue).read_bytes()) == (RED, BLUE)
    assert train == {
        "qry": "<|image_1|>\nq",
        "qry_image_path": red,
        "pos_text": "<|image_1|>\np",
        "pos_image_path": blue,
        "neg_text": "n",
        "neg_image_path": "",
    }
    assert test == {
        "qry_inst": "<|image_1|>",
        "qry_text": "q",
        "qry_img_path": red,
        "tgt_inst": "<|image_1|>",
        "tgt_text": ["p", "n"],
        "tgt_img_path": [blue, ""],
    }


def test_several_answers_and_negatives_of_a_training_query_are_rows_of_their_own(tmp_path):
    rows = [Candidate(Item(name, name)) for name in ("p1", "p2", "n1", "n2", "n3")]
    rows += [Query(Item("q", "q"), "train"), *(Judgement("q", row.item.id, int(row.item.id[0] == "p")) for row in rows)]
    rows += [Query(Item("r", "r"), "train"), Judgement("r", "p1"), Judgement("r", "n1", 0)]
    left = mmeb.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
    found = pq.read_table(tmp_path / "out/train.parquet").to_pylist()
    assert [(row["pos_text"], row["neg_text"]) for row in found] == [("p1", "n1"), ("p2", "n2"), ("p1", "n3"), ("p1", "n1")]
    assert left == {"queries that are written as several rows": 1}


def test_negatives_of_an_evaluation_query_are_one_row_and_further_answers_are_not(tmp_path):
    rows = [Candidate(Item(name, name)) for name in ("p1", "p2", "n1", "n2")]
    rows += [Query(Item(name, name), "test") for name in ("q", "r")]
    rows += [Judgement("q", "p1"), Judgement("q", "n1", 0), Judgement("q", "n2", 0), Judgement("r", "p1"), Judgement("r", "p2")]
    assert mmeb.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows)) == {"queries that are written as several rows": 1}
    found = pq.read_table(tmp_path / "out/test.parquet").to_pylist()
    assert [row["tgt_text"] for row in found] == [["p1", "n1", "n2"], ["p1"], ["p2"]]


@pytest.mark.parametrize(
    ("item", "split", "message"),
    [
        (Item("q", "q", (RED, BLUE)), "train", "one picture an item"),
        (Item("q", "q", instruction="Find."), "train", "no place for an instruction"),
        (Item("q", "q", video=(RED,)), "test", "holds no clips"),
        (Item("q", "a <|image_1|> b"), "test", "would read"),
        (Item("q", "q"), "seen", "split 'seen'"),
    ],
)
def test_what_mmeb_cannot_hold_is_refused(tmp_path, item, split, message):
    rows = [Candidate(Item("p", "p")), Query(item, split), Judgement("q", "p")]
    with pytest.raises(Refused, match=message):
        mmeb.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
