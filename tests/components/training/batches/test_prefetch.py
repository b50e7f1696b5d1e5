"""Batches are prepared ahead of their use, in order, and no two threads use the same copy."""

import threading
import time

import pytest

from mirepoix.components.training.batches.prefetch import Replicas, prefetched
from mirepoix.models.errors import Refused


def test_batches_are_prepared_ahead_and_come_in_order():
    made, gate = [], threading.Event()

    def make(number: int) -> int:
        time.sleep(0.01 * (number % 3))
        made.append(number)
        if number == 1:
            gate.set()
        return number * 10

    coming = prefetched(make, range(8), threads=2)
    assert next(coming) == 0
    assert gate.wait(5), "the second is prepared before it is used"
    assert list(coming) == [10, 20, 30, 40, 50, 60, 70]
    assert sorted(made) == list(range(8))


def test_without_threads_each_batch_is_made_on_demand():
    made = []
    coming = prefetched(made.append, range(5), threads=0)
    next(coming)
    assert made == [0]


def test_only_a_few_batches_are_prepared_ahead():
    made = []
    coming = prefetched(made.append, range(1000), threads=1)
    next(coming)
    time.sleep(0.1)
    coming.close()
    assert len(made) <= 3


def test_an_error_in_the_background_is_raised_where_the_batch_is_used():
    def make(number: int) -> int:
        if number == 2:
            raise Refused("picture 2 cannot be decoded")
        return number

    coming = prefetched(make, range(5), threads=1)
    assert [next(coming), next(coming)] == [0, 1]
    with pytest.raises(Refused, match="picture 2"):
        next(coming)


def test_no_two_threads_use_the_same_copy():
    class Fragile:
        busy = False

        def __call__(self, number: int) -> int:
            assert not self.busy
            self.busy = True
            time.sleep(0.002)
            self.busy = False
            return number

    replicas = Replicas(Fragile(), 3)

    def make(number: int) -> int:
        with replicas.one() as fragile:
            return fragile(number)

    assert list(prefetched(make, range(30), threads=3)) == list(range(30))
