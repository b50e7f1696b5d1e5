"""Every part of the benchmark measures each server in turn, what is promised is promised of ours alone, and all processes count."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.serving_load import Clients
from tests.bench.test_serving_load import reply, served

BENCH = Path(__file__).resolve().parents[2] / "bench"
METRICS = b"""# TYPE mirepoix_requests_total counter
mirepoix_requests_total{route="/v1/search",status="200"} 5.0
mirepoix_requests_total{release="a",route="/v1/search",status="500"} 2.0
mirepoix_requests_total{route="/health",status="503"} 1.0
mirepoix_other_total{route="/health",status="503"} 9.0
"""


@pytest.fixture
def bench(monkeypatch):
    """Imports a module of the benchmark, as the benchmark does."""
    monkeypatch.setattr(sys, "path", [str(BENCH), *sys.path])
    yield __import__
    for name in [name for name, module in sys.modules.items() if Path(getattr(module, "__file__", None) or "").parent == BENCH]:
        if "." not in name:
            del sys.modules[name]


class Stub:
    """A server whose processes take nothing; each request is answered at once, by the release that it was told last."""

    def __init__(self, name: str):
        self.name, self.release, self.killed = name, Path("one"), 0
        self.variant = SimpleNamespace(swaps=name != "one process")
        self.used = 0.0
        self.alone = nullcontext

    async def answer(self, line: str, body: bytes, writer: asyncio.StreamWriter) -> bytes:
        await asyncio.sleep(0.01)
        return reply(200, METRICS if "metrics" in line else f'{{"release":"{self.release}"}}'.encode())

    def swap(self, release: Path) -> None:
        self.release = release

    def kill_encoder(self) -> None:
        self.killed += 1

    def cpu(self) -> float:
        self.used += 1
        return self.used

    def megabytes(self) -> float:
        return 100.0


@pytest.fixture
def measured(bench):
    """The rows of a part, by their names, of the base, of ours and of one process."""
    module = bench("serving_parts")
    stubs = [Stub(name) for name in ("before", "after", "one process")]

    def measure(part: str, answer: Callable | None = None) -> dict:
        with served(stubs[0].answer) as first, served(answer or stubs[1].answer) as second, served(stubs[2].answer) as third:
            for stub, url in zip(stubs, (first, second, third), strict=True):
                stub.url = url
            found = module.PARTS[part](module.Bench(stubs, SimpleNamespace(rate=lambda seconds: 50.0), Path("two"), 2, 0.05))
        return {row.what: row for row in found}

    return measure


def test_each_part_is_measured_of_each_server_in_each_round_and_only_ours_has_promises(measured, bench):
    parts = bench("serving_parts").PARTS
    assert set(parts) == {"cost", "saturated", "fair", "bodies", "overload", "swap", "kill", "disconnects", "pictures"}
    for part in ("saturated", "disconnects"):
        rows = measured(part)
        for name in ("before", "after", "one process"):
            own = [row for what, row in rows.items() if what.endswith(f": {name}")]
            assert own and all(len(row.values) == 2 for row in own), (part, name)
            assert any(row.promise for row in own) == (name == "after"), (part, name)


def test_the_table_of_cost_has_time_beside_one_process_and_waits_in_its_notes(measured):
    rows = measured("cost")
    assert rows["search, CPU time beside one process: after"].promise == "at most 2 (one hop more at most)"
    assert "p50" in rows["picture, CPU ms a request: before"].note and "search, CPU time beside one process: one process" not in rows


def test_failed_requests_of_a_swap_are_counted_and_their_server_breaks_its_promise(measured):
    asked = [0]

    async def answer(line: str, body: bytes, writer: asyncio.StreamWriter) -> bytes | None:
        asked[0] += 1
        number = asked[0]
        await asyncio.sleep(0.01)
        return None if number == 20 else reply(200, b"{}")

    rows = measured("swap", answer)
    failed = {name: rows[f"failed requests of a swap and a roll back: {name}"] for name in ("before", "after")}
    assert [*failed["before"].values] == [0, 0] and sum(failed["after"].values) == 1
    assert failed["before"].holds and "failed requests of a swap and a roll back: one process" not in rows


def test_a_server_that_cannot_swap_is_in_the_table_with_what_it_said(measured, bench, monkeypatch):
    def refuse(self, release: Path) -> None:
        raise bench("serving_servers").CannotSwap("port 1 is in use")

    monkeypatch.setattr(Stub, "swap", refuse)
    row = measured("swap")["failed requests of a swap and a roll back: after"]
    assert not row.values and row.note == "port 1 is in use" and not row.holds


def test_requests_that_are_counted_as_errors_are_read_from_the_metrics(bench):
    stub = Stub("after")
    with served(stub.answer) as stub.url:
        assert bench("serving_parts")._errors(stub) == 3


def test_what_does_not_hold_is_said_and_fails_the_check(bench, monkeypatch, capsys):
    serving, row = bench("serving"), bench("ratios").Row
    rows = [row("a: after", [3.0], most=2, reason="why"), row("a: before", [9.0])]
    monkeypatch.setattr(serving, "PARTS", {"cost": lambda made: rows})
    monkeypatch.setattr(serving, "checkout", lambda revision, home: nullcontext(home))
    monkeypatch.setattr(serving, "releases", lambda before, home: (home, home))
    monkeypatch.setattr(serving, "variants", lambda before, after: [])
    monkeypatch.setattr(serving, "served", lambda *_: nullcontext([]))
    monkeypatch.setattr(serving, "Encoder", lambda *_: SimpleNamespace(stop=lambda: None))
    assert serving.main(["cost"]) == 0 and serving.main(["cost", "--check"]) == 1
    shown = capsys.readouterr()
    assert "| a: after | 3 | at most 2 (why) |" in shown.out and "a: after: 3, and at most 2 (why) is promised" in shown.err


DAEMON = """
    import os, sys, time
    if not os.fork():
        os.setsid()
        if not os.fork():
            end = time.process_time() + 0.4
            while time.process_time() < end: pass
            if sys.argv[1] == "ends": os._exit(0)
            time.sleep(60)
        os._exit(0)
    os.wait()
    print("up", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("daemon", ["stays", "ends"])
def test_cpu_time_of_daemons_counts_also_when_they_have_ended_and_none_outlives_its_server(daemon, bench, tmp_path):
    servers = bench("serving_servers")
    command = [sys.executable, "-I", "-S", "-c", textwrap.dedent(DAEMON), daemon]
    server = servers.Server(servers.Variant("one", tmp_path, command), tmp_path, tmp_path)
    end = time.monotonic() + 20
    while server.cpu() < 0.3 and time.monotonic() < end:
        time.sleep(0.02)
    below = servers.tree(server.process.pid)
    assert server.cpu() >= 0.3 and (len(below) == 3 or daemon == "ends")
    server.process.send_signal(signal.SIGTERM)
    for process in below[2:]:  # a daemon that ends by itself is waited for; this one would be killed after ten seconds
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    server.stop()
    assert not [process for process in below if Path(f"/proc/{process}").exists()]


def test_others_take_nothing_while_one_server_is_measured(bench, tmp_path, monkeypatch):
    servers = bench("serving_servers")
    monkeypatch.setattr(servers.Server, "wait", lambda server: None)
    monkeypatch.setattr(servers, "SETTLE_SECONDS", 0.1)
    spin = [sys.executable, "-I", "-S", "-c", "while True: pass"]
    both = [servers.Server(servers.Variant(name, tmp_path, spin), tmp_path, tmp_path) for name in ("one", "other")]
    try:

        def until_working(*working) -> None:
            end, enough = time.monotonic() + 30, [server.cpu() + 0.1 for server in working]
            while any(server.cpu() < least for server, least in zip(working, enough, strict=True)):
                assert time.monotonic() < end, "one of them takes nothing"
                time.sleep(0.02)

        until_working(*both)
        with both[0].alone(both):
            before = both[1].cpu()
            until_working(both[0])
            assert both[1].cpu() == before
        until_working(*both)
    finally:
        for server in both:
            server.stop()


def test_the_encoder_that_is_killed_is_the_process_of_that_name_or_the_one_that_worked_most(bench, tmp_path):
    servers = bench("serving_servers")
    code = """
        import subprocess, sys, time
        work = "import time; end = time.process_time() + 0.2\\nwhile time.process_time() < end: pass\\ntime.sleep(60)"
        for name, body in (("idle", "import time; time.sleep(60)"), ("busy", work)):
            subprocess.Popen([sys.executable, "-I", "-S", "-c", body, name])
        time.sleep(60)
    """
    for pattern, killed in (("idle", "idle"), ("", "busy")):
        command = [sys.executable, "-I", "-S", "-c", textwrap.dedent(code)]
        server = servers.Server(servers.Variant("one", tmp_path, command, encoder=pattern), tmp_path, tmp_path)
        end = time.monotonic() + 20
        while server.cpu() < 0.2 and time.monotonic() < end:
            time.sleep(0.02)
        names = {servers._command(process).split()[-1]: process for process in servers.tree(server.process.pid)[2:]}
        server.kill_encoder()
        while Path(f"/proc/{names[killed]}/cmdline").exists() and Path(f"/proc/{names[killed]}/cmdline").read_bytes():
            time.sleep(0.01)
        other = next(process for name, process in names.items() if name != killed)
        assert Path(f"/proc/{other}/cmdline").read_bytes()
        os.kill(other, signal.SIGKILL)
        server.stop()


def test_the_base_is_a_worktree_for_the_time_of_the_benchmark(bench, tmp_path, monkeypatch):
    servers, project = bench("serving_servers"), tmp_path / "project"
    (project / "bench").mkdir(parents=True)
    for words in (["init", "--quiet"], ["-c", "user.name=a", "-c", "user.email=b", "commit", "--quiet", "--allow-empty", "-m", "c"]):
        subprocess.run(["git", "-C", str(project), *words], check=True)
    monkeypatch.setattr(servers, "HERE", project / "bench")
    with servers.checkout("HEAD", tmp_path) as folder:
        assert (folder / ".git").exists()
    assert not folder.exists()
    assert Clients().stall == 2.0
