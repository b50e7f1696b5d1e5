"""Room of a cluster for workers, found by reserving a place for each: what is reserved is free indeed, and an autoscaler sees the demand.

Ray Train's own elastic scaling counts the CPUs of nodes, which others may be using.
"""

import hashlib
import uuid
from contextlib import suppress

import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]  # made when imported
from ray.util import get_placement_group
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group


def places_of(scratch: str) -> str:
    """The name of a training's reservations, by its scratch: a stage whose process was killed finds them again when it is started again."""
    return f"training-{hashlib.sha256(scratch.encode()).hexdigest()[:16]}"


class Places:
    """Reservations for so many workers, each with these resources.

    They have a name, so that another process can release them: those of an actor that died stay as long as its job. What follows the name
    is different for each, because Ray refuses one that is taken, and the last worker of a killed training may still be reserving.
    """

    def __init__(self, name: str, count: int, resources: dict[str, float]):
        self._asked: list[PlacementGroup] = [placement_group([resources], name=f"{name}-{uuid.uuid4().hex}") for _ in range(count)]

    def found(self) -> int:
        """How many of them there is room for now. (`PlacementGroup.wait` takes whole seconds, and answers at random before the first.)"""
        return sum(placement_group_table(each).get("state") == "CREATED" for each in self._asked)


def reserved(name: str) -> list[str]:
    """The reservations of a name, whichever process made them, those included that wait for room."""
    return [each["name"] for each in placement_group_table().values() if each["name"].startswith(f"{name}-") and each["state"] != "REMOVED"]


def release(name: str) -> None:
    """Releases the reservations of a name that processes of this job made; Ray itself releases those of a job that has ended."""
    if not ray.is_initialized():  # the cluster is gone, and Ray would start another to ask it
        return
    for each in reserved(name):
        with suppress(ValueError):  # it was released meanwhile, or is another job's
            remove_placement_group(get_placement_group(each))


def release_abandoned() -> None:
    """Releases what actors of this job reserved that have died since: the places of workers whose controller was killed.

    Ray keeps these until the job ends, and Ray Train's own remedy asks the dashboard whether the controller is dead, which a private
    cluster does not have. Without this a stage that is started again would wait for the places of its predecessor. Only Ray's own table
    says who reserved what.
    """
    if not ray.is_initialized():
        return
    job = ray.get_runtime_context().get_job_id()
    for row in state._connect_and_get_accessor().get_placement_group_table():
        group = PlacementGroupTableData.FromString(row)
        by_actor = not ray.ActorID(group.creator_actor_id).is_nil()  # of what a task or a driver reserved, this is said to be dead too
        if group.creator_job_id.hex() == job and by_actor and group.creator_actor_dead and group.state != PlacementGroupTableData.REMOVED:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
