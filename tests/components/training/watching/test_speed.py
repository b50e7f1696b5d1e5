"""The speed of a training is that of its steps since the last report; numbers by hand, with a clock that the test sets."""

import pytest

from mirepoix.components.training.step import Step
from mirepoix.components.training.watching import speed as speed_module
from mirepoix.components.training.watching.speed import CURVES, Speed
from mirepoix.components.training.watching.work import Work

GIB = 2**30


class Time:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def alone(monkeypatch):
    monkeypatch.setattr(speed_module, "maxima", list)
    monkeypatch.setattr(speed_module, "_memory", lambda: 3 * GIB)


def step(time: Time, speed: Speed, seconds: float, waited: float = 0.0, pictures: int = 2) -> None:
    def take() -> Step:
        time.now += seconds
        return Step({}, tokens=100, places=400, pictures=pictures, chunks=1, waited_s=waited, modalities={})

    speed.timed(take)


def test_rates_are_those_of_the_steps_since_the_last_report(alone):
    time = Time()
    speed = Speed(pairs_per_step=8, now=time)
    step(time, speed, 30.0)
    assert speed.report()["pairs_per_second"] == pytest.approx(8 / 30)
    step(time, speed, 1.0, waited=0.5)
    time.now += 100.0  # a checkpoint
    step(time, speed, 3.0, waited=0.5, pictures=0)
    row = speed.report()
    assert set(row) == set(CURVES) - {"mfu"}
    assert row == pytest.approx(
        {"pairs_per_second": 4.0, "tokens_per_second": 50.0, "pictures_per_second": 0.5, "data_wait": 0.25, "memory_gib": 3.0}
    )


def test_the_longest_time_and_the_most_memory_of_all_ranks_count(monkeypatch):
    monkeypatch.setattr(speed_module, "maxima", lambda own: [7 * GIB, 2 * own[1], own[2]])
    time = Time()
    speed = Speed(pairs_per_step=8, now=time)
    step(time, speed, 2.0, waited=1.0)
    row = speed.report()
    assert (row["pairs_per_second"], row["data_wait"], row["memory_gib"]) == pytest.approx((2.0, 0.25, 7.0))


def test_useful_work_is_told_beside_the_peak_where_that_is_known(alone):
    time = Time()
    speed = Speed(8, Work(per_token=3.0, per_picture=50.0, peak=1000.0), time)
    step(time, speed, 2.0)
    assert speed.report()["mfu"] == pytest.approx((3 * 100 + 50 * 2) / 2000)


def test_waiting_is_judged_over_ten_steps_after_the_first_ten(alone):
    time = Time()
    speed = Speed(8, now=time)
    for number in range(10):
        step(time, speed, 9.0, waited=8.0 if number else 9.0)
    speed.report()
    assert speed.data_wait is None
    for _ in range(6):
        step(time, speed, 1.0, waited=0.5)
    speed.report()
    assert speed.data_wait is None, "six steps are too few"
    for _ in range(4):
        step(time, speed, 1.0, waited=0.25)
    speed.report()
    assert speed.data_wait == pytest.approx(0.4)
    speed.report()
    assert speed.data_wait is None


def test_this_process_has_a_peak_of_memory():
    assert 0.05 * GIB < speed_module._memory() < 500 * GIB
