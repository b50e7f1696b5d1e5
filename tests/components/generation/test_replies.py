"""A paid reply is stored for all later runs, and a budget is never exceeded."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

from mirepoix.components.generation.replies import Reply, ReplyStore
from mirepoix.components.generation.writer_config import SpendingConfig

MESSAGES = [{"role": "user", "content": "What?"}]
MODEL = {"model": "m", "parameters": {"temperature": 0}}


def store(home: Path, scratch: str = "scratch", identity: dict | None = None, **spending) -> ReplyStore:
    return ReplyStore(SpendingConfig(cache=str(home / "cache"), **spending), str(home / scratch), identity or MODEL)


def test_a_kept_reply_is_found_by_the_store_of_another_run(tmp_path):
    first, reply = store(tmp_path), Reply("text \u732b", 5, 7, "length")
    key = first.key(MESSAGES)
    assert first.find(key) is None
    first.save(key, reply)
    found = store(tmp_path, "another").find(key)
    assert found.cached and (found.text, found.cost, found.finish) == ("text \u732b", 12, "length")


def test_a_key_hangs_on_the_messages_the_model_and_the_parameters(tmp_path):
    keys = {store(tmp_path).key(MESSAGES), store(tmp_path).key([{"role": "user", "content": "Who?"}])}
    keys |= {store(tmp_path, identity={"model": "other", "parameters": {"temperature": 0}}).key(MESSAGES)}
    keys |= {store(tmp_path, identity={"model": "m", "parameters": {"temperature": 1}}).key(MESSAGES)}
    assert len(keys) == 4 and store(tmp_path).key(MESSAGES) in keys


def test_replies_lie_with_the_users_cache_where_no_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    kept = ReplyStore(SpendingConfig(), str(tmp_path / "scratch"), MODEL)
    kept.save(kept.key(MESSAGES), Reply("x"))
    assert len(list((tmp_path / "mine" / "mirepoix" / "replies").rglob("*.json"))) == 1


def test_a_damaged_reply_is_as_none_and_counted(tmp_path):
    kept = store(tmp_path)
    key = kept.key(MESSAGES)
    kept.save(key, Reply("x"))
    (file,) = (tmp_path / "cache").glob("??/*.json")
    file.write_text('{"text": "x')
    assert kept.find(key) is None and kept.counts["damaged"] == 1
    kept.save(key, Reply("y"))
    assert kept.find(key).text == "y"


def test_requests_are_counted_to_the_last(tmp_path):
    kept = store(tmp_path, max_requests=2)
    assert [kept.reserve(10) for _ in range(3)] == [True, True, False] and kept.requests == 2


def test_tokens_are_reserved_until_it_is_known_what_was_paid(tmp_path):
    kept = store(tmp_path, max_tokens=100)
    assert kept.reserve(60) is True
    assert kept.reserve(60) is None  # it may fit when the first has paid less than it might
    kept.settle(60, 30)
    assert kept.reserve(60) is True
    kept.settle(60, 60)
    assert kept.reserve(60) is False and kept.tokens == 90


def test_a_spent_budget_stays_spent_though_a_smaller_request_might_fit(tmp_path):
    kept = store(tmp_path, max_tokens=100)
    assert kept.reserve(101) is False and kept.reserve(1) is False


def test_nothing_is_spent_where_nothing_may_be(tmp_path):
    assert store(tmp_path, max_requests=0).reserve(1) is False
    assert store(tmp_path, max_tokens=0).reserve(1) is False
    assert store(tmp_path).reserve(10**9) is True


def test_what_a_killed_run_has_paid_counts_for_the_run_that_goes_on(tmp_path):
    kept = store(tmp_path, max_requests=3, max_tokens=1000)
    for paid in (50, 50, 0):  # the last was not answered
        kept.reserve(100)
        kept.settle(100, paid)
        kept.record(paid)
    again = store(tmp_path, max_requests=3, max_tokens=1000)
    assert (again.requests, again.tokens) == (kept.requests, kept.tokens) == (3, 100) and again.reserve(1) is False
    other = store(tmp_path, "another", max_requests=3)
    assert (other.requests, other.tokens) == (0, 0)


def test_a_kill_at_any_moment_leaves_whole_replies_alone(tmp_path):
    code = f"""
        from mirepoix.components.generation.replies import ReplyStore, Reply, SpendingConfig
        store = ReplyStore(SpendingConfig(cache={str(tmp_path / "cache")!r}), {str(tmp_path / "scratch")!r}, {MODEL!r})
        for n in range(100000):
            store.record(2)
            store.save(store.key([str(n)]), Reply("word " * 20000, 1, 1))
    """
    writer = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], cwd=Path(__file__).parents[3])
    try:
        waited = time.monotonic()
        while len(list((tmp_path / "cache").glob("??/*.json"))) < 20:
            assert writer.poll() is None and time.monotonic() - waited < 60
            time.sleep(0.02)
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
    kept = store(tmp_path)
    found = [kept.find(kept.key([str(n)])) for n in range(len(list((tmp_path / "cache").glob("??/*.json"))))]
    assert len(found) >= 20 and all(reply.text == "word " * 20000 for reply in found)
    assert len(found) <= kept.requests <= len(found) + 1
