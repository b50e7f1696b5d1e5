"""M-BEIR: pools, unions, qrels before lists, hashed ids, prompts, and bad rows rejected with their numbers."""

import gzip
import json

import pytest

from mirepoix.components.ingestion.formats import mbeir
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Member, Notice, Prompt, Query, RejectedRow
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import counted, rejected_rows, rows_of, write_files
from tests.components.ingestion.formats.mbeir_cases import ASKED, POOLS, WHOLE, members, query, text
from tests.components.ingestion.formats.samples import BLUE, GREY, RED
from tests.components.ingestion.formats.samples import mbeir as sample

LOCAL, GLOBAL, TRAIN = "cand_pool/local/a_cand_pool.jsonl", "cand_pool/global/mbeir_union_test_cand_pool.jsonl", "query/train/a.jsonl"


def judgements(rows):
    return [(row.query_id, row.item_id, row.relevance) for row in rows if isinstance(row, Judgement)]


def test_rows_are_read_as_the_files_say(tmp_path):
    rows = rows_of(mbeir, sample(tmp_path / "s"))
    pool, oven = "s/cand_pool/local/mbeir_mscoco_task0_cand_pool.jsonl", "s/cand_pool/local/mbeir_oven_task8_cand_pool.jsonl"
    train, val = "s/query/train/mbeir_mscoco_task0_train.jsonl", "s/query/val/mbeir_mscoco_task3_val.jsonl"
    test = "s/query/test/mbeir_oven_task8_test.jsonl"
    assert rows == [
        Candidate(Item("9:11", images=(RED,), source=pool, line=1), named=False),
        Member("mscoco_task0", "9:11"),
        Candidate(Item("9:12", "A dog.", source=pool, line=2), named=False),
        Member("mscoco_task0", "9:12"),
        Candidate(Item("5:3", "Oven", (BLUE,), source=oven, line=1), named=False),
        Member("oven_task8", "5:3"),
        Candidate(Item("6:7", "Seek", (BLUE,), source=oven, line=2), named=False),
        Member("oven_task8", "6:7"),
        Query(Item("9:1", "a red car", source=train, line=1), "train", "t->i", dataset="mscoco"),
        Judgement("9:1", "9:11", 1, None, train, 1),
        Judgement("9:1", "9:12", 0, None, train, 1),
        Query(Item("9:2", images=(GREY,), source=val, line=1), "validation", "i->t", dataset="mscoco"),
        Query(Item("5:1", "what is it?", (GREY,), source=test, line=1), "test", "it->it", dataset="oven", pool="oven_task8"),
        Judgement("5:1", "5:3", 1, None, test, 1),
        Judgement("9:2", "9:12", 1, None, "s/qrels/val/mbeir_mscoco_task3_val_qrels.txt", 1),
        Prompt("t->i", "Find a picture.", "9:"),
        Prompt("t->i", "Show me.", "9:"),
    ]


def test_qrels_come_before_the_lists_and_the_lists_where_qrels_are_silent(tmp_path):
    files = {
        LOCAL: [text("9:1"), text("9:2")],
        "query/test/mbeir_x_task1_test.jsonl": [query("9:1", ["9:1"], ["9:2"]), query("9:2", ["9:1"])],
        "qrels/test/mbeir_x_task1_test_qrels.txt": "9:1 0 9:2 1 1\n",
        "qrels/test/mbeir_other_task1_test_qrels.txt": "9:2 0 9:2 1 1\n",
    }
    assert judgements(rows_of(mbeir, write_files(tmp_path, files))) == [("9:2", "9:1", 1), ("9:2", "9:2", 1), ("9:1", "9:2", 1)]


def test_a_file_of_queries_without_qrels_of_its_name_takes_those_of_its_split(tmp_path):
    files = {
        LOCAL: [text("9:1")],
        "query/union_val/mbeir_union_val.jsonl": [query("9:1", ["9:1"])],
        "qrels/val/mbeir_x_task1_val_qrels.txt": "9:1 0 9:1 1 1\n",
    }
    rows = rows_of(mbeir, write_files(tmp_path / "s", files))
    assert judgements(rows) == [("9:1", "9:1", 1)]
    assert rows[-1].source.endswith("_qrels.txt")


@pytest.mark.parametrize(("split", "kept"), [("train", ["5:1", "6:2"]), ("test", ["5:1"])])
def test_positives_of_another_data_set_are_for_training(tmp_path, split, kept):
    rows = rows_of(mbeir, write_files(tmp_path, {f"query/{split}/mbeir_oven_task6_{split}.jsonl": [query("5:7", ["6:2", "5:1"])]}))
    assert [item for _, item, _ in judgements(rows)] == kept


def test_positives_of_another_data_set_alone_still_answer(tmp_path):
    rows = rows_of(mbeir, write_files(tmp_path, {"query/test/mbeir_oven_task6_test.jsonl": [query("5:7", ["6:2"])]}))
    assert judgements(rows) == [("5:7", "6:2", 1)]


def test_the_union_is_read_where_there_is_no_folder_of_the_split_and_its_repeats_once(tmp_path):
    union = {"query/union_train/mbeir_union_up_train.jsonl": [query("9:1", ["9:1"]), query("9:2", ["9:1"]), query("9:1", ["9:1"])]}
    rows = rows_of(mbeir, write_files(tmp_path / "one", union))
    assert judgements(rows) == [("9:1", "9:1", 1), ("9:2", "9:1", 1)]
    assert sum(isinstance(row, Query) for row in rows) == 2
    notice = "queries that are in the file more than once: 1, the first in line 3; they are read once"
    assert [row.detail for row in rows if isinstance(row, Notice)] == [notice]
    both = rows_of(mbeir, write_files(tmp_path / "two", union | {TRAIN: [query("9:3", ["9:1"])]}))
    assert judgements(both) == [("9:3", "9:1", 1)]


def test_a_candidate_of_a_local_pool_is_not_read_from_a_global_one(tmp_path):
    files = {
        LOCAL: [text("9:1"), text(90000002)],
        GLOBAL: [text("9:2"), text("9:1"), text("9:3")],
        "cand_pool/global/mbeir_union_train_cand_pool.jsonl": [text("9:3"), text("9:4")],
    }
    rows = rows_of(mbeir, write_files(tmp_path / "s", files))
    assert [(row.source, row.detail) for row in rows if isinstance(row, Notice)] == [
        (f"s/{GLOBAL}", "candidates that a local pool has too: 2, the first in line 1; they are read once")
    ]
    found = [(row.item.id, row.item.source.split("/")[2]) for row in rows if isinstance(row, Candidate)]
    assert found == [("9:1", "local"), ("9:2", "local"), ("9:3", "global"), ("9:3", "global"), ("9:4", "global")]
    assert [(row.pool, row.item_id) for row in rows if isinstance(row, Member)] == [
        ("a", "9:1"),
        ("a", "9:2"),
        ("union", "9:2"),
        ("union", "9:1"),
        ("union", "9:3"),
        ("union_train", "9:3"),
        ("union_train", "9:4"),
    ]


def test_local_pools_are_read_once_for_all_pieces_of_a_global_one_and_again_when_they_change(tmp_path, monkeypatch):
    folder = write_files(tmp_path / "s", {LOCAL: [text("9:1")], GLOBAL: [text(f"9:{number}") for number in range(1, 9)]})
    monkeypatch.setattr("mirepoix.components.ingestion.formats.source_files.SHARD_BYTES", 200)
    opened = counted(monkeypatch, "records")

    def found():
        return [row.item.id for shard in pieces for row in mbeir.read(SourceFiles(str(folder)), shard) if isinstance(row, Candidate)]

    pieces = [shard for shard in mbeir.shards(SourceFiles(str(folder))) if shard.part == "global"]
    assert len(pieces) > 2 and found() == [f"9:{number}" for number in range(2, 9)]
    assert opened[LOCAL] == 1
    write_files(folder, {LOCAL: [text("9:1"), text("9:7")]})
    assert found() == [f"9:{number}" for number in (2, 3, 4, 5, 6, 8)]


def test_hashed_ids_are_mapped_back(tmp_path):
    files = {
        LOCAL: [text(90000001)],
        TRAIN: [query(4500001, [90000001])],
        "query/test/a_test.jsonl": [query(4500002, [])],
        "qrels/test/a_test_qrels.txt": "4500002 0 90000001 1 1\n",
    }
    rows = rows_of(mbeir, write_files(tmp_path, files))
    assert judgements(rows) == [("9:1", "9:1", 1), ("9:2", "9:1", 1)]
    assert [row.item.id for row in rows if isinstance(row, Candidate | Query)] == ["9:1", "9:1", "9:2"]


def test_a_query_without_task_gets_it_from_its_answers(tmp_path):
    rows = rows_of(mbeir, write_files(tmp_path, {TRAIN: [query("9:1", ["9:1"], task=None)]}))
    assert rows[0].task == ""


@pytest.mark.parametrize(
    ("file", "row", "reason"),
    [
        (LOCAL, text("9:1") | {"modality": "audio"}, "unknown modality"),
        (LOCAL, text("9:1") | {"modality": None}, "unknown modality"),
        (LOCAL, text("9:1") | {"modality": "image,text"}, "unknown modality"),
        (LOCAL, text("9:1", None), "empty side"),
        (LOCAL, text("9:1") | {"img_path": "gone.jpg", "modality": "image,text"}, "missing picture"),
        (LOCAL, text("9:1") | {"img_path": "http://x/y.jpg", "modality": "image,text"}, "URL"),
        (LOCAL, text("9: 1"), "bad id"),
        (LOCAL, text("9:1") | {"extra": 1}, "unread column"),
        (TRAIN, query("9:1", []), "no answer"),
        (TRAIN, query("9:1", ["9:1"], task=9), "bad task"),
        (TRAIN, query("9:1", ["9:1"], task=3), "bad task"),
        (TRAIN, query("9:1", ["9:1"], query_modality="image"), "unknown modality"),
        (TRAIN, query("9:1", "9:1", pos_cand_list="9:1"), "bad row"),
        (TRAIN, query("", ["9:1"]), "bad id"),
    ],
)
def test_each_bad_row_is_rejected_with_its_line(tmp_path, file, row, reason):
    good = text("9:5") if file == LOCAL else query("9:5", ["9:5"])
    rows = rows_of(
        mbeir, write_files(tmp_path / "s", {file: [good, row, good | {"did": "9:6"} if file == LOCAL else good | {"qid": "9:6"}]})
    )
    assert rejected_rows(rows) == [(f"s/{file}", 2, reason)]
    assert sum(isinstance(row, Candidate | Query) for row in rows) == 2


def test_bad_rows_of_qrels_and_instructions_are_rejected_with_their_line(tmp_path):
    files = {
        "query/test/a.jsonl": [query("9:1", ["9:1"])],
        "qrels/test/a_qrels.txt": "9:1 0 9:1 1 1\n9:1 0 9:1 1\n9:1 0 9:1 x 1\n9:1 0 9:1 1 12\n9:1 0 9:1 1e12 1\n",
        "instructions/query_instructions.tsv": "header\na\tb\ntext\tsound\tX\t9\tFind.\ntext\timage\tX\t9\t\tFind.\n",
    }
    rows = rows_of(mbeir, write_files(tmp_path / "s", files))
    qrels, wordings = "s/qrels/test/a_qrels.txt", "s/instructions/query_instructions.tsv"
    found = [
        (qrels, 2, "bad row"),
        (qrels, 3, "bad row"),
        (qrels, 4, "bad task"),
        (qrels, 5, "bad row"),
        (wordings, 2, "bad row"),
        (wordings, 3, "unknown modality"),
    ]
    assert rejected_rows(rows) == found
    assert rows[-1] == Prompt("t->i", "Find.", "9:")


def test_all_that_is_judged_is_given(tmp_path):
    rows = rows_of(mbeir, write_files(tmp_path, {LOCAL: [text("9:1")], TRAIN: [query("9:1", ["9:1", "9:1"], ["9:1"])]}))
    assert judgements(rows) == [("9:1", "9:1", 1), ("9:1", "9:1", 1), ("9:1", "9:1", 0)]


def test_a_local_pool_that_is_cut_off_costs_the_global_one_nothing(tmp_path):
    pool = gzip.compress(b"".join(json.dumps(text(f"9:{n}")).encode() + b"\n" for n in range(500)))[:-30]
    tree = SourceFiles(str(write_files(tmp_path, {f"{LOCAL}.gz": pool, GLOBAL: [text("8:1")]})))
    (shard,) = [shard for shard in mbeir.shards(tree) if shard.part == "global"]
    assert [row.item.id for row in mbeir.read(tree, shard) if isinstance(row, Candidate)] == ["8:1"]


@pytest.mark.parametrize("change", [{"txt": "another"}, {"img_path": "red.png", "modality": "image,text"}])
def test_a_candidate_of_a_global_pool_that_differs_from_that_of_a_local_one_is_rejected(tmp_path, change):
    rows = rows_of(
        mbeir, write_files(tmp_path / "s", {LOCAL: [text("9:1")], GLOBAL: [text(90000001) | change, text("9:2")], "red.png": RED})
    )
    assert rejected_rows(rows) == [(f"s/{GLOBAL}", 1, "duplicate id")]
    assert [row.item.id for row in rows if isinstance(row, Candidate)] == ["9:1", "9:2"]


@pytest.mark.parametrize("change", [{"query_txt": "another"}, {"pos_cand_list": ["9:2"]}, {"neg_cand_list": ["9:3"]}, {"task_id": 0}])
def test_a_query_that_a_union_repeats_otherwise_is_rejected(tmp_path, change):
    file = "query/union_train/mbeir_union_up_train.jsonl"
    rows = rows_of(mbeir, write_files(tmp_path / "s", {file: [query("9:1", ["9:1"]), query("9:1", ["9:1"]) | change]}))
    assert [(row.line, row.reason, row.detail) for row in rows if isinstance(row, RejectedRow)] == [
        (2, "duplicate id", "9:1 has another content than before")
    ]
    assert judgements(rows) == [("9:1", "9:1", 1)]


def test_bad_lines_of_qrels_are_rejected_and_their_queries_kept(tmp_path):
    qrels = f"\u00a0\n9:1 0 9:1 1 1\n{'9' * 5000} 0 9:1 1 1\n"
    rows = rows_of(mbeir, write_files(tmp_path / "s", {"query/test/a.jsonl": [query("9:1", ["9:2"])], "qrels/test/a_qrels.txt": qrels}))
    assert rejected_rows(rows) == [("s/qrels/test/a_qrels.txt", line, "bad row") for line in (1, 3)]
    assert judgements(rows) == [("9:1", "9:1", 1)]


def test_queries_are_paired_with_pools_and_candidates_are_members_of_all_that_they_are_in(tmp_path):
    rows = rows_of(mbeir, write_files(tmp_path, POOLS | WHOLE | ASKED))
    assert members(rows) == {
        "mscoco_task1": ["9:1", "9:3"],
        "mscoco_task1_test": ["9:2", "9:3"],
        "union_train": ["9:4"],
        "union_val": ["9:1", "9:3"],
        "union": ["9:2", "9:3", "9:5"],
    }
    assert [(row.item.id, row.dataset, row.pool) for row in rows if isinstance(row, Query)] == [
        ("9:1", "mscoco", ""),
        ("9:2", "mscoco", "mscoco_task1"),
        ("9:3", "mscoco", "mscoco_task1_test"),
    ]


def test_of_splits_that_are_not_read_no_file_is_opened(tmp_path, monkeypatch):
    opened = counted(monkeypatch, "records"), counted(monkeypatch, "lines")
    tree = SourceFiles(str(write_files(tmp_path, POOLS | WHOLE | ASKED)))
    tree.only_splits = ("test",)
    rows = [row for shard in mbeir.shards(tree) for row in mbeir.read(tree, shard)]
    assert {file for files in opened for file in files} == {file for file in POOLS | WHOLE | ASKED if "_test" in file}
    assert members(rows) == {"mscoco_task1_test": ["9:2", "9:3"], "union": ["9:2", "9:3", "9:5"]}
    assert judgements(rows) == [("9:3", "9:2", 1)]
    assert mbeir.named_splits(tree) == {"train", "validation", "test"}


def test_texts_of_uniir_are_formatted_where_it_formats_them(tmp_path):
    asked = [query("9:1", ["9:1"], query_txt='what is " it ?\r'), query("8:1", ["9:1"], query_txt='"what is it"')]
    files = {
        LOCAL: [text("9:1", ' "a dog" '), text("9:2", "A cat.")],
        "query/test/a.jsonl": asked,
        "instructions/query_instructions.tsv": 'header\ntext\ttext\tMSCOCO\t9\t find it\t""\tShow me!\n',
    }
    tree = SourceFiles(str(write_files(tmp_path, files)))
    for uniir, candidates, queries, prompts in (
        (False, [' "a dog" ', "A cat."], [row["query_txt"] for row in asked], [" find it", '""', "Show me!"]),
        (True, ["A dog.", "A cat."], ['what is " it ?', "What is it."], ["Find it.", "Show me!"]),
    ):
        tree.uniir_texts = uniir
        rows = [row for shard in mbeir.shards(tree) for row in mbeir.read(tree, shard)]
        assert [row.item.text for row in rows if isinstance(row, Candidate)] == candidates
        assert [row.item.text for row in rows if isinstance(row, Query)] == queries
        assert [row.wording for row in rows if isinstance(row, Prompt)] == prompts
