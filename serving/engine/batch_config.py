"""How items of several requests are put into batches, and how long a request may wait for its turn."""

from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option


@dataclass(frozen=True)
class BatchConfig:
    """The batches of an encoder, and the longest waits before a request is refused as too many."""

    batch_size: int = option(32, "most items per batch")
    batch_wait_s: float = option(0.005, "seconds that a busy encoder waits for its next batch to be as full as the last")
    interactive_items: int = option(8, "a request of up to so many inputs passes those of more")
    bulk_part_s: float = option(0.05, "seconds of a batch that bulk inputs may take while interactive requests come in")
    interactive_wait_s: float = option(1.5, "longest wait, by the measured rate, of an interactive request; beyond it is refused with 503")
    bulk_wait_s: float = option(50.0, "the same of a bulk request")

    def __post_init__(self) -> None:
        for name in ("batch_size", "interactive_items"):
            if getattr(self, name) < 1:
                raise Refused(f"{name} is {getattr(self, name)}; give 1 or more")
        for name in ("batch_wait_s", "bulk_part_s", "interactive_wait_s", "bulk_wait_s"):
            if getattr(self, name) < 0:
                raise Refused(f"{name} is {getattr(self, name):g}; give 0 or more seconds")
