"""Progress reports reach the driver: each once, in order, and all of them by the end of their stage."""

import pickle
import threading
import time

import ray

from mirepoix.workflows.runner import board as board_module
from mirepoix.workflows.runner.board import Board, Mailbox, Reporter
from mirepoix.workflows.runner.progress import ProgressReport


def note(step: float, moment: float) -> ProgressReport:
    return ProgressReport("adapt", moment, {"step": step})


def test_a_board_gives_each_report_once_and_forgets_the_oldest(monkeypatch):
    monkeypatch.setattr(board_module, "BOARD_SIZE", 3)
    board = Board()
    for step in range(5):
        board.put(note(step, 0.0))
    assert [entry.numbers["step"] for entry in board.drain()] == [2, 3, 4]
    assert board.drain() == []


@ray.remote(num_cpus=0)
def talk(reporter) -> None:
    for step in range(50):
        reporter({"step": step, "loss": 1}, ["slow", "stale"] if step == 7 else ())
    reporter.flush()


def test_reports_travel_from_a_worker_to_the_driver_in_order(ray_cluster):
    mailbox = Mailbox()
    assert mailbox.collect() == [], "nothing is asked of a board that does not exist"
    reporter = mailbox.reporter("adapt")
    ray.get(talk.remote(reporter))
    notes = mailbox.close()
    assert [entry.numbers for entry in notes] == [{"step": float(step), "loss": 1.0} for step in range(50)]
    assert {entry.numbers["step"]: entry.notes for entry in notes if entry.notes} == {7.0: ("slow", "stale")}
    assert abs(notes[0].moment - time.time()) < 60
    assert mailbox.close() == []


def test_a_board_that_died_costs_the_lines_and_not_the_run(ray_cluster):
    mailbox = Mailbox()
    reporter = mailbox.reporter("adapt")
    ray.kill(reporter.board)
    reporter({"step": 1})
    deadline = time.monotonic() + 20
    while mailbox._board is not None and time.monotonic() < deadline:
        assert mailbox.collect(timeout_s=0.5) == []
    assert mailbox.close() == []


def test_a_question_that_was_asked_before_the_last_reports_does_not_hide_them(ray_cluster):
    mailbox = Mailbox()
    reporter = mailbox.reporter("adapt")
    reporter({"step": 1})
    reporter.flush()
    early = mailbox.collect()  # the question may be answered at once, or stay open
    reporter({"step": 2})
    reporter.flush()
    assert [entry.numbers["step"] for entry in early + mailbox.collect_all(timeout_s=20.0)] == [1.0, 2.0]
    assert mailbox.close() == []


def test_reports_of_two_stages_keep_their_names(ray_cluster):
    mailbox = Mailbox()
    for stage in ("adapt", "index"):
        reporter = mailbox.reporter(stage)
        reporter({"step": 1})
        reporter.flush()
    assert [entry.stage for entry in mailbox.close()] == ["adapt", "index"]


def test_a_closed_mailbox_starts_another_board_when_it_is_asked_for_a_reporter(ray_cluster):
    mailbox = Mailbox()
    first = mailbox.reporter("adapt")
    mailbox.close()
    second = mailbox.reporter("adapt")
    assert second.board != first.board and mailbox.reporter("index").board == second.board
    second({"step": 3})
    second.flush()
    assert [entry.numbers for entry in mailbox.close()] == [{"step": 3.0}]


def test_a_reporter_pickles_and_does_not_wait(ray_cluster):
    mailbox = Mailbox()
    reporter = pickle.loads(pickle.dumps(mailbox.reporter("adapt")))
    assert isinstance(reporter, Reporter) and reporter.stage == "adapt"
    began = time.monotonic()
    senders = [threading.Thread(target=reporter, args=({"step": step},)) for step in range(20)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()
    assert time.monotonic() - began < 5.0
    reporter.flush()
    assert sorted(entry.numbers["step"] for entry in mailbox.close()) == [float(step) for step in range(20)]
