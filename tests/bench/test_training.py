"""The table of the training benchmarks shows every size that it names, and what could not be measured; `--check` fails on that too."""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of the benchmarks."""
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    yield importlib.import_module
    for name in [name for name, module in sys.modules.items() if Path(getattr(module, "__file__", None) or "").parent == BENCH]:
        del sys.modules[name]


@pytest.fixture
def loss(bench, monkeypatch):
    """The benchmark of the loss, where every loss takes a second and a memory that is known."""
    module = bench("training_loss")
    megabytes = {"tiled": lambda pairs: pairs / 256, "dense": lambda pairs: 20e-6 * pairs**2, "theirs": lambda pairs: 8e-6 * pairs**2}

    def measured(method, pairs, modalities=3, memory=False, **options):
        return megabytes[method](pairs) if memory else 1.0 if method != "tiled" or modalities == 1 else 0.35

    monkeypatch.setattr(module, "measured", measured)
    monkeypatch.setattr(module, "open_clip", lambda home: "theirs")
    return module


def test_time_and_memory_are_compared_with_the_dense_loss_and_with_open_clips_at_each_size(loss, bench):
    rows = {row.what: row for row in loss.measure(2)}
    for other, of in (("the dense one", "three modalities"), ("open_clip's", "")):
        for figure in ("time", "memory"):
            for size in ("1k", "4k", "16k"):
                said = (figure, other, f", {size} pairs", of)
                (found,) = [row for what, row in rows.items() if all(part in what for part in said)]
                assert len(found.values) == (2 if figure == "time" and size != "16k" else 1) and found.holds
    table = bench("ratios").table(list(rows.values()))
    assert len(table.splitlines()) == 2 + len(rows) == 2 + 2 + 4 * 3
    assert "at most 0.3667 (1/3, and 10% of it for what a tile costs beside its scores)" in table
    assert "| dense 5369 MiB; left out at twice the pairs, where it would take 23 GB |" in table


def test_a_loss_of_open_clip_that_cannot_be_installed_is_in_the_table_and_on_stderr_and_fails_the_check(loss, bench, monkeypatch, capsys):
    monkeypatch.setattr(loss, "open_clip", lambda home: None)
    training = bench("training")
    assert training.main(["loss", "--check", "--rounds", "1"]) == 1
    out, err = capsys.readouterr()
    missing, why = [line for line in out.splitlines() if "open_clip's" in line], f"pip cannot install {loss.OPEN_CLIP}"
    assert len(missing) == 6 and all(line.endswith(f" | not measured |  | {why} |") for line in missing)
    assert len(err.splitlines()) == 6 and all(
        "open_clip's" in line and line.endswith(f": not measured ({why})") for line in err.splitlines()
    )
    monkeypatch.setattr(loss, "open_clip", lambda home: "theirs")
    assert training.main(["loss", "--check", "--rounds", "1"]) == 0


def test_pip_that_fails_gives_no_loss_of_open_clip(bench, tmp_path, monkeypatch):
    module = bench("training_loss")
    monkeypatch.setattr(module, "subprocess", SimpleNamespace(run=lambda *words, **options: SimpleNamespace(returncode=1)))
    assert module.open_clip(str(tmp_path)) is None


def test_the_first_checkpoint_is_a_row_of_its_own_with_the_promise_of_the_others(bench):
    seconds = [{"ours": 0.1, "synchronous": 2.0}, {"ours": 0.2, "synchronous": 1.0}, {"ours": 0.3, "synchronous": 3.0}]
    first, later = bench("training_stall").rows_of(0.5, seconds)
    assert first.values == [0.25] and not first.holds and "0.50 of 2.00 s" in first.note
    assert later.values == pytest.approx([0.05, 0.2, 0.1]) and later.holds
