"""The figures of bench/serving.py, each measured of every server in turn, in every round.

A part is a function of the bench that returns rows; its docstring says what is measured. Promised is what the server of the working tree
does.
"""

import re
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratios import Row
from serving_load import Clients, Load, Report, run
from serving_servers import AFTER, AFTER_ON_RAY, PLAIN, CannotSwap, Encoder, Memory, Server

KINDS = ("health", "search", "embed", "picture")
STEADY = ("search", "embed", "health")
PROMISED = (AFTER, AFTER_ON_RAY)
PROXY = "what Ray's proxy and its calls to a replica leave"

TWICE = "decoded to be checked and once more to be encoded, 75 MB and copies of it"
BOUNDED = "the checks wait for limits.decoding_memory, and the encoder decodes one after the other"
LARGE = (
    (1, 1, "a picture of 25 megapixels", TWICE, 400),
    (8, 1, "eight requests at once, each a picture of 25 megapixels", BOUNDED, 1000),
    (1, 8, "a request of eight pictures of 25 megapixels", "refused by their headers", 10),
)
"""Of large pictures: clients, pictures of each one's request, and the most MiB that they take, with the reason."""


@dataclass(frozen=True)
class Bench:
    """What parts measure, and how long."""

    servers: Sequence[Server]
    encoder: Encoder
    other: Path  # the release of swaps
    rounds: int
    seconds: float

    def pause(self) -> None:
        """Time for what goes on: load before and after an event, or work that was given up."""
        time.sleep(min(1, self.seconds))

    def turns(self) -> Iterator[Server]:
        """Each server once a round, while the others are stopped; the order alternates, so that none is always the one after another."""
        for number in range(self.rounds):
            for server in self.servers if number % 2 else reversed(self.servers):
                with server.alone(self.servers):
                    yield server


Values = dict[str, list[float]]


def rows(
    what: str,
    values: Values,
    reason: str = "",
    most: float | None = None,
    least: float | None = None,
    notes: dict[str, str] | None = None,
    on_ray: float | None = None,
) -> list[Row]:
    """A row for each server; the promise is of those of the working tree, with another bound where Ray's proxy allows no better one."""
    found = []
    for name, measured in values.items():
        bounds: dict[str, Any] = {"most": most, "least": least, "reason": reason} if name in PROMISED else {}
        if name == AFTER_ON_RAY and on_ray is not None:
            bounds = {"most" if least is None else "least": on_ray, "reason": PROXY}
        found.append(Row(f"{what}: {name}", measured, note=(notes or {}).get(name, ""), **bounds))
    return found


def ratios(of: Values, to: Sequence[float]) -> Values:
    """The values of each server, each divided by that of the same round."""
    return {name: [value / base for value, base in zip(values, to, strict=True)] for name, values in of.items()}


def cost(bench: Bench) -> list[Row]:
    """CPU ms a request at one client, of all processes of a server beyond what they take idle; wall times beside it."""
    spent: dict[str, Values] = {kind: defaultdict(list) for kind in KINDS}
    waits: dict[str, dict[str, list[tuple[float, float]]]] = {kind: defaultdict(list) for kind in KINDS}
    idle: Values = defaultdict(list)
    for server in bench.turns():
        began, before = time.monotonic(), server.cpu()
        time.sleep(bench.seconds)
        idle[server.name].append((server.cpu() - before) / (time.monotonic() - began))
        for kind in KINDS:
            began, before = time.monotonic(), server.cpu()
            report = run(server.url, Clients((kind,), seconds=bench.seconds, stall=None))
            taken = server.cpu() - before - idle[server.name][-1] * (time.monotonic() - began)
            spent[kind][server.name].append(taken * 1000 / len(report.records))
            waits[kind][server.name].append((report.seconds(0.5) * 1000, report.seconds(0.99) * 1000))
    found = rows("idle, CPU ms a second", {name: [value * 1000 for value in values] for name, values in idle.items()})
    for kind in KINDS:
        notes = {
            name: "ms of the clock: p50 {:.1f}, p99 {:.1f}".format(*map(_median, zip(*pairs, strict=True)))
            for name, pairs in waits[kind].items()
        }
        found += rows(f"{kind}, CPU ms a request", spent[kind], notes=notes)
        beside = {name: values for name, values in spent[kind].items() if name != PLAIN}
        found += rows(
            f"{kind}, CPU time beside one process",
            ratios(beside, spent[kind][PLAIN]),
            "one hop more at most",
            most=2,
            on_ray=40 if kind == "health" else 4,
        )
    return found


def saturated(bench: Bench) -> list[Row]:
    """Items a second of 32 clients with one item each, beside a loop over `encode` in batches of 32, measured before and after."""
    rate: Values = defaultdict(list)
    share: Values = defaultdict(list)
    alone = []
    for server in bench.turns():
        before = bench.encoder.rate(bench.seconds / 2)
        rate[server.name].append(run(server.url, Clients(("embed",), 32, seconds=bench.seconds, stall=None)).rate)
        alone.append((before + bench.encoder.rate(bench.seconds / 2)) / 2)
        share[server.name].append(rate[server.name][-1] / alone[-1])
    found = [Row("items a second, the encoder in process, batches of 32", alone)]
    found += rows("items a second, 32 clients of one item", rate)
    return found + rows("items a second beside the encoder in process", share, "batches form across requests", least=0.9, on_ray=0.3)


def fair(bench: Bench) -> list[Row]:
    """The p99 of a client that searches, alone and while a bulk request of 2,048 inputs is answered."""
    quiet: Values = defaultdict(list)
    beside: Values = defaultdict(list)
    bulk: dict[str, list[float]] = defaultdict(list)
    for server in bench.turns():
        quiet[server.name].append(run(server.url, Clients(seconds=2 * bench.seconds, stall=None)).seconds(0.99))
        with Load(server.url, Clients(stall=None)) as load:
            many = run(server.url, Clients(("bulk",), requests=1, inputs=2048, stall=None, timeout=300))
        beside[server.name].append(load.report.seconds(0.99))
        bulk[server.name].append(many.longest)
    notes = {name: f"{_median(values):.1f} s for the bulk request" for name, values in bulk.items()}
    found = rows("p99 of a searching client, s, alone", quiet) + rows(
        "p99 of a searching client, s, beside 2,048 inputs", beside, notes=notes
    )
    slower = {name: [one / other for one, other in zip(values, quiet[name], strict=True)] for name, values in beside.items()}
    return found + rows("p99 beside 2,048 inputs, over that alone", slower, "interactive requests pass bulk ones", most=5)


def bodies(bench: Bench) -> list[Row]:
    """Four clients beside 130 whose bodies trickle in: how many of their requests fail, and their p99."""
    failed: Values = defaultdict(list)
    late: Values = defaultdict(list)
    for server in bench.turns():
        slow = Clients(("slow",), 130, seconds=0.1, requests=1, seconds_of_body=4 * bench.seconds, stall=None)
        normal = Clients(STEADY, 4, seconds=2 * bench.seconds, delay=min(1, bench.seconds))
        report = run(server.url, slow, normal).of(normal.name)
        failed[server.name].append(len(report.failures) / max(1, len(report.records)))
        late[server.name].append(report.seconds(0.99))
    found = rows("share of requests that fail beside 130 slow bodies", failed, "a body takes no slot", most=0)
    return found + rows("p99 beside 130 slow bodies, s", late)


def overload(bench: Bench) -> list[Row]:
    """Ten times as many arrivals as can be answered: goodput, the wait of the accepted; whether who obeys Retry-After is accepted then."""
    goodput: Values = defaultdict(list)
    wait: Values = defaultdict(list)
    honest: Values = defaultdict(list)
    for server in bench.turns():
        capacity = run(server.url, Clients(("embed",), 16, seconds=bench.seconds, stall=None)).rate
        length = 2 * bench.seconds
        flood = run(server.url, Clients(("embed",), 4000, rate=10 * capacity, seconds=length, stall=None))
        in_time = [record for record in flood.answered if record.end <= length]
        goodput[server.name].append(len(in_time) / length / capacity)
        wait[server.name].append(flood.seconds(0.99))
        obedient = run(server.url, Clients(("embed",), 320, seconds=2 * length, stall=None, obey=True))
        again = [record for record in obedient.records if record.again]
        if again:
            honest[server.name].append(sum(200 <= record.status < 300 for record in again) / len(again))
    found = rows("goodput under ten times overload, of capacity", goodput, "what is rejected costs little", least=0.8, on_ray=0.4)
    found += rows("p99 of the accepted under ten times overload, s", wait, "admitted by what they will wait", most=5, on_ray=12)
    said = "share of requests that are accepted when Retry-After said"
    return found + rows(said, honest, "it is the time until there is room", least=0.8)


def swap(bench: Bench) -> list[Row]:
    """Four clients while another release takes the place of the one that is served, and while it is rolled back."""
    swapping = [server.name for server in bench.servers if server.variant.swaps]
    failed: Values = {name: [] for name in swapping}
    longest: Values = {name: [] for name in swapping}
    notes: dict[str, str] = {}
    for server in bench.turns():
        if not server.variant.swaps:
            continue
        try:
            reports, took = zip(*[_swapped(bench, server, release) for release in (bench.other, server.release)], strict=True)
        except CannotSwap as problem:
            notes[server.name] = str(problem)
            continue
        failed[server.name].append(sum(len(report.failures) for report in reports))
        longest[server.name].append(max(report.longest for report in reports))
        notes[server.name] = f"{max(took):.1f} s for a swap"
    found = rows("failed requests of a swap and a roll back", failed, "a swap drops nothing", most=0, notes=notes)
    return found + rows("longest wait of a swap and a roll back, s", longest, "a stall is a failure", most=2, notes=notes)


def _swapped(bench: Bench, server: Server, release: Path) -> tuple[Report, float]:
    """What four clients saw of a swap, and the seconds until the other release answered."""
    with Load(server.url, Clients(STEADY, 4)) as load:
        bench.pause()
        began = time.monotonic()
        server.swap(release)
        took = time.monotonic() - began
        bench.pause()
    return load.report, took


def kill(bench: Bench) -> list[Row]:
    """Four clients while the process that encodes is killed."""
    failed: Values = defaultdict(list)
    longest: Values = defaultdict(list)
    for server in bench.turns():
        if not server.variant.swaps:
            continue
        with Load(server.url, Clients(STEADY, 4, stall=None)) as load:
            bench.pause()
            server.kill_encoder()
            time.sleep(min(0.5, bench.seconds))
            run(server.url, Clients(("embed",), requests=1, stall=None))
            bench.pause()
        failed[server.name].append(len(load.report.failures))
        longest[server.name].append(load.report.longest)
    found = rows("failed requests when the only encoder is killed", failed, "they wait for the next one", most=0)
    return found + rows("longest wait when the only encoder is killed, s", longest)


def disconnects(bench: Bench) -> list[Row]:
    """Clients that leave bulk requests: errors in the metrics, and the CPU time that is spent on them, beside that of clients that stay."""
    errors: Values = defaultdict(list)
    share: Values = defaultdict(list)
    for server in bench.turns():
        spent, known = [], _errors(server)
        for kind in ("bulk", "leave"):
            before = server.cpu()
            run(server.url, Clients((kind,), 16, requests=1, inputs=64, stall=None))
            run(server.url, Clients(("embed",), requests=1, stall=None))  # it is answered after what is still encoded
            bench.pause()
            spent.append(server.cpu() - before)
        run(server.url, Clients(("abort",), 16, requests=1, inputs=64))
        bench.pause()
        share[server.name].append(spent[1] / spent[0])
        errors[server.name].append(_errors(server) - known)
    found = rows("requests of clients that left, counted as 5xx", errors, "who leaves is no error", most=0)
    return found + rows("CPU time of requests whose client left, of that of those answered", share, "their work is cancelled", most=0.5)


def pictures(bench: Bench) -> list[Row]:
    """Pictures of 25 megapixels, one, eight requests of one, and one of eight: seconds until the answers, memory beyond what there was."""
    found = []
    for clients, inputs, what, reason, most in LARGE:
        seconds: Values = defaultdict(list)
        memory: Values = defaultdict(list)
        statuses: dict[str, set[int]] = defaultdict(set)
        for server in bench.turns():
            with Memory(server) as watched:
                report = run(server.url, Clients(("large",), clients, requests=1, inputs=inputs, stall=None, timeout=90))
            seconds[server.name].append(report.longest)
            memory[server.name].append(watched.most)
            statuses[server.name] |= set(report.statuses)
        notes = {name: f"statuses {', '.join(map(str, sorted(each)))}" for name, each in statuses.items()}
        found += rows(f"{what}, s", seconds, notes=notes)
        found += rows(f"{what}, MiB", memory, reason, most=most)
    return found


PARTS: dict[str, Callable[[Bench], list[Row]]] = {
    part.__name__: part for part in (cost, saturated, fair, bodies, overload, swap, kill, disconnects, pictures)
}


def _errors(server: Server) -> float:
    """The requests that the server has counted with a status of 500 or more."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=10) as reply:
        text = reply.read().decode()
    return sum(float(value) for value in re.findall(r'^mirepoix_requests_total\{[^}]*status="5\d\d"[^}]*\} (\S+)', text, re.MULTILINE))


def _median(values: Sequence[float]) -> float:
    return sorted(values)[len(values) // 2]
