"""A language model behind an endpoint that speaks OpenAI's chat completions: many requests in flight, none paid for twice.

408, 429, 5xx, a broken reply and a time-out are asked again, later each time, and not before the endpoint said. What no row can mend (a
key that is not taken, a model that is not there, nobody who answers) ends the run; what was answered till then is kept.
"""

import asyncio
import json
import os
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit, urlunsplit

import httpx

from mirepoix.components.generation.prompts import Request
from mirepoix.components.generation.replies import Reply, ReplyStore
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown

_LARGEST_REPLY = 4 << 20  # bytes; a longer one is no passage
_UNSENT = (httpx.PoolTimeout, httpx.WriteTimeout, httpx.WriteError, httpx.ProxyError, httpx.LocalProtocolError, httpx.UnsupportedProtocol)
_SECRET = re.compile("key|token|secret|password|sig$", re.IGNORECASE)
"""Names in a URL's query of what is no one else's business."""
_HOPELESS = {301, 302, 303, 307, 308, 401, 403, 404, 405}


@dataclass(frozen=True)
class EndpointConfig:
    """An OpenAI-compatible endpoint."""

    url: str = option("http://127.0.0.1:8000/v1", "what stands before /chat/completions; a query such as ?api-version=1 stays behind it")
    model: str = option("", "the model's name there")
    key_variable: str | None = option(None, "name of the environment variable that holds the key; null: no key is sent")
    temperature: float | None = option(0.0, "0 is the likeliest answer; null: not sent, for models that take none")
    max_new_tokens: int = option(400, "an answer has at most so many tokens")
    length_field: Literal["max_tokens", "max_completion_tokens"] = option("max_tokens", "how the endpoint calls that")
    concurrency: int = option(16, "requests in flight")
    timeout_s: float = option(120.0, "seconds until a request is given up, and sent again")
    retries: int = option(5, "times that a request is sent again")
    backoff_s: float = option(1.0, "seconds before the first time, about; each further wait is twice as long")
    longest_wait_s: float = option(60.0, "the longest wait; an endpoint that asks for a longer one has failed")

    def __post_init__(self) -> None:
        _refuse_url(self.url)
        refuse_unknown(self, "the endpoint's ")
        if min(self.max_new_tokens, self.concurrency) < 1 or self.retries < 0:
            raise Refused("the endpoint's max_new_tokens and concurrency must be at least 1, retries at least 0")
        if min(self.timeout_s, self.backoff_s, self.longest_wait_s) <= 0 or (self.temperature or 0) < 0:
            raise Refused("the endpoint's timeout_s, backoff_s and longest_wait_s must be above 0, temperature at least 0")

    def build(self, seed: int) -> "Endpoint":
        """The writer; refused where the model is not named, or the key is not there."""
        return Endpoint(self, seed)


class _Again(Exception):
    """A request that may go well another time, how long the endpoint asks to wait, and whether it may cost something all the same."""

    def __init__(self, detail: str, wait: float | None = None, unreachable: bool = False, paid: bool = False):
        super().__init__(detail)
        self.detail, self.wait, self.unreachable = detail, wait, unreachable
        self.paid = paid  # it may have been answered, and nobody can tell what the answer cost


class Endpoint:
    """Asks the endpoint, and the desk before it."""

    def __init__(self, config: EndpointConfig, seed: int):
        if not config.model:
            raise Refused("the endpoint's model is not named; set writer.model to the model's name there")
        self.config = config
        self.key = _key(config.key_variable)
        told = urlsplit(config.url)
        self.address = urlunsplit((told.scheme, told.netloc, f"{told.path.rstrip('/')}/chat/completions", told.query, ""))
        self.parameters: dict[str, Any] = {config.length_field: config.max_new_tokens}
        if config.temperature is not None:
            self.parameters["temperature"] = config.temperature
        if config.temperature:
            self.parameters["seed"] = seed
        self.name = config.model
        # A server may call its model what it likes: the same name at another place is another model.
        self.identity = {"writer": "endpoint", "url": _place(config.url), "model": config.model, "parameters": self.parameters}

    def write(self, requests: Callable[[], Iterator[Request]], desk: ReplyStore) -> Iterator[Reply]:
        """The replies, in the order of the requests; what is asked ahead is bounded."""
        with asyncio.Runner() as runner:
            line = _Line(self, desk)
            try:
                for request in requests():
                    line.queue(request, runner.get_loop())
                    while len(line.waiting) >= 4 * self.config.concurrency:
                        yield runner.run(line.next())
                while line.waiting:
                    yield runner.run(line.next())
            finally:
                runner.run(line.close())


class _Line:
    """The requests in flight and those behind them, on one event loop."""

    def __init__(self, endpoint: Endpoint, desk: ReplyStore):
        self.config, self.desk = endpoint.config, desk
        self.waiting: deque[tuple[str, asyncio.Task[Reply], bool]] = deque()
        self._flying: dict[str, asyncio.Task[Reply]] = {}
        self._endpoint, self._gate, self._settled = endpoint, asyncio.Semaphore(self.config.concurrency), asyncio.Condition()
        self._quiet_until = 0.0
        self._jitter = random.Random()
        self._decided = asyncio.Event()  # of the last in line: that it has asked, or need not
        self._decided.set()
        headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
        limits = httpx.Limits(max_connections=self.config.concurrency, max_keepalive_connections=self.config.concurrency)
        timeout = httpx.Timeout(self.config.timeout_s, connect=min(10.0, self.config.timeout_s))
        self._client = httpx.AsyncClient(headers=headers, limits=limits, timeout=timeout)

    def queue(self, request: Request, loop: asyncio.AbstractEventLoop) -> None:
        """Puts a request in line; one that is asked already is not asked again."""
        key = self.desk.key(request.messages)
        again = key in self._flying
        if not again:
            before, self._decided = self._decided, asyncio.Event()
            self._flying[key] = loop.create_task(self._answer(key, request, before, self._decided))
        self.waiting.append((key, self._flying[key], again))

    async def next(self) -> Reply:
        """The reply to the first in line."""
        key, task, again = self.waiting[0]
        reply = await task
        self.waiting.popleft()
        if not any(key == other for other, _, _ in self.waiting):
            self._flying.pop(key, None)
        return Reply(**{**reply.__dict__, "cached": True}) if again and not reply.failure else reply

    async def close(self) -> None:
        """Lets go of everything."""
        tasks = [task for _, task, _ in self.waiting]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()

    async def _answer(self, key: str, request: Request, before: asyncio.Event, decided: asyncio.Event) -> Reply:
        """A reply, kept or new. Requests are sent in the order of the line, so that a budget ends at the same row each time."""
        try:
            known = await asyncio.to_thread(self.desk.known, key)
            await before.wait()
            return known or await self._asked(key, request, decided)
        finally:
            decided.set()

    async def _asked(self, key: str, request: Request, decided: asyncio.Event) -> Reply:
        for attempt in range(self.config.retries + 1):
            try:
                return await self._attempt(key, request, decided)
            except _Again as trouble:
                wait = self._wait(attempt, trouble)
                if attempt < self.config.retries and wait is not None:
                    self.desk.counts["sent again"] += 1
                    await asyncio.sleep(wait)
                elif trouble.unreachable:
                    raise Refused(self._advice(f"cannot be reached ({trouble.detail})", "start it, or mend the url")) from trouble
                else:
                    return Reply(failure="failed", detail=self._hidden(trouble.detail))
        raise AssertionError

    def _wait(self, attempt: int, trouble: _Again) -> float | None:
        """Seconds until the next try: twice as many each time, give or take a half, and not fewer than asked; None: too many were asked."""
        wait = min(self.config.longest_wait_s, self.config.backoff_s * 2**attempt * self._jitter.uniform(0.5, 1.5))
        if trouble.wait is None:
            return wait
        if trouble.wait > self.config.longest_wait_s:
            return None
        self._quiet_until = max(self._quiet_until, time.monotonic() + trouble.wait)
        return trouble.wait + self._jitter.uniform(0, self.config.backoff_s)

    async def _attempt(self, key: str, request: Request, decided: asyncio.Event) -> Reply:
        """One try. Its place is free again when the reply is kept, so that a kill never loses more than are in flight."""
        most = request.most_tokens + self.config.max_new_tokens
        async with self._gate:
            while (pause := self._quiet_until - time.monotonic()) > 0:
                await asyncio.sleep(pause)
            async with self._settled:
                while (granted := self.desk.reserve(most)) is None:
                    await self._settled.wait()
            decided.set()
            if not granted:
                return Reply(failure="budget")
            paid = 0
            try:
                reply, answered = await self._sent(request)
                paid = (reply.cost or most) if answered else 0
            except _Again as trouble:
                paid = most if trouble.paid else 0
                raise
            finally:
                self.desk.settle(most, paid)
                async with self._settled:
                    self._settled.notify_all()
                await asyncio.to_thread(self.desk.note, paid)
            if not reply.failure:
                await asyncio.to_thread(self.desk.keep, key, reply)
            return reply

    async def _sent(self, request: Request) -> tuple[Reply, bool]:
        """A reply, and whether the endpoint answered the request and did not decline it."""
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
                        long = f"the reply is longer than {_LARGEST_REPLY} bytes"
                        return Reply(failure="declined", detail=long), answer.status_code == 200
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Again(str(error) or type(error).__name__, unreachable=True) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise _Again(f"no answer within {self.config.timeout_s:g} seconds", paid=not isinstance(error, _UNSENT)) from error
        except httpx.HTTPError as error:
            raise _Again(f"{type(error).__name__} {error}", paid=not isinstance(error, _UNSENT)) from error
        reply = self._read(answer, bytes(content))
        return reply, not reply.failure

    def _read(self, answer: httpx.Response, content: bytes) -> Reply:
        status = answer.status_code
        told = f"{status}: {' '.join(content[:2000].decode(errors='replace').split())[:200]}"
        if status in (408, 429) or status >= 500:
            raise _Again(told, _seconds(answer.headers.get("retry-after")))
        if status in _HOPELESS:
            raise Refused(self._advice(f"answers {told}", "mend the url, the model's name or the key"))
        if status != 200:
            return Reply(failure="declined", detail=self._hidden(told))
        try:
            whole = json.loads(content)
            (choice, *_), usage = whole["choices"], whole.get("usage") or {}
            message = choice["message"]
            said, declined = message.get("content") or "", message.get("refusal") or choice.get("finish_reason") == "content_filter"
            finish = "refused" if declined else "length" if choice.get("finish_reason") == "length" else "stop"
            tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
            if not isinstance(said, str):
                raise TypeError(f"content is {type(said).__name__}")
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise _Again(f"a reply that is none of chat completions: {type(error).__name__} {error}", paid=True) from error
        return Reply(said, *tokens, finish=finish)

    def _advice(self, what: str, advice: str) -> str:
        return self._hidden(f"the endpoint {self.config.url} {what}; {advice}, and run again: what it answered is kept")

    def _hidden(self, text: str) -> str:
        """The text without the key, should an endpoint repeat it."""
        return text.replace(self._endpoint.key, "***") if self._endpoint.key else text


def _refuse_url(url: str) -> None:
    """Refuses what is no URL of an endpoint, or has a key in it."""
    if re.match("[^/?#]*(//)?[^/?#]*@", url) or any(_SECRET.search(name) for name, _ in parse_qsl(url.partition("?")[2])):
        raise Refused(
            "the endpoint's url has a key, a user or a password in it, and is written into reports; give it without, "
            "and as key_variable the name of the environment variable that holds the key"
        )
    example = "give one such as https://host/v1"
    try:
        told, _ = urlsplit(url), httpx.URL(url)
        (told.hostname or "").encode("idna"), told.port  # which are refused when they are asked for
    except (ValueError, httpx.InvalidURL) as error:
        raise Refused(f"the endpoint's url is {url!r} ({error}); {example}") from error
    if told.scheme not in ("http", "https") or not told.hostname:
        raise Refused(f"the endpoint's url is {url!r}; {example}")


def _place(url: str) -> str:
    """The URL as far as it tells who answers: the host in small letters, and no query."""
    told = urlsplit(url)
    return urlunsplit((told.scheme, told.netloc.lower(), told.path.rstrip("/"), "", ""))


def _key(variable: str | None) -> str:
    if variable is None:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise Refused(f"the endpoint's key_variable is {variable!r}, and the environment has no such variable, or an empty one; set it")
    if not (key.isascii() and key.isprintable()):
        raise Refused(f"the environment variable {variable}, the endpoint's key_variable, has a character that no key has; set it anew")
    return key


def _seconds(retry_after: str | None) -> float | None:
    """What a Retry-After header asks for: seconds, or a date; None where it is neither."""
    if retry_after is None or re.fullmatch(r"\s*\d+(?:\.\d+)?\s*", retry_after):
        return None if retry_after is None else float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return None
