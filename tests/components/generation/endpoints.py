"""A chat-completions endpoint for tests: a real server on a free port, which answers by a function of the test and records its requests."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """The server's response to one request."""

    text: str | None = "Some passage. It has two sentences."
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0  # seconds
    body: bytes | None = None  # instead of a completion
    finish: str = "stop"
    usage: dict[str, int] | None = field(default_factory=lambda: {"prompt_tokens": 50, "completion_tokens": 10})


def fenced(body: dict[str, Any], name: str) -> str:
    """The text within a fence of the user message."""
    found = re.search(rf"<{name}>\n(.*?)\n</{name}>", body["messages"][-1]["content"], re.S)
    return found[1] if found else ""


def well_behaved(body: dict[str, Any]) -> Answer:
    """A well-behaved model: a passage that states the answer."""
    return Answer(f"Whoever wonders should know of {fenced(body, 'answer') or fenced(body, 'caption')}. Much more could be told there.")


class Endpoint:
    """The requests that the server received, and how it answers."""

    def __init__(self, answer: Callable[[dict[str, Any], int], Answer]):
        self.answer = answer
        self.asked: list[dict[str, Any]] = []  # bodies, as they came
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.now = self.most = 0  # requests in flight
        self._lock = threading.Lock()
        self.url = ""

    def take(self, body: dict[str, Any], headers: dict[str, str], path: str) -> Answer:
        with self._lock:
            times = sum(known == body for known in self.asked)  # that the same body came before
            self.asked.append(body)
            self.times.append(time.monotonic())
            self.headers.append(headers)
            self.paths.append(path)
            self.now += 1
            self.most = max(self.most, self.now)
        return self.answer(body, times)

    def left(self) -> None:
        with self._lock:
            self.now -= 1


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        endpoint: Endpoint = self.server.endpoint
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = endpoint.take(body, dict(self.headers), self.path)
        try:
            time.sleep(answer.after)
            content = answer.body
            if content is None:
                choice = {"index": 0, "message": {"role": "assistant", "content": answer.text}, "finish_reason": answer.finish}
                content = json.dumps({"model": body["model"], "choices": [choice], "usage": answer.usage}).encode()
        finally:
            endpoint.left()
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Logs nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, *_: Any) -> None:
        """Ignores a client that disconnects."""


@contextmanager
def endpoint(answer: Callable[[dict[str, Any], int], Answer] = lambda body, times: well_behaved(body)) -> Iterator[Endpoint]:
    """A server that answers each request by its body and by how often the same body came before."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.endpoint = kept = Endpoint(answer)
    kept.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield kept
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
