"""How a published model is used: settings that cannot be obeyed are refused, and what it reads is known from its folder."""

import pytest

from mirepoix.components.training.backbone_config import BackboneConfig
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"instructed": "Find: "}, r"^instructed is 'Find: '; give a text in which \{instruction\} stands for the instruction$"),
        ({"instructed": "{x} {instruction}"}, r"^instructed is '\{x\} \{instruction\}'; give a text in which"),
        ({"width": 0}, r"^width is 0; give 1 or more, or null$"),
        ({"max_length": -1}, r"^max_length is -1; give 1 or more, or null$"),
        ({"several": "mean"}, r"^several is 'mean'; give one of refuse, sum$"),
    ],
)
def test_a_setting_that_cannot_be_obeyed_is_refused(given, why):
    with pytest.raises(Refused, match=why):
        AdoptedConfig(**given)


def test_of_a_tiny_twin_and_of_a_hub_id_that_is_not_here_only_the_class_is_known(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert BackboneConfig(AdoptedConfig()).traits.towers == ("text", "vision")
    assert AdoptedConfig().traits({"model": Checkpoint("some/model")}).towers is None


def test_a_width_that_is_asked_for_is_the_width(layout):
    checkpoints = {"model": Checkpoint(layout("clip"))}
    assert AdoptedConfig().traits(checkpoints).width == 64
    assert AdoptedConfig(width=8).traits(checkpoints) == (Modality.TEXT | Modality.IMAGE, ("text", "vision"), 8)
