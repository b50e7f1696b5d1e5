"""The benchmark of memory reads and curates the corpus that it generates, and prints the memory used."""

import re
import subprocess
import sys
from pathlib import Path

MEMORY = Path(__file__).resolve().parents[2] / "bench" / "memory.py"


def test_texts_are_processed_and_the_memory_used_is_printed(tmp_path):
    sizes = ["--gigabytes", "--texts", "500", "--folder", tmp_path]
    ended = subprocess.run([sys.executable, MEMORY, *sizes, "--check"], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    (most,) = re.findall(r"500 passages  at most +(\d+) MiB", ended.stdout)
    assert int(most) > 300
    assert not list(tmp_path.iterdir())
