"""The lines of running stages: how far each is, and how long it still takes."""

import io
import pickle

import pytest

from mirepoix.workflows.runner import progress
from mirepoix.workflows.runner.progress import Display, ProgressReport, bar, clock, line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def note(step: float, moment: float, **numbers: float) -> ProgressReport:
    return ProgressReport("adapt", moment, {"step": step, "total": 300.0, **numbers})


def test_a_line_shows_the_step_of_a_stage_and_the_time_left():
    assert line(note(120, 41.0, loss=2.3099), note(0, 0.0)) == "120/300  loss 2.31  1:02 left"
    assert line(note(120, 41.0), note(120, 41.0)) == "120/300", "one report gives no speed"
    assert line(ProgressReport("adapt", 0.0, {"step": 5.0}), ProgressReport("adapt", 0.0, {})) == "step 5"
    assert line(ProgressReport("adapt", 0.0, {}), ProgressReport("adapt", 0.0, {})) == "running"


def test_a_resumed_stage_is_timed_from_where_it_resumed():
    assert line(note(200, 10.0), note(100, 0.0)) == "200/300  0:10 left"


def test_a_bar_is_as_long_as_the_work_done():
    assert bar(note(150, 0.0)) == "━" * 12 + "─" * 12 + " "
    assert bar(note(900, 0.0)) == "━" * 24 + " "
    assert bar(ProgressReport("adapt", 0.0, {"step": 5.0})) == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.6, "1:02"), (3661, "1:01:01"), (-3, "0:00")])
def test_a_clock_reads_like_a_clock(seconds, text):
    assert clock(seconds) == text


def test_without_a_terminal_a_stage_prints_a_line_now_and_then(monkeypatch):
    stream = io.StringIO()
    display = Display(stream)
    display.begin("adapt")
    for step in range(100):
        display.update(note(step, float(step)))
        display.refresh()
    assert stream.getvalue() == "adapt        0/300\n"
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    display.update(note(150, 150.0))
    display.refresh()
    assert stream.getvalue().splitlines()[1] == "adapt        150/300  2:30 left"
    display.end("adapt")
    display.refresh()
    assert len(stream.getvalue().splitlines()) == 2


def test_on_a_terminal_the_lines_of_running_stages_are_drawn_over(monkeypatch):
    monkeypatch.setattr(progress, "TTY_SECONDS", 0.0)
    stream = Terminal()
    display = Display(stream)
    display.begin("adapt")
    display.begin("index")
    display.update(note(150, 1.0, loss=2.0))
    display.refresh()
    shown = stream.getvalue()
    assert "\x1b[2F\x1b[0J" in shown and "━━━" in shown and "loss 2" in shown
    display.print_line("curate", "done")
    assert stream.getvalue().rindex("curate       done") < stream.getvalue().rindex("adapt")
    display.end("adapt")
    display.close()
    assert stream.getvalue().endswith("\x1b[0J")


def test_a_report_of_a_stage_that_is_over_is_not_shown():
    stream = io.StringIO()
    display = Display(stream)
    display.update(note(1, 1.0))
    display.refresh()
    assert stream.getvalue() == ""


def test_notes_pickle():
    assert pickle.loads(pickle.dumps(note(1, 2.0))) == note(1, 2.0)
