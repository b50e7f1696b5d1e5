"""Whatever an endpoint does, each row gets its reply or a reason, nothing is paid for twice, and no more is in flight than allowed."""

import json
import socket
import threading
import time
from collections.abc import Sequence
from email.utils import formatdate
from pathlib import Path

import pytest

from mirepoix.components.generation.prompts import Request
from mirepoix.components.generation.replies import Reply, ReplyStore
from mirepoix.components.generation.writer import open_writer
from mirepoix.components.generation.writer_config import EndpointConfig, SpendingConfig
from mirepoix.models.errors import Refused
from tests.components.generation.endpoints import Answer, Endpoint, endpoint


def asks(count: int) -> list[Request]:
    return [Request("system", f"row {n}") for n in range(count)]


def config(url: str, **changes) -> EndpointConfig:
    return EndpointConfig(**{"url": url, "model": "m", "concurrency": 4, "backoff_s": 0.01, "timeout_s": 5.0, **changes})


def replies(
    server: Endpoint | str, home: Path, requests: Sequence[Request], spending: dict | None = None, seed: int = 0, **changes
) -> tuple[list[Reply], ReplyStore]:
    """All replies, and the store that they went over."""
    writer = open_writer(config(server if isinstance(server, str) else server.url, **changes), seed)
    store = ReplyStore(SpendingConfig(cache=str(home / "cache"), **(spending or {})), str(home / "scratch"), writer.identity)
    return list(writer.write(lambda: iter(requests), store)), store


def echo(body: dict, times: int) -> Answer:
    return Answer(f"about {body['messages'][-1]['content']}")


def row(body: dict) -> int:
    return int(body["messages"][-1]["content"].split()[1])


def test_replies_come_in_the_order_of_the_requests_though_the_endpoint_answers_in_another(tmp_path):
    with endpoint(lambda body, times: Answer(f"about {row(body)}", after=0.05 * (row(body) % 3 == 0))) as server:
        found, _ = replies(server, tmp_path, asks(20))
    assert [reply.text for reply in found] == [f"about {n}" for n in range(20)]
    assert {(reply.prompt_tokens, reply.tokens, reply.cached) for reply in found} == {(50, 10, False)}


def test_what_is_sent_is_a_chat_completion_with_the_key_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    with endpoint() as server:
        replies(server, tmp_path, asks(1), key_variable="MY_KEY", max_new_tokens=77)
        replies(server, tmp_path, asks(2)[1:], length_field="max_completion_tokens", temperature=None)
        replies(server, tmp_path, asks(3)[2:], temperature=0.7, seed=5)
    plain, bare, drawn = server.asked
    messages = [{"role": "system", "content": "system"}, {"role": "user", "content": "row 0"}]
    assert plain == {"model": "m", "messages": messages, "max_tokens": 77, "temperature": 0.0}
    assert server.headers[0]["Authorization"] == "Bearer s3cret" and "Authorization" not in server.headers[1]
    assert "temperature" not in bare and bare["max_completion_tokens"] == 400
    assert drawn["temperature"] == 0.7 and drawn["seed"] == 5


def test_as_many_requests_are_in_flight_as_allowed_and_no_more(tmp_path):
    with endpoint(lambda body, times: Answer("x y", after=0.4)) as server:
        replies(server, tmp_path, asks(12), concurrency=6)
    assert server.most == 6


def test_no_more_is_asked_ahead_than_the_window_holds(tmp_path):
    with endpoint(echo) as server:
        writer = open_writer(config(server.url), 0)
        given = []

        def requests():
            for request in asks(100):
                given.append(request)
                yield request

        store = ReplyStore(SpendingConfig(cache=str(tmp_path / "cache")), str(tmp_path / "scratch"), writer.identity)
        found = writer.write(requests, store)
        next(found)
        found.close()
        assert len(given) <= 4 * 4 + 1


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503])
def test_a_request_that_may_go_well_later_is_sent_again(tmp_path, status):
    with endpoint(lambda body, times: Answer(status=status) if times < 2 else echo(body, times)) as server:
        found, store = replies(server, tmp_path, asks(3))
    assert [reply.text for reply in found] == [f"about row {n}" for n in range(3)]
    assert len(server.asked) == 9 and store.counts["sent again"] == 6


def test_waits_grow_and_vary(tmp_path):
    with endpoint(lambda body, times: Answer(status=500) if times < 4 else echo(body, times)) as server:
        replies(server, tmp_path, asks(1), backoff_s=0.05)
    gaps = [after - before for before, after in zip(server.times, server.times[1:], strict=False)]
    assert all(gap >= 0.025 * 2**n for n, gap in enumerate(gaps)) and gaps[3] > gaps[0]


@pytest.mark.parametrize("asked", ["0.4", "date"])
def test_retry_after_is_honoured_by_every_request(tmp_path, asked):
    wait = 0.4 if asked == "0.4" else 2.0

    def answer(body: dict, times: int) -> Answer:
        header = asked if asked == "0.4" else formatdate(time.time() + wait, usegmt=True)
        return Answer(status=429, headers={"Retry-After": header}) if row(body) == 0 and times == 0 else echo(body, times)

    with endpoint(answer) as server:
        found, _ = replies(server, tmp_path, asks(2), concurrency=1)
    assert [reply.text for reply in found] == ["about row 0", "about row 1"]
    assert min(server.times[1:]) - server.times[0] >= (0.38 if asked == "0.4" else 0.9)  # a date has whole seconds


def test_a_longer_wait_than_allowed_is_a_failure_and_not_waited_for(tmp_path):
    with endpoint(lambda body, times: Answer(status=429, headers={"Retry-After": "3600"})) as server:
        (found,), _ = replies(server, tmp_path, asks(1))
    assert found.failure == "failed" and "429" in found.detail and len(server.asked) == 1


def test_what_is_declined_fails_alone_and_is_not_sent_again(tmp_path):
    def answer(body: dict, times: int) -> Answer:
        return Answer(status=400, body=b'{"error": "context too long"}') if row(body) == 1 else echo(body, times)

    with endpoint(answer) as server:
        found, _ = replies(server, tmp_path, asks(3))
    assert [reply.failure for reply in found] == ["", "declined", ""]
    assert "400" in found[1].detail and "context too long" in found[1].detail and len(server.asked) == 3


def test_a_row_that_fails_at_every_try_fails_alone(tmp_path):
    with endpoint(lambda body, times: Answer(status=503) if row(body) == 1 else echo(body, times)) as server:
        found, _ = replies(server, tmp_path, asks(3), retries=2)
    assert [reply.failure for reply in found] == ["", "failed", ""] and len(server.asked) == 2 + 3


def test_a_slow_answer_is_given_up_and_asked_for_again(tmp_path):
    with endpoint(lambda body, times: Answer("late", after=2.5) if times == 0 else echo(body, times)) as server:
        (found,), _ = replies(server, tmp_path, asks(1), timeout_s=1.0)
    assert found.text == "about row 0" and len(server.asked) == 2


@pytest.mark.parametrize("body", [b"", b"<html>gateway</html>", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": 7}}]}'])
def test_a_broken_reply_is_asked_for_again(tmp_path, body):
    with endpoint(lambda asked, times: Answer(body=body) if times == 0 else echo(asked, times)) as server:
        (found,), _ = replies(server, tmp_path, asks(1))
    assert found.text == "about row 0" and len(server.asked) == 2


def test_an_endless_reply_is_not_read_to_its_end(tmp_path):
    with endpoint(lambda body, times: Answer(body=b" " * (9 << 20))) as server:
        (found,), _ = replies(server, tmp_path, asks(1))
    assert found.failure == "declined" and "longer than" in found.detail


def test_an_endpoints_own_refusal_and_a_cut_off_answer_are_distinguished(tmp_path):
    message = {"choices": [{"message": {"content": None, "refusal": "no"}, "finish_reason": "stop"}]}
    special = {0: Answer("half a", finish="length"), 1: Answer(body=json.dumps(message).encode()), 2: Answer("", finish="content_filter")}
    with endpoint(lambda body, times: special[row(body)]) as server:
        found, _ = replies(server, tmp_path, asks(3))
    assert [reply.finish for reply in found] == ["length", "refused", "refused"]


def test_a_rerun_pays_for_nothing_twice(tmp_path):
    with endpoint(echo) as server:
        first, _ = replies(server, tmp_path, asks(10))
        again, _ = replies(server, tmp_path, asks(12))
    assert len(server.asked) == 12
    assert [reply.text for reply in again[:10]] == [reply.text for reply in first]
    assert [reply.cached for reply in again] == [True] * 10 + [False] * 2


def test_equal_requests_in_flight_are_one(tmp_path):
    with endpoint(lambda body, times: Answer("x y", after=0.1)) as server:
        found, _ = replies(server, tmp_path, asks(2) * 5)
    assert len(server.asked) == 2 and [reply.cached for reply in found] == [False] * 2 + [True] * 8


def test_a_model_of_the_same_name_at_another_place_is_another_model(tmp_path):
    with endpoint(echo) as one, endpoint(lambda body, times: Answer("of the other")) as other:
        replies(one, tmp_path, asks(3), model="default")
        found, _ = replies(other, tmp_path, asks(3), model="default")
        assert [reply.text for reply in found] == ["of the other"] * 3 and not any(reply.cached for reply in found)
        replies(other, tmp_path, asks(3), model="another")
        assert len(one.asked) == 3 and len(other.asked) == 6


def test_an_endpoint_is_identified_by_its_path_and_not_by_its_query_or_fragment():
    plain = open_writer(config("https://host:8000/v1"), 0).identity
    assert plain["url"] == "https://host:8000/v1"
    for url in ("https://HOST:8000/v1/", "https://host:8000/v1?api-version=1#part"):
        assert open_writer(config(url), 0).identity == plain
    assert open_writer(config("https://host:8000/other/v1"), 0).identity != plain


def test_a_budget_of_requests_stops_cleanly_and_the_next_run_goes_on(tmp_path):
    with endpoint(echo) as server:
        first, store = replies(server, tmp_path, asks(10), {"max_requests": 4})
        assert len(server.asked) == store.requests == 4
        assert [reply.failure for reply in first] == [""] * 4 + ["budget"] * 6
        Path(tmp_path / "scratch").rename(tmp_path / "published")
        second, _ = replies(server, tmp_path, asks(10), {"max_requests": 4})
    assert len(server.asked) == 8 and [reply.failure for reply in second] == [""] * 8 + ["budget"] * 2


def test_what_is_sent_again_counts_for_the_budget_too(tmp_path):
    with endpoint(lambda body, times: Answer(status=503) if times == 0 else echo(body, times)) as server:
        found, _ = replies(server, tmp_path, asks(10), {"max_requests": 5}, concurrency=1)
    assert len(server.asked) == 5 and sum(reply.failure == "budget" for reply in found) >= 7


def test_a_budget_of_tokens_is_never_overdrawn(tmp_path):
    spent = 60  # tokens of a request, as the server reports
    most = asks(30)[-1].most_tokens + 400
    with endpoint(lambda body, times: Answer("x y", after=0.02)) as server:
        found, store = replies(server, tmp_path, asks(30), {"max_tokens": most + 10 * spent})
    assert len(server.asked) * spent <= most + 10 * spent
    assert len(server.asked) == 11 and store.tokens == 11 * spent  # the last one might have cost all that was left
    assert sum(reply.failure == "budget" for reply in found) == 19


def test_a_reply_without_usage_counts_as_dear_as_it_might_be(tmp_path):
    with endpoint(lambda body, times: Answer("x y", usage=None)) as server:
        _, store = replies(server, tmp_path, asks(1))
    assert store.tokens == asks(1)[0].most_tokens + 400


def test_a_resumed_budget_goes_on_where_it_was_though_the_endpoint_reports_no_usage(tmp_path):
    most = asks(1)[0].most_tokens + 400
    with endpoint(lambda body, times: Answer("x y", usage=None)) as server:
        for _ in range(2):
            _, store = replies(server, tmp_path, asks(9), {"max_tokens": 4 * most + 9})
    assert len(server.asked) == 4 and (store.requests, store.tokens) == (4, 4 * most)


def test_a_resumed_budget_counts_what_failed_and_what_was_sent_again(tmp_path):
    with endpoint(lambda body, times: Answer(status=503 if row(body) else 400)) as server:
        for _ in range(3):
            replies(server, tmp_path, asks(2), {"max_requests": 7}, concurrency=1, retries=2)
    assert len(server.asked) == 7  # 1 declined and 3 tries of the other, then 1 and 2


NOTHING_READ = {
    "late": Answer("late", after=1.5),
    "no JSON": Answer(body=b"<html>gateway</html>"),
    "no completion": Answer(body=b'{"choices": []}'),
    "broken off": Answer(body=b"no chunk\r\n", headers={"Transfer-Encoding": "chunked"}),
}


@pytest.mark.parametrize("what", NOTHING_READ)
def test_what_may_have_been_paid_for_an_answer_that_cannot_be_read_is_counted(tmp_path, what):
    with endpoint(lambda body, times: NOTHING_READ[what] if times == 0 else echo(body, times)) as server:
        (found,), store = replies(server, tmp_path, asks(1), timeout_s=0.7)
    assert found.text == "about row 0" and store.tokens == asks(1)[0].most_tokens + 400 + 60


def test_an_endless_reply_is_counted_and_what_was_declined_is_not(tmp_path):
    with endpoint(lambda body, times: Answer(body=b" " * (9 << 20)) if row(body) == 0 else Answer(status=400)) as server:
        _, store = replies(server, tmp_path, asks(2))
        assert store.tokens == asks(1)[0].most_tokens + 400
    with endpoint(lambda body, times: Answer(status=503) if times == 0 else echo(body, times)) as server:
        assert replies(server, tmp_path / "other", asks(1))[1].tokens == 60


def test_answers_that_are_never_read_do_not_overdraw_a_budget(tmp_path):
    most = asks(1)[0].most_tokens + 400
    with endpoint(lambda body, times: Answer(body=b"{}")) as server:
        found, store = replies(server, tmp_path, asks(3), {"max_tokens": 2 * most + 1}, concurrency=1)
    assert len(server.asked) == 2 and store.tokens == 2 * most and {reply.failure for reply in found} == {"budget"}


def test_a_run_that_is_left_in_the_middle_has_kept_what_was_answered(tmp_path):
    with endpoint(echo) as server:
        writer = open_writer(config(server.url), 0)
        store = ReplyStore(SpendingConfig(cache=str(tmp_path / "cache")), str(tmp_path / "scratch"), writer.identity)
        found = writer.write(lambda: iter(asks(40)), store)
        assert [next(found).text for _ in range(5)] == [f"about row {n}" for n in range(5)]
        found.close()
        before = len(server.asked)
        replies(server, tmp_path, asks(40))
    assert before < 40 and len(server.asked) <= 40 + 4  # what was in flight is all that can be lost


@pytest.mark.parametrize("status", [401, 403, 404, 301])
def test_an_error_that_concerns_every_row_ends_the_run_with_what_to_do(tmp_path, status, monkeypatch):
    monkeypatch.setenv("MY_KEY", "s3cret")
    with (
        endpoint(lambda body, times: Answer(status=status, body=b"key s3cret is not taken")) as server,
        pytest.raises(
            Refused, match=rf"answers {status}: key \*\*\* is not taken; correct the url, the model's name or the key"
        ) as refused,
    ):
        replies(server, tmp_path, asks(30), key_variable="MY_KEY")
    assert "s3cret" not in str(refused.value)


def test_an_endpoint_that_cannot_be_reached_is_refused(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
        with pytest.raises(Refused, match="cannot be reached.*start it, or correct the url".replace(".*", r"[\s\S]*")):
            replies(url, tmp_path, asks(5), retries=1)


def test_no_thread_and_no_connection_is_left_behind(tmp_path):
    with endpoint(echo) as server:
        replies(server, tmp_path, asks(3))
        deadline = time.monotonic() + 5
        while any("to_thread" in thread.name or "asyncio" in thread.name for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_a_key_that_is_not_there_is_refused_before_anything_is_asked(monkeypatch):
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(Refused, match="'NO_KEY', and the environment has no such variable, or an empty one; set it"):
        open_writer(config("http://x/v1", key_variable="NO_KEY"), 0)


@pytest.mark.parametrize("key", ["schl\u00fcssel", "one\ntwo"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_printed(monkeypatch, key):
    monkeypatch.setenv("MY_KEY", key)
    with pytest.raises(Refused, match=r"variable MY_KEY, .* has characters outside printable ASCII; set it again") as refused:
        open_writer(config("http://x/v1", key_variable="MY_KEY"), 0)
    assert key not in str(refused.value)


def test_a_query_stays_behind_the_path(tmp_path):
    with endpoint(echo) as server:
        (found,), _ = replies(f"{server.url}/deployments/x/?api-version=2024-10-21", tmp_path, asks(1))
    assert found.text == "about row 0" and server.paths == ["/v1/deployments/x/chat/completions?api-version=2024-10-21"]


def test_a_model_without_a_name_is_refused():
    with pytest.raises(Refused, match="model is not named; set"):
        open_writer(config("http://x/v1", model=""), 0)
