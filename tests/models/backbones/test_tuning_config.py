"""A tuning that trains nothing, or that an encoder cannot carry out, is refused with a reason."""

import pytest

from mirepoix.models.backbones.tuning_config import Lora, Tuning, tuning_problem
from mirepoix.models.errors import Refused


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.5}], ids=str)
def test_adapters_that_cannot_be_are_refused(wrong):
    with pytest.raises(Refused, match=f"lora.{next(iter(wrong))}"):
        Lora(**wrong)


@pytest.mark.parametrize("names", [("left",), ("left", "right")])
def test_towers_that_are_there_fit(names):
    assert tuning_problem(Tuning(names), ["left", "right"]) is None


@pytest.mark.parametrize(("names", "given"), [(("middle", "left"), "middle"), ((), r"\(\)")])
def test_towers_that_are_not_there_do_not_fit(names, given):
    with pytest.raises(Refused, match=rf"^towers {given} cannot be trained; this retriever has left, right: "):
        raise Refused(tuning_problem(Tuning(names), ["left", "right"]))


def test_a_tuning_of_another_retriever_does_not_fit():
    class Other(Tuning):
        pass

    assert tuning_problem(Other(("left",)), ["left"]) == "it is a Other; this retriever takes Tuning: give that"
    assert tuning_problem(Tuning(("left",)), ["left"], Other) == "it is a Tuning; this retriever takes Other: give that"
