"""The order of training batches: reproducible, without duplicates where that is possible, and homogeneous in the given share."""

import time
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirepoix.components.pairs.store import PairRow, PairStore, write_pairs
from mirepoix.components.training.batches.batch_plan import BatchPlan
from mirepoix.components.training.batches.prefetch import prefetched
from mirepoix.models.item import Item
from tests.components.pairs.pair_folders import write


def epoch_of(plan: BatchPlan, epoch: int) -> list[list[int]]:
    return [plan.batch(epoch * plan.per_epoch + place).tolist() for place in range(plan.per_epoch)]


@settings(deadline=None, max_examples=25)
@given(count=st.integers(1, 60), size=st.integers(1, 60), seed=st.integers(0, 9), homogeneous=st.sampled_from([0.0, 0.5, 1.0]))
def test_an_epoch_has_each_pair_once_but_for_less_than_a_batch(tmp_path_factory, count, size, seed, homogeneous):
    store = write(tmp_path_factory.mktemp("pairs"), list(range(count)), tasks=["ab"[n % 3 == 0] for n in range(count)])
    size = min(size, count)
    plan = BatchPlan(store, size, (seed,), homogeneous)
    batches = epoch_of(plan, 1)
    rows = [row for batch in batches for row in batch]
    assert {len(batch) for batch in batches} == {size} and len(rows) == len(set(rows)) > count - size


def test_a_batch_is_a_function_of_seed_and_number(tmp_path):
    store = write(tmp_path, list(range(50)))
    plan = BatchPlan(store, 8, (1, 2))
    in_order = [plan.batch(number).tolist() for number in range(20)]
    assert [BatchPlan(store, 8, (1, 2)).batch(number).tolist() for number in (17, 3)] == [in_order[17], in_order[3]]
    assert BatchPlan(store, 8, (1, 3)).batch(0).tolist() != in_order[0]
    assert sorted(in_order[0]) != in_order[0] and epoch_of(plan, 0) != epoch_of(plan, 1)


def test_threads_may_use_batches_of_two_epochs_at_the_same_time(tmp_path):
    store = write(tmp_path, list(range(40)))
    numbers = [number for pair in zip(range(60), range(30, 90), strict=True) for number in pair]
    plan = BatchPlan(store, 4, (0,))
    made = list(prefetched(lambda number: plan.batch(number).tolist(), numbers, threads=4))
    alone = BatchPlan(store, 4, (0,))
    assert made == [alone.batch(number).tolist() for number in numbers]


def test_every_pair_is_in_some_epoch_though_each_epoch_leaves_some_out(tmp_path):
    plan = BatchPlan(write(tmp_path, list(range(11))), 4, (0,))
    assert {row for epoch in range(12) for batch in epoch_of(plan, epoch) for row in batch} == set(range(11))


@pytest.mark.parametrize("shared", ["positives", "queries"])
def test_pairs_that_share_a_document_or_a_query_are_in_different_batches(tmp_path, shared):
    numbers = [n // 3 for n in range(600)]
    store = write(tmp_path, **{"positives": list(range(600)), **{shared: numbers}})
    for epoch in range(3):
        for batch in epoch_of(BatchPlan(store, 20, (epoch,)), epoch):
            assert len({numbers[row] for row in batch}) == 20


def excess(plan: BatchPlan, keys: list[int], epoch: int = 0) -> Counter:
    """How often each key is in a batch that already has it."""
    found: Counter[int] = Counter()
    for batch in epoch_of(plan, epoch):
        found += Counter({key: count - 1 for key, count in Counter(keys[row] for row in batch).items()})
    return found


def test_a_document_of_more_pairs_than_batches_is_spread_evenly_with_all_its_pairs_in_the_epoch(tmp_path):
    numbers = [0] * 60 + list(range(1, 41))
    plan = BatchPlan(write(tmp_path, numbers), 10, (0,))
    batches = epoch_of(plan, 0)
    assert [sum(numbers[row] == 0 for row in batch) for batch in batches] == [6] * 10
    assert sorted(row for batch in batches for row in batch) == list(range(100))


def test_two_batches_have_no_more_documents_in_common_than_by_chance(tmp_path):
    """Each document is the positive of eight pairs, and each of these meets other documents."""
    numbers = [n // 8 for n in range(1600)]
    batches = [{numbers[row] for row in batch} for batch in epoch_of(BatchPlan(write(tmp_path, numbers), 40, (0,)), 0)]
    assert all(len(one) == 40 for one in batches)
    assert max(len(one & other) for one, other in combinations(batches, 2)) < 20


SKEWED = st.lists(st.sampled_from([0, 0, 0, 1, 1, 2, *range(3, 30)]), min_size=1, max_size=80)


@given(positives=SKEWED, size=st.integers(1, 20), seed=st.integers(0, 5), data=st.data())
def test_no_document_is_twice_in_a_batch_if_it_has_no_more_pairs_than_there_are_batches(tmp_path_factory, positives, size, seed, data):
    size = min(size, len(positives))
    queries = data.draw(st.lists(st.integers(0, 20), min_size=len(positives), max_size=len(positives)))
    plan = BatchPlan(write(tmp_path_factory.mktemp("pairs"), positives, queries), size, (seed,))
    counts = Counter(positives)
    for epoch in range(2):
        found = excess(plan, positives, epoch)
        assert all(counts[key] > plan.per_epoch for key in found), (found, counts, plan.per_epoch)
        assert all(found[key] <= counts[key] - plan.per_epoch for key in found), "no more duplicates than necessary"


@given(families=st.lists(SKEWED, min_size=1, max_size=3), size=st.integers(1, 8), share=st.floats(0, 1), seed=st.integers(0, 5))
def test_with_homogeneous_batches_too_only_documents_that_fit_nowhere_are_duplicated(tmp_path_factory, families, size, share, seed):
    """Here no document belongs to two families; a family has its homogeneous batches even if it has few documents."""
    positives = [30 * family + key for family, keys in enumerate(families) for key in keys]
    tasks = [str(family) for family, keys in enumerate(families) for _ in keys]
    size = min(size, len(positives))
    plan = BatchPlan(write(tmp_path_factory.mktemp("pairs"), positives, tasks=tasks), size, (seed,), share)
    pools = {str(family): int(share * len(keys)) // size for family, keys in enumerate(families)}
    mixed = plan.per_epoch - sum(pools.values())
    counts = Counter(zip(tasks, positives, strict=True))
    rich = {task for task, pool in pools.items() if sum(min(n, pool) for (t, _), n in counts.items() if t == task) >= pool * size}
    fit = {key for (task, key), count in counts.items() if count <= pools[task] + mixed and rich == set(pools)}
    assert not fit & set(excess(plan, positives))


@given(count=st.integers(4, 60), size=st.integers(2, 6), seed=st.integers(0, 5))
def test_separating_queries_never_duplicates_a_document(tmp_path_factory, count, size, seed):
    queries = [n // 2 for n in range(count)]
    positives = [n % 7 for n in range(count)]
    plan = BatchPlan(write(tmp_path_factory.mktemp("pairs"), positives, queries), min(size, count), (seed,))
    rows = [row for batch in epoch_of(plan, 0) for row in batch]
    assert len(set(rows)) == len(rows) == plan.per_epoch * plan.size
    counts = Counter(positives)
    assert all(counts[key] > plan.per_epoch for key in excess(plan, positives))


def test_homogeneous_batches_are_of_one_task_in_the_given_share(tmp_path):
    tasks = ["t->i" if n % 4 else "t->t" for n in range(400)]
    store = write(tmp_path, list(range(400)), tasks=tasks)

    def pure(share: float) -> list[str]:
        families = [{tasks[row] for row in batch} for batch in epoch_of(BatchPlan(store, 10, (0,), share), 0)]
        return [family.pop() for family in families if len(family) == 1]

    assert Counter(pure(1.0)) == {"t->i": 30, "t->t": 10}
    assert 20 <= len(pure(0.5)) <= 24 and len(pure(0.0)) < 8
    assert len(set(pure(1.0)[:20])) == 2, "batches of the tasks alternate at random"


@pytest.mark.parametrize(("by", "kinds"), [("task", "ab"), ("source", "xy"), ("target", "it")])
def test_homogeneous_batches_are_of_one_task_source_or_target_modality(tmp_path, by, kinds):
    tasks, sources, targets = ([names[n // step % 2] for n in range(80)] for names, step in (("ab", 1), ("xy", 2), ("it", 4)))
    items = [Item(f"d{n}", text=f"d{n}") if kind == "t" else Item(f"d{n}", images=(bytes([n]),)) for n, kind in enumerate(targets)]
    items += [Item(f"q{n}", text=f"q{n}") for n in range(80)]
    write_pairs(tmp_path, items, [PairRow(f"p{n}", 80 + n, n, (), tasks[n], sources[n]) for n in range(80)])
    labels = {"task": tasks, "source": sources, "target": targets}[by]
    batches = epoch_of(BatchPlan(PairStore(tmp_path), 8, (0,), 1.0, by), 0)
    assert Counter("".join({labels[row] for row in batch}) for batch in batches) == {kinds[0]: 5, kinds[1]: 5}


class Large:
    """A store of a hundred thousand pairs: a fifth share their documents, a third their queries, a tenth are of one label."""

    size = 100_000

    def __len__(self) -> int:
        return self.size

    def keys(self, column: str) -> np.ndarray:
        numbers = np.arange(self.size)
        return numbers * 2 // 3 if column == "query" else np.where(numbers < self.size // 10, 0, numbers * 4 // 5)

    def families(self, by: str) -> np.ndarray:
        return np.arange(self.size) % 3


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_the_plan_of_a_large_store_is_quick(share):
    start = time.process_time()
    assert BatchPlan(Large(), 256, (0,), share).batch(0).shape == (256,)
    assert time.process_time() - start < 3


def test_in_a_large_store_queries_and_documents_are_kept_apart():
    """Except for the pairs of the label, which has more pairs than there are batches."""
    plan, store = BatchPlan(Large(), 256, (0,)), Large()
    batches = np.stack([plan.batch(number) for number in range(plan.per_epoch)])
    documents = store.keys("positive")[batches]
    for name in ("query", "positive"):
        keys = np.where(documents == 0, -1 - np.arange(256), store.keys(name)[batches])
        assert not (np.diff(np.sort(keys, axis=1), axis=1) == 0).any(), name
