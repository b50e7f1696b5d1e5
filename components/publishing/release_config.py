"""The settings of a release."""

from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option


@dataclass(frozen=True)
class ReleaseConfig:
    """The settings of a release."""

    name: str = option("mirepoix", "model name of requests to the endpoint")
    golden: int = option(4, "items of each modality whose vectors the release contains, for verification where it is opened")

    def __post_init__(self) -> None:
        if self.golden < 1:
            raise Refused(f"release.golden is {self.golden}; give 1 or more")
