"""A rule out of range is refused."""

import pytest

from mirepoix.components.curation.curate_config import NearRules
from mirepoix.models.errors import Refused


@pytest.mark.parametrize("rules", [{"texts": 0.3}, {"texts": 1.1}, {"pictures": 17}, {"pictures": -1}])
def test_a_rule_out_of_range_is_refused(rules):
    with pytest.raises(Refused, match=f"near.{next(iter(rules))} is"):
        NearRules(**rules)
