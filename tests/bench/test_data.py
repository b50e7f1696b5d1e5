"""The benchmark of curation runs, finds the same pairs as the libraries it is compared with, and prints its settings."""

import json
import subprocess
import sys
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "bench" / "data.py"
SMALL = ["--pictures", "60", "--side", "80", "60", "--items", "80", "--sizes", "80", "160", "--repeats", "1", "--workers", "2"]


def test_all_figures_are_written_with_their_settings(tmp_path):
    ended = subprocess.run([sys.executable, DATA, *SMALL, "--check", "--json", tmp_path / "figures.json"], capture_output=True, text=True)
    assert ended.returncode == 1, ended.stderr[-2000:]
    assert "missed: pictures per second and core are 0." in ended.stderr  # of 60 pictures, the start of Ray Data's tasks is the most
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["pictures"]["settings"]["pictures"] == 60 and figures["pictures"]["settings"]["workers"] == 2
    assert 0 < figures["pictures"]["ratio"]["median"] == figures["pictures"]["ratio"]["least"]
    for kind in ("texts", "pictures"):
        assert figures["near"][kind]["same"] and figures["near"][kind]["pairs"] == figures["near"][kind]["planted"] == 4
    assert [run["items"] for run in figures["growth"]["runs"]] == [80, 160]
    assert all(run["mebibytes"] > 100 for run in figures["growth"]["runs"])
    for word in ("curation", "datasketch", "imagehash", "slope", "the same"):
        assert word in ended.stdout


def test_what_cannot_be_measured_is_refused():
    ended = subprocess.run([sys.executable, DATA, "speed"], capture_output=True, text=True)
    assert ended.returncode == 2
    assert "speed is nothing to measure" in ended.stderr
