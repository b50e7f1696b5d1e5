"""Shares lie between 0 and 1; an entry of the mixture names a source, perhaps a task, and a weight."""

import pytest

from mirepoix.components.pairs.pairs_config import PairsConfig, Weight, parsed
from mirepoix.models.errors import Refused


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_0_to_1_is_refused(share):
    with pytest.raises(Refused, match="without_instruction"):
        PairsConfig(without_instruction=share)


@pytest.mark.parametrize(
    ("entry", "weight"),
    [
        ("coco:t->i=2", Weight("coco", "t->i", 2.0)),
        ("*:it->t=0.5", Weight("*", "it->t", 0.5)),
        (" coco=.1 ", Weight("coco", "*", 0.1)),
        ("web*:*->t=1e1", Weight("web*", "*->t", 10.0)),
        ("a:b=1", Weight("a:b", "*", 1.0)),
        ("a:b:*=0", Weight("a:b", "*", 0.0)),
    ],
)
def test_an_entry_names_a_source_perhaps_a_task_and_a_weight(entry, weight):
    assert parsed(entry) == weight


@pytest.mark.parametrize("entry", ["coco", "=2", ":t->i=2", ""])
def test_a_malformed_entry_is_refused_with_the_form(entry):
    with pytest.raises(Refused, match=r"write SOURCE:TASK=WEIGHT"):
        parsed(entry)


@pytest.mark.parametrize("weight", ["", "two", "-1", "nan", "inf"])
def test_a_weight_below_0_or_not_a_number_is_refused(weight):
    with pytest.raises(Refused, match="give a number of 0 or more"):
        parsed(f"coco={weight}")
