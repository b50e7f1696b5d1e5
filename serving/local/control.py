"""The control socket of a server on this machine, by which another command asks it for another release.

A socket in a folder that only its user may enter, named by the port of the server. A request is one line of JSON; the answer is a line for
each step, as text to show, and a last one that says what came of it. The socket of a server that was killed does no harm: a connection to
it is refused, and the next server at the port replaces it.
"""

import json
import os
import socket
import socketserver
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from mirepoix.models.errors import Refused, typed_line
from mirepoix.serving.store import cache_folder

LONGEST_NAME = 100
"""Bytes of a socket's path; Linux takes 107."""
CONNECT_SECONDS = 5.0
"""A server takes a connection at once; one that does not for so long, as it was stopped by a signal, counts as none."""
TEMPORARY, RUNTIME = Path("/tmp"), Path("/run/user")

Answer = Callable[[dict[str, Any], Callable[[str], None]], dict[str, Any] | None]
"""Does what a request asks for, with a way to say what it does meanwhile; Refused where it does not, None where the request is meant for
another server."""


def socket_of(port: int) -> Path:
    """Where a server at a port that is started in this environment has its control socket."""
    return _sockets(port)[0]


def _sockets(port: int) -> list[Path]:
    """Every place where the server at a port may have its control socket; a server takes the first one of its environment.

    A service of systemd has no XDG_RUNTIME_DIR and a login shell of the same user has one, so a command looks in all places.
    """
    user, given = os.getuid(), Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    folders = [given / "mirepoix"] if given.is_absolute() and given.is_dir() else []
    folders += [cache_folder() / "servers", TEMPORARY / f"mirepoix-{user}", RUNTIME / str(user) / "mirepoix"]
    return [folder / f"{port}.sock" for folder in dict.fromkeys(folders) if len(bytes(folder)) <= LONGEST_NAME - 10]


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


class Control:
    """Answers at the control socket of a port, within the block."""

    def __init__(self, port: int, answer: Answer):
        self.path, self._answer = socket_of(port), answer

    def __enter__(self) -> "Control":
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_private(self.path.parent):
            raise Refused(
                f"{self.path.parent} is open to others, and would have the server's control socket; remove it, or close it (chmod 700)"
            )
        self.path.unlink(missing_ok=True)
        answer = self._answer

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self._send(_answered(answer, self.rfile.readline(), lambda line: self._send({"line": line})))

            def _send(self, message: dict[str, Any]) -> None:
                with suppress(BrokenPipeError, ConnectionResetError):  # the command has ended; what it asked for is done all the same
                    self.wfile.write(_line(message))

        self._server = _Server(str(self.path), Handler)
        threading.Thread(target=self._server.serve_forever, name="control", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.path.unlink(missing_ok=True)
        self._server.shutdown()
        self._server.server_close()


def _is_private(folder: Path) -> bool:
    """Whether only this user may enter a folder: another one could answer there in the place of a server."""
    try:
        there = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(there.st_mode) and there.st_uid == os.getuid() and not there.st_mode & 0o077


def _answered(answer: Answer, line: bytes, say: Callable[[str], Any]) -> dict[str, Any]:
    try:
        return {"done": answer(json.loads(line), say)}
    except Refused as refused:
        return {"refused": str(refused)}
    except Exception as error:  # noqa: BLE001 the command prints it, and the server goes on
        return {"refused": typed_line(error)}


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode() + b"\n"


def ask(port: int, request: dict[str, Any], say: Callable[[str], None]) -> dict[str, Any] | None:
    """What the server of this user at a port answers to a request; None where there is none, or the request is meant for another one.
    Refused where it declines.
    """
    connection = next(filter(None, map(_connected, _sockets(port))), None)
    if connection is None:
        return None
    with connection, suppress(ConnectionError), connection.makefile("rb") as lines:
        connection.sendall(_line(request))
        for line in lines:
            message = json.loads(line)
            if "line" in message:
                say(message["line"])
            elif "refused" in message:
                raise Refused(message["refused"])
            else:
                done: dict[str, Any] | None = message["done"]
                return done
    raise Refused(f"the server at port {port} ended before it answered; see what it printed")


def _connected(path: Path) -> socket.socket | None:
    """A connection to a control socket; None where no server of this user listens there."""
    if not _is_private(path.parent):
        return None
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(CONNECT_SECONDS)
    try:
        connection.connect(str(path))
    except (OSError, TimeoutError):
        connection.close()
        return None
    connection.settimeout(None)
    return connection
