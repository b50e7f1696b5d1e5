"""Whether the next request to the encoders would be late, with those that have been let in and are not in the queue yet.

Requests of a burst are admitted before any is queued; those on their way are counted here, else the queue would seem empty.
"""

from collections.abc import Callable

from starlette.types import Scope

_ENTERED = "mirepoix.entered"


class Admission:
    """Counts the requests on their way to the queue."""

    def __init__(self, excess: Callable[[int], float] = lambda count: 0.0):
        self._excess = excess  # by how many seconds the next request would be late, if so many others come before
        self.count = 0

    @property
    def late_s(self) -> float:
        """By how many seconds the next request would be late; 0 or less if it would not."""
        return self._excess(self.count)

    def enter(self, scope: Scope) -> None:
        """Lets a request in, which is counted until it is in the queue or has ended."""
        if not self.entered(scope):
            scope[_ENTERED] = True
            self.count += 1

    def entered(self, scope: Scope) -> bool:
        """Whether a request has been let in already."""
        return _ENTERED in scope

    def leave(self, scope: Scope) -> None:
        """The request is in the queue now, or has ended."""
        if scope.get(_ENTERED):
            scope[_ENTERED] = False
            self.count -= 1
