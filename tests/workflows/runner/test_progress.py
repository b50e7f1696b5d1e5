"""The lines of running stages: how far each is, and how long it still takes."""

import io
import json
import pickle

import pytest

from mirepoix.models.errors import Refused
from mirepoix.workflows.runner import progress
from mirepoix.workflows.runner.execute import execute
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.progress import (
    Display,
    JsonDisplay,
    Pace,
    ProgressReport,
    QuietDisplay,
    bar,
    clock,
    fitted,
    line,
    shortened,
    time_left,
)
from tests.workflows.runner import stub_stages
from tests.workflows.runner.stub_stages import COPY, FAIL, StubConfig


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Time:
    """A clock that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def note(step: float, moment: float, **numbers: float) -> ProgressReport:
    return ProgressReport("adapt", moment, {"step": step, "total": 300.0, **numbers})


def shown(*reports: ProgressReport) -> str:
    """The line of the last of a stage's reports."""
    pace = Pace()
    for report in reports:
        pace.add(report)
    return line(reports[-1], pace)


def test_a_line_shows_the_step_of_a_stage_and_the_time_left():
    assert shown(note(0, 0.0), note(120, 41.0, loss=2.3099)) == "120/300  1:02 left  loss 2.31"
    assert shown(note(0, 0.0), note(300, 41.0, loss=2.3099)) == "300/300  loss 2.31", "nothing is left"
    assert shown(note(120, 41.0)) == "120/300", "one report gives no speed"
    assert shown(ProgressReport("adapt", 0.0, {}), ProgressReport("adapt", 9.0, {"step": 2998.0})) == "2,998 rows"
    assert shown(ProgressReport("adapt", 0.0, {})) == "running"


def test_the_time_left_is_that_of_the_last_stretches_whatever_one_pause_took():
    steady = [note(10 * n, 20.0 * n) for n in range(1, 6)]  # 2 s a step
    assert shown(*steady) == "50/300  8:20 left"
    assert shown(*steady, note(60, 620.0)) == "60/300  8:00 left", "a pause of ten minutes"
    assert shown(*steady, note(30, 700.0), note(40, 720.0)) == "40/300  8:40 left", "steps that workers repeat after a restart"
    assert shown(*steady, note(30, 700.0)) == "30/300  9:00 left"
    faster = [note(50 + 10 * n, 100.0 + 10.0 * n) for n in range(1, 16)]
    assert shown(*steady, *faster) == "200/300  1:40 left", "of a speed that changed for good, the new one"


def test_reports_that_come_fast_are_timed_over_a_second_at_least():
    assert shown(*(note(n, n / 100) for n in range(1, 251))) == "250/300  0 s left"
    assert shown(note(1, 0.0), note(2, 0.5), note(3, 0.6), note(22, 20.5)) == "22/300  3:28 left", "of 0.5 and 1 s a step the mean"


def test_of_the_numbers_of_a_training_a_line_shows_loss_accuracy_and_speed_after_the_time_left():
    numbers = {"grad_norm": 9.1, "accuracy": 0.003125, "loss": 3.5284, "positive_similarity": 0.9429, "effective_negatives": 14.8}
    reports = note(0, 56.0), note(280, 84.0, pairs_per_second=24.03, **numbers)
    assert shown(*reports) == "280/300  2 s left  loss 3.528  accuracy 0.003  24 pairs/s"


@pytest.mark.parametrize(("seconds", "text"), [(-3, "0 s"), (8.2, "8 s"), (59.4, "59 s"), (59.6, "1:00"), (61.6, "1:02")])
def test_the_time_left_is_in_seconds_below_a_minute(seconds, text):
    assert time_left(seconds) == text


def test_a_resumed_stage_is_timed_from_where_it_resumed():
    assert shown(note(100, 0.0), note(200, 10.0)) == "200/300  10 s left"


def test_a_bar_is_as_long_as_the_work_done():
    assert bar(note(150, 0.0)) == "━" * 12 + "─" * 12 + " "
    assert bar(note(900, 0.0)) == "━" * 24 + " "
    assert bar(ProgressReport("adapt", 0.0, {"step": 5.0})) == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (61.6, "1:02"), (3661, "1:01:01"), (-3, "0:00")])
def test_a_clock_reads_like_a_clock(seconds, text):
    assert clock(seconds) == text


def moments(display: Display, time: Time, seconds: int, step=lambda second: second) -> list[int]:
    """The seconds at which a line was written, of a stage that reports each second."""
    written = []
    display.begin("adapt")
    for second in range(seconds):
        time.now = float(second)
        before = display.stream.tell()
        display.update(note(step(second), float(second)))
        display.refresh()
        if display.stream.tell() > before:
            written.append(second)
    return written


def test_without_a_terminal_lines_come_at_growing_distances():
    time = Time()
    assert moments(Display(io.StringIO(), time), time, 900) == [5, 20, 50, 110, 230, 530, 830]


def test_a_line_is_not_repeated_while_its_numbers_stay_the_same():
    time, stream = Time(), io.StringIO()
    assert moments(Display(stream, time), time, 900, step=lambda second: second // 200) == [5, 200, 400, 600, 800]
    lines = stream.getvalue().splitlines()
    assert lines[:2] == ["adapt        0/300", "adapt        1/300  16:36:40 left"] and len(set(lines)) == 5


def test_a_stage_that_reports_no_numbers_or_ends_soon_writes_no_progress():
    time, stream = Time(), io.StringIO()
    display = Display(stream, time)
    display.begin("adapt")
    time.now = 100.0
    display.update(ProgressReport("adapt", 0.0, {}))
    display.refresh()
    display.end("adapt")
    display.refresh()
    assert stream.getvalue() == ""


def test_no_line_is_longer_than_119_characters():
    time, stream = Time(), io.StringIO()
    display = Display(stream, time)
    display.fit(["univldr:mine-refine"])
    display.begin("adapt")
    time.now = 10.0
    display.update(note(1, 1.0, **{f"a_long_name_of_a_metric_{number}": 0.123456 for number in range(9)}))
    display.refresh()
    why = "failed after 0:03: " + "words that say why " * 20
    display.print_line("curate", why, "failed", log="/a/folder/logs/curate-0123456789abcdef.log")
    display.print_line("curate", "x" * 400, "failed", log=f"/{'deep/' * 21}logs/curate-0123456789abcdef.log")
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 119
    assert " " * 20 + "log: /a/folder/logs/curate-0123456789abcdef.log" in lines, "the log can be copied from its line"
    assert " " * 20 + "log: logs/curate-0123456789abcdef.log in the storage" in lines, "one that is longer than a line by its place"
    assert sum(line.startswith("curate ") for line in lines) == 2


def test_a_short_failure_is_one_line_with_its_log():
    stream = io.StringIO()
    Display(stream).print_line("curate", "failed after 0:03: no room", "failed", log="/logs/curate.log")
    assert stream.getvalue() == "curate       failed after 0:03: no room (log: /logs/curate.log)\n"


def test_of_many_reasons_the_first_are_shown_and_how_many_more_there_are():
    assert shortened("config changed: seed 0 -> 1") == "config changed: seed 0 -> 1"
    assert shortened("; ".join(f"source changed: mirepoix.module{number}" for number in range(9))) == (
        "source changed: mirepoix.module0; source changed: mirepoix.module1; and 7 more"
    )


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


def warned(step: float, *notes: str) -> ProgressReport:
    return ProgressReport.of("adapt", 0.0, {"step": step, "total": 300}, notes)


def test_notes_of_a_report_are_lines_that_stay_once_each():
    stream = io.StringIO()
    display = Display(stream)
    display.begin("adapt")
    for report in (warned(10), warned(20, "the loss is 0", "waits"), warned(10), warned(20, "the loss is 0", "waits"), warned(30, "waits")):
        display.update(report)
    display.update(ProgressReport("adapt", 0.0, {}, ("no step",)))
    lines = ["adapt        warns: the loss is 0", "adapt        warns: waits", "adapt        warns: waits", "adapt        warns: no step"]
    assert stream.getvalue().splitlines() == lines
    quiet = io.StringIO()
    silent = QuietDisplay(quiet)
    silent.begin("adapt")
    silent.update(warned(20, "waits"))
    assert quiet.getvalue() == ""


def test_notes_as_json_are_events_of_their_stage():
    stream = io.StringIO()
    display = JsonDisplay(stream)
    display.begin("adapt")
    display.update(warned(20, "the loss is 0"))
    (event,) = map(json.loads, stream.getvalue().splitlines())
    assert (event["event"], event["stage"], event["state"], event["warning"]) == ("stage", "adapt", "running", "the loss is 0")


def test_what_to_know_before_the_first_stage_is_a_line_an_event_or_nothing():
    text, event, nothing = io.StringIO(), io.StringIO(), io.StringIO()
    for display in (Display(text), JsonDisplay(event), QuietDisplay(nothing)):
        display.note("not in /data, so not measured: CIRR (1 of 16)")
    assert text.getvalue() == "note         not in /data, so not measured: CIRR (1 of 16)\n" and nothing.getvalue() == ""
    told = json.loads(event.getvalue())
    assert (told["event"], told["text"]) == ("note", "not in /data, so not measured: CIRR (1 of 16)")


def test_reports_pickle():
    assert pickle.loads(pickle.dumps(warned(1, "waits"))) == warned(1, "waits") != warned(1)


# Whole runs


@pytest.fixture
def stages(tmp_path):
    log = str(tmp_path / "log")
    return [
        Stage("load", COPY, StubConfig(log, "load")),
        Stage("lose", FAIL, StubConfig(log, "lose"), {"before": "load"}),
        Stage("join", COPY, StubConfig(log, "join"), {"before": "lose"}),
    ]


def test_a_run_as_json_has_an_object_a_line_for_every_change_of_a_stage(tmp_path, stages, monkeypatch):
    monkeypatch.setattr(progress, "JSON_SECONDS", (0.0,))
    storage = str(tmp_path / "storage")
    stream = io.StringIO()
    report = execute(stages, storage, display=JsonDisplay(stream), local=True)
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(event["event"], event["stage"], event.get("state")) for event in events] == [
        ("stage", "load", "running"),
        ("progress", "load", None),
        ("progress", "load", None),
        ("progress", "load", None),
        ("stage", "load", "done"),
        ("stage", "lose", "running"),
        ("stage", "lose", "failed"),
        ("stage", "join", "not run"),
    ]
    assert events[0]["reason"] == "never ran" and events[0]["time"] > 1.7e9
    assert events[1]["numbers"] == {"step": 1.0, "total": 3.0, "loss": 1.0}
    assert (events[4]["digest"], events[4]["target"]) == (report.stages["load"].digest, report.stages["load"].target)
    assert events[6]["error"] == "KeyError: 'salt'" and events[6]["log"].startswith(f"{storage}/logs/lose-")
    assert events[7]["reason"] == "no result of lose"
    again = io.StringIO()
    execute(stages[:1], storage, display=JsonDisplay(again), local=True)
    assert json.loads(again.getvalue())["state"] == "up to date"


def test_a_quiet_run_shows_nothing_on_a_terminal_either(tmp_path, stages):
    for stream in (io.StringIO(), Terminal()):
        report = execute(stages, str(tmp_path / "storage"), display=QuietDisplay(stream), local=True)
        assert not report.ok and stream.getvalue() == ""


def test_a_run_without_a_terminal_writes_a_line_for_each_change_of_a_stage(tmp_path, stages):
    _, shown = stub_stages.run(stages[:1], tmp_path / "storage")
    first, last = shown.splitlines()
    assert first == "load         runs: never ran" and last.startswith("load         done in 0:00  ")
    with pytest.raises(Refused):
        stub_stages.run(stages, tmp_path / "storage", until="nowhere")


def test_reasons_of_a_plan_have_values_as_the_command_line_writes_them_and_fit_into_their_room():
    assert fitted("config changed: path ['/tmp/a'] -> ['/tmp/a', '/tmp/b']", 60) == "config changed: path /tmp/a -> /tmp/a,/tmp/b"
    assert fitted("config changed: use_gpu None -> True; seed 0 -> 1", 60) == "config changed: use_gpu null -> true; seed 0 -> 1"
    assert fitted("config changed: splits absent -> []", 60) == "config changed: splits absent -> []"
    assert fitted("input a changed; input b changed; input c changed", 40) == "input a changed; and 2 more"
    assert fitted("waits for unite:embed, mire:embed, jfe:embed", 36) == "waits for unite:embed and 2 more"
    long = fitted(f"config changed: path ['/{'a' * 50}'] -> ['/{'b' * 50}']", 95)
    assert len(long) == 95 and long.startswith("config changed: path /aaa") and long.endswith("bbb ...")
