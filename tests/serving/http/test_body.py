"""A body is read within limits of its own, before its request takes a place among those that are answered."""

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mirepoix.models.errors import Refused
from mirepoix.serving.http import body as body_module
from mirepoix.serving.http.body import BodyReader, BodyRefused, Gone, NoForm, form_parts, has_too_many_values, replayed
from mirepoix.serving.http.limits_config import Limits
from mirepoix.serving.http.schemas import EmbeddingsBody


def parts(*sizes: int, pause: float = 0.0, leaves: bool = False):
    """A `receive` that gives parts of these sizes with a pause before each; at the end the client leaves, or its body is whole."""
    left = list(sizes)

    async def receive():
        await asyncio.sleep(pause)
        if not left:
            return {"type": "http.disconnect"}
        size = left.pop(0)
        return {"type": "http.request", "body": b"x" * size, "more_body": bool(left) or leaves}

    return receive


def read(receive, headers=None, **limits):
    async def inner():
        reader = BodyReader(Limits(**limits))
        try:
            return await reader.read(headers or {}, receive)
        finally:
            assert (reader.reading, reader.held) == (0, 0), "nothing of a body stays when its reading has ended"

    return asyncio.run(inner())


def reason(receive, headers=None, **limits):
    with pytest.raises(BodyRefused) as refused:
        read(receive, headers, **limits)
    return refused.value.reason


def test_a_body_that_comes_whole_or_in_parts_is_read():
    assert read(parts(10)) == b"x" * 10 and read(parts(0)) == b""
    assert read(parts(3, 4, 5)) == b"x" * 12


def test_a_body_that_is_announced_or_grows_too_large_is_refused():
    assert reason(parts(1), {b"content-length": b"1001"}, max_body=1000) == "too_large"
    assert reason(parts(1), {b"content-length": b"9" * 30}, max_body=1000) == "too_large"
    assert reason(parts(1), {b"content-length": b"-5"}) == "too_large"
    assert reason(parts(1001), max_body=1000) == "too_large"
    assert reason(parts(600, 600), max_body=1000) == "too_large"


def test_a_body_that_is_compressed_is_refused_before_it_comes():
    assert reason(parts(), {b"content-encoding": b" GZip"}) == "encoded"
    assert read(parts(2), {b"content-encoding": b"identity"}) == b"xx"


def test_a_body_that_trickles_is_refused_and_a_large_one_over_a_slow_line_is_not():
    assert reason(parts(*[1] * 200, pause=0.005), body_s=0.1) == "too_slow"
    assert reason(parts(1, pause=1.0), body_s=0.05) == "too_slow", "nothing comes at all"
    assert read(parts(*[100] * 40, pause=0.005), body_s=0.1, body_rate=10_000) == b"x" * 4000, "each 100 bytes are worth 10 ms"


def test_a_body_that_stops_is_refused_however_much_of_it_has_come():
    given = iter([b"x" * 5000])

    async def receive():
        if (body := next(given, None)) is None:
            await asyncio.sleep(20)
        return {"type": "http.request", "body": body, "more_body": True}

    began = time.monotonic()
    assert reason(receive, body_s=0.1, body_rate=1000) == "too_slow"
    assert time.monotonic() - began < 2


def test_large_bodies_that_come_slowly_leave_room_for_short_ones(monkeypatch):
    monkeypatch.setattr(body_module, "SHORT", 100)

    async def inner():
        reader = BodyReader(Limits(max_reading_bytes=800))
        with reader.holding(b"x" * 699):
            for long in (parts(101), parts(60, 60)):
                with pytest.raises(BodyRefused, match="too_many"):
                    await reader.read({}, long)
            for short in (parts(100), parts(60, 40)):
                assert len(await reader.read({}, short)) == 100
        assert len(await reader.read({}, parts(700))) == 700

    asyncio.run(inner())


def test_bodies_that_are_read_at_once_are_bounded_in_number_and_in_bytes():
    async def inner():
        reader = BodyReader(Limits(max_reading=2, max_reading_bytes=1000, body_s=5.0))
        slow = [asyncio.create_task(reader.read({}, parts(300, 1, pause=0.1))) for _ in range(2)]
        await asyncio.sleep(0.15)
        assert reader.reading == 2 and reader.held == 600
        with pytest.raises(BodyRefused, match="too_many"):
            await reader.read({}, parts(1, 1))
        assert await reader.read({}, parts(400)) == b"x" * 400, "a body that comes whole is not held up by them"
        assert [len(body) for body in await asyncio.gather(*slow)] == [301, 301]
        with pytest.raises(BodyRefused, match="too_many"):
            await reader.read({}, parts(600, 600, 1))

    asyncio.run(inner())


def test_a_client_that_leaves_before_its_body_is_whole_is_told_from_one_that_is_slow():
    for receive in (parts(), parts(5, leaves=True)):
        with pytest.raises(Gone):
            read(receive)


def test_a_body_that_was_read_is_given_again_and_then_whatever_comes():
    async def inner():
        receive = replayed(b"abc", parts())
        assert await receive() == {"type": "http.request", "body": b"abc", "more_body": False}
        assert (await receive())["type"] == "http.disconnect"

    asyncio.run(inner())


def test_bodies_of_requests_that_are_being_answered_count_too():
    async def inner():
        reader = BodyReader(Limits(max_reading_bytes=1000))
        with reader.holding(b"x" * 600):
            with pytest.raises(BodyRefused, match="too_many"):
                await reader.read({}, parts(500))
            assert await reader.read({}, parts(400)) == b"x" * 400
        assert await reader.read({}, parts(500)) == b"x" * 500 and reader.held == 0

    asyncio.run(inner())


def test_limits_that_cannot_be_are_refused():
    for wrong in ({"max_in_flight": 0}, {"body_s": 0}, {"timeout_s": -1.0}, {"body_rate": 0}):
        with pytest.raises(Refused):
            Limits(**wrong)


def test_json_of_too_many_values_is_told_by_its_marks_and_what_stands_in_texts_is_none():
    for values in (b"[[],[],[],[]]", b'{"a":1,"b":{"c":{}}}', b"[0,0,0,0,0]", b'["\\"",[],[],[]]', b'["\\\\",[],[],[]'):
        assert has_too_many_values(values, marks=3, commas=3), values
    for text in (b'["[[[[{{{{::::,,,,"]', b'["\\"[[[[,,,,,"]', b'"[[[[,,,,,', b"[0,0,0,0]", b"", b'"\\'):
        assert not has_too_many_values(text, marks=3, commas=3), text
    whole = b'{"input":[' + b",".join([b'{"text":"a: [b], c","image":"data:image/png;base64,AAAA"}'] * 2048) + b"]}"
    assert not has_too_many_values(whole, marks=8 * 2048)


PLAIN = st.none() | st.integers() | st.text(max_size=9)


@given(st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner)))
def test_json_has_too_many_values_where_what_it_holds_is_more_than_that(value):
    def count(one, marks=0, commas=0):
        inner = [*one.values()] if isinstance(one, dict) else one if isinstance(one, list) else []
        own = [1 + len(one) if isinstance(one, dict) else isinstance(one, list), max(0, len(inner) - 1)]
        return [sum(each) for each in zip(own, *map(count, inner), strict=True)]

    marks, commas = count(value)
    for escaped in (True, False):
        body = json.dumps(value, ensure_ascii=escaped).encode(errors="surrogatepass")
        assert has_too_many_values(body, marks - 1, commas) or not marks
        assert has_too_many_values(body, marks, commas - 1) or not commas
        assert not has_too_many_values(body, max(marks, commas + 1), commas)


HEAVY = 8 << 20


@pytest.mark.parametrize("piece", [b'"":', b'"\\\\":', b'"\\n', b'":', b"[", b"0,", b'"a",', b"\\"])
def test_no_json_takes_long_to_be_refused_or_let_through(piece):
    began = time.process_time()
    has_too_many_values(b'{"input":[' + piece * (HEAVY // len(piece)), 8 * 2176)
    assert time.process_time() - began < 0.5, "all other requests wait meanwhile"


def form(*parts: bytes, boundary: bytes = b"B", end: bytes = b"--\r\n") -> bytes:
    return b"".join(b"\r\n--" + boundary + b"\r\n" + part for part in parts).removeprefix(b"\r\n") + b"\r\n--" + boundary + end


FIELD = b'Content-Disposition: form-data; name="k"\r\n\r\n5'
FILE_HEAD = b'content-disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
FILE = FILE_HEAD + b"\0\r\n-"
KIND = "multipart/form-data; boundary=B"


def test_the_parts_of_a_form_are_what_was_put_into_them():
    assert form_parts(KIND, form(FIELD, FILE)) == [("k", None, b"5"), ("image", "a.png", b"\0\r\n-")]
    assert form_parts('Multipart/Form-Data; boundary="a b"', b"\r\n" + form(FIELD, boundary=b"a b")) == [("k", None, b"5")]
    assert form_parts(KIND, form(FIELD + b"\r\n\r\n")) == [("k", None, b"5\r\n\r\n")] and form_parts(KIND, form()) == []
    assert len(form_parts(KIND, form(*[FIELD] * 17))) == 17


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", form(FIELD)),
        ("multipart/form-data; boundary=", form(FIELD)),
        (f"multipart/form-data; boundary={'B' * 71}", form(FIELD, boundary=b"B" * 71)),
        ("multipart/form-data; boundary=B" + ";" * 10_000, form(FIELD)),
        ("text/plain; boundary=B", form(FIELD)),
        (KIND, b""),
        (KIND, b"garbage"),
        (KIND, form(FIELD, end=b"")),
        (KIND, b"something before" + form(FIELD)),
        (KIND, form(b"\r\n5")),
        (KIND, form(b"Content-Disposition: form-data\r\n\r\n5")),
        (KIND, form(b"Content-Type: text/plain\r\n\r\n5")),
        (KIND, form(b"X: " + b"x" * 9000 + b"\r\n" + FIELD)),
        (KIND, form(*[FIELD] * 18)),
        (KIND, form(*[b""] * (HEAVY // 7))),
        (KIND, form(FIELD + b"\r\n--B-x" * (HEAVY // 7))),
        (KIND, form(b"Content-Disposition: " + b"form-data; " * 700 + b"\r\n\r\n")),
    ],
)
def test_what_is_no_form_is_refused_at_once(kind, body):
    began = time.process_time()
    with pytest.raises(NoForm):
        form_parts(kind, body)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("near", [b"\r\n--Bx", b"\r\n--A", b"\r\n-", b"\r", b"--B"])
def test_what_is_nearly_a_boundary_is_a_part_of_a_file(near):
    kind, boundary = ("multipart/form-data; boundary=BB", b"BB") if near == b"\r\n--Bx" else (KIND, b"B")
    content, began = b"x" + near * (HEAVY // len(near)), time.process_time()
    assert form_parts(kind, form(FILE_HEAD + content, boundary=boundary)) == [("image", "a.png", content)]
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize("name", ["input", "messages"])
def test_of_many_faults_in_a_list_only_the_first_is_looked_for(name):
    with pytest.raises(ValidationError) as refused:
        EmbeddingsBody.model_validate_json(f'{{"{name}":[{",".join(["null"] * 1000)}]}}')
    assert refused.value.error_count() < 10, "each fault takes a thousand bytes, and a body may have millions"
