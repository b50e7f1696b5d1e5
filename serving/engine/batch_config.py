"""How items of several requests are put into batches, and how long a request may wait for its turn."""

from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option


@dataclass(frozen=True)
class BatchConfig:
    """The batches of an encoder, and the longest waits before a request is refused as too many."""

    batch_size: int = option(32, "most items per batch")
    batch_wait_s: float = option(0.005, "seconds that an encoder that has just finished a batch waits for the next one to be as large")
    interactive_items: int = option(8, "a request of up to so many inputs is interactive, and goes before larger ones")
    bulk_share: float = option(
        2.0, "while interactive requests come in, the larger ones' part of a batch takes at most as long as so many interactive ones"
    )
    interactive_wait_s: float = option(
        1.0, "longest time in the queue, by the measured rate, of an interactive request; one that would wait longer gets 503"
    )
    bulk_wait_s: float = option(50.0, "the same of a larger request")

    def __post_init__(self) -> None:
        for name in ("batch_size", "interactive_items"):
            if getattr(self, name) < 1:
                raise Refused(f"{name} is {getattr(self, name)}; give 1 or more")
        for name in ("batch_wait_s", "bulk_share", "interactive_wait_s", "bulk_wait_s"):
            if getattr(self, name) < 0:
                raise Refused(f"{name} is {getattr(self, name):g}; give 0 or more")
