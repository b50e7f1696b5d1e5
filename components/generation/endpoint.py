"""A language model behind an OpenAI-compatible endpoint: chat completions with many requests in flight, none paid for twice.

408, 429, 5xx, a broken reply and a time-out are retried with exponential backoff, and not before the time that the endpoint gives. Errors
that concern every row (a refused key, a missing model, an unreachable host) end the run; replies received so far are cached.
"""

import asyncio
import json
import os
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx

from mirepoix.components.generation.prompts import Request
from mirepoix.components.generation.replies import Reply, ReplyStore
from mirepoix.components.generation.writer_config import EndpointConfig
from mirepoix.models.errors import Refused

_LARGEST_REPLY = 4 << 20  # bytes
_UNSENT = (httpx.PoolTimeout, httpx.WriteTimeout, httpx.WriteError, httpx.ProxyError, httpx.LocalProtocolError, httpx.UnsupportedProtocol)
_FATAL = {301, 302, 303, 307, 308, 401, 403, 404, 405}


class _Retryable(Exception):
    """A failed request that can be retried, how long the endpoint asks to wait, and whether it may have been billed."""

    def __init__(self, detail: str, wait: float | None = None, unreachable: bool = False, paid: bool = False):
        super().__init__(detail)
        self.detail, self.wait, self.unreachable = detail, wait, unreachable
        self.paid = paid  # it may have been answered, at an unknown cost


class Endpoint:
    """A writer that sends the requests which the reply store does not have to an endpoint."""

    def __init__(self, config: EndpointConfig, seed: int):
        if not config.model:
            raise Refused("the endpoint's model is not named; set writer.model to the name of the model at the endpoint")
        self.config = config
        self.key = _key(config.key_variable)
        parts = urlsplit(config.url)
        self.address = urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/chat/completions", parts.query, ""))
        self.parameters: dict[str, Any] = {config.length_field: config.max_new_tokens}
        if config.temperature is not None:
            self.parameters["temperature"] = config.temperature
        if config.temperature:
            self.parameters["seed"] = seed
        self.name = config.model
        # Servers choose the names of their models, so the same name at another URL is another model.
        self.identity = {"writer": "endpoint", "url": _place(config.url), "model": config.model, "parameters": self.parameters}

    def write(self, requests: Callable[[], Iterator[Request]], store: ReplyStore) -> Iterator[Reply]:
        """The replies, in the order of the requests; at most four times `concurrency` requests are queued ahead."""
        with asyncio.Runner() as runner:
            line = _Queue(self, store)
            try:
                for request in requests():
                    line.queue(request, runner.get_loop())
                    while len(line.waiting) >= 4 * self.config.concurrency:
                        yield runner.run(line.next())
                while line.waiting:
                    yield runner.run(line.next())
            finally:
                runner.run(line.close())


class _Queue:
    """The requests in flight and those queued behind them, on one event loop."""

    def __init__(self, endpoint: Endpoint, store: ReplyStore):
        self.config, self.store = endpoint.config, store
        self.waiting: deque[tuple[str, asyncio.Task[Reply], bool]] = deque()
        self._flying: dict[str, asyncio.Task[Reply]] = {}
        self._endpoint, self._gate, self._budget_changed = endpoint, asyncio.Semaphore(self.config.concurrency), asyncio.Condition()
        self._quiet_until = 0.0
        self._jitter = random.Random()
        self._decided = asyncio.Event()  # of the last request: that it has reserved its budget, or needs none
        self._decided.set()
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        limits = httpx.Limits(max_connections=self.config.concurrency, max_keepalive_connections=self.config.concurrency)
        timeout = httpx.Timeout(self.config.timeout_s, connect=min(10.0, self.config.timeout_s))
        self._client = httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout)

    def queue(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        """Queues a request; an equal one that is in flight is not sent again."""
        key = self.store.key(request.messages)
        again = key in self._flying
        if not again:
            before, self._decided = self._decided, asyncio.Event()
            self._flying[key] = loop.create_task(self._answer(key, request, before, self._decided))
        self.waiting.append((key, self._flying[key], again))

    async def next(self) -> Reply:
        """The reply to the first request of the queue."""
        key, task, again = self.waiting[0]
        reply = await task
        self.waiting.popleft()
        if not any(key == other for other, _, _ in self.waiting):
            self._flying.pop(key, None)
        return Reply(**{**reply.__dict__, "cached": True}) if again and not reply.failure else reply

    async def close(self) -> None:
        """Cancels the requests and closes the connections."""
        tasks = [task for _, task, _ in self.waiting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def _answer(self, key: str, request: Request, before: asyncio.Event, decided: asyncio.Event) -> Reply:
        """A reply, cached or new. Requests are sent in the order of the queue, so that a budget ends at the same row each time."""
        try:
            cached = await asyncio.to_thread(self.store.find, key)
            await before.wait()
            return cached or await self._with_retries(key, request, decided)
        finally:
            decided.set()

    async def _with_retries(self, key: str, request: Request, decided: asyncio.Event) -> Reply:
        for attempt in range(self.config.retries + 1):
            try:
                return await self._attempt(key, request, decided)
            except _Retryable as error:
                wait = self._wait(attempt, error)
                if attempt < self.config.retries and wait is not None:
                    self.store.counts["sent again"] += 1
                    await asyncio.sleep(wait)
                elif error.unreachable:
                    raise Refused(self._advice(f"cannot be reached ({error.detail})", "start it, or correct the url")) from error
                else:
                    return Reply(failure="failed", detail=self._redacted(error.detail))
        raise AssertionError

    def _wait(self, attempt: int, error: _Retryable) -> float | None:
        """Seconds until the next attempt: exponential with jitter, or as the endpoint asks; None if that is above the longest wait."""
        wait = min(self.config.longest_wait_s, self.config.backoff_s * 2**attempt * self._jitter.uniform(0.5, 1.5))
        if error.wait is None:
            return wait
        if error.wait > self.config.longest_wait_s:
            return None
        self._quiet_until = max(self._quiet_until, time.monotonic() + error.wait)
        return error.wait + self._jitter.uniform(0, self.config.backoff_s)

    async def _attempt(self, key: str, request: Request, decided: asyncio.Event) -> Reply:
        """One attempt. It ends after the reply is saved, so that a killed process loses only the requests in flight."""
        most = request.most_tokens + self.config.max_new_tokens
        async with self._gate:
            while (pause := self._quiet_until - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            async with self._budget_changed:
                while (granted := self.store.reserve(most)) is None:
                    await self._budget_changed.wait()
            decided.set()
            if not granted:
                return Reply(failure="budget")
            paid = 0
            try:
                reply, answered = await self._sent(request)
                paid = (reply.cost or most) if answered else 0
            except _Retryable as error:
                paid = most if error.paid else 0
                raise
            finally:
                self.store.settle(most, paid)
                async with self._budget_changed:
                    self._budget_changed.notify_all()
                await asyncio.to_thread(self.store.record, paid)
            if not reply.failure:
                await asyncio.to_thread(self.store.save, key, reply)
            return reply

    async def _sent(self, request: Request) -> tuple[Reply, bool]:
        """The reply, and whether the endpoint accepted the request."""
        body = {"model": self.config.model, "messages": request.messages, **self._endpoint.parameters}
        try:
            async with (
                asyncio.timeout(self.config.timeout_s),
                self._client.stream("POST", self._endpoint.address, json=body) as answer,
            ):
                content = bytearray()
                async for chunk in answer.aiter_bytes():
                    content += chunk
                    if len(content) > _LARGEST_REPLY:
                        detail = f"the reply is longer than {_LARGEST_REPLY} bytes"
                        return Reply(failure="declined", detail=detail), answer.status_code == 200
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Retryable(str(error) or type(error).__name__, unreachable=True) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _Retryable(f"no answer within {self.config.timeout_s:g} seconds", paid=not isinstance(error, _UNSENT)) from error
        except httpx.HTTPError as error:
            raise _Retryable(f"{type(error).__name__} {error}", paid=not isinstance(error, _UNSENT)) from error
        reply = self._read(answer, bytes(content))
        return reply, not reply.failure

    def _read(self, answer: httpx.Response, content: bytes) -> Reply:
        status = answer.status_code
        summary = f"{status}: {' '.join(content[:2000].decode(errors='replace').split())[:200]}"
        if status in (408, 429) or status >= 500:
            raise _Retryable(summary, _seconds(answer.headers.get("retry-after")))
        if status in _FATAL:
            raise Refused(self._advice(f"answers {summary}", "correct the url, the model's name or the key"))
        if status != 200:
            return Reply(failure="declined", detail=self._redacted(summary))
        try:
            whole = json.loads(content)
            (choice, *_), usage = whole["choices"], whole.get("usage") or {}
            message = choice["message"]
            text, declined = message.get("content") or "", message.get("refusal") or choice.get("finish_reason") == "content_filter"
            finish = "refused" if declined else "length" if choice.get("finish_reason") == "length" else "stop"
            read, written = (int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens"))
            if not isinstance(text, str):
                raise TypeError(f"content is {type(text).__name__}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _Retryable(f"the reply is not one of chat completions: {type(error).__name__} {error}", paid=True) from error
        return Reply(text, read, written, finish=finish)

    def _advice(self, problem: str, advice: str) -> str:
        return self._redacted(f"the endpoint {self.config.url} {problem}; {advice}, and run again: its replies are cached")

    def _redacted(self, text: str) -> str:
        """The text without the key, which an endpoint may repeat."""
        return text.replace(self._endpoint.key, "***") if self._endpoint.key else text


def _place(url: str) -> str:
    """The part of the URL that identifies the server: the host in lower case and the path, without a query."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.lower(), parts.path.rstrip("/"), "", ""))


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise Refused(f"the endpoint's key_variable is {variable!r}, and the environment has no such variable, or an empty one; set it")
    if not (key.isascii() and key.isprintable()):
        why = "has characters outside printable ASCII; set it again"
        raise Refused(f"the environment variable {variable}, the endpoint's key_variable, {why}")
    return key


def _seconds(retry_after: str | None) -> float | None:
    """The seconds of a Retry-After header, which holds a number or a date; None if it is neither."""
    if retry_after is None or re.fullmatch(r"\s*\d+(?:\.\d+)?\s*", retry_after):
        return None if retry_after is None else float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
