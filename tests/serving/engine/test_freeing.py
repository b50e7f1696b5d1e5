"""The collector looks at nothing that a process keeps, and freed memory is not asked of the kernel again."""

import gc
import platform
import subprocess
import sys
import weakref

import pytest

from mirepoix.serving.engine.freeing import collect_and_freeze, freeze

ROUNDS, PAGES = 20, 8192
SCRIPT = f"""
import resource
import sys
from mirepoix.serving.engine.freeing import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def layer():
    arrays = [b"x" * (2 << 20) for _ in range({PAGES * 4096 >> 21})]
layer()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    layer()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


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


def faults(how: str) -> int:
    """Pages that the kernel gave to a process that allocates and frees as many in each round."""
    return int(subprocess.run([sys.executable, "-c", SCRIPT, how], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such setting")
def test_freed_memory_is_used_again() -> None:
    assert faults("kept") < PAGES
    assert faults("plain") > ROUNDS * PAGES / 2  # or else the setting is of no use any more
