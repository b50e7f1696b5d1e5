"""A budget of tokens that no word fits in is refused."""

import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.retrievers.univldr_config import UniVLDRConfig


def test_a_budget_that_holds_no_word_is_refused():
    assert UniVLDRConfig(max_length=3).max_length == 3
    with pytest.raises(Refused, match="max_length is 2; give 3 or more"):
        UniVLDRConfig(max_length=2)
