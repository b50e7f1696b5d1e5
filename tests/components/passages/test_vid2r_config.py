"""Invalid numbers are refused."""

import pytest

from mirepoix.components.passages.vid2r_config import Vid2rConfig
from mirepoix.models.errors import Refused


@pytest.mark.parametrize(
    "change", [{"form": "third"}, {"neighbours": 0}, {"found_within": -1}, {"retriever": "s3://key:secret@bucket/release"}]
)
def test_what_cannot_be_right_is_refused(change):
    with pytest.raises(Refused):
        Vid2rConfig(**change)
