"""How large a picture may be."""

from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option


@dataclass(frozen=True)
class PictureLimits:
    """Limits of one picture."""

    max_bytes: int = option(10 * 2**20, "most bytes of an encoded picture")
    max_pixels: int = option(25_000_000, "most pixels, by the picture's header")
    max_ratio: int = option(100, "highest ratio of the longer side to the shorter; vision towers refuse thin strips")

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_ratio"):
            if getattr(self, name) < 1:
                raise Refused(f"{name} is {getattr(self, name)}; give 1 or more")
