"""The servers that bench/serving.py measures: how each is started, told to swap and ended, and what all of its processes take."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from footprint import children, kilobytes, tree
from serving_load import Clients, run

HERE = Path(__file__).resolve().parent
START_SECONDS = 180.0
SETTLE_SECONDS = 0.5
"""What timers of a server have to do that went off while it was stopped is done in that time."""
TICKS = os.sysconf("SC_CLK_TCK")
BEFORE, AFTER, AFTER_ON_RAY, PLAIN = "before", "after", "after, on Ray", "one process"
HAPROXY = "after, on Ray, HAProxy"
HAPROXY_ENVIRONMENT = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}


class CannotSwap(Exception):
    """A server does not take another release."""


@dataclass(frozen=True)
class Variant:
    """A server: the checkout that it is run from, its command (with RELEASE and PORT), and how it is told to swap."""

    name: str
    root: Path
    command: Sequence[str]
    swap: Sequence[str] = ()  # a command; none: the line `swap RELEASE` on its stdin
    swaps: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)  # beside what all have
    encoder: str = (
        ""  # what the command line of the process that encodes has; none: of those below the first, the leaf that took most CPU time
    )


def variants(before: Path, after: Path) -> list[Variant]:
    """The server of the base, that of the working tree as it is by default and on Ray, and the application in one process."""
    peer = [sys.executable, str(HERE / "serving_peer.py")]
    serve = [sys.executable, "-m", "mirepoix.workflows", "serve", "RELEASE", "--port", "PORT"]
    found = [
        Variant(BEFORE, before, [*peer, "cluster", "RELEASE", "PORT"], encoder="ray::ServeReplica:mirepoix:Encoder"),
        Variant(AFTER, after, serve, swap=serve),
        Variant(PLAIN, before, [*peer, "plain", "RELEASE", "PORT"], swaps=False),
    ]
    if "--ray" in subprocess.run([*serve[:4], "--help"], cwd=after, env=environment(after), capture_output=True, text=True).stdout:
        replica = "ray::ServeReplica:mirepoix"
        on_ray = Variant(AFTER_ON_RAY, after, [*serve, "--ray"], swap=serve, encoder=replica)
        found[2:2] = [on_ray, replace(on_ray, name=HAPROXY, environment=HAPROXY_ENVIRONMENT)]
    return found


def environment(root: Path, threads: int = 1) -> dict[str, str]:
    """The same for all, but for the checkout that modules are imported from; no setting of the developer's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MIREPOIX_", "OTEL_"))}
    return kept | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}


def releases(root: Path, home: Path) -> tuple[Path, Path]:
    """Two releases, made by a checkout: that of the base, if its server is to open them."""
    words = [sys.executable, str(HERE / "serving_peer.py"), "releases", str(home / "releases")]
    subprocess.run(words, cwd=root, env=environment(root, 2), check=True, stdout=subprocess.DEVNULL)
    return home / "releases" / "one", home / "releases" / "two"


@contextmanager
def checkout(revision: str, home: Path) -> Iterator[Path]:
    """A worktree of a revision, for the block."""
    folder = home / "before"
    git = ["git", "-C", str(HERE.parent), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=False)


@dataclass
class Server:
    """A server that runs, with all processes that it started."""

    variant: Variant
    release: Path
    home: Path
    threads: int = 1
    port: int = field(default_factory=lambda: free_port())
    version: str = ""

    def __post_init__(self) -> None:
        self.log = self.home / f"{self.variant.name.replace(', ', '-').replace(' ', '-')}.log"
        self._environment = environment(self.variant.root, self.threads) | {"MIREPOIX_STORAGE": str(self.home / "storage")}
        self._environment |= self.variant.environment
        keeper = [sys.executable, "-I", "-S", str(HERE / "serving_keeper.py")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*keeper, *self._worded(self.variant.command, self.release)],
                cwd=self.variant.root,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def name(self) -> str:
        return self.variant.name

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def wait(self, other_than: str = "") -> None:
        """Waits until it answers, with another release than that."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError, ValueError, KeyError):
                with urllib.request.urlopen(f"{self.url}/health", timeout=10) as reply:
                    self.version = json.load(reply)["release"]
                if self.version != other_than:
                    return
            time.sleep(0.1)
        raise SystemExit(f"bench/serving.py: the server {self.name!r} does not answer:\n{self.log.read_text()[-3000:]}")

    def swap(self, release: Path) -> None:
        """Has it serve another release, and waits until it does."""
        if self.variant.swap:
            words = self._worded(self.variant.swap, release)
            options = {"cwd": self.variant.root, "env": self._environment, "timeout": START_SECONDS}
            ended = subprocess.run(words, capture_output=True, text=True, **options)
            if ended.returncode:
                raise CannotSwap((ended.stderr.strip().splitlines() or ["it ended without a word"])[-1])
        else:
            assert self.process.stdin is not None
            self.process.stdin.write(f"swap {release}\n".encode())
            self.process.stdin.flush()
        self.wait(other_than=self.version)
        self.release = release

    @contextmanager
    def alone(self, servers: Sequence["Server"]) -> Iterator[None]:
        """The others are stopped within the block: idle ones of Ray take a tenth of a core each."""
        others = [each for each in servers if each is not self]
        try:
            for each in others:
                each._signal(signal.SIGSTOP)
            self.wait()
            time.sleep(SETTLE_SECONDS)
            yield
        finally:
            for each in others:
                each._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        for process in tree(self.process.pid)[1:]:  # the first waits for the others
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def cpu(self) -> float:
        """CPU seconds of all of its processes so far, of those that have ended too."""
        return sum(_cpu(process) for process in tree(self.process.pid))

    def megabytes(self) -> float:
        """Memory of all of its processes; what they share is counted once."""
        return sum(kilobytes(process) for process in tree(self.process.pid)) / 1024

    def kill_encoder(self) -> None:
        """Kills the process that encodes."""
        first, *others = tree(self.process.pid)[1:]
        leaves = [process for process in others if process not in children()]  # what others were forked from encodes nothing
        if pattern := self.variant.encoder:
            (found, *_) = [process for process in others if re.search(re.escape(pattern), _command(process))]
        else:
            found = max(leaves or [first], key=_cpu)
        os.kill(found, signal.SIGKILL)

    def stop(self) -> None:
        self._signal(signal.SIGCONT)
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            for process in reversed(tree(self.process.pid)):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            self.process.wait()

    def _worded(self, command: Sequence[str], release: Path) -> list[str]:
        return [{"RELEASE": str(release), "PORT": str(self.port)}.get(word, word) for word in command]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _cpu(process: int) -> float:
    with suppress(OSError):
        # user and system time, and those of children that ended and were waited for
        return sum(map(int, Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[11:15])) / TICKS
    return 0.0


def _command(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


@contextmanager
def served(chosen: Sequence[Variant], release: Path, home: Path, threads: int) -> Iterator[list[Server]]:
    """All servers at once, each warm."""
    servers: list[Server] = []
    try:
        for variant in chosen:
            servers.append(Server(variant, release, home, threads))
            servers[-1].wait()
        for server in servers:
            run(server.url, Clients(("search", "picture", "embed", "health"), requests=40, stall=None))
        yield servers
    finally:
        for server in servers:
            server.stop()


class Encoder:
    """The encoder of a release in a process without a server."""

    def __init__(self, root: Path, release: Path, threads: int, *how: str):
        words = [sys.executable, str(HERE / "serving_peer.py"), "encode", str(release), *how]
        self.process = subprocess.Popen(
            words, cwd=root, env=environment(root, threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n", "the encoder did not open"

    def rate(self, seconds: float, kind: str = "texts") -> float:
        """Items a second of a loop over batches."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{kind} {seconds}\n")
        self.process.stdin.flush()
        rate: float = json.loads(self.process.stdout.readline())
        return rate

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


class Memory:
    """The most memory of a server within a block, beyond what it had before."""

    def __init__(self, server: Server):
        self.server, self.most = server, 0.0

    def __enter__(self) -> "Memory":
        self._before, self._over = self.server.megabytes(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.most = max(self.most, self.server.megabytes() - self._before)
            if self._over.wait(0.1):
                return
