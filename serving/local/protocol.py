"""HTTP as uvicorn speaks it, but for requests that are to be refused as too many: these are answered before they are parsed.

Under ten times the load that the encoders manage, nine of ten requests are refused. Through the parser, the application and its middleware
these would take CPU time that the encoders need (`python bench/serving.py overload` measures what is still answered then).
"""

import re
from collections.abc import Callable
from typing import cast

from fastapi.responses import JSONResponse
from starlette.types import Scope

from mirepoix.serving.http.admission import Admission
from mirepoix.serving.http.guard import ApiError, error_reply
from mirepoix.serving.local.heads import BoundedHeads

PATHS = (b"POST /v1/search ", b"POST /v1/embeddings ")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_UNUSUAL = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade|connection:[ \t]*close)", re.IGNORECASE)
"""What makes a request one for the parser: where its body ends, or what becomes of its connection, is said otherwise."""


class BusyProtocol(BoundedHeads):
    """Answers a whole request to the encoders with `refusal`, if there is one."""

    refusal: Callable[[], bytes | None]
    admission: Admission

    def data_received(self, data: bytes) -> None:
        if not (data.startswith(PATHS) and self._is_idle() and _whole(data)):
            super().data_received(data)
        elif (reply := type(self).refusal()) is None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self.admission.enter(cast(Scope, self.cycle.scope))
        elif self.flow.write_paused:  # a client that asks on and reads none of its refusals, which would fill the memory
            self.transport.abort()
        else:
            self._unset_keepalive_if_required()
            self.head_came()
            self.transport.write(reply)
            self.keep_alive()


def _whole(data: bytes) -> bool:
    """Whether this is one request, from its first byte to its last."""
    head, end, body = data.partition(b"\r\n\r\n")
    head += b"\r\n"
    length = _LENGTH.findall(head)
    return bool(end) and len(length) == 1 and int(length[0]) == len(body) and not _UNUSUAL.search(head)


def whole_reply(error: ApiError, headers: dict[str, str]) -> bytes:
    """A refusal as it goes over the wire."""
    reply: JSONResponse = error_reply(error)
    lines = [f"HTTP/1.1 {error.status} Service Unavailable".encode()]
    lines += [name + b": " + value for name, value in reply.raw_headers]
    lines += [f"{name}: {value}".encode() for name, value in headers.items()]
    return b"\r\n".join([*lines, b"", bytes(reply.body)])
