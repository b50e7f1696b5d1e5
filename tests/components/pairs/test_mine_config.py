"""Invalid settings of mining are refused."""

import pytest

from mirepoix.components.pairs.mine_config import MineConfig
from mirepoix.models.errors import Refused


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"negatives": 0}, r"mine.negatives is 0; give 1 or more"),
        ({"first": 0}, r"mine.first is 0"),
        ({"batch_size": 0}, r"mine.batch_size is 0"),
        ({"first": 9, "last": 8}, r"mine.last is 8 and mine.first 9"),
        ({"margin": 0.0}, r"mine.margin is 0.0; it is a share"),
        ({"margin": 1.1}, r"mine.margin is 1.1"),
        ({"strategy": "worst"}, r"mine.strategy is 'worst'; give one of top, random"),
        ({"own": "drop"}, r"mine.own is 'drop'; give one of keep, replace"),
    ],
)
def test_an_invalid_config_is_refused(change, why):
    with pytest.raises(Refused, match=why):
        MineConfig(**change)
