"""Room of a cluster for workers, found by reserving a place for each: what is reserved is free indeed, and an autoscaler sees the demand.

Ray Train's own elastic scaling counts the CPUs of nodes, which others may be using.
"""

from contextlib import suppress

from ray.util import get_placement_group
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group


class Places:
    """Reservations for so many workers, each with these resources.

    They have names, so that another process can release them: those of an actor that died stay as long as its job.
    """

    def __init__(self, name: str, count: int, resources: dict[str, float]):
        self._asked: list[PlacementGroup] = [placement_group([resources], name=f"{name}-{number}") for number in range(count)]

    def found(self) -> int:
        """How many of them there is room for now. (`PlacementGroup.wait` takes whole seconds, and answers at random before the first.)"""
        return sum(placement_group_table(each).get("state") == "CREATED" for each in self._asked)


def release(name: str, count: int) -> None:
    """Releases the reservations of a name, whichever process made them."""
    for number in range(count):
        with suppress(ValueError):  # there is none
            remove_placement_group(get_placement_group(f"{name}-{number}"))
