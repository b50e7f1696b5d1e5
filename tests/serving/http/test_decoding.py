"""Pictures of requests are bounded together: by pixels before any is decoded, and by memory while they are, for all requests at once."""

import asyncio
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from mirepoix.serving.http import decoding
from mirepoix.serving.http.decoding import Decoder, MemoryBudget
from mirepoix.serving.http.limits_config import Limits
from mirepoix.serving.pictures import Cost, decoding_cost
from mirepoix.serving.pictures_config import PictureLimits
from tests.serving.http.test_api import PICTURE, error_of, uri
from tests.serving.test_pictures import png_claiming, saved

SIDE = 96


def test_pictures_of_too_many_pixels_together_are_refused_before_any_is_decoded(calling, monkeypatch):
    monkeypatch.setattr(decoding, "plain_picture", lambda *_: pytest.fail("a picture was decoded"))
    most = 3 * SIDE**2 - 1
    call = calling(Limits(max_request_pixels=most))
    content = [{"type": "image_url", "image_url": {"url": uri(PICTURE)}}] * 3
    for body, param in (({"input": [uri(PICTURE)] * 3}, "input"), ({"messages": [{"role": "user", "content": content}]}, "messages")):
        error = error_of(call.post("/v1/embeddings", body), 400)
        assert error["message"].startswith(f"the pictures have {3 * SIDE**2:,} pixels; at most {most:,} are taken")
        assert (error["param"], error["code"]) == (param, "too_many_pixels")
    assert error_of(call.post("/v1/search", {"image": uri(png_claiming(9000, 9000))}), 400)["code"] == "too_many_pixels"
    assert 'mirepoix_rejected_total{reason="pixels"} 3.0' in call("GET", "/metrics").text


def test_pictures_at_the_bound_are_taken(calling, encoding):
    body = {"input": [uri(PICTURE), "words", {"text": "a", "image": uri(PICTURE)}]}
    assert calling(Limits(max_request_pixels=2 * SIDE**2)).post("/v1/embeddings", body).status_code == 200
    assert [item.images for item in encoding.asked] == [(PICTURE,), (), (PICTURE,)]


def test_eight_large_pictures_in_few_bytes_are_refused_by_their_headers(calling):
    start = time.process_time()
    body = {"input": [uri(png_claiming(5000, 5000))] * 8}
    assert "200,000,000 pixels" in error_of(calling(Limits()).post("/v1/embeddings", body), 400)["message"]
    assert time.process_time() - start < 1


def together(pictures: int, memory: int, monkeypatch, leave: bool = False) -> int:
    """How many pictures of a cost of 10 are checked at once, one a request, in a budget of `memory`; at the end all is free."""
    running, most, lock = 0, 0, threading.Lock()

    def slow(data: bytes, limits: PictureLimits) -> bytes:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.02)
        with lock:
            running -= 1
        return data

    async def check() -> None:
        decoder = Decoder(Limits(decoding_memory=memory))
        tasks = [asyncio.create_task(decoder([PICTURE], "input")) for _ in range(pictures)]
        await asyncio.sleep(0.01)
        if leave:
            for task in tasks[::2]:
                task.cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert sum(each == [PICTURE] for each in done) == (pictures // 2 if leave else pictures)
        while running:
            await asyncio.sleep(0.005)
        assert await decoder.budget.take(memory) == memory

    monkeypatch.setattr(decoding, "plain_picture", slow)
    monkeypatch.setattr(decoding, "decoding_cost", lambda *_: Cost(1, 10))
    monkeypatch.setattr(decoding, "THREADS", 8)
    asyncio.run(check())
    return most


def test_pictures_of_all_requests_together_stay_within_the_memory(monkeypatch):
    assert together(9, 30, monkeypatch) == 3
    assert together(4, 5, monkeypatch) == 1, "one that is larger than the budget has it alone"


def test_a_picture_of_a_client_that_left_counts_until_it_is_done(monkeypatch):
    assert together(10, 20, monkeypatch, leave=True) == 2


def test_room_is_given_in_the_order_in_which_it_was_asked_for():
    async def ask() -> None:
        budget, order = MemoryBudget(10), []

        async def hold(amount: int) -> None:
            held = await budget.take(amount)
            order.append(amount)
            await asyncio.sleep(0)
            budget.give_back(held)

        first = await budget.take(8)
        waiting = [asyncio.create_task(hold(amount)) for amount in (9, 1, 2)]
        await asyncio.sleep(0.01)
        assert order == [], "a small one does not pass a large one, which would wait for ever"
        waiting[0].cancel()
        await asyncio.sleep(0.01)
        assert order == [1, 2], "one that left is waited for no longer"
        budget.give_back(first)
        assert budget.free == 10

    asyncio.run(ask())


def photograph(**options) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (250, 250, 3), dtype=np.uint8)
    return saved(Image.fromarray(noise).resize((2000, 2000)), options.pop("form", "JPEG"), **options)


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


KINDS = {
    "baseline": photograph,
    "progressive": lambda: photograph(progressive=True, subsampling=0),
    "turned": lambda: photograph(progressive=True, subsampling=0, exif=turned()),
    "png": lambda: photograph(form="PNG", compress_level=1),
    "clear": lambda: saved(Image.new("RGBA", (2000, 2000), (9, 99, 199, 100)), "PNG"),
    "palette": lambda: saved(Image.new("P", (2000, 2000)), "GIF"),
    "webp": lambda: saved(Image.new("RGBA", (2000, 2000), (9, 99, 199, 100)), "WEBP"),
}
PROBE = """
import resource, sys
from PIL import Image
from mirepoix.serving.pictures import PictureLimits, plain_picture
Image.init()
data = sys.stdin.buffer.read()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
plain_picture(data, PictureLimits())
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_takes_no_more_memory_than_its_header_says(kind):
    data = KINDS[kind]()
    said = decoding_cost(data, PictureLimits())
    done = subprocess.run([sys.executable, "-c", PROBE], input=data, capture_output=True, check=True)
    assert said.pixels == 4_000_000 and int(done.stdout) * 1024 < said.memory + 4 * 2**20, (int(done.stdout), said)
