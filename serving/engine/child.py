"""A child process that encodes, forked by the fork server for a `process.ProcessWorker`.

Parent and child speak over a socket, in pickles with their length before them, as `multiprocessing` does; nothing of that is ever stored.
The first message to the child says which release it opens; the first from it is `Ready` once the encoder is proved, or why it is refused.
Then each message is a batch, and each answer what was encoded. The child ends when the parent closes the socket, or is gone.
"""

import pickle
import socket
import struct
import sys
import traceback
from typing import Any, NamedTuple

from mirepoix.models.errors import Refused, typed_line
from mirepoix.serving.engine.freeing import collect_and_freeze

LENGTH = struct.Struct("!Q")


class Opening(NamedTuple):
    """What a child is to open."""

    target: str
    version: str
    trust_remote_code: bool
    number: int  # of the child, which chooses among several GPUs
    threads: int


class Ready(NamedTuple):
    """The encoder is opened and proved; with the names of all modules that this has imported."""

    modules: list[str]


class Fault(NamedTuple):
    """A failure that is no refusal."""

    line: str
    trace: str


def packed(message: Any) -> bytes:
    """A message with its length before it."""
    body = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(body)) + body


def _read(connection: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)


def _received(connection: socket.socket) -> Any:
    (size,) = LENGTH.unpack(_read(connection, LENGTH.size))
    return pickle.loads(_read(connection, size))


def serve(connection: socket.socket) -> None:
    """Opens the release that the parent names, and encodes until it hangs up."""
    try:
        opening: Opening = _received(connection)
        try:
            encode = _opened(opening)
        except Refused as refused:
            connection.sendall(packed(str(refused)))
            return
        except Exception as error:  # noqa: BLE001 told to the parent, which says it to the user
            connection.sendall(packed(Fault(typed_line(error), traceback.format_exc())))
            return
        collect_and_freeze()
        connection.sendall(packed(Ready([*sys.modules])))
        while True:
            requests = _received(connection)
            try:
                answer = encode(requests)
            except Exception as error:  # noqa: BLE001 a fault of one batch; the parent writes it to the log
                answer = Fault(typed_line(error), traceback.format_exc())
            connection.sendall(packed(answer))
    except (EOFError, ConnectionError):
        return


def _opened(opening: Opening) -> Any:
    import torch

    torch.set_num_threads(opening.threads)
    from mirepoix.serving.engine.worker import open_encoder
    from mirepoix.serving.release import ENCODER_PARTS, open_release

    release = open_release(opening.target, parts=ENCODER_PARTS)  # the server has verified the index, which it has open
    if release.version != opening.version:
        raise Refused(
            f"{opening.target} holds version {release.version} now, and version {opening.version} was opened; "
            "swap to what is there (mirepoix serve)"
        )
    return open_encoder(release, opening.trust_remote_code, opening.number)
