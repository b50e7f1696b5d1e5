"""What a process has at the call is not looked at again; what comes later, and what was left since the last call, is collected."""

import gc
import weakref

import pytest

from mirepoix.serving.engine.garbage import collect_and_freeze, freeze


class Node:
    """A reference cycle of one."""

    def __init__(self):
        self.own = self


@pytest.fixture(autouse=True)
def as_before():
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


def test_what_is_there_is_left_out_and_what_comes_is_collected():
    kept = [Node() for _ in range(1000)]
    collect_and_freeze()
    assert gc.get_freeze_count() > 1000 and not any(isinstance(one, Node) for one in gc.get_objects())
    later = weakref.ref(Node())
    assert later() is not None
    gc.collect()
    assert later() is None and len(kept) == 1000


def test_what_is_there_can_be_left_out_without_a_collection():
    left = Node()
    freeze()
    assert not any(one is left for one in gc.get_objects())


def test_what_has_become_garbage_since_the_last_time_is_collected():
    kept = Node()
    collect_and_freeze()
    left = weakref.ref(kept)
    del kept
    gc.collect()
    assert left() is not None
    collect_and_freeze()
    assert left() is None
