"""The settings of a release."""

from dataclasses import dataclass

from mirepoix.models.options import option


@dataclass(frozen=True)
class ReleaseConfig:
    """The settings of a release."""

    name: str = option("mirepoix", "model name of requests to the endpoint")
