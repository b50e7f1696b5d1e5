"""Estimates by hand."""

from dataclasses import replace

import pytest

from mirepoix.workflows.init.costs import costs, longest_tokens
from mirepoix.workflows.init.machine import Machine
from mirepoix.workflows.init.models import Model, Tower
from mirepoix.workflows.init.pictures import Pictures

TEXT, VISION = Tower(2, 10, 40, 2, 5), Tower(2, 10, 40, 2, 5, patch=4)  # 26,000 and 30,800 operations
MODEL = Model("a/b", 1_000_000, TEXT, VISION, "pictures", "MIT", 8)
MACHINE = Machine(cpus=2, rate=1000.0, memory=10**10, disk=10**10)
PICTURES = Pictures(count=7, bytes=7_000_000, looked=7, megapixels=4.0, seconds=3.0)


def test_embedding_is_the_operations_of_all_items_over_the_share_of_the_measured_speed_that_is_reached():
    cost = costs(MODEL, MACHINE, PICTURES, (7, 14))
    assert cost.embedding == pytest.approx((7 * 30_800 + 14 * 26_000) / 650)
    assert cost.embedding == pytest.approx(891.7, abs=0.1) and cost.training == 0
    assert cost.reading == 2 * 7 * 3.0 / 2 == 21.0
    assert cost.seconds == pytest.approx(60 + 21 + 891.7, abs=0.1)
    assert cost.download == 4_000_000 and costs(MODEL, MACHINE, PICTURES, (7, 14), here=True).download == 0


def test_the_disk_holds_the_pictures_as_read_as_curated_and_in_the_release():
    cost = costs(MODEL, MACHINE, PICTURES, (7, 14))
    # Of four megapixels half is left; two encoders; the vectors of 21 items, 8 wide, as embedded and in the index.
    assert cost.disk == 7_000_000 + 2 * 3_500_000 + 2 * 4_000_000 + 2 * 21 * 8 * 4
    assert cost.memory == 1.5e9 + 4e6 + 2 * 16 * 1_950


def test_training_is_three_times_the_operations_of_each_pair_and_what_is_embedded_twice():
    cost = costs(MODEL, MACHINE, PICTURES, (7, 14), pairs_seen=100, batch=4)
    assert cost.training == pytest.approx(3 * 100 * 56_800 / 650) and cost.embedding == pytest.approx(1783.4, abs=0.1)
    assert cost.memory == 1.5e9 + 4e6 + 2 * (2 * 4 * 2 * 1_950)
    assert cost.disk == 7_000_000 + 2 * 3_500_000 + 3 * 4_000_000 + 2 * 2 * 21 * 8 * 4


def test_texts_take_as_long_as_the_longest_of_their_batch_and_the_full_length_where_all_are_padded_to_it():
    assert longest_tokens(["four" * 2, "twelve letters"], 2) == pytest.approx(2 + 14 / 4)
    assert longest_tokens(["abcd", "海滩"], 1) == pytest.approx((3 + 4) / 2)
    short = costs(MODEL, MACHINE, PICTURES, (0, 14), sample=["abcd"])  # 3 tokens: two layers of 7,200 + 360
    assert short.embedding == pytest.approx(14 * 15_120 / 650)
    padded = costs(replace(MODEL, padded=True), MACHINE, PICTURES, (0, 14), sample=["abcd"])
    assert padded.embedding == pytest.approx(14 * 26_000 / 650)
