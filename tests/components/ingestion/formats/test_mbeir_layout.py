"""The names of M-BEIR's files, pools and ids, and UniIR's formatting of texts."""

import pytest

from mirepoix.components.ingestion.formats.mbeir_layout import (
    CANDIDATES_EACH,
    QUERIES_EACH,
    dataset_name,
    formatted,
    formatted_behind_prompt,
    hashed,
    is_read,
    is_read_whole,
    pool_file,
    pool_name,
    query_file,
    query_pool,
    unhashed,
)

MSCOCO = {"mscoco_task0", "mscoco_task0_test", "mscoco_task3", "mscoco_task3_test", "cirr_task7"}


def test_hashes_are_uniirs_and_go_both_ways():
    assert hashed("9:42", QUERIES_EACH) == 4500042
    assert hashed("9:42", CANDIDATES_EACH) == 90000042
    for name in ("0:0", "9:499999", "5:7"):
        assert unhashed(hashed(name, QUERIES_EACH), QUERIES_EACH) == name
        assert unhashed(hashed(name, CANDIDATES_EACH), CANDIDATES_EACH) == name
    for name in ("9:500000", "x:1", "9", "9:"):
        with pytest.raises(ValueError, match="dataset:number"):
            hashed(name, QUERIES_EACH)


def test_a_data_set_is_known_by_its_number_or_else_by_its_file():
    assert dataset_name("9:1", "query/test/mbeir_x_task0_test.jsonl") == "mscoco"
    assert dataset_name("12:1", "query/test/mbeir_mine_task0_test.jsonl.gz") == "mine"
    assert dataset_name("12:1", "query/union_val/mbeir_union_val.jsonl") == dataset_name("12:1") == "dataset12"


@pytest.mark.parametrize(
    ("pool", "file"),
    [
        ("mscoco_task0_test", "cand_pool/local/mbeir_mscoco_task0_test_cand_pool.jsonl"),
        ("cirr_task7", "cand_pool/local/mbeir_cirr_task7_cand_pool.jsonl"),
        ("union", "cand_pool/global/mbeir_union_test_cand_pool.jsonl"),
        ("union_val", "cand_pool/global/mbeir_union_val_cand_pool.jsonl"),
    ],
)
def test_the_name_of_a_pool_is_that_of_its_file(pool, file):
    assert pool_name(file) == pool_name(f"{file}.gz") == pool and pool_file(pool) == file


@pytest.mark.parametrize(
    ("file", "split", "task", "pool"),
    [
        ("mbeir_mscoco_task0_test", "test", "t->i", "mscoco_task0_test"),
        ("mbeir_mscoco_task0_val", "val", "t->i", "mscoco_task0"),
        ("mbeir_mscoco_task0_train", "train", "t->i", ""),
        ("mbeir_cirr_task7_test", "test", "it->i", "cirr_task7"),
        ("mbeir_union_val", "val", "i->t", "mscoco_task3"),
        ("mbeir_other_test", "test", "i->t", "mscoco_task3_test"),
        ("mbeir_other_test", "test", "", ""),
        ("mbeir_nights_task4_test", "test", "i->i", ""),
    ],
)
def test_a_query_searches_the_pool_that_uniirs_configs_pair_its_file_with(file, split, task, pool):
    assert query_pool(f"query/{split}/{file}.jsonl", split, "9:1", task, MSCOCO) == pool
    if pool and "task" in file:
        assert query_file(pool, split) == file


def test_the_pools_that_are_read_are_those_that_queries_of_the_splits_that_are_read_may_search():
    def read(*splits):
        return sorted(pool for pool in MSCOCO if is_read(pool, MSCOCO, splits))

    assert read("test") == ["cirr_task7", "mscoco_task0_test", "mscoco_task3_test"]
    assert read("val") == read("train") == ["cirr_task7", "mscoco_task0", "mscoco_task3"]
    assert read("train", "val", "test") == sorted(MSCOCO)
    assert [is_read_whole(pool, ["test"]) for pool in ("union", "union_train", "union_val", "union_all")] == [True, False, False, True]


@pytest.mark.parametrize(
    ("text", "whole", "behind"),
    [
        ("a red car", "A red car.", "a red car."),
        ("Is it red?", "Is it red?", "Is it red?"),
        ("  Stop!\r\n", "Stop!", "  Stop!"),
        ('"a red car"', "A red car.", '"a red car.'),
        ('She said "stop!"', 'She said "stop!', 'She said "stop!'),
        ('" a"', " a.", '" a.'),
        ("a\rb", "Ab.", "ab."),
        ("été", "Été.", "été."),
        ("...", "...", "..."),
        ('""', "", ""),
        ("", "", ""),
    ],
)
def test_texts_are_formatted_as_uniir_formats_them(text, whole, behind):
    """UniIR formats a prompt and a query as one text, of which the second form is the end."""
    assert formatted(text) == whole and formatted_behind_prompt(text) == behind
    if text.strip('"'):
        assert formatted(f"Find it. {text}") == f"Find it. {behind}"
