"""Overrides of a config as Python values."""

from pathlib import Path

import numpy as np
import pytest

from mirepoix.components.curation.curate_config import NearRules
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.errors import Refused
from mirepoix.models.retrievers.jfe_config import JfeConfig
from mirepoix.workflows.python.values import with_values
from mirepoix.workflows.recipes.registry import recipe, resolve


def quickstart(**values):
    return with_values(recipe("quickstart"), values)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("instruct__max_steps", 600, "instruct.max_steps=600"),
        ("instruct.max_steps", np.int64(600), "instruct.max_steps=600"),
        ("instruct__learning_rate", 1e-4, "instruct.learning_rate=1e-4"),
        ("instruct__learning_rate", 1, "instruct.learning_rate=1"),
        ("instruct__loss__symmetric", True, "instruct.loss.symmetric=true"),
        ("adapt", None, "adapt=null"),
        ("release__name", "12", "release.name=12"),
        ("sources__path", ["a", Path("b")], 'sources.path=["a", "b"]'),
        ("sources__path", "one, two", 'sources.path=["one, two"]'),
        ("sources__path", Path("one"), "sources.path=one"),
        ("backbone__encoder", JfeConfig, "backbone.encoder=JfeConfig"),
        ("backbone__encoder", "JfeConfig", "backbone.encoder=JfeConfig"),
        ("curate__near", {"pictures": None}, "curate.near.pictures=null"),
        ("curate__near", NearRules(pictures=None), "curate.near.pictures=null"),
    ],
)
def test_a_python_value_sets_what_its_text_sets_on_the_command_line(name, value, text):
    assert quickstart(**{name: value}) == resolve("quickstart", [text]) != recipe("quickstart")


def test_a_config_is_taken_whole_and_an_arm_by_its_name():
    encoder = AdoptedConfig(several="sum", width=8)
    assert quickstart(backbone__encoder=encoder, backbone__name="some/model").backbone.encoder == encoder
    compared = with_values(recipe("quickstart_all"), {"arms.mire.adapt.max_steps": 7, "only": ["mire"]})
    assert compared.arms["mire"].adapt.max_steps == 7 and compared.only == ("mire",)


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("instruct__max_step", 3, "there is no 'instruct.max_step' here; did you mean instruct.max_steps"),
        ("instruct__max_steps", "3", "run: instruct.max_steps is '3' but takes a whole number"),
        ("instruct__max_steps", True, "run: instruct.max_steps is True but takes a whole number"),
        ("instruct__save_steps", None, "run: instruct.save_steps is null but takes a whole number"),
        ("instruct__max_steps", 0, "run: instruct: max_steps is 0"),
        ("sources__path", 3, "run: sources.path is 3 but takes a list, each of it text"),
        (
            "sources__path",
            {1},
            "sources.path is of the type set; give a text, a number, a bool, None, a path, a list, a mapping or a config",
        ),
        ("backbone__encoder", "JfeConfg", "run: backbone.encoder is 'JfeConfg' but takes the fields of "),
        ("backbone__encoder", NearRules(), "run: backbone.encoder.class is 'NearRules'; it must be "),
        ("curate__near", {"picture": None}, "run: there is no 'curate.near.picture'; did you mean curate.near.pictures"),
    ],
)
def test_what_a_field_does_not_take_is_refused_in_one_line(name, value, line):
    with pytest.raises(Refused) as refused:
        quickstart(**{name: value})
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value)
