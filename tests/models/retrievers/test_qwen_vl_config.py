"""Budgets that hold nothing are refused by the configs of both retrievers over a Qwen-VL model."""

import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.retrievers.jfe_config import JfeConfig
from mirepoix.models.retrievers.unite_config import UniteConfig


@pytest.mark.parametrize(
    "given",
    [
        {"max_length": 0},
        {"max_frame_pixels": -1},
        {"max_frames": 0},
        {"frames_per_second": 0.0},
        {"min_pixels": 100, "max_pixels": 50},
        {"min_frame_pixels": 100, "max_pixels": 50},
        {"min_frame_pixels": 0},
    ],
    ids=str,
)
@pytest.mark.parametrize("config", [UniteConfig, JfeConfig], ids=lambda config: config.__name__)
def test_budgets_that_cannot_be_are_refused(config, given):
    with pytest.raises(Refused, match=f"{next(iter(given))} is .*; give a"):
        config(**given)
