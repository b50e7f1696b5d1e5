"""A rate outside 0 to 1 is refused."""

import pytest

from mirepoix.components.training.batches.augment_config import AugmentConfig
from mirepoix.models.errors import Refused


@pytest.mark.parametrize("name", ["document_captions", "query_captions", "single_modality"])
@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_rate_outside_0_to_1_is_refused(name, share):
    with pytest.raises(Refused, match=rf"{name} is {share}; it is a share"):
        AugmentConfig(**{name: share})
