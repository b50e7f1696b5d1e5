"""Sizes and lengths of MIRe that hold nothing are refused."""

import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.retrievers.mire_config import MireConfig, MireTuning


@pytest.mark.parametrize("wrong", [{"width": 0}, {"heads": 0}, {"global_tokens": 0}, {"global_hidden": 0}, {"patch_hidden": 0}])
def test_sizes_below_one_are_refused(wrong):
    with pytest.raises(Refused, match=f"{next(iter(wrong))} is 0; give at least 1"):
        MireConfig(**wrong)
    with pytest.raises(Refused, match="width is nan; give at least 1"):
        MireConfig(width=float("nan"))


def test_settings_of_a_stage_that_mean_nothing_are_refused():
    with pytest.raises(Refused, match="cached_pictures is -1; give at least 0"):
        MireTuning(cached_pictures=-1)
    with pytest.raises(Refused, match="query_padding is 'zeros'; give one of mask, none"):
        MireTuning(query_padding="zeros")


def test_lengths_that_hold_no_word_are_refused():
    with pytest.raises(Refused, match="query_length is 3; give at least 4"):
        MireConfig(query_length=3)
    with pytest.raises(Refused, match=r"tuning.document_length is 3; give at least 4"):
        MireTuning(document_length=3)
