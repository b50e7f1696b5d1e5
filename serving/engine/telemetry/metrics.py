"""The Prometheus metrics of the endpoint, and how the texts of several replicas become one."""

import re
from collections.abc import Mapping
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

Part = Literal["read", "decode", "queue", "encode", "search", "render"]
"""What a request's time goes to: its body read, its pictures decoded, its items waiting and encoded, the search, the reply written."""
Reason = Literal["busy", "deadline", "rate_limit", "key", "host", "body_slow", "body_large", "body_encoded", "pixels"]
"""Why a request is rejected before its work."""
Class = Literal["interactive", "bulk"]
Outcome = Literal["swapped", "refused", "failed"]
"""What became of a swap: the other release answers; it was not begun, as for want of memory; it was not verified, or did not open."""
PARTS, REASONS, CLASSES, OUTCOMES = get_args(Part), get_args(Reason), get_args(Class), get_args(Outcome)
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_PART_SECONDS = (0.0005, 0.001, 0.0025, *_SECONDS)
_CREATED = re.compile(rb"^(?:# \w+ )?\w+_created[ {].*\n", re.MULTILINE)
"""Creation times: half as many lines again, which no query reads."""
_ITEMS = (1, 2, 4, 8, 16, 32, 64, 128)


class Figures:
    """The metrics of one server process.

    A gauge of what is known elsewhere is read from there: `figures.queue_items.labels("bulk").set_function(queue.bulk_items)`. Every
    reason, part, class and outcome is shown from the start, with 0, so that the first one of a kind is a rise.
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.labels: dict[str, tuple[str, ...]] = {}  # of each metric, by its name in the text
        self.requests = self._counter("mirepoix_requests", "Requests answered; 499: the client went away", "route", "status", "release")
        self.seconds = self._histogram("mirepoix_request_seconds", "Time to the last byte of a reply", _SECONDS, "route")
        self.part_seconds = self._histogram("mirepoix_part_seconds", "Time of a request in a part of its work", _PART_SECONDS, "part")
        self.in_flight = self._gauge("mirepoix_in_flight", "Requests that are being answered", "lane")
        self.queue_items = self._gauge("mirepoix_queue_items", "Items that wait for the encoder", "class")
        self.batch_size = self._histogram("mirepoix_batch_size", "Items of a batch", _ITEMS)
        self.tokens = self._counter("mirepoix_tokens", "Tokens encoded")
        self.pictures = self._counter("mirepoix_pictures", "Pictures of requests decoded")
        self.rejected = self._counter("mirepoix_rejected", "Requests rejected before their work", "reason")
        self.swaps = self._counter("mirepoix_swaps", "Releases that were to take the place of the one that answers", "outcome")
        self._release = self._gauge("mirepoix_release_info", "1 for the release that answers", "release", "model")
        for metric, values in ((self.part_seconds, PARTS), (self.queue_items, CLASSES), (self.rejected, REASONS), (self.swaps, OUTCOMES)):
            for value in values:
                metric.labels(value)

    def use_release(self, release: str, model: str) -> None:
        """Sets the release that answers, by its version, and the name of its model."""
        self._release.clear()
        self._release.labels(release, model).set(1)

    def text(self) -> bytes:
        return _CREATED.sub(b"", generate_latest(self._registry))

    def _counter(self, name: str, help: str, *labels: str) -> Counter:
        self.labels[f"{name}_total"] = labels
        return Counter(name, help, labels, registry=self._registry)

    def _gauge(self, name: str, help: str, *labels: str) -> Gauge:
        self.labels[name] = labels
        return Gauge(name, help, labels, registry=self._registry)

    def _histogram(self, name: str, help: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        self.labels[name] = labels
        return Histogram(name, help, labels, buckets=buckets, registry=self._registry)


def merged(texts: Mapping[str, str]) -> str:
    """The texts of replicas, by their names, as one: each sample has its replica as a label, and each metric is described once."""
    families: dict[str, tuple[list[str], list[str]]] = {}  # of each metric, what describes it, and its samples
    for replica, text in texts.items():
        label = f'replica="{_escaped(replica)}"'
        described: list[str] = []
        samples: list[str] = []
        named = ""
        for line in text.splitlines():
            if line.startswith("# "):
                name = line.split(" ", 3)[2]
                if name != named:
                    named = name
                    described, samples = families.setdefault(name, ([], []))
                if line not in described:
                    described.append(line)
            elif line:
                samples.append(_labelled(line, label))
    return "".join(f"{line}\n" for described, samples in families.values() for line in (*described, *samples))


def _labelled(sample: str, label: str) -> str:
    """A sample with one more label; the first brace of a sample opens its labels, for its name has none."""
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f"{name}{{{label}{'' if rest.startswith('}') else ','}{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
