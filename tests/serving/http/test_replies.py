"""A reply of many vectors is written in pieces, and is what a reply of few is."""

import asyncio
import json
import time

import numpy as np

from mirepoix.serving.engine.current import About
from mirepoix.serving.engine.work import Encoded
from mirepoix.serving.http.replies import embeddings_body
from mirepoix.serving.http.schemas import EmbeddingsBody

ABOUT = About("tiny", "abc", (64, 128), {})


def encoded(count: int) -> list[Encoded]:
    rows = np.random.default_rng(0).normal(size=(count, 1, 128)).astype(np.float32)
    return [Encoded(rows_TD, 3) for rows_TD in rows]


def test_each_vector_has_its_place_and_its_digits_however_many_there_are():
    for count in (1, 16, 17, 100):
        given = encoded(count)
        reply = json.loads(asyncio.run(embeddings_body(given, EmbeddingsBody(input="x"), ABOUT, ["a warning"])))
        assert (reply["object"], reply["model"], reply["release"], reply["warnings"]) == ("list", "tiny", "abc", ["a warning"])
        assert reply["usage"] == {"prompt_tokens": 3 * count, "total_tokens": 3 * count}
        assert [one["index"] for one in reply["data"]] == list(range(count))
        vectors = np.array([one["embedding"] for one in reply["data"]], np.float32)
        assert np.array_equal(vectors, np.stack([one.rows_TD[0] for one in given]))
    assert "warnings" not in json.loads(asyncio.run(embeddings_body(given, EmbeddingsBody(input="x"), ABOUT, [])))


def test_others_are_answered_while_a_long_reply_is_written():
    async def longest_wait() -> tuple[float, float]:
        waits, over = [], asyncio.Event()

        async def other() -> None:
            while not over.is_set():
                began = time.perf_counter()
                await asyncio.sleep(0)
                waits.append(time.perf_counter() - began)

        task = asyncio.create_task(other())
        began = time.perf_counter()
        await embeddings_body(encoded(2048), EmbeddingsBody(input="x"), ABOUT, [])
        took = time.perf_counter() - began
        over.set()
        await task
        return sorted(waits)[-2], took

    wait, took = asyncio.run(longest_wait())
    assert wait < took / 10
