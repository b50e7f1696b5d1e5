"""Sizes of a twin that no model can have are refused."""

import pytest

from mirepoix.models.backbones.twin_config import FAMILIES, Tiny
from mirepoix.models.errors import Refused


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 100, "heads": 3},
        {"vision_width": 30, "vision_heads": 4},
        {"vocabulary": 100},
        {"max_pixels": 100},
        {"family": "gpt"},
    ],
    ids=str,
)
def test_sizes_that_cannot_be_are_refused(sizes):
    with pytest.raises(Refused, match=next(iter(sizes))):
        Tiny(**sizes)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_asked_for(family):
    assert Tiny(family=family).family == family
