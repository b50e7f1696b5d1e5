"""A budget of tokens that no text fits in is refused by the configs of both retrievers over T5 and CLIP."""

import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.retrievers.marvel_config import MarvelConfig, MarvelTuning
from mirepoix.models.retrievers.mimic_config import MimicConfig


@pytest.mark.parametrize("made", [MarvelConfig, MimicConfig, MarvelTuning], ids=lambda made: made.__name__)
def test_a_budget_that_holds_no_text_is_refused(made):
    assert made(text_length=2).text_length == 2
    with pytest.raises(Refused, match="text_length is 1; give at least 2"):
        made(text_length=1)
