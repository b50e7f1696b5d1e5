"""Load on the servers of the tests, by the process of bench/serving_load.py, so that no server waits for what a test does.

Beside it, in the process of the test: a client that compares each reply with what the release that it names gives, and one that asks a
server that is starting.
"""

import base64
import http.client
import json
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from bench.serving_load import STALL, Clients, Load, Report, run
from mirepoix.serving.http.guard import RELEASE_HEADER
from mirepoix.serving.in_process.retriever import Retriever
from mirepoix.serving.release import open_release
from tests.serving.fixtures import drawing

__all__ = [
    "LIGHT",
    "MIXED",
    "Checker",
    "Clients",
    "Load",
    "Report",
    "Starting",
    "Truth",
    "encoders",
    "parent",
    "run",
    "truth_of",
    "unharmed",
    "unordered",
]

MIXED = (
    Clients(("search", "picture", "embed"), clients=100, rate=20, name="interactive"),
    Clients(("bulk",), clients=20, rate=1.5, inputs=24, name="bulk"),
)
"""All kinds of requests, at a rate that leaves a core of two to what is done meanwhile."""
LIGHT = tuple(replace(clients, rate=(clients.rate or 0) / 4) for clients in MIXED)
"""The same for where encoders or replicas start meanwhile, which takes a core, and other tests have the other one: a server that falls
behind refuses requests, as it should."""
LARGEST_DIFFERENCE = 1e-3
"""Of a score or of a number of a vector, as an item of another batch has it."""


def unharmed(report: Report, least: int = 1) -> Report:
    """The report, if no request failed and at least so many were answered; else an error that names the failures.

    A request may take longer than STALL on a machine that has more than two processes to run for each core, twice as long at most, or
    where each request takes long: up to four times the median of its clients. The load average is that of the last minute, and knows a
    busy second too late; the median is of the same seconds, and what holds up some requests does not change it.
    """
    patience = STALL * min(2.0, max(1.0, os.getloadavg()[0] / (2 * (os.cpu_count() or 1))))
    names = dict.fromkeys(one.name for one in report.records)
    longest = {name: max(patience, 4 * report.of(name).seconds(0.5)) for name in names}
    answered = {*report.answered}
    failures = [one for one in report.failures if one not in answered or one.seconds > longest[one.name]]
    may_take = ", ".join(f"of {name} {seconds:.1f}" for name, seconds in longest.items())
    assert not failures, f"{len(failures)} of {len(report.records)} requests failed; seconds that one may take: {may_take}\n{report}"
    assert len(answered) >= least, f"{len(answered)} requests were answered, and {least} are needed\n{report}"
    return report


def unordered(report: Report, releases: Sequence[str]) -> set[tuple[str, ...]]:
    """What clients saw of the releases that is not some of these in this order; all of it, if these are not the releases that were seen.

    A client that asked seldom may have missed one.
    """
    if {*report.releases} != {*releases}:
        return report.sequences
    return {seen for seen in report.sequences if not _in_order(seen, releases)}


def _in_order(some: Sequence[str], of: Sequence[str]) -> bool:
    rest = iter(of)
    return all(one in rest for one in some)


def encoders(server: int, word: str = "mirepoix.serving.engine.fork_server") -> set[int]:
    """The processes that the fork servers of a server have forked, by its process id and a word of a fork server's command line."""
    return {child for fork_server in _children(server, word) for child in _children(fork_server, word)}


def parent(pid: int) -> int:
    """The process id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _children(pid: int, word: str) -> set[int]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            state, parent = (process / "stat").read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state not in "ZX" and word.encode() in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    return found


# What is right

TEXTS = ("two small red stars at night", "A square painted in colour number 4.", "the disc of hue 7")
PICTURE = drawing("bar", 0.35)


class _Expected(NamedTuple):
    """What a release gives: the score of each document for each query, and the vector of each text."""

    scores: Mapping[str | bytes, Mapping[str, float]]
    vectors: Mapping[str, np.ndarray]


Truth = Mapping[str, _Expected]
"""What each release gives, by its version."""


def truth_of(*folders: Path) -> Truth:
    """What releases give, by what searches in this process; what is encoded by one and searched in another is like neither."""
    releases = [open_release(folder) for folder in folders]
    encoders = [release.open_encoder() for release in releases]
    truth = {}
    for release, encoder in zip(releases, encoders, strict=True):
        retriever = Retriever(encoder, release.name, release)
        scores = {query: {one.id: one.score for one in retriever.search(query, 1000)} for query in (*TEXTS, PICTURE)}
        vectors = dict(zip(TEXTS, encoder.encode(_items(TEXTS)).rows_NTD[:, 0].numpy(), strict=True))
        truth[release.version] = _Expected(scores, vectors)
    for release in releases:
        for encoder in encoders:
            mixed = Retriever(encoder, release.name, release).search(TEXTS[0], 10)
            wrong = any(abs(one.score - truth[release.version].scores[TEXTS[0]][one.id]) > 10 * LARGEST_DIFFERENCE for one in mixed)
            assert wrong == (encoder is not encoders[releases.index(release)]), "the releases are not told apart by what they give"
    return truth


def _items(texts: tuple[str, ...]) -> list[Any]:
    from mirepoix.models.item import Item

    return [Item(str(n), text) for n, text in enumerate(texts)]


class Checker(threading.Thread):
    """A client that asks in turn for a search by a text, one by a picture and a vector, within the block; `seen` are the releases.

    After the block every reply was what the release that it names gives, the header named the same one, and none before the last one seen.
    """

    def __init__(self, url: str, truth: Truth, pause: float = 0.02):
        super().__init__(daemon=True)
        self.truth, self.pause = truth, pause
        self.seen: list[str] = []
        self.answered = 0
        self.wrong: list[str] = []
        parts = urlsplit(url)
        self._connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        self._over = threading.Event()

    def __enter__(self) -> "Checker":
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over.set()
        self.join()
        self._connection.close()
        if kind is None:
            assert not self.wrong and self.answered, "\n".join(self.wrong) or "no request was answered"

    def run(self) -> None:
        searches = [("search", {"text": text, "k": 10}, text) for text in TEXTS]
        picture = {"image": f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}", "k": 10}
        vectors = [("embeddings", {"input": text, "encoding_format": "base64"}, text) for text in TEXTS]
        asked = [*searches, ("search", picture, PICTURE), *vectors]
        while not self._over.wait(self.pause):
            path, body, query = asked[self.answered % len(asked)]
            try:
                self._check(path, body, query)
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(f"disconnected: {type(error).__name__}")
            if self.wrong:
                return
            self.answered += 1

    def _check(self, path: str, body: dict[str, Any], query: Any) -> None:
        self._connection.request("POST", f"/v1/{path}", json.dumps(body), {"content-type": "application/json"})
        reply = self._connection.getresponse()
        text = reply.read()
        try:
            said = json.loads(text)
        except ValueError:
            self.wrong.append(f"status {reply.status}, {reply.getheaders()}: {text[:300]!r}")
            return
        named = {said.get("release"), reply.getheader(RELEASE_HEADER.decode())}
        if reply.status != 200 or len(named) > 1 or not named <= self.truth.keys():
            self.wrong.append(f"status {reply.status}, releases {named}: {said}"[:300])
            return
        (release,) = named
        if self.seen[-1:] != [release]:
            self.seen.append(release)
        expected = self.truth[release]
        if path == "search":
            off = [abs(one["score"] - expected.scores[query].get(one["id"], 9.0)) for one in said["results"]]
        else:
            off = np.abs(np.frombuffer(base64.b64decode(said["data"][0]["embedding"]), "<f4") - expected.vectors[query])
        if not len(off) or max(off) > LARGEST_DIFFERENCE:
            self.wrong.append(f"release {release} does not give this for {query[:40]!r}: off by {max(off, default=9)}")


# A start


@dataclass(frozen=True)
class Told:
    """What a client was told: the path, the status, the body as JSON, and the header that says after how many seconds to ask again."""

    path: str
    status: int
    body: Any
    retry_after: str | None


class Starting:
    """A client of a server that is starting, which asks again and again within the block; `told` is what it was told."""

    def __init__(self, url: str):
        self.url, self.port = url, urlsplit(url).port or 0
        self.told: list[Told] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask_on, daemon=True)

    def __enter__(self) -> "Starting":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def check(self) -> None:
        """It lived as soon as the port was open, and said of everything else, in our form, that it starts, until it was answered."""
        assert {told.status for told in self.told if told.path == "/live"} == {200}
        others = [told for told in self.told if told.path != "/live"]
        before = [told for told in others if told.status == 503]
        assert {told.path for told in before} == {told.path for told in others}, others
        assert others == [*before, *(told for told in others if told.status == 200)], others
        for told in before:
            assert told.body["error"]["code"] == "starting" and told.body["error"]["type"] == "server_error", told
            assert told.retry_after and int(told.retry_after) >= 1

    def ask(self) -> None:
        """Asks once whether it lives, for a search, and whether it is ready."""
        for method, path, body in (
            ("GET", "/live", None),
            ("POST", "/v1/search", '{"text": "a disc"}'),
            ("GET", "/ready", None),
            ("GET", "/health", None),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            try:
                connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            except ConnectionRefusedError:  # the port is not open yet
                return
            reply = connection.getresponse()
            self.told.append(Told(path, reply.status, json.loads(reply.read()), reply.getheader("retry-after")))
            connection.close()

    def _ask_on(self) -> None:
        while not self._over.wait(0.1):
            self.ask()
