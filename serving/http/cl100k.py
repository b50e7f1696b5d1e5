"""The words of arrays of OpenAI's cl100k_base token ids, which clients such as LangChain send in place of texts.

FILE is the rank file that OpenAI publishes, cl100k_base.tiktoken: on each line the bytes of a token in base64, and its id. To decode is to
look bytes up, so the table is all that is needed. A client may cut between any two tokens, within a character too: bytes that are no
character are left out.
"""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from mirepoix.models.errors import Refused
from mirepoix.serving.http.guard import ApiError

TOKENS = 100_256
CONTROL = range(100_257, 100_277)
NO_FILE = (
    "is an array of token ids; send texts (in LangChain check_embedding_ctx_length=False), or start the server with --tiktoken FILE, which "
    "reads such arrays as OpenAI's cl100k_base"
)


class Cl100k:
    """The bytes of every token, by its id."""

    def __init__(self, tokens: Sequence[bytes]):
        self._tokens = tokens

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """The table of a rank file; refused where that is another file."""
        odd = Refused(
            f"--tiktoken: {path} is not cl100k_base.tiktoken, a base64 token and its id on each of {TOKENS:,} lines; give that file"
        )
        try:
            lines = [line.split() for line in Path(path).expanduser().read_bytes().splitlines() if line.strip()]
            tokens = {int(rank): base64.b64decode(token, validate=True) for token, rank in lines}
        except OSError as error:
            raise Refused(f"--tiktoken: {path} cannot be read ({error.strerror}); give the file cl100k_base.tiktoken") from None
        except ValueError:
            raise odd from None
        # Other vocabularies of OpenAI's have other numbers of tokens; each of them has every byte, and no token twice.
        whole = sorted(tokens) == list(range(TOKENS)) and len(lines) == TOKENS and len(set(tokens.values())) == TOKENS
        if not whole or not {bytes([byte]) for byte in range(256)} <= set(tokens.values()):
            raise odd
        return cls([tokens[rank] for rank in range(TOKENS)])

    def decode(self, ids: Sequence[int], name: str) -> str:
        """The text of token ids; `name` is that of the input, for refusals."""
        if ids and (min(ids) < 0 or max(ids) >= len(self._tokens)):
            odd = next(id for id in ids if not 0 <= id < len(self._tokens))
            what = "a control token" if odd in CONTROL else "no token"
            raise ApiError(
                400, f"{name} has the id {odd}, {what} of cl100k_base; words have ids from 0 to {TOKENS - 1}", name.split("[")[0]
            )
        return b"".join(map(self._tokens.__getitem__, ids)).decode(errors="ignore")


def open_table(path: str) -> Cl100k | None:
    """The table of a rank file; None where no path is given.

    The server opens it once at its start, to refuse a wrong file before anything else.
    """
    return Cl100k.open(path) if path else None
