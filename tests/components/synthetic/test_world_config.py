"""A field out of range is refused, and a config is plain, documented and frozen."""

from dataclasses import FrozenInstanceError, fields

import pytest

from mirepoix.components.synthetic.world import generate
from mirepoix.components.synthetic.world_config import WorldConfig
from mirepoix.models.errors import Refused
from tests.components.synthetic.test_world import small_config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"near_duplicates": 1.5}, "near_duplicates is 1.5; it is a share, give a number from 0 to 1"),
        ({"false_negatives": -0.1}, "false_negatives is -0.1; it is a share"),
        ({"corrupt_files": float("nan")}, "corrupt_files is nan; it is a share"),
        ({"train_queries": 0}, "train_queries is 0; give 1 or more"),
        ({"pictures_per_entity": 0}, "pictures_per_entity is 0; give 1 or more"),
        ({"image_size": 8}, "image_size is 8; give 24 to 1024 pixels"),
        ({"held_out_combinations": 0.7}, "held_out_combinations is 0.7; give 0.5 or less"),
        ({"passages_per_entity": 21}, "passages_per_entity is 21; give at most 20"),
        ({"entities": 9}, "9 entities leave 1 to validation, which needs 2 or more; raise entities or change the shares"),
        ({"validation_entities": 0.5, "held_out_entities": 0.5}, "leave -7 to train, which needs 2 or more"),
        ({"train_queries": 4000}, "4000 queries t->i of train are configured, its 29 entities allow 464; give fewer"),
        ({"entities": 40000}, "entities of test_combination need as many different looks"),
        ({"leaks": 0.95}, "leaks is 0.95, 304 copies of 288 held-out queries; give at most 0.900"),
        ({"false_negatives": 0.9}, "false_negatives is 0.9; each query keeps a positive, so give at most 0."),
    ],
)
def test_a_field_out_of_range_is_refused_in_one_line(changes, message):
    with pytest.raises(Refused) as refusal:
        generate(small_config(**changes), seed=0)

    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_config_is_plain_documented_and_frozen():
    assert all(field.metadata["help"] for field in fields(WorldConfig))
    assert {field.type for field in fields(WorldConfig)} == {int, float}
    with pytest.raises(FrozenInstanceError):
        WorldConfig().entities = 3
