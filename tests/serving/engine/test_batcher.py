"""Requests are cut into batches: short ones pass long ones, nobody waits for an idle encoder, and what would be late is refused."""

import asyncio
import time
from collections.abc import Callable

import numpy as np
import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving.engine.batch_config import BatchConfig
from mirepoix.serving.engine.batcher import FIRST_BATCHES, MEASURED, Batcher, EncoderDied, Overloaded, TooSlow
from mirepoix.serving.engine.rate import Rate, units
from mirepoix.serving.engine.work import Encoded, EncodeRequest

SECONDS = 0.002
"""What the encoder of these tests takes for an item."""


class Clocked:
    """An encoder that takes its time for each item, and remembers its batches; `fails` is asked before each batch."""

    alive = True
    ahead = False

    def __init__(self, fails: Callable[[list[str]], BaseException | None] = lambda names: None, seconds: float = SECONDS):
        self.batches: list[list[str]] = []
        self.fails, self.seconds = fails, seconds

    async def revive(self) -> None:
        pass

    async def encode(self, requests: list[EncodeRequest]) -> list[list[Encoded] | str]:
        names = [item.id for request in requests for item in request.items]
        self.batches.append(names)
        await asyncio.sleep(self.seconds * len(names))
        if (error := self.fails(names)) is not None:
            raise error
        return [
            "refused" if any(item.text == "bad" for item in request.items) else [Encoded(_row(item), 3) for item in request.items]
            for request in requests
        ]


def _row(item: Item) -> np.ndarray:
    return np.full((1, 2), float(item.id.rpartition("-")[2]), np.float32)


def request(name: str, count: int = 1, text: str = "a few words") -> list[Item]:
    return [Item(f"{name}-{n}", text) for n in range(count)]


def run(work, *workers: Clocked, **config):
    """What `work` returns of a batcher over these encoders."""

    async def inner():
        batcher = Batcher(workers or [Clocked()], BatchConfig(**config))
        try:
            return await asyncio.wait_for(work(batcher), 20)
        finally:
            await batcher.close()

    return asyncio.run(inner())


def test_a_request_gets_the_vectors_of_its_items_in_their_order_though_it_is_encoded_in_parts():
    encoder = Clocked()

    async def work(batcher):
        return await batcher.encode(request("bulk", 70), "document")

    encoded = run(work, encoder, batch_size=16)
    assert [one.rows_TD[0, 0] for one in encoded] == list(range(70))
    assert max(map(len, encoder.batches)) == 16 and sum(map(len, encoder.batches)) == 70


def test_an_idle_encoder_starts_at_once_and_requests_that_come_meanwhile_are_encoded_together():
    encoder = Clocked()

    async def work(batcher):
        first = asyncio.create_task(batcher.encode(request("first"), "query"))
        await asyncio.sleep(SECONDS / 2)
        others = [asyncio.create_task(batcher.encode(request(f"r{n}"), "query")) for n in range(10)]
        await asyncio.gather(first, *others)

    run(work, encoder, batch_wait_s=1.0)
    assert [len(batch) for batch in encoder.batches] == [1, 10], "no wait for a batch to fill while the encoder is idle"


def test_a_busy_encoder_waits_a_moment_for_the_clients_of_its_last_batch():
    encoder = Clocked()

    async def client(batcher, name):
        for turn in range(4):
            await batcher.encode(request(f"{name}.{turn}"), "query")
            await asyncio.sleep(0.001)

    async def work(batcher):
        await asyncio.gather(*(client(batcher, f"c{n}") for n in range(8)))

    run(work, encoder, batch_wait_s=0.1)
    assert [len(batch) for batch in encoder.batches] == [8, 8, 8, 8], "without the wait the first to ask again would be alone"


class Queued(Clocked):
    """An encoder before which the next batch may lie, as in the socket of a child; it remembers how many lay there at most."""

    ahead = True

    def __init__(self, **options):
        super().__init__(**options)
        self.turn, self.given, self.most = asyncio.Lock(), 0, 0

    async def encode(self, requests):
        self.given += 1
        self.most = max(self.most, self.given)
        try:
            async with self.turn:
                return await super().encode(requests)
        finally:
            self.given -= 1


def test_a_busy_encoder_has_its_next_batch_when_one_has_ended_and_an_idle_one_is_given_no_small_one_early():
    encoder = Queued()

    async def client(batcher, name):
        for turn in range(6):
            await batcher.encode(request(f"{name}.{turn}"), "query")

    async def work(batcher):
        some = asyncio.gather(*(client(batcher, f"c{n}") for n in range(8)))
        await asyncio.sleep(2 * SECONDS)
        await asyncio.gather(some, *(client(batcher, f"d{n}") for n in range(8)))
        assert encoder.most == 2
        encoder.most = 0
        first = asyncio.create_task(batcher.encode(request("big", 8), "query"))
        await asyncio.sleep(SECONDS)
        await batcher.encode(request("small"), "query")
        await first
        assert encoder.most == 1, "more may come before that has ended"

    run(work, encoder)


def test_short_requests_pass_a_long_one_which_goes_on_all_the_same():
    encoder = Clocked()

    async def work(batcher):
        bulk = asyncio.create_task(batcher.encode(request("bulk", 400), "document"))
        await asyncio.sleep(5 * SECONDS)
        waits = []
        while not bulk.done():
            began = time.monotonic()
            await batcher.encode(request("short"), "query")
            waits.append(time.monotonic() - began)
            await asyncio.sleep(0.01)
        return waits, await bulk

    waits, encoded = run(work, encoder, batch_size=64)
    assert len(encoded) == 400 and len(waits) > 10
    assert sorted(waits)[-3] < 0.15, "a short request waits for a part of about 0.02 s, not for the 0.8 s of the long one"
    with_short = [len(batch) for batch in encoder.batches if any(name.startswith("short") for name in batch)]
    assert any(size > 1 for size in with_short), "parts of the long request are encoded beside short ones"


def test_long_requests_take_turns():
    encoder = Clocked()

    async def work(batcher):
        ends = {}

        async def ask(name, count):
            await batcher.encode(request(name, count), "document")
            ends[name] = time.monotonic()

        long = asyncio.create_task(ask("long", 300))
        await asyncio.sleep(0.005)
        await ask("less", 20)
        assert not long.done()
        await long
        return ends

    ends = run(work, encoder, batch_size=16)
    assert ends["less"] < ends["long"]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_a_long_request_is_not_held_up_for_ever_by_short_ones(batch_size):
    encoder = Clocked()

    async def work(batcher):
        over = asyncio.Event()

        async def client(n):
            while not over.is_set():
                await batcher.encode(request(f"c{n}"), "query")

        clients = [asyncio.create_task(client(n)) for n in range(12)]
        await asyncio.sleep(0.02)
        await batcher.encode(request("bulk", 10), "document")
        over.set()
        await asyncio.gather(*clients)

    run(work, encoder, batch_size=batch_size, interactive_wait_s=30.0)


def test_a_request_that_is_cancelled_leaves_the_queue():
    encoder = Clocked()

    async def work(batcher):
        left = asyncio.create_task(batcher.encode(request("left", 300), "document"))
        await asyncio.sleep(3 * SECONDS)
        left.cancel()
        with pytest.raises(asyncio.CancelledError):
            await left
        assert batcher.waiting == {"interactive": 0, "bulk": 0}
        await batcher.encode(request("next"), "query")

    run(work, encoder, batch_size=16)
    assert len(encoder.batches) == 2 and encoder.batches[1] == ["next-0"]


def test_a_refusal_or_a_failure_is_of_its_own_request():
    async def work(batcher):
        good, bad = (asyncio.create_task(batcher.encode(each, "query")) for each in (request("a"), request("b", text="bad")))
        with pytest.raises(Refused, match="refused"):
            await bad
        return len(await good)

    assert run(work) == 1

    def breaks(names):
        return RuntimeError("broken") if "x-0" in names else None

    async def failing(batcher):
        with pytest.raises(RuntimeError, match="broken"):
            await batcher.encode(request("x"), "query")
        return len(await batcher.encode(request("y"), "query"))

    assert run(failing, Clocked(breaks)) == 1, "the next request is encoded"


def test_what_an_encoder_had_when_it_died_is_encoded_again():
    died = []

    def dies(names):
        if len(died) < 1:
            died.append(names)
            return EncoderDied()
        return None

    async def work(batcher):
        return await asyncio.gather(*(batcher.encode(request(f"r{n}"), "query") for n in range(5)))

    assert len(run(work, Clocked(dies))) == 5 and died


def test_what_an_encoder_had_when_it_died_is_encoded_by_another_one_while_it_is_started_again():
    class Dies(Clocked):
        async def revive(self) -> None:
            await asyncio.sleep(10)

        async def encode(self, requests):
            self.alive = False
            raise EncoderDied

    async def work(batcher):
        return await asyncio.gather(*(batcher.encode(request(f"one{n}"), "query") for n in range(4)))

    began = time.monotonic()
    assert len(run(work, Dies(), Clocked())) == 4 and time.monotonic() - began < 5


def test_a_request_over_which_encoders_die_again_and_again_is_given_up_and_the_others_are_not():
    def dies(names):
        return EncoderDied() if "deadly-0" in names else None

    async def work(batcher):
        tasks = [asyncio.create_task(batcher.encode(request(name), "query")) for name in ("deadly", "a", "b", "c")]
        done = await asyncio.gather(*tasks, return_exceptions=True)
        return done

    encoder = Clocked(dies)
    deadly, *others = run(work, encoder)
    assert isinstance(deadly, EncoderDied) and all(isinstance(each, list) for each in others)
    assert len([batch for batch in encoder.batches if "deadly-0" in batch]) == 3
    assert encoder.batches.count(["deadly-0"]) >= 1, "from the second death on it is in a batch of its own"


def test_an_input_that_takes_an_encoder_too_long_is_given_up_at_once_and_several_are_encoded_again():
    slow = []

    def hangs(names):
        if "slow-0" in names or not slow:
            slow.append(names)
            return TooSlow()
        return None

    async def work(batcher):
        several = await batcher.encode(request("a", 3), "query")
        with pytest.raises(TooSlow):
            await batcher.encode(request("slow"), "query")
        return len(several)

    assert run(work, Clocked(hangs)) == 3 and slow == [["a-0", "a-1", "a-2"], ["slow-0"]]


class Mortal(Queued):
    """An encoder before which the next batch may lie; at a death it loses both, and another one is there at once."""

    def __init__(self, **options):
        super().__init__(**options)
        self.lives = 0

    async def encode(self, requests):
        life = self.lives
        encoded = await super().encode(requests) if life == self.lives else None
        if life != self.lives:
            raise EncoderDied
        return encoded

    def die(self) -> None:
        self.lives += 1


def test_a_long_request_outlives_deaths_of_its_encoder_between_which_parts_of_it_were_encoded():
    encoder = Mortal()

    async def work(batcher):
        bulk = asyncio.create_task(batcher.encode(request("bulk", 640), "document"))
        for _ in range(4):
            good = len(encoder.batches)
            while len(encoder.batches) < good + 4 and not bulk.done():
                await asyncio.sleep(SECONDS)
            encoder.die()
        return len(await bulk)

    assert run(work, encoder, batch_size=32) == 640 and encoder.most == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_what_lies_behind_a_request_that_kills_its_encoders_is_not_given_up_with_it(workers):
    encoders = [Mortal() for _ in range(workers)]

    def dies_over(encoder):
        def fails(names):
            if "deadly-7" in names:
                encoder.die()
            return None

        return fails

    for each in encoders:
        each.fails = dies_over(each)

    async def work(batcher):
        asked = [request("first", 8), *(request(f"r{n}") for n in range(10)), request("deadly", 40), request("long", 200)]
        return await asyncio.gather(*(batcher.encode(each, "query") for each in asked), return_exceptions=True)

    *others, deadly, long = run(work, *encoders, batch_size=8)
    assert isinstance(deadly, EncoderDied) and len(long) == 200 and all(isinstance(each, list) for each in others)
    assert sum(each.lives for each in encoders) == 3


async def measured(batcher: Batcher) -> None:
    """Returns when the rate is known."""
    for _ in range(MEASURED):
        await batcher.encode(request("first", 8), "query")


def test_requests_are_not_refused_by_what_the_first_batch_of_a_release_took():
    class Slow(Clocked):
        async def encode(self, requests):
            if not self.batches:
                await asyncio.sleep(0.3)
            return await super().encode(requests)

    async def work(batcher):
        first = asyncio.create_task(batcher.encode(request("first"), "query"))
        await asyncio.sleep(0.05)
        waiting = [asyncio.create_task(batcher.encode(request(f"r{n}"), "query")) for n in range(20)]
        await first
        return [await batcher.encode(request("next"), "query"), *await asyncio.gather(*waiting)]

    assert len(run(work, Slow(), batch_size=8, interactive_wait_s=0.2)) == 21


def test_a_request_that_would_be_late_is_refused_with_when_it_would_not_be():
    async def work(batcher):
        await measured(batcher)
        waiting = [asyncio.create_task(batcher.encode(request(f"r{n}", 8), "query")) for n in range(100)]
        done = await asyncio.gather(*waiting, return_exceptions=True)
        late = [each.after_s for each in done if isinstance(each, Overloaded)]
        return len([each for each in done if isinstance(each, list)]), late

    accepted, late = run(work, batch_size=8, interactive_wait_s=0.2)
    assert 5 <= accepted <= 20, "0.2 s at 2 ms an item are 100 items, 12 requests"
    assert len(late) == 100 - accepted and max(late) < 0.1 and min(late) > 0, "each is late by the time of one request"


def test_before_the_rate_is_known_a_few_batches_of_short_requests_are_let_in_and_long_ones_all_the_same():
    async def work(batcher):
        short = [asyncio.create_task(batcher.encode(request(f"r{n}"), "query")) for n in range(300)]
        long = [asyncio.create_task(batcher.encode(request(f"bulk{n}", 100), "document")) for n in range(4)]
        assert all(len(each) == 100 for each in await asyncio.gather(*long))
        done = await asyncio.gather(*short, return_exceptions=True)
        late = [each.after_s for each in done if isinstance(each, Overloaded)]
        assert min(late) > 0
        return 300 - len(late)

    assert run(work, batch_size=16) == FIRST_BATCHES * 16 + 1
    assert run(work, Clocked(), Clocked(), batch_size=16) == 2 * FIRST_BATCHES * 16 + 1


def test_a_long_request_waits_longer_than_a_short_one_may():
    async def work(batcher):
        await measured(batcher)
        bulk = asyncio.create_task(batcher.encode(request("bulk", 200), "document"))
        await asyncio.sleep(0.01)
        assert batcher.excess() <= 0, "a short request passes the long one"
        with pytest.raises(Overloaded):
            await batcher.encode(request("more", 4000), "document")
        await bulk

    run(work, interactive_wait_s=0.3, bulk_wait_s=2.0)


def test_a_request_that_takes_long_by_itself_is_taken_where_nothing_is_before_it():
    async def work(batcher):
        await measured(batcher)
        for _ in range(20):  # such as batches while the machine swapped: an item is thought to take minutes
            batcher.rate.observe((8.0, 0.0), 40.0)
        assert batcher.rate.seconds(units(request("next"))) > 60
        for n in range(3):
            await batcher.encode(request(f"next{n}"), "query")
        with pytest.raises(Overloaded) as late:
            await asyncio.gather(*(batcher.encode(request(f"r{n}", 8), "query") for n in range(3)))
        return late.value.after_s

    assert run(work, interactive_wait_s=0.0) < 60, "it is late by what is before it, not by what it takes itself"


def test_an_encoder_that_is_being_replaced_takes_no_batch_that_another_one_can_have():
    class Dead(Clocked):
        alive = False

        async def revive(self):
            await asyncio.sleep(60)

    async def work(batcher):
        return await asyncio.gather(*(batcher.encode(request(f"r{n}", 4), "query") for n in range(5)))

    dead, other = Dead(), Clocked()
    assert len(run(work, dead, other, batch_size=4)) == 5 and not dead.batches


def test_two_encoders_share_the_work():
    one, other = Clocked(), Clocked()

    async def work(batcher):
        await batcher.encode(request("bulk", 64), "document")

    run(work, one, other, batch_size=8)
    assert abs(len(one.batches) - len(other.batches)) <= 2


def test_the_rate_of_texts_and_of_pictures_is_learnt_apart():
    rate = Rate()
    text, picture = units([Item("t", "x" * 400)]), units([Item("p", images=(b"",))])
    for _ in range(20):
        rate.observe(text, 0.01)
        rate.observe(picture, 0.2)
    assert rate.seconds(text) == pytest.approx(0.01, rel=0.2) and rate.seconds(picture) == pytest.approx(0.2, rel=0.35)


def test_a_rate_begins_as_another_one_and_is_corrected_by_its_own_batches():
    before, rate = Rate(), Rate()
    short = units(request("short"))
    for _ in range(MEASURED):
        before.observe(short, 0.1)
        before.observe_interactive(short)
    rate.begin_as(before)
    assert rate.batches == MEASURED and rate.interactive_s == rate.seconds(short) == pytest.approx(0.1)
    for _ in range(20):
        rate.observe(short, 0.01)
    assert rate.interactive_s == rate.seconds(short) == pytest.approx(0.01, rel=0.01) and before.interactive_s == pytest.approx(0.1)


def test_a_config_that_cannot_be_is_refused():
    for wrong in ({"batch_size": 0}, {"interactive_items": 0}, {"batch_wait_s": -1.0}, {"bulk_wait_s": -1.0}):
        with pytest.raises(Refused):
            BatchConfig(**wrong)
