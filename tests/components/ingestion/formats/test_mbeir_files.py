"""M-BEIR's files: which are read of chosen data sets, in training and in evaluation, and whether the pool of all is among them."""

import shutil

import pytest

from mirepoix.components.evaluation.boards.mbeir import ROWS
from mirepoix.components.ingestion.formats import mbeir, mbeir_files
from mirepoix.components.ingestion.formats.mbeir_layout import MEASURED, names_of, task_of
from mirepoix.components.ingestion.formats.rows import Candidate, Query
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from tests.components.ingestion.formats.format_cases import rejected_rows, write_files
from tests.components.ingestion.formats.mbeir_cases import members, query, text
from tests.components.ingestion.formats.miniatures import mbeir as sample

UNION = "cand_pool/global/mbeir_union_{}_cand_pool.jsonl"
TRAINING = {
    "query/train/mbeir_mscoco_train.jsonl": [query("9:1", ["9:1"])],
    "query/train/mbeir_webqa_train.jsonl": [query("2:1", ["2:1"])],
    "query/test/mbeir_webqa_task1_test.jsonl": [query("2:2", ["2:2"])],
    "cand_pool/local/mbeir_webqa_task1_cand_pool.jsonl": [text("2:2")],
    "cand_pool/local/mbeir_mscoco_task1_test_cand_pool.jsonl": [text("9:2")],
    UNION.format("train"): [text("9:1"), text("2:1"), text("9:3"), text("29:1")],
    UNION.format("val"): [text("9:5"), text("2:5")],
    UNION.format("test"): [text("2:2"), text("9:2")],
}


def read(folder, *names, splits=()):
    tree = SourceFiles(str(folder))
    tree.only_datasets, tree.only_splits = names, splits
    rows = [row for shard in mbeir.shards(tree) for row in mbeir.read(tree, shard)]
    assert not rejected_rows(rows)
    candidates, asked = ([row.item.id for row in rows if isinstance(row, kind)] for kind in (Candidate, Query))
    return candidates, asked, members(rows)


def tree_of(folder, *names):
    tree = SourceFiles(str(folder))
    tree.only_datasets, tree.only_splits = names, ("test",)
    return tree


def test_the_measured_data_sets_are_those_of_the_board():
    assert {(names_of(unit)[1], task_of(unit)) for unit in MEASURED} == {(row.dataset, row.task) for row in ROWS}
    assert len(MEASURED) == len(set(MEASURED)) == 16


def test_to_train_on_some_data_sets_their_candidates_alone_are_read_of_the_pool_of_training(tmp_path):
    write_files(tmp_path, TRAINING)
    assert read(tmp_path, "webqa") == (["2:2", "2:1"], ["2:1", "2:2"], {"webqa_task1": ["2:2"]})
    assert read(tmp_path, "mscoco") == (["9:2", "9:1", "9:3"], ["9:1"], {"mscoco_task1_test": ["9:2"]})
    assert read(tmp_path, "webqa_task1") == (["2:2"], ["2:2"], {"webqa_task1": ["2:2"]}), "a file to train on has all tasks"


def test_the_name_union_adds_the_global_pools_whole(tmp_path):
    write_files(tmp_path, TRAINING)
    candidates, asked, pools = read(tmp_path, "webqa", "union", splits=("test",))
    assert (candidates, asked) == (["2:2", "9:2"], ["2:2"]) and pools == {"webqa_task1": ["2:2"], "union": ["2:2", "9:2"]}
    assert read(tmp_path, "*") == read(tmp_path)


def test_of_a_data_set_that_is_none_of_mbeirs_the_pool_of_training_is_read_whole(tmp_path):
    files = {"query/train/mbeir_ours_train.jsonl": [query("12:1", ["12:1"])], UNION.format("train"): [text("12:1"), text("2:1")]}
    assert read(write_files(tmp_path, files | {"query/train/mbeir_webqa_train.jsonl": []}), "ours")[0] == ["12:1", "2:1"]


def test_queries_of_all_data_sets_in_one_file_are_refused_where_some_are_chosen(tmp_path):
    files = {
        "query/union_train/mbeir_union_up_train.jsonl": [query("2:1", ["2:2"])],
        "query/test/mbeir_webqa_task1_test.jsonl": [query("2:2", ["2:2"])],
        "cand_pool/local/mbeir_webqa_task1_cand_pool.jsonl": [text("2:2")],
    }
    write_files(tmp_path, files)
    with pytest.raises(
        Refused, match=r"has the queries of all data sets, and .*; bring query/train/ from hf.co/datasets/TIGER-Lab/M-BEIR, or"
    ):
        read(tmp_path, "webqa")
    assert read(tmp_path, "webqa", splits=("test",))[1] == ["2:2"]


def test_the_union_is_read_with_its_file_or_with_all_sixteen_pools_and_else_it_is_said_what_would_have_it_read(tmp_path):
    folder = sample(tmp_path / "s")
    add, bring = "add union to sources.only_datasets", f"bring {UNION.format('test')} from hf.co/datasets/TIGER-Lab/M-BEIR"
    assert mbeir_files.no_union(tree_of(folder)) == mbeir_files.no_union(tree_of(folder, "mscoco", "union")) == ""
    assert mbeir_files.no_union(tree_of(folder, "mscoco")) == add
    shutil.rmtree(folder / "cand_pool/global")
    assert mbeir_files.no_union(tree_of(folder)) == bring, "there are eight of the sixteen pools"
    assert mbeir_files.no_union(tree_of(folder, "mscoco")) == f"{bring} and {add}"
    for unit in MEASURED:
        pool = mbeir_files.expected_pool(unit, "test")
        write_files(folder, {f"cand_pool/local/mbeir_{pool}_cand_pool.jsonl": []})
    assert mbeir_files.no_union(tree_of(folder)) == "" and mbeir_files.no_union(tree_of(folder, "mscoco"))
    assert mbeir_files.no_union(SourceFiles(str(folder))) == bring, "candidates of other splits are read too"


def test_a_data_set_has_the_task_and_the_modalities_in_its_name(tmp_path):
    found = {each.name: each for each in mbeir_files.datasets(tree_of(sample(tmp_path / "s")))}
    both = Modality.TEXT | Modality.IMAGE
    assert (found["webqa_task1"].dataset, found["webqa_task1"].task, found["webqa_task1"].modality) == ("webqa", "t->t", Modality.TEXT)
    assert (found["nights_task4"].task, found["nights_task4"].modality) == ("i->i", Modality.IMAGE)
    assert (found["oven_task6"].task, found["oven_task6"].modality) == ("it->t", both) and found["union"].modality == both
    write_files(tmp_path / "s", {"query/train/mbeir_cirr_train.jsonl": [], "query/train/mbeir_odd_task99_train.jsonl": []})
    trained = {each.name: each for each in mbeir_files.datasets(SourceFiles(str(tmp_path / "s")))}
    assert trained["cirr"] == ("cirr", "cirr", (), "", Modality.NONE) and trained["odd_task99"].task == ""


def test_judgements_in_a_file_for_all_are_no_missing_ones(tmp_path):
    folder = sample(tmp_path / "s")
    judged = sorted((folder / "qrels/test").iterdir())
    (folder / "qrels/test/all.txt").write_text("".join(file.read_text() for file in judged))
    for file in judged:
        file.unlink()
    assert mbeir_files.missing(tree_of(folder)) == []
    assert mbeir_files.qrels_files(tree_of(folder, "nights"), "test") == ["qrels/test/all.txt"]


def test_a_union_whose_first_pictures_are_not_there_may_be_left_out(tmp_path):
    folder = sample(tmp_path / "s")
    absent = [text(f"0:{number}", None) | {"img_path": f"mbeir_images/gone/{number}.png", "modality": "image"} for number in range(30)]
    write_files(folder, {UNION.format("test"): absent})
    (found,) = mbeir_files.missing(tree_of(folder))
    assert found.what == "the pictures of union, such as mbeir_images/gone/0.png"
    assert found.cure.endswith("or give sources.images=FOLDER, or leave union out (sources.only_datasets)")
    assert mbeir_files.missing(tree_of(folder, "*_task*")) == []
