"""MMEB: training and evaluation rows by their columns, and bad rows rejected with their numbers."""

import pyarrow.parquet as pq
import pytest

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.curation import curate
from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.ingestion import sources
from mirepoix.components.ingestion.formats import mmeb
from mirepoix.components.ingestion.formats.mmeb import subset
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.fixtures import made
from tests.components.ingestion.formats.format_cases import corpus_of, counted, rejected_rows, rows_of, write_files
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


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("ImageNet-1K/test-00000-of-00001.parquet", "ImageNet-1K"),
        ("MMEB-eval/ImageNet-1K/test/0000.parquet", "ImageNet-1K"),
        ("OK-VQA/diverse_instruction-00000-of-00002.parquet", "OK-VQA"),
        ("OK-VQA/original/0000.parquet", "OK-VQA"),
        ("MSCOCO_t2i/part.jsonl.gz", "MSCOCO_t2i"),
        ("data/Wiki-SS-NQ.jsonl", "Wiki-SS-NQ"),
        ("ImageNet-1K_test.parquet", "ImageNet-1K"),
        ("test-00000-of-00001.parquet", ""),
        ("data/train.parquet", ""),
    ],
)
def test_the_data_set_of_a_query_is_the_subset_by_its_folder_or_file(file, name):
    assert subset(file) == name


def test_every_query_has_its_subset_and_it_is_written_into_its_folder(tmp_path):
    rows = rows_of(mmeb, sample(tmp_path / "s"))
    assert [row.dataset for row in rows if isinstance(row, Query)] == ["N24News"] * 3 + ["VOC2007"] * 2
    assert mmeb.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows)) == {}
    assert {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.parquet")} == {
        "N24News/test.parquet",
        "VOC2007/train.parquet",
    }
    again = rows_of(mmeb, tmp_path / "out")
    assert [row.dataset for row in again if isinstance(row, Query)] == ["N24News"] * 3 + ["VOC2007"] * 2


def test_a_data_set_that_cannot_be_the_name_of_a_folder_is_counted(tmp_path):
    rows = [Candidate(Item("d", "d")), *(Query(Item(name, "q"), "test", dataset=name) for name in ("a/b", "test", "VOC2007"))]
    rows += [Judgement(name, "d") for name in ("a/b", "test", "VOC2007")]
    assert mmeb.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows)) == {"names of data sets": 2}
    assert [row.dataset for row in rows_of(mmeb, tmp_path / "out") if isinstance(row, Query)] == ["VOC2007", "", ""]


def test_equal_targets_are_one_candidate_under_one_instruction_and_another_under_another(tmp_path):
    files = {
        "A/test.jsonl": [EVAL, EVAL | {"tgt_inst": "Read."}],
        "B/test.jsonl": [EVAL | {"tgt_inst": "Read."}, EVAL | {"tgt_text": ["n", "p"]}],
    }
    rows = rows_of(mmeb, write_files(tmp_path, files))
    ids = {}
    for row in rows:
        if isinstance(row, Candidate):
            ids.setdefault((row.item.text, row.item.instruction), set()).add(row.item.id)
    assert {key: len(same) for key, same in ids.items()} == {("p", ""): 1, ("n", ""): 1, ("p", "Read."): 1, ("n", "Read."): 1}
    assert len(set().union(*ids.values())) == 4


def test_an_answer_that_its_list_repeats_stays_the_answer(tmp_path):
    row = EVAL | {"tgt_text": ["p", "n", "p", "n"], "tgt_img_path": None}
    folder = write_files(tmp_path / "in", {"VOC2007/test.jsonl": [row]})
    read = made(tmp_path / "read", sources.work, SourcesConfig(path=(str(folder),)))
    kept = made(tmp_path / "kept", curate.work, CurateConfig(), sources=read.folder)
    texts = {row["id"]: row["text"] for row in read_part(kept.folder, "corpus").to_pylist()}
    judged = [(texts[row["item_id"]], row["relevance"]) for row in read_part(kept.folder, "qrels").to_pylist()]
    assert sorted(judged) == [("n", 0), ("p", 1)]


def test_of_splits_that_are_not_read_no_file_is_opened_but_for_its_columns(tmp_path, monkeypatch):
    files = {"A/test.jsonl": [EVAL], "A/train.jsonl": [TRAIN] * 200, "B/rows.jsonl": [EVAL] * 2, "B/train.jsonl": [TRAIN] * 200}
    tree = SourceFiles(str(write_files(tmp_path, files)))
    tree.only_splits = ("test",)
    found = [row for shard in mmeb.shards(tree) for row in mmeb.read(tree, shard)]
    assert [(row.split, row.dataset) for row in found if isinstance(row, Query)] == [("test", "A"), ("test", "B"), ("test", "B")]
    tree.only_splits = ("train",)
    opened = counted(monkeypatch, "records")
    assert {row.split for shard in mmeb.shards(tree) for row in mmeb.read(tree, shard) if isinstance(row, Query)} == {"train", "test"}
    assert set(opened) == {"A/train.jsonl", "B/rows.jsonl", "B/train.jsonl"}, "what B/rows.jsonl is of is known when it is joined"
