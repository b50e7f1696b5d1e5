"""Invalid settings of a release are refused."""

import pytest

from mirepoix.components.publishing.release_config import ReleaseConfig
from mirepoix.models.errors import Refused


def test_a_release_without_golden_items_is_refused():
    with pytest.raises(Refused, match=r"release.golden is 0; give 1 or more"):
        ReleaseConfig(golden=0)
