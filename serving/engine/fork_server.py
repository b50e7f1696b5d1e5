"""A process that has imported what encoders need, and forks the children that encode: `python -m mirepoix.serving.engine.fork_server FD`.

Nearly all of a child's start is the import of torch, transformers and the model's code. A child that is forked from a process that has done
that opens a small encoder in a tenth of a second, so a killed one is replaced, and a release swapped, in that time. The
imported code is shared between all of them; the process itself holds no weights and computes nothing, so that forking it is safe.

It is asked over a socket: for a child, with the child's end of a socket pair beside the request, and for imports. It ends when the server
hangs up, or is gone.
"""

import asyncio
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mirepoix.models.options import import_named
from mirepoix.serving.engine import child

FIRST = ("torch", "mirepoix.models.encoder", "mirepoix.serving.engine.worker")
"""What every encoder needs."""
LONGEST = 1 << 20
"""Bytes of a request; the names of two thousand modules are a tenth of it."""
ANSWER_SECONDS = 300.0
"""The longest that it may take to answer, which it does after its imports; one that does not is replaced."""


class ForkServerDied(Exception):
    """The process ended while it was asked."""


class ForkServer:
    """The server's end: starts the process when a child is wanted, and again where it has died."""

    def __init__(self, threads: int):
        self.threads = threads
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._turn = asyncio.Lock()
        self._known: Sequence[str] = ()

    async def child(self, end: socket.socket) -> int:
        """Forks a child that speaks over a socket's end, and returns its process id; tried again once where the process had died."""
        async with self._turn:
            try:
                return await asyncio.to_thread(self._forked, end)
            except (ForkServerDied, OSError):
                await asyncio.to_thread(self._end)
                return await asyncio.to_thread(self._forked, end)

    async def learn(self, modules: Sequence[str]) -> None:
        """Has it import what a child had imported when it was ready."""
        async with self._turn:
            self._known = modules
            with suppress(ForkServerDied, OSError):
                if self._socket is not None:
                    await asyncio.to_thread(self._ask, ("learn", modules), None)

    async def close(self) -> None:
        """Ends the process; children go on."""
        async with self._turn:
            await asyncio.to_thread(self._end)

    def _forked(self, end: socket.socket) -> int:
        if self._socket is None:
            self._start()
        pid: int = self._ask(("child", ()), end)
        return pid

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        threads = str(self.threads)
        paths = os.pathsep.join(filter(None, [str(code_root()), os.environ.get("PYTHONPATH")]))
        environment = {
            **os.environ,
            "PYTHONPATH": paths,
            "OMP_NUM_THREADS": threads,
            "OPENBLAS_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
        }
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)
        ours.settimeout(ANSWER_SECONDS)
        self._socket = ours
        if self._known:
            self._ask(("learn", self._known), None)

    def _ask(self, request: tuple[str, Sequence[str]], end: socket.socket | None) -> int:
        assert self._socket is not None
        message = pickle.dumps(request)
        if end is None:
            self._socket.send(message)
        else:
            socket.send_fds(self._socket, [message], [end.fileno()])
        answer = self._socket.recv(64)
        if not answer:
            raise ForkServerDied
        return int(answer)

    def _end(self) -> None:
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # a thread that waits for an answer would keep a closed one open
            self._socket.close()
        if self._process is not None:
            self._process.kill()  # it may be importing, which nothing is lost with, and would end afterwards only
            self._process.wait()
        self._socket = self._process = None


def code_root() -> Path:
    """The folder that processes import `mirepoix` from: the checkout, or the site-packages of an installed wheel."""
    home = Path(__file__).resolve().parents[2]  # of the four layers; an editable install has no other way to name it
    return home if (home / "mirepoix.py").is_file() else home.parent


def main() -> None:
    """Imports and forks, as it is asked, until the server hangs up."""
    # Ctrl-C and systemd reach the whole group; the server ends its children after their requests.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children that end are nobody's, and leave no entry behind
    server = socket.socket(fileno=int(sys.argv[1]))
    for name in FIRST:
        importlib.import_module(name)
    while True:
        message, ends, _, _ = socket.recv_fds(server, LONGEST, 1)
        if not message:
            return
        kind, modules = pickle.loads(message)
        if kind == "learn":
            server.send(b"0")
            if import_named("torch:version").cuda is not None:
                continue  # what is imported may look for GPUs, after which those of a forked process cannot be used
            for name in modules:
                with suppress(Exception):  # it is only earlier, and the child that needs it says what is wrong
                    importlib.import_module(name)
            continue
        pid = os.fork()
        if not pid:
            server.close()
            _child(socket.socket(fileno=ends[0]))
        os.close(ends[0])
        try:
            server.send(str(pid).encode())
        except BrokenPipeError:  # the server has hung up, and the child sees that too
            return


def _child(connection: socket.socket) -> None:
    """Encodes until the parent hangs up; the interpreter's own end would wait for threads of libraries, and has nothing to write."""
    status = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        child.serve(connection)
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main()
