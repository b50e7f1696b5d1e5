"""A config is restored from the plain values that it was written as."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_origin, get_type_hints

import pytest

from mirepoix.models.encoder_config import ARCHITECTURES, config_class
from mirepoix.models.errors import Refused
from mirepoix.models.losses.objective import Objective
from mirepoix.models.options import option, refuse_unknown, revive


@dataclass(frozen=True)
class Inner:
    size: int = option(3, "how large")


@dataclass(frozen=True)
class Outer:
    names: tuple[str, ...] = option(("a",), "what")
    inner: Inner = option(Inner, "nested")
    maybe: Inner | None = option(None, "nested or nothing")
    share: float | None = option(None, "a number or nothing")


@pytest.mark.parametrize("config", [Outer(), Outer(("x", "y"), Inner(5), Inner(7), 0.5)], ids=["defaults", "all set"])
def test_what_went_through_json_is_equal_again(config):
    assert revive(Outer, json.loads(json.dumps(asdict(config)))) == config


def test_a_field_that_is_left_out_gets_its_default():
    assert revive(Outer, {"share": 0.5}) == Outer(share=0.5)


def test_an_unknown_field_is_refused_with_those_there_are():
    with pytest.raises(Refused, match=r"shape.*names, inner, maybe, share"):
        revive(Outer, {"shape": 1})


def test_what_is_none_of_the_values_of_a_field_is_refused_in_one_line_with_those_there_are():
    @dataclass(frozen=True)
    class Chosen:
        stage: Literal[0, 1] = option(0, "a number of two")
        form: Literal["long", "short"] = option("long", "a word of two")

    refuse_unknown(Chosen(1, "short"))
    with pytest.raises(Refused, match=r"^form is 'wide'; give one of long, short$"):
        refuse_unknown(Chosen(form="wide"))
    with pytest.raises(Refused, match=r"^given\.stage is 2; give one of 0, 1$"):
        refuse_unknown(Chosen(2), "given.")


CONFIGS = [Objective, *(kind for name in ARCHITECTURES for kind in (config_class(name), config_class(name).TUNING))]


@pytest.mark.parametrize(
    ("config", "name"),
    [(config, name) for config in dict.fromkeys(CONFIGS) for name, hint in get_type_hints(config).items() if get_origin(hint) is Literal],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_config_of_the_models_refuses_them(config, name):
    with pytest.raises(Refused, match=f"{name} is 'odd'; give one of "):
        config(**{name: "odd"})


def test_a_field_has_its_description():
    assert [field.metadata["help"] for field in fields(Inner)] == ["how large"]


def test_a_default_that_is_made_is_made_for_each_config():
    calls = []

    @dataclass
    class Listed:
        names: list = option(lambda: calls.append(1) or [], "mutable")

    assert Listed().names is not Listed().names
    assert len(calls) == 2
