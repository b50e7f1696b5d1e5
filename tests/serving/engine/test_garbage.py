"""What a process has when it is settled is not looked at again; what comes later, and what was left since the last time, is collected."""

import gc
import weakref

import pytest

from mirepoix.serving.engine.garbage import settle


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
    settle()
    assert gc.get_freeze_count() > 1000 and not any(isinstance(one, Node) for one in gc.get_objects())
    later = weakref.ref(Node())
    assert later() is not None
    gc.collect()
    assert later() is None and len(kept) == 1000


def test_what_has_become_garbage_since_the_last_time_is_collected():
    kept = Node()
    settle()
    left = weakref.ref(kept)
    del kept
    gc.collect()
    assert left() is not None
    settle()
    assert left() is None
