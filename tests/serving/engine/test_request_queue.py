"""Batches of the requests that wait: interactive items first, then bulk ones in turn; what an encoder had when it died is before both."""

import asyncio
from collections.abc import Callable
from math import inf

import pytest

from mirepoix.models.item import Item
from mirepoix.serving.engine.batch_config import BatchConfig
from mirepoix.serving.engine.rate import Rate, units
from mirepoix.serving.engine.request_queue import FIRST_ITEMS, MOST_PASSES, Job, RequestQueue, Slice


def run(work: Callable[[RequestQueue], None], longest_s: float = inf, **config) -> None:
    async def inner():
        work(RequestQueue(BatchConfig(**config), Rate(), longest_s))

    asyncio.run(inner())


def job(name: str, count: int) -> Job:
    items = [Item(f"{name}-{n}", "a few words") for n in range(count)]
    return Job(items, "query", "end", [units([item]) for item in items], asyncio.get_running_loop().create_future(), [None] * count)


def names(batch: list[Slice]) -> list[str]:
    return [item.id for part in batch for item in part.request.items]


def test_interactive_items_come_first_and_a_short_part_of_each_bulk_request_follows():
    def work(queue):
        for each in (job("a", 40), job("b", 40), job("x", 2), job("y", 1)):
            queue.add(each)
        assert names(queue.take()) == ["x-0", "x-1", "y-0", "a-0", "b-0"], "three items take as long as two interactive requests"
        assert names(queue.take()) == ["a-1", "b-1"] and queue.waiting == {"interactive": 0, "bulk": 76}

    run(work)


def test_a_batch_is_full_where_no_interactive_request_came_of_late():
    def work(queue):
        queue.add(job("a", 20))
        assert [len(names(queue.take())) for _ in range(4)] == [8, 8, 4, 0]

    run(work, batch_size=8)


def test_a_batch_takes_no_longer_than_it_may_but_has_one_item_at_least():
    def work(queue):
        queue.rate.observe(units([Item("a", "a few words")]), 3.0)
        for each in (job("bulk", 40), job("other", 40), job("x", 8), job("y", 8)):
            queue.add(each)
        assert [len(names(queue.take())) for _ in range(4)] == [5, 5, 5, 5] and queue.waiting == {"interactive": 0, "bulk": 76}
        for n in range(MOST_PASSES + 2):
            queue.add(job(f"more{n}", 8))
            assert len(names(queue.take())) == 5
        assert queue.waiting["bulk"] < 76, "bulk items get a part of a batch all the same"
        queue.rate.observe(units([Item("a", "a few words")]), 1e6)
        assert len(names(queue.take())) == 1

    run(work, longest_s=15.1)


def test_a_batch_is_small_while_it_is_not_known_what_a_picture_takes():
    def work(queue):
        queue.add(job("a", 100))
        assert len(names(queue.take())) == 32
        pictures = [Item(f"p{n}", images=(b"",)) for n in range(40)]
        queue.add(Job(pictures, "query", "end", [units([item]) for item in pictures], asyncio.get_running_loop().create_future()))
        assert len(names(queue.take())) == FIRST_ITEMS
        queue.rate.observe(units(pictures[:1]), 0.1)
        assert len(names(queue.take())) == 32

    run(work)


def test_what_is_put_back_is_taken_first_without_requests_that_have_ended_meanwhile():
    def work(queue):
        left, kept = job("left", 1), job("kept", 1)
        for each in (left, kept, job("other", 1)):
            queue.add(each)
        batch = queue.take()[:2]
        queue.put_back_alone(batch[1])
        queue.put_back(batch[:1])
        queue.add(job("next", 1))
        assert queue.has_returned and queue.waiting["interactive"] == 3 and queue.fills_ahead(100)
        left.done.cancel()
        assert [names(queue.take()) for _ in range(3)] == [["kept-0"], ["next-0"], []]

    run(work)


def test_an_interactive_request_waits_for_interactive_ones_and_a_bulk_request_for_all():
    def work(queue):
        bulk = job("bulk", 100)
        for each in (bulk, job("x", 1)):
            queue.add(each)
        one = queue.rate.seconds(bulk.units[0])
        assert queue.seconds_before(1) == pytest.approx(one) and queue.seconds_before(9) == pytest.approx(101 * one)
        assert queue.seconds_before(1, entering=3) == pytest.approx(4 * one)
        queue.drop(bulk)
        assert queue.seconds_before(9) == pytest.approx(one) and queue.waiting == {"interactive": 1, "bulk": 0}

    run(work)
