"""Keys: found by their hashes, with limits of their own, in a file that is written whole and read again when it changes."""

import asyncio
import hashlib
import json
import logging
import multiprocessing
import stat

import httpx
import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.http.api import build_app
from mirepoix.serving.http.keys import Bucket, Keys, add_key, open_keys, read_entries, revoke_key
from mirepoix.serving.http.limits_config import Limits
from tests.serving.http.test_api import Caller, error_of

NONE = {"requests_per_minute": None, "inputs_per_minute": None, "in_flight": None}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "keys.json"


class Clock:
    """A time that stands still until it is set."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_key_is_random_and_only_its_hash_is_in_the_file_which_is_its_owners_alone(file):
    one, other = (add_key(file, name, NONE) for name in ("one", "other"))
    assert one != other and one.startswith("mpx-") and len(one) == 4 + 43  # 256 bits in base64
    assert one not in file.read_text() and stat.S_IMODE(file.stat().st_mode) == 0o600
    first, second = read_entries(file)
    assert (first.name, first.sha256, second.name) == ("one", hashlib.sha256(one.encode()).hexdigest(), "other")
    assert json.loads(file.read_text())["keys"][0].keys() == {"name", "sha256", "created"}
    assert [each.name for each in file.parent.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER {}", "  Bearer   {}  ", "Bearer\t{}"])
def test_the_scheme_is_read_in_any_case_and_blanks_do_not_matter(file, form):
    key = add_key(file, "mine", NONE)
    assert Keys(file).find(form.format(key).encode()).entry.name == "mine"


@pytest.mark.parametrize("form", ["{}", "Basic {}", "Bearer", "Bearer ", "", "Bearer {}x", "Bearer mpx-", "Bearer {} {}", "Bearer\xff {}"])
def test_what_is_no_key_is_none(file, form):
    key = add_key(file, "mine", NONE)
    assert Keys(file, "single").find(form.format(key, key).encode("latin-1")) is None


def test_the_key_of_the_environment_is_one_more_and_has_no_limits(file):
    key = add_key(file, "mine", NONE)
    keys = Keys(file, "sésame")
    assert keys.find("Bearer sésame".encode()).entry.name == "MIREPOIX_API_KEY" and keys.find(f"Bearer {key}".encode()) is not None
    assert open_keys() is None and open_keys("", "") is None and open_keys("", "x") is not None and open_keys(str(file)) is not None


def test_keys_that_are_added_and_revoked_hold_a_second_later_without_a_restart(file):
    old, clock = add_key(file, "old", NONE), Clock()
    keys = Keys(file, clock=clock)
    held = keys.find(f"Bearer {old}".encode())
    new = add_key(file, "new", NONE)
    assert keys.find(f"Bearer {new}".encode()) is None, "the file is looked at once a second"
    clock.now += 1.1
    assert keys.find(f"Bearer {new}".encode()).entry.name == "new"
    assert keys.find(f"Bearer {old}".encode()) is held, "what it has spent is not forgotten"
    revoke_key(file, "old")
    clock.now += 1.1
    assert keys.find(f"Bearer {old}".encode()) is None


@pytest.mark.parametrize("content", ["{", "[]", '{"keys": {}}', '{"keys": [{"name": "a"}]}', None])
def test_a_file_that_was_damaged_keeps_the_keys_that_were_and_is_warned_of_once(file, content, caplog):
    key, clock = add_key(file, "mine", NONE), Clock()
    keys = Keys(file, clock=clock)
    if content is None:
        file.unlink()
    else:
        file.write_text(content)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            clock.now += 1.1
            assert keys.find(f"Bearer {key}".encode()) is not None
    (warning,) = caplog.records
    assert warning.getMessage().startswith(f"the keys stay what they were: {file} ")


def test_a_server_does_not_start_with_a_damaged_file_or_without_it(file):
    with pytest.raises(Refused, match=r"cannot be read \(No such file or directory\); make it with: mirepoix keys add"):
        Keys(file)
    entry = {"name": "a", "sha256": "0" * 64, "created": ""}
    for odd in ({"in_flight": 0}, {"in_flight": True}, {"in_flight": "3"}, {"sha256": "x"}, {"name": ""}, {"more": 1}, {"name": 3}):
        file.write_text(json.dumps({"keys": [entry | odd]}))
        with pytest.raises(Refused, match="is no file of keys"):
            Keys(file)
    file.write_text(json.dumps({"keys": [entry, entry]}))
    with pytest.raises(Refused, match="two keys of one name"):
        Keys(file)


def test_names_and_limits_that_cannot_be_are_refused_and_nothing_is_written(file, tmp_path):
    for name, limits, why in (("a b", NONE, "no name of a key"), ("", NONE, "no name"), ("a", NONE | {"in_flight": 0}, "--in-flight is 0")):
        with pytest.raises(Refused, match=why):
            add_key(file, name, limits)
    with pytest.raises(Refused, match="there is no folder"):
        add_key(tmp_path / "nowhere" / "keys.json", "a", NONE)
    assert not file.exists()
    add_key(file, "a", NONE)
    before = file.read_bytes()
    with pytest.raises(Refused, match="has a key a already"):
        add_key(file, "a", NONE)
    with pytest.raises(Refused, match="has no key b; it has a"):
        revoke_key(file, "b")
    assert file.read_bytes() == before
    file.write_text("{")
    with pytest.raises(Refused, match="is no file of keys"):
        add_key(file, "c", NONE)
    assert file.read_text() == "{"


def test_keys_that_are_added_at_one_time_are_all_there(file):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=add_key, args=(file, f"key{n}", NONE)) for n in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {entry.name for entry in read_entries(file)} == {f"key{n}" for n in range(6)}


def test_an_allowance_is_spent_at_once_and_comes_back_evenly():
    bucket = Bucket(60)
    assert [bucket.take(1, 0.0) for _ in range(60)] == [0.0] * 60
    assert bucket.take(1, 0.0) == pytest.approx(1.0)
    assert bucket.take(1, 0.6) == pytest.approx(0.4) and bucket.take(1, 1.0) == 0.0
    assert bucket.take(5, 1000.0) == 0.0 and bucket.take(60, 1000.0) == pytest.approx(5.0), "no more than a minute's is kept"


def test_a_request_of_more_inputs_than_a_minute_has_is_admitted_and_waited_for_afterwards():
    bucket = Bucket(60)
    assert bucket.take(180, 0.0) == 0.0
    wait = bucket.take(1, 0.0)
    assert wait == pytest.approx(121.0)
    assert bucket.take(1, wait - 0.1) > 0 and bucket.take(1, wait + 0.1) == 0.0


@pytest.fixture
def limited(encoding, file):
    """Requests to an application, and a key with these limits."""

    def made(**limits) -> tuple[Caller, dict[str, str]]:
        key = add_key(file, "mine", NONE | limits)
        return Caller(build_app(encoding, Limits(), Keys(file, "other"))), bearer(key)

    return made


def refused_for(reply: httpx.Response, what: str) -> int:
    error = error_of(reply, 429)
    seconds = int(reply.headers["retry-after"])
    assert error == {
        "message": f"this key may send {what}; try again in {seconds} s",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
    }
    return seconds


def test_requests_beyond_a_minutes_are_429_with_the_seconds_to_wait_and_other_keys_go_on(limited):
    call, headers = limited(requests_per_minute=2)
    for _ in range(2):
        assert call.post("/v1/search", {"text": "x"}, headers=headers).status_code == 200
    assert 25 <= refused_for(call.post("/v1/search", {"text": "x"}, headers=headers), "2 requests a minute") <= 30
    assert call.post("/v1/search", {"text": "x"}, headers=bearer("other")).status_code == 200
    assert call("GET", "/v1/models", headers=headers).status_code == 200, "what encodes nothing is not counted"
    assert 'mirepoix_rejected_total{reason="rate_limit"} 1.0' in call("GET", "/metrics", headers=headers).text


def test_inputs_beyond_a_minutes_are_429(limited, encoding):
    call, headers = limited(inputs_per_minute=10)
    assert call.post("/v1/embeddings", {"input": ["a"] * 9}, headers=headers).status_code == 200
    assert call.post("/v1/search", {"text": "x"}, headers=headers).status_code == 200
    encoding.asked.clear()
    assert 5 <= refused_for(call.post("/v1/embeddings", {"input": "a"}, headers=headers), "10 inputs a minute") <= 6
    assert encoding.asked == []


def test_requests_at_once_beyond_a_keys_own_are_429_and_those_that_end_make_room(limited, encoding, monkeypatch):
    call, headers = limited(in_flight=2)
    encode = encoding.encode

    async def slow(*arguments):
        await asyncio.sleep(0.05)
        return await encode(*arguments)

    monkeypatch.setattr(encoding, "encode", slow)

    async def at_once(count: int) -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(call.app), base_url="http://127.0.0.1", headers=headers) as http:
            return await asyncio.gather(*(http.post("/v1/search", json={"text": "x"}) for _ in range(count)))

    replies = asyncio.run(at_once(4))
    assert sorted(reply.status_code for reply in replies) == [200, 200, 429, 429]
    refused_for(next(reply for reply in replies if reply.status_code == 429), "2 requests at once")
    assert [reply.status_code for reply in asyncio.run(at_once(2))] == [200, 200]


def test_a_wrong_key_is_401_also_where_a_file_has_keys(limited):
    call, headers = limited()
    assert error_of(call.post("/v1/search", {"text": "x"}, headers=bearer("mpx-wrong")), 401)["type"] == "authentication_error"
    assert (
        call.post("/v1/search", {"text": "x"}, headers={"authorization": headers["authorization"].replace("Bearer", "bearer")}).status_code
        == 200
    )
