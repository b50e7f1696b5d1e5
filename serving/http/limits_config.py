"""How large a request may be, and how many are answered at once."""

from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.serving.pictures_config import PictureLimits


@dataclass(frozen=True)
class Limits:
    """Limits of one request, and of how many are answered at once."""

    max_body: int = option(32 * 2**20, "most bytes of a request")
    max_inputs: int = option(2048, "most inputs of an embeddings request")
    max_pictures: int = option(32, "most pictures of a request")
    max_request_pixels: int = option(50_000_000, "most pixels of all pictures of a request, by their headers")
    decoding_memory: int = option(512 * 2**20, "most bytes of memory for pictures that are checked at once, of all requests to a process")
    max_text: int = option(65_536, "most characters of a text")
    max_results: int = option(100, "most results of a search")
    max_in_flight: int = option(512, "requests to /v1/ answered at once, and as many to other paths; more get 503 with Retry-After")
    timeout_s: float = option(60.0, "seconds until a request is aborted with 503")
    tiktoken: str = option("", "OpenAI's file cl100k_base.tiktoken, to decode arrays of token ids in `input`; none: they are refused")
    max_reading: int = option(1024, "bodies read at once, which take no place among the requests that are answered")
    max_reading_bytes: int = option(512 * 2**20, "most bytes of bodies that are being read, and of requests that are being answered")
    body_s: float = option(
        10.0,
        "seconds in which a body must come, and one second more for every `body_rate` bytes of it; the longest pause within it",
    )
    body_rate: int = option(64 * 2**10, "bytes a second that a large body must come with")
    picture: PictureLimits = option(PictureLimits, "limits of one picture")

    def __post_init__(self) -> None:
        for name in ("max_body", "max_inputs", "max_in_flight", "max_reading", "max_reading_bytes", "body_rate"):
            if getattr(self, name) < 1:
                raise Refused(f"{name} is {getattr(self, name)}; give 1 or more")
        for name in ("timeout_s", "body_s"):
            if not getattr(self, name) > 0:
                raise Refused(f"{name} is {getattr(self, name):g}; give more than 0 seconds")
