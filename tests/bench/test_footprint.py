"""The measure of a whole command: its children count, and its exit status is kept."""

import re
import subprocess
import sys
from pathlib import Path

FOOTPRINT = Path(__file__).resolve().parents[2] / "bench" / "footprint.py"


def measured(code: str) -> tuple[int, float, float]:
    ended = subprocess.run([sys.executable, FOOTPRINT, sys.executable, "-c", code], capture_output=True, text=True)
    seconds, mebibytes = re.search(r"0 min (\d+) s, at most (\d+) MiB", ended.stdout).groups()
    return ended.returncode, float(seconds), float(mebibytes)


def test_memory_of_a_child_counts_and_the_status_is_kept():
    child = "import time; held = b'x' * (200 << 20); time.sleep(2.5)"
    status, seconds, mebibytes = measured(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}]); sys.exit(3)")
    assert status == 3
    assert seconds >= 2
    assert 200 < mebibytes < 300


def test_without_a_command_it_prints_its_usage():
    ended = subprocess.run([sys.executable, FOOTPRINT], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "make demo" in ended.stderr
