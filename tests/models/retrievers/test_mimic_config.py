"""Settings of MiMIC that mean nothing are refused."""

import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.retrievers.mimic_config import MimicConfig, MimicTuning


@pytest.mark.parametrize("name", ["mix_in", "mix_ratio"])
def test_a_share_is_between_0_and_1(name):
    for value in (-0.1, 1.1):
        with pytest.raises(Refused, match=f"tuning.{name} is {value}; it is a share"):
            MimicTuning(**{name: value})


def test_unknown_ways_are_refused_with_those_there_are():
    with pytest.raises(Refused, match="mix is 'swap'; give one of interpolate, replace"):
        MimicTuning(mix="swap")
    with pytest.raises(Refused, match="fusion is 'early'; give one of joint, sum"):
        MimicConfig(fusion="early")
