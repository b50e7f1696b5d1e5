"""Attempts of a training: what is counted against max_failures, what is not, and what the lines say."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from ray.exceptions import ActorDiedError, RayActorError
from ray.train import ControllerError, PreemptionError, PreemptionInfo, TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError, WorkerHealthCheckFailedError

from mirepoix.components.training.workers.attempts import Attempts
from mirepoix.components.training.workers.host import Notice
from mirepoix.models.errors import Refused

UNLISTED = "its last complete checkpoint, or its beginning"


@dataclass
class FixedRoom:
    """Room that needs no cluster: so many workers each time that it is looked for."""

    least: int = 2
    most: int = 2
    finds: list[int] = field(default_factory=list)

    def release(self) -> None:
        pass

    def find(self) -> int:
        return self.finds.pop(0)


@dataclass
class Script:
    """Attempts that end as they are told to, each after so many steps that were saved."""

    ends: Sequence[tuple[int, dict | Exception]]
    steps: int = 0
    started: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def fit(self, workers: int) -> dict:
        steps, end = self.ends[len(self.started)]
        self.started.append(workers)
        self.steps += steps
        if isinstance(end, Exception):
            raise end
        return end

    def run(self, max_failures: int = 2, room: FixedRoom | None = None) -> tuple[dict, int]:
        return Attempts(self.fit, self.saved, room or FixedRoom(), max_failures, self.say).run()

    def saved(self) -> str | None:
        return f"step_{self.steps:08d}-2" if self.steps else None

    def say(self, text: str, *values: object) -> None:
        self.said.append(text % values)


def died(preempted: bool = False) -> TrainingFailedError:
    """Rank 1's process is gone, and the collective of rank 0 failed with it."""
    error = RayActorError(preempted=preempted) if preempted else ActorDiedError()
    return WorkerGroupError(
        "much text", {0: RuntimeError("Connection closed by peer"), 1: WorkerHealthCheckFailedError("A worker health check failed.", error)}
    )


DONE = (1, {"metrics": {"loss": 0.5}})


def test_any_number_of_deaths_is_survived_where_each_attempt_saves_a_checkpoint():
    script = Script([(1, died())] * 10 + [DONE])
    assert script.run(max_failures=1) == ({"metrics": {"loss": 0.5}}, 2)
    assert script.said[3] == (
        "rank 1 died; the training goes on from the checkpoint step_00000004-2 (restart 1 of 1 without a new checkpoint)"
    )


def test_deaths_without_a_new_checkpoint_in_between_are_counted_and_end_in_one_line():
    script = Script([(0, died()), (3, died()), (0, died()), (0, died())])
    with pytest.raises(Refused) as refused:
        script.run(max_failures=2)
    assert len(script.started) == 4
    assert [line.rpartition("(")[2] for line in script.said] == [
        "restart 1 of 2 without a new checkpoint)",
        "restart 1 of 2 without a new checkpoint)",
        "restart 2 of 2 without a new checkpoint)",
    ]
    assert str(refused.value) == (
        "rank 1 died 3 times in a row without a new checkpoint; see that node's log: it may be out of memory; "
        "run again to go on from the checkpoint step_00000003-2, or raise max_failures"
    )


@pytest.mark.parametrize(
    "between", [{"again": Notice.PREEMPTED}, died(preempted=True), PreemptionError(PreemptionInfo(None, {"node": [1]}))]
)
def test_progress_of_an_attempt_that_was_not_counted_is_progress(between):
    script = Script([(0, died()), (5, between), (0, died()), (0, between), DONE])
    assert script.run(max_failures=1)[1] == 2
    assert (
        script.said[2] == "rank 1 died; the training goes on from the checkpoint step_00000005-2 (restart 1 of 1 without a new checkpoint)"
    )


@pytest.mark.parametrize("between", [{"again": Notice.PREEMPTED}, ControllerError(WorkerGroupStartupTimeoutError(2))])
def test_an_attempt_that_was_not_counted_and_saved_nothing_is_no_progress(between):
    script = Script([(3, died()), (0, between), (0, died())])
    with pytest.raises(Refused, match="rank 1 died 2 times in a row without a new checkpoint"):
        script.run(max_failures=1, room=FixedRoom(finds=[2]))


def test_a_death_at_the_start_and_the_death_of_the_controller_are_counted_too():
    script = Script([(0, ControllerError(WorkerGroupStartupFailedError("much text"))), (0, ActorDiedError()), DONE])
    assert script.run(max_failures=2)[1] == 2
    assert script.said == [
        f"a worker died while it started; the training goes on from {UNLISTED} (restart 1 of 2 without a new checkpoint)",
        f"the controller of the workers died; the training goes on from {UNLISTED} (restart 2 of 2 without a new checkpoint)",
    ]


def test_max_failures_of_0_restarts_nothing_that_died():
    script = Script([(5, died())])
    with pytest.raises(Refused, match="rank 1 died and max_failures is 0"):
        script.run(max_failures=0)


def test_machines_that_are_taken_away_and_notices_of_it_are_not_counted():
    preemption = PreemptionError(PreemptionInfo(None, {"node": [1]}))
    script = Script([(0, preemption), (0, died(preempted=True)), (0, preemption), (2, {"again": Notice.PREEMPTED}), DONE])
    assert script.run(max_failures=0)[1] == 2
    assert script.said[0] == script.said[1] == f"a node was taken away; the training goes on from {UNLISTED}"
    assert script.said[3] == (
        "the node of a worker is about to be taken away; the training starts again from the checkpoint step_00000002-2"
    )


def test_room_is_looked_for_where_workers_found_none_and_that_is_not_counted():
    full = ControllerError(WorkerGroupStartupTimeoutError(2))
    room = FixedRoom(finds=[2, 2])
    script = Script([(0, full), (0, full), DONE])
    assert script.run(max_failures=0, room=room)[1] == 2 and room.finds == []


def test_a_range_of_workers_starts_each_time_with_as_many_as_there_is_room_for():
    room = FixedRoom(least=1, most=3, finds=[3, 2, 1, 3])
    script = Script([(1, died()), (1, died()), (1, {"again": Notice.ROOM}), DONE])
    assert script.run(room=room)[1] == 3
    assert script.started == [3, 2, 1, 3]
    assert script.said[2].startswith("there is room for more workers; the training starts again from the checkpoint")


def test_what_a_worker_refuses_on_its_own_is_tried_again_and_in_the_end_said():
    late = WorkerGroupError("much text", {0: Refused("rank 1 (node n, pid 3) did not take part"), 1: ValueError("other")})
    script = Script([(0, late), (0, late)])
    with pytest.raises(Refused, match=r"^rank 1 \(node n, pid 3\) did not take part$"):
        script.run(max_failures=1)
    assert script.said == [
        f"rank 1 (node n, pid 3) did not take part; the training goes on from {UNLISTED} (restart 1 of 1 without a new checkpoint)"
    ]


def test_exceptions_of_the_code_are_raised_as_they_are():
    ours = WorkerGroupError("much text", {0: KeyError("x")})
    with pytest.raises(WorkerGroupError):
        Script([(0, ours)]).run(max_failures=0)
    broken = ControllerError(ValueError("no storage"))
    with pytest.raises(ControllerError):
        Script([(0, broken)]).run(max_failures=3)
