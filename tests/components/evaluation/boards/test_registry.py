"""Boards have the data sets, groups and measures of their publications."""

from collections import Counter

import pytest

from mirepoix.components.evaluation.boards.board import POOLS
from mirepoix.components.evaluation.boards.registry import BOARDS
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.evaluation.scoring.measures import measure


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_a_board_can_be_an_evaluation_and_its_names_are_its_own(board):
    config = EvaluateConfig(board=board.name, measure="main")
    assert {row.measure for row in board.rows} <= {each.name for each in config.measured} and config.measured_pools == board.pools
    assert set(board.pools) <= set(POOLS) and len({(row.dataset, row.task) for row in board.rows}) == len(board.rows)
    assert all(measure(name).name == name for name in board.measures)
    assert board.source.startswith("https://github.com/")
    for mean in (*board.means, board.overall):
        assert board.mean_rows(mean), mean


def test_m_beir_has_sixteen_rows_and_ten_deep_hits_of_the_fashion_sets_alone():
    board = BOARDS["mbeir"]
    assert len(board.rows) == 16 and len({row.dataset for row in board.rows}) == 10
    ten = {row.dataset for row in board.rows if row.measure == "Success@10"}
    assert ten == {"fashion200k", "fashioniq"} and {row.measure for row in board.rows} == {"Success@5", "Success@10"}
    assert {f"Success@{depth}" for depth in (1, 5, 10, 20, 50)} == set(board.measures)
    assert board.row("webqa", "t->t").label == "WebQA t->t" and board.row("webqa", "i->t") is None


def test_mmeb_has_thirty_six_data_sets_in_four_groups():
    board = BOARDS["mmeb"]
    groups = Counter(group for row in board.rows for group in row.groups)
    assert groups == {"Classification": 10, "VQA": 10, "Retrieval": 12, "Grounding": 4, "IND": 20, "OOD": 16}
    assert {row.measure for row in board.rows} == {"Success@1"} and {row.pool for row in board.rows} == {"listed"}


def test_mmeb_v2_adds_video_and_pages_of_documents():
    board = BOARDS["mmeb_v2"]
    groups = Counter(group for row in board.rows for group in row.groups)
    assert (groups["Image"], groups["Video"], groups["VisDoc"], len(board.rows)) == (36, 18, 24, 78)
    assert {row.measure for row in board.rows if "VisDoc" in row.groups} == {"nDCG@5"}
    local = {row.dataset for row in board.rows if "Video" in row.groups and row.pool == "listed"}
    assert {"SmthSmthV2", "MVBench", "QVHighlight"} < local and "K700" not in local and "MSR-VTT" not in local


def test_vidore_is_five_deep_up_to_v2_and_ten_from_v3():
    depths = {(group, row.measure) for row in BOARDS["vidore"].rows for group in row.groups}
    assert depths == {("ViDoRe v1", "nDCG@5"), ("ViDoRe v2", "nDCG@5"), ("ViDoRe v3", "nDCG@10")}
    assert Counter(group for row in BOARDS["vidore"].rows for group in row.groups) == {"ViDoRe v1": 10, "ViDoRe v2": 4, "ViDoRe v3": 8}


def test_words_are_whole_for_ok_vqa_alone():
    assert [name for name, board in BOARDS.items() if board.whole_words] == ["okvqa"]


def test_each_of_ok_vqas_two_corpora_is_searched_by_its_own_questions():
    board = BOARDS["okvqa"]
    assert [row.dataset for row in board.rows] == ["OKVQA-GS", "OKVQA-WK11M"] and board.pools == ("dataset",)
