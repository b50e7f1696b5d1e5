"""The benchmark of memory reads and curates the corpus that it generates, and prints the memory used."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

MEMORY = Path(__file__).resolve().parents[2] / "bench" / "memory.py"


@pytest.mark.parametrize(
    ("what", "count", "said"),
    [
        ("--texts", "500", " 500 passages "),
        pytest.param("--lists", "2", " 2000 listed judgements ", marks=pytest.mark.soak),
    ],
)
def test_texts_and_lists_are_processed_and_the_memory_used_is_printed(tmp_path, what, count, said):
    sizes = ["--gigabytes", "--texts", what, count, "--folder", tmp_path]
    ended = subprocess.run([sys.executable, MEMORY, *sizes, "--check"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (most,) = re.findall(rf"{said} at most +(\d+) MiB", ended.stdout)
    assert int(most) > 300
    assert not list(tmp_path.iterdir())
