"""Invalid names of sources are refused when the config is made."""

import pytest

from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.models.errors import Refused


def test_a_path_with_a_key_in_it_is_refused_when_the_config_is_made():
    with pytest.raises(Refused, match="AWS_ACCESS_KEY_ID") as refusal:
        SourcesConfig(path=("s3://name:hidden@bucket/corpus",))
    assert "hidden" not in str(refusal.value)
