"""Pairs on disk, the plan of batches, and batches made ahead."""

import pickle
import tempfile
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirepoix.components.batches import Copies, PairRow, PairStore, Plan, ahead, content_key, write_pairs
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item


def write(
    folder: Path, positives: list[int], queries: list[int] | None = None, tasks: list[str] | None = None, negatives=None
) -> PairStore:
    """A store whose pair n finds document `positives[n]` with query `queries[n]`; equal numbers are equal items."""
    queries = list(range(len(positives))) if queries is None else queries
    items = [Item(f"d{n}", text=f"document {n}") for n in range(max(positives, default=0) + 1)]
    first = len(items)
    items += [Item(f"q{n}", text=f"query {n}") for n in range(max(queries, default=0) + 1)]
    rows = [
        PairRow(f"p{n}", first + queries[n], positives[n], negatives[n] if negatives else (), tasks[n] if tasks else "t->t")
        for n in range(len(positives))
    ]
    folder.mkdir(parents=True, exist_ok=True)
    assert write_pairs(folder, iter(items), iter(rows)) == len(rows)
    return PairStore(folder)


def test_pairs_come_back_as_they_were_written(tmp_path):
    items = [
        Item("q", text="a question", instruction="find it", source="f.json", line=3),
        Item("a", images=(b"png", b"gif")),
        Item("b", video=(b"1",)),
    ]
    write_pairs(tmp_path, items, [PairRow("first", 0, 1, [2, 1], "t->i"), PairRow("second", 1, 2)])
    store = PairStore(tmp_path)
    assert len(store) == 2
    second, first = store.pairs([1, 0])
    assert (second.id, second.query, second.positive, second.negatives) == ("second", items[1], items[2], ())
    assert (first.id, first.query, first.positive, first.negatives) == ("first", items[0], items[1], (items[2], items[1]))


def test_pairs_are_found_across_the_chunks_of_the_file(tmp_path):
    store = write(tmp_path, list(range(300)))
    rows = [299, 0, 64, 63, 128, 127]
    assert [pair.positive.text for pair in store.pairs(rows)] == [f"document {row}" for row in rows]


def test_a_pair_of_an_item_that_is_not_there_is_a_bug(tmp_path):
    with pytest.raises(AssertionError, match="pair p names rows"):
        write_pairs(tmp_path, [Item("q", text="q")], [PairRow("p", 0, 1)])


def test_no_pairs_are_a_store_of_none(tmp_path):
    write_pairs(tmp_path, [], [])
    assert len(PairStore(tmp_path)) == 0


def test_a_folder_without_pairs_is_refused_by_name(tmp_path):
    with pytest.raises(Refused, match=r"items\.arrow is not on this machine"):
        PairStore(tmp_path)


def test_reading_a_pair_does_not_read_the_others(tmp_path):
    picture = bytes(400_000)
    write_pairs(tmp_path, (Item(f"i{n}", images=(picture,)) for n in range(200)), [PairRow(f"p{n}", n, n + 1) for n in range(199)])
    before = pa.total_allocated_bytes()
    store = PairStore(tmp_path)
    store.pairs([0, 100, 198])
    assert pa.total_allocated_bytes() - before < 2_000_000 < (tmp_path / "items.arrow").stat().st_size / 10


def test_the_key_is_that_of_the_content_alone():
    item = Item("a", text="words", images=(b"one", b"two"))
    assert content_key(item) == content_key(replace(item, id="b", source="elsewhere", line=9, instruction="find"))
    others = [
        replace(item, text="word"),
        replace(item, images=(b"onetwo",)),
        replace(item, images=(b"one",), video=(b"two",)),
        Item("a", text="words"),
    ]
    assert len({content_key(other) for other in [item, *others]}) == 5


def test_keys_go_with_the_documents_and_negatives_are_drawn_by_seed(tmp_path):
    store = write(tmp_path, [0, 1, 2, 3, 4, 5], negatives=[[(n + k) % 6 for k in (1, 2, 3, 4)] for n in range(6)])
    for pair, keys in store.keyed(range(6), negatives=2, seed=(3, 1)):
        assert len(pair.negatives) == 2 and pair.positive not in pair.negatives
        assert keys == [content_key(pair.positive), *map(content_key, pair.negatives)]
    drawn = [[pair.negatives for pair, _ in store.keyed(range(6), 2, (3, number))] for number in range(5)]
    assert drawn[1] == [pair.negatives for pair, _ in store.keyed(range(6), 2, (3, 1))]
    assert any(other != drawn[0] for other in drawn)
    assert all(pair.negatives == () for pair, _ in store.keyed(range(6), 0, (3, 1)))


def test_what_answers_a_query_is_told_by_all_pairs_of_its_task_together(tmp_path):
    store = write(tmp_path, [0, 1, 2, 3, 1], queries=[5, 5, 6, 5, 5], tasks=["t->t", "t->t", "t->t", "t->i", "t->t"])
    key = [content_key(Item("", text=f"document {n}")) for n in range(4)]
    asked_thrice = {key[0], key[1]}
    assert [set(row) for row in store.relevant(range(5)).tolist()] == [asked_thrice, asked_thrice, {key[2]}, {key[3]}, asked_thrice]
    assert store.relevant([2, 3]).shape == (2, 1), "rows are no wider than they must be"


@settings(deadline=None, max_examples=25)
@given(data=st.data(), count=st.integers(1, 30))
def test_relevant_are_the_positives_of_the_same_query_and_task(data, count):
    positives, queries, kinds = (data.draw(st.lists(st.integers(0, most), min_size=count, max_size=count)) for most in (8, 5, 1))
    tasks = [f"t->{kind}" for kind in kinds]
    with tempfile.TemporaryDirectory() as folder:
        store = write(Path(folder), positives, queries, tasks)
        for row, found in enumerate(store.relevant(range(count))):
            same = [n for n in range(count) if (queries[n], tasks[n]) == (queries[row], tasks[row])]
            assert set(found.tolist()) == {int(store.keys("positive")[n]) for n in same}


def epoch_of(plan: Plan, epoch: int) -> list[list[int]]:
    return [plan.batch(epoch * plan.per_epoch + place).tolist() for place in range(plan.per_epoch)]


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 60), size=st.integers(1, 60), seed=st.integers(0, 9), homogeneous=st.sampled_from([0.0, 0.5, 1.0]))
def test_an_epoch_has_each_pair_once_but_for_less_than_a_batch(tmp_path_factory, count, size, seed, homogeneous):
    store = write(tmp_path_factory.mktemp("pairs"), list(range(count)), tasks=["ab"[n % 3 == 0] for n in range(count)])
    size = min(size, count)
    plan = Plan(store, size, (seed,), homogeneous)
    batches = epoch_of(plan, 1)
    rows = [row for batch in batches for row in batch]
    assert {len(batch) for batch in batches} == {size} and len(rows) == len(set(rows)) > count - size


def test_a_batch_is_a_function_of_seed_and_number(tmp_path):
    store = write(tmp_path, list(range(50)))
    plan = Plan(store, 8, (1, 2))
    in_order = [plan.batch(number).tolist() for number in range(20)]
    assert [Plan(store, 8, (1, 2)).batch(number).tolist() for number in (17, 3)] == [in_order[17], in_order[3]]
    assert Plan(store, 8, (1, 3)).batch(0).tolist() != in_order[0]
    assert sorted(in_order[0]) != in_order[0] and epoch_of(plan, 0) != epoch_of(plan, 1)


def test_threads_may_ask_for_batches_of_two_epochs_at_a_time(tmp_path):
    store = write(tmp_path, list(range(40)))
    numbers = [number for pair in zip(range(60), range(30, 90), strict=True) for number in pair]
    plan = Plan(store, 4, (0,))
    made = list(ahead(lambda number: plan.batch(number).tolist(), numbers, threads=4))
    alone = Plan(store, 4, (0,))
    assert made == [alone.batch(number).tolist() for number in numbers]


def test_every_pair_has_its_turn_though_each_epoch_leaves_some_out(tmp_path):
    plan = Plan(write(tmp_path, list(range(11))), 4, (0,))
    assert {row for epoch in range(12) for batch in epoch_of(plan, epoch) for row in batch} == set(range(11))


@pytest.mark.parametrize("shared", ["positives", "queries"])
def test_pairs_that_share_a_document_or_a_query_do_not_meet(tmp_path, shared):
    numbers = [n // 3 for n in range(600)]
    store = write(tmp_path, **{"positives": list(range(600)), **{shared: numbers}})
    for epoch in range(3):
        for batch in epoch_of(Plan(store, 20, (epoch,)), epoch):
            assert len({numbers[row] for row in batch}) == 20


def test_duplicates_that_cannot_be_kept_apart_are_spread_as_well_as_chance_allows(tmp_path):
    numbers = [0] * 60 + list(range(1, 41))
    plan = Plan(write(tmp_path, numbers), 10, (0,))
    batches = epoch_of(plan, 0)
    clashes = sum(10 - len({numbers[row] for row in batch}) for batch in batches)
    assert clashes == 50  # ten batches, sixty copies: one each is no clash
    assert sorted(row for batch in batches for row in batch) == list(range(100))


def test_homogeneous_batches_are_of_one_task_in_the_share_that_was_asked_for(tmp_path):
    tasks = ["t->i" if n % 4 else "t->t" for n in range(400)]
    store = write(tmp_path, list(range(400)), tasks=tasks)

    def pure(share: float) -> list[str]:
        families = [{tasks[row] for row in batch} for batch in epoch_of(Plan(store, 10, (0,), share), 0)]
        return [family.pop() for family in families if len(family) == 1]

    assert Counter(pure(1.0)) == {"t->i": 30, "t->t": 10}
    assert 20 <= len(pure(0.5)) <= 24 and len(pure(0.0)) < 8
    assert len(set(pure(1.0)[:20])) == 2, "the tasks follow each other at random, not one after the other"


def test_batches_are_made_ahead_and_come_in_order():
    made, gate = [], threading.Event()

    def make(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        made.append(number)
        if number == 1:
            gate.set()
        return number * 10

    coming = ahead(make, range(8), threads=2)
    assert next(coming) == 0
    assert gate.wait(5), "the second is made though nobody asked for it"
    assert list(coming) == [10, 20, 30, 40, 50, 60, 70]
    assert sorted(made) == list(range(8))


def test_without_threads_nothing_is_made_before_it_is_asked_for():
    made = []
    coming = ahead(made.append, range(5), threads=0)
    next(coming)
    assert made == [0]


def test_only_a_few_batches_wait():
    made = []
    coming = ahead(made.append, range(1000), threads=1)
    next(coming)
    time.sleep(0.1)
    coming.close()
    assert len(made) <= 3


def test_what_goes_wrong_in_the_background_is_raised_where_the_batch_is_used():
    def make(number: int) -> int:
        if number == 2:
            raise Refused("picture 2 cannot be decoded")
        return number

    coming = ahead(make, range(5), threads=1)
    assert [next(coming), next(coming)] == [0, 1]
    with pytest.raises(Refused, match="picture 2"):
        next(coming)


def test_threads_never_share_a_copy():
    class Fragile:
        busy = False

        def __call__(self, number: int) -> int:
            assert not self.busy
            self.busy = True
            time.sleep(0.002)
            self.busy = False
            return number

    assert list(ahead(Copies(Fragile(), 3), range(30), threads=3)) == list(range(30))


def test_rows_of_pairs_pickle():
    row = PairRow("p", 1, 2, [3], "t->t")
    assert pickle.loads(pickle.dumps(row)) == row


def test_the_plan_of_a_large_store_is_quick(tmp_path):
    class Large:
        """A store of two hundred thousand pairs, a fifth of which share their documents with another."""

        def __len__(self) -> int:
            return 200_000

        def keys(self, column: str) -> np.ndarray:
            return np.arange(200_000) if column == "query" else np.arange(200_000) * 4 // 5

    start = time.process_time()
    rows = np.stack([Plan(Large(), 256, (0,)).batch(number) for number in (0,)])
    assert rows.shape == (1, 256) and time.process_time() - start < 5
