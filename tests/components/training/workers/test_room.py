"""Places that a training reserves for workers: none is left when it has ended, and those of a predecessor that was killed are released."""

from collections.abc import Callable
from typing import Any

import pytest
import ray
from ray.util.placement_group import placement_group, placement_group_table, remove_placement_group

from mirepoix.components.training.workers import room
from mirepoix.components.training.workers.attempts import Attempts, Room
from mirepoix.components.training.workers.room import Places, places_of, release, reserved
from mirepoix.models.errors import Refused

NAME = places_of("/storage/work/1")
LITTLE, MUCH = {"CPU": 0.001}, {"CPU": 1e6}
"""What there is room for, and what is waited for in vain."""


@ray.remote(num_cpus=0)
def reserve(name: str = NAME) -> None:
    """Four places, two of which wait for room, by another process than the one that releases them."""
    for resources in (LITTLE, MUCH):
        Places(name, 2, resources)


@ray.remote(num_cpus=0)
class Controller:
    """The controller of Ray Train, which reserves the places of the workers that it starts, without a name."""

    def reserve(self) -> str:
        self.places = placement_group([LITTLE])
        return self.places.id.hex()


@pytest.fixture(scope="module")
def cluster(ray_cluster):
    if not ray.is_initialized():
        ray.init(address=ray_cluster, log_to_driver=False)


def train(fit: Callable[[int], dict[str, Any]], least: int = 1) -> int:
    return Attempts(fit, lambda: None, Room(least, 2, LITTLE, NAME), max_failures=0).run()[1]


def refused() -> None:
    raise Refused("there is nothing to train on")


def interrupted() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("end", "expected"),
    [(lambda: None, None), (refused, Refused), (interrupted, KeyboardInterrupt)],
    ids=["its end", "a refusal", "an interruption"],
)
def test_no_place_stays_reserved_after(end, expected, cluster):
    seen = []

    def fit(workers: int) -> dict[str, Any]:
        ray.get(reserve.remote())
        seen.append(len(reserved(NAME)))
        end()
        return {}

    if expected is None:
        assert train(fit) == 2
    else:
        with pytest.raises(expected):
            train(fit)
    assert seen == [4] and reserved(NAME) == []


@pytest.mark.parametrize("least", [1, 2], ids=["a range of workers", "a fixed number of workers"])
def test_what_a_killed_predecessor_of_the_same_scratch_reserved_is_released_before_workers_start(least, cluster):
    other = places_of("/storage/work/2")
    ray.get(reserve.remote())
    ray.get(reserve.remote(other))
    seen: list[list[str]] = []
    train(lambda workers: seen.append(reserved(NAME)) or {}, least)
    assert seen == [[]]
    assert len(reserved(other)) == 4, "those of another training of the same run stay"
    release(other)
    assert reserved(other) == []


def test_a_place_can_be_reserved_while_a_predecessor_still_has_some(cluster):
    ray.get(reserve.remote())
    assert Places(NAME, 1, MUCH).found() == 0
    release(NAME)
    assert reserved(NAME) == []


def state_of(group: str) -> str:
    return placement_group_table()[group]["state"]


def test_what_a_killed_controller_reserved_for_its_workers_is_released_and_what_a_living_one_did_is_not(cluster):
    killed, living = Controller.remote(), Controller.remote()
    groups = ray.get([killed.reserve.remote(), living.reserve.remote()])
    ours = placement_group([LITTLE])
    ray.kill(killed)
    seen: list[str] = []
    train(lambda workers: seen.extend(map(state_of, groups)) or {})
    assert seen[0] == "REMOVED" and seen[1] != "REMOVED"
    assert state_of(ours.id.hex()) != "REMOVED", "a task or a driver reserved it, and no actor"
    remove_placement_group(ours)


def test_what_a_controller_reserved_is_released_where_it_dies_only_while_room_is_looked_for(cluster, monkeypatch):
    dying = Controller.remote()
    group = ray.get(dying.reserve.remote())

    def found(places: Places) -> int:
        ray.kill(dying)
        return int(state_of(group) == "REMOVED")

    monkeypatch.setattr(Places, "found", found)
    assert Room(1, 1, LITTLE, NAME, patience=10.0).find() == 1


def test_no_cluster_is_started_to_release_what_is_gone_with_one(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(room, "placement_group_table", lambda: pytest.fail("it would start a cluster"))
    monkeypatch.setattr(room, "state", None)
    Room(1, 2, LITTLE, NAME).release()
