"""The notices of a worker of Ray Train: its node is about to be taken away, or there is room for more workers."""

import time

from mirepoix.components.training.workers.host import Notice
from mirepoix.components.training.workers.room import Places

LOOK_SECONDS = 1.0
"""Between two looks for room."""
MORE_SECONDS = 10.0
"""After the first place that is found, so long is waited for others: machines come in groups, and each start takes a while."""


class Notices:
    """The notices of one worker.

    Rank 0 also looks for room, by a reservation for each worker that is missing; what starts the workers again releases it. Ray Train's own
    elastic scaling would stop workers between two checkpoints.
    """

    def __init__(self, places: str, missing: int, resources: dict[str, float], grow_after: float):
        self.name, self.missing, self.resources = places, missing, resources
        self.looks = time.monotonic() + grow_after
        self._places: Places | None = None
        self._found, self._found_at = 0, 0.0

    def now(self) -> Notice:
        return Notice.PREEMPTED if is_preempted() else Notice.ROOM if self._has_room() else Notice.NONE

    def _has_room(self) -> bool:
        if not self.missing:
            return False
        if self._places is None:
            self._places = Places(self.name, self.missing, self.resources)
        if time.monotonic() < self.looks:
            return False
        self.looks = time.monotonic() + LOOK_SECONDS
        found = self._places.found()
        if found > self._found:
            self._found, self._found_at = found, time.monotonic()
        return found == self.missing or (found > 0 and time.monotonic() - self._found_at >= MORE_SECONDS)


def is_preempted() -> bool:
    """Whether the node of any worker is about to be taken away.

    Ray Train's watcher tells each worker. `ray.train.get_preemption_info`, which reads the same, is a barrier of all workers through an
    actor, too slow for every step, and the loop's ranks agree by themselves.
    """
    from ray.train.v2._internal.execution.context import get_train_context

    return get_train_context().preemption_context.preemption_info is not None
