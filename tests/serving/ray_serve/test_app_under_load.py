"""Replicas change over to another release, are added, taken away and killed while clients ask, and no request fails."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import ray
from ray import serve

from mirepoix.models.errors import Refused
from mirepoix.serving.ray_serve import app
from mirepoix.serving.ray_serve.app import start
from mirepoix.serving.release import open_release
from mirepoix.serving.serve_config import ServeConfig
from tests.serving.load import LIGHT, Checker, Clients, Load, unharmed, unordered


def replicas() -> set[str]:
    """The names of the replicas that answer."""
    running = serve.status().applications["mirepoix"].deployments["Retriever"].replica_states.get("RUNNING", 0)
    names = {actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True) if "mirepoix#Retriever#" in actor["name"]}
    return names if len(names) == running else set()


def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come to be"
        time.sleep(0.1)


def settled(count: int, without: str = "") -> set[str]:
    """The names of the replicas, once so many answer and a killed one is not among them; asked again, there may be none for a moment."""
    found: set[str] = set()

    def there() -> bool:
        found.clear()
        found.update(replicas())
        return len(found) == count and without not in found

    until(there)
    return found


def kill_one() -> str:
    """Kills the process of a replica, and returns its name."""
    there = set[str]()
    until(lambda: bool(there.update(replicas()) or there))
    victim = min(there)
    pid = ray.get(ray.get_actor(victim, namespace="serve").__ray_call__.remote(lambda _: os.getpid()))
    os.kill(pid, signal.SIGKILL)
    return victim


@pytest.fixture
def config(served, release_folder):
    """That of the session's server, which serves the release with one replica."""
    config = ServeConfig(port=int(served.rpartition(":")[2]))
    start(str(release_folder), config)
    return config


@pytest.fixture
def versions(release_folder, other_release):
    return [open_release(folder).version for folder in (release_folder, other_release)]


def test_before_there_is_a_replica_the_proxy_lives_and_says_that_the_server_starts(served, starting):
    starting.check()


def test_replicas_change_over_and_back_and_what_is_refused_changes_nothing(
    served, config, release_folder, other_release, refused_releases, versions, truth
):
    old, new = versions
    before = replicas()
    with Checker(served, truth, pause=0.1) as checker, Load(served, *LIGHT) as load:
        for why, folder in refused_releases.items():
            with pytest.raises(Refused, match=why) as refused:
                start(str(folder), config)
            assert "\n" not in str(refused.value) and checker.seen in ([], [old])
        assert start(str(other_release), config).version == new
        time.sleep(0.5)
        assert start(str(release_folder), config).version == old
        time.sleep(0.5)
    assert checker.seen == [old, new, old]
    assert not unordered(unharmed(load.report, 15), (old, new, old))
    assert replicas() == before, "no replica was restarted"


def test_where_memory_does_not_hold_two_a_change_is_refused_with_the_pause_that_it_would_be_or_made_with_it(
    served, config, release_folder, other_release, refused_releases, versions, truth, monkeypatch
):
    measured = []

    def short(rooms):
        measured.extend(found := list(rooms))
        return found[0]._replace(there=0) if found else None

    two, old, lines = replace(config, encoders=2), versions[0], []
    start(str(release_folder), two)
    until(lambda: len(replicas()) == 2)
    before = replicas()
    monkeypatch.setattr(app, "shortest", short)
    with Checker(served, truth, pause=0.2) as checker, Load(served, *[replace(one, stall=None) for one in LIGHT]) as load:
        for folder, pause, why in (
            (
                other_release,
                False,
                r", and 0 MiB are there; with --pause the old one ends first, and requests wait for .* about \d+ seconds more$",
            ),
            (refused_releases["comes out at cosine"], True, "comes out at cosine"),
        ):
            with pytest.raises(Refused, match=why):
                start(str(folder), two, pause=pause, say=lines.append)
            time.sleep(0.3)
            assert checker.seen == [old]
        pauses = [start(str(folder), two, pause=True, say=lines.append).pause_s for folder in (other_release, release_folder)]
        time.sleep(0.5)
    assert not unordered(unharmed(load.report, 20), [*versions, old]) and checker.seen == [*versions, old]
    assert all(0 < pause < 20 for pause in pauses) and len(lines) == 3 and all("the old one ends first" in line for line in lines)
    assert {room.place.split()[0] for room in measured} == {"on"} and all(0 < room.wanted < room.there for room in measured)
    assert replicas() == before, "no replica was restarted"
    start(str(release_folder), config)
    until(lambda: len(replicas()) == 1)


def test_one_replica_is_added_both_change_over_one_is_killed_and_one_is_taken_away(
    served, config, release_folder, other_release, versions, truth
):
    first = settled(1)
    with Checker(served, truth, pause=0.2), Load(served, *LIGHT) as load:
        start(str(release_folder), replace(config, encoders=2))
        assert first < settled(2), "the one that was there goes on"
        for folder in (other_release, release_folder):
            start(str(folder), replace(config, encoders=2))
        victim = kill_one()
        left = settled(2, without=victim)
        start(str(release_folder), config)
        last = settled(1)
        time.sleep(0.5)
    assert last < left
    assert unharmed(load.report, 50).releases == versions


def test_requests_wait_for_the_only_replica_that_is_killed_and_are_answered(served, config, truth):
    with Checker(served, truth, pause=0.2), Load(served, Clients(("search", "picture", "embed", "bulk"), clients=4, stall=None)) as load:
        time.sleep(0.5)
        victim = kill_one()
        until(lambda: len(replicas()) == 1 and victim not in replicas())
        time.sleep(0.5)
    assert len(load.report.answered) == len(load.report.records) > 5, load.report


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_fifty_times_there_and_back_with_one_replica_more_and_ten_kills_of_one_of_two_replicas_fail_no_request(
    served, config, release_folder, other_release, versions, truth
):
    two = replace(config, encoders=2)
    with Checker(served, truth) as checker, Load(served, *LIGHT) as load:
        for _ in range(25):
            for release in (other_release, release_folder):
                start(str(release), config)
                time.sleep(0.2)
            start(str(other_release), two)
            until(lambda: len(replicas()) == 2)
            start(str(release_folder), config)
            until(lambda: len(replicas()) == 1)
    unharmed(load.report, 500)
    assert checker.seen == [versions[0], *(versions[1], versions[0]) * 50]
    start(str(release_folder), two)
    until(lambda: len(replicas()) == 2)
    with Checker(served, truth, pause=0.2), Load(served, *LIGHT) as load:
        for _ in range(10):
            victim = kill_one()
            until(lambda victim=victim: len(replicas()) == 2 and victim not in replicas())
    unharmed(load.report, 100)
    start(str(release_folder), config)
    until(lambda: len(replicas()) == 1)


@pytest.mark.soak
def test_a_replica_is_added_where_clients_are_more_than_one_should_have_and_no_request_fails(served, config, release_folder, truth):
    with Load(served, Clients(("search", "picture", "embed"), clients=6)) as load:
        start(str(release_folder), replace(config, most_encoders=2, ongoing=1.0))
        until(lambda: len(replicas()) == 2, 120)
        time.sleep(1)
        start(str(release_folder), config)
        until(lambda: len(replicas()) == 1)
        time.sleep(1)
    unharmed(load.report, 100)
