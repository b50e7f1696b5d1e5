"""A config comes back from the plain values that it was written as."""

import json
from dataclasses import asdict, dataclass, fields

import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.options import option, revive


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


def test_a_field_says_what_it_is():
    assert [field.metadata["help"] for field in fields(Inner)] == ["how large"]


def test_a_default_that_is_made_is_made_for_each_config():
    calls = []

    @dataclass
    class Listed:
        names: list = option(lambda: calls.append(1) or [], "mutable")

    assert Listed().names is not Listed().names
    assert len(calls) == 2
