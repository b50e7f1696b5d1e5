"""A training's journal: each step told once, and no heavy import for it."""

import subprocess
import sys

from mirepoix.components.training.step_log import StepLog


def test_steps_that_are_trained_again_are_not_told_again():
    told = []
    journal = StepLog(told.append)
    for step in (10, 20, 10, 20, 30):
        journal.tell({"step": step, "loss": 1 / step})
    assert [row["step"] for row in told] == [10, 20, 30]
    assert told[-1] == {"step": 30, "loss": 1 / 30}


def test_its_process_needs_no_torch():
    script = "import sys, mirepoix.components.training.step_log\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "False\n"
