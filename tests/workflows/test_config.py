"""Configs are named, overridden, described and read back without a change."""

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.workflows.config import describe, flatten, jsonable, override, read
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.recipes.registry import recipe


@dataclass(frozen=True)
class Training:
    learning_rate: float = option(1e-4, "peak of the schedule")
    steps: int = option(10, "optimizer steps")
    warmup: float = 0.1
    widths: tuple[int, ...] = (64, 32)
    zero: Literal[0, 1, 2, 3] = 2
    bf16: bool = False

    def __post_init__(self) -> None:
        if self.warmup > self.steps:
            raise Refused(f"warmup is {self.warmup}, more than the {self.steps} steps")


@dataclass(frozen=True)
class Unite:
    backbone: str = "tiny"
    target_mask: bool = True


@dataclass(frozen=True)
class Mire:
    backbone: str = "tiny"
    queries: int = 4


@dataclass(frozen=True)
class WideMire(Mire):
    towers: tuple[str, ...] = ("clip", "bert")


@dataclass(frozen=True)
class Source:
    path: str
    weight: float | None = None


@dataclass(frozen=True)
class Recipe:
    name: str = option("quickstart", "what the run is called:\n  a word")
    adapt: Training = field(default_factory=Training, metadata={"help": "post-training adaptation"})
    instruct: Training = field(default_factory=Training)
    refine: Training | None = None
    encoder: Unite | Mire = field(default_factory=Unite)
    sources: tuple[Source, ...] = (Source("a.jsonl"), Source("b.jsonl", 0.5))
    branches: dict[str, Source] = field(default_factory=dict)
    mixture: dict[str, float] = field(default_factory=lambda: {"it->t": 1.0})
    device: str | int | None = None


def test_every_value_has_a_dotted_name_in_the_order_of_the_fields():
    names = list(flatten(Recipe()))
    assert names[:4] == ["name", "adapt.learning_rate", "adapt.steps", "adapt.warmup"]
    assert {"refine", "encoder.target_mask", "sources.1.weight", "mixture"} <= set(names)
    assert flatten(Recipe())["adapt.widths"] == (64, 32)


def test_a_value_is_replaced_by_its_dotted_name_and_the_rest_stays():
    config = override(Recipe(), ["adapt.learning_rate=3e-5", "encoder.backbone=Qwen/Qwen2-VL-2B"])
    assert config == replace(Recipe(), adapt=replace(Training(), learning_rate=3e-5), encoder=Unite(backbone="Qwen/Qwen2-VL-2B"))


@pytest.mark.parametrize(
    ("setting", "name", "value"),
    [
        ("adapt.learning_rate=1e-4", "adapt.learning_rate", 1e-4),
        ("adapt.learning_rate=1", "adapt.learning_rate", 1.0),
        ("adapt.bf16=true", "adapt.bf16", True),
        ("adapt.bf16=False", "adapt.bf16", False),
        ("adapt.widths=8,4, 2", "adapt.widths", (8, 4, 2)),
        ("adapt.widths=[8, 4]", "adapt.widths", (8, 4)),
        ("adapt.widths=16", "adapt.widths", (16,)),
        ("adapt.widths=", "adapt.widths", ()),
        ("adapt.zero=3", "adapt.zero", 3),
        ("sources.1.weight=null", "sources.1.weight", None),
        ("sources.0.weight=2", "sources.0.weight", 2.0),
        ("sources.0.path=a=b.jsonl", "sources.0.path", "a=b.jsonl"),
        ('mixture={"t->it": 0.25}', "mixture", {"t->it": 0.25}),
        ("device=none", "device", None),
        ("device=cuda", "device", "cuda"),
        ("name=null", "name", "null"),
        ("name=", "name", ""),
        ("name=10", "name", "10"),
    ],
)
def test_a_setting_is_read_as_the_type_of_its_field(setting, name, value):
    found = flatten(override(Recipe(), [setting]))[name]
    assert found == value and type(found) is type(value)


def test_settings_that_hold_only_together_are_taken_together():
    assert override(Recipe(), ["adapt.warmup=20", "adapt.steps=30"]).adapt.warmup == 20


def test_a_group_is_switched_off_and_on_and_then_set():
    config = override(Recipe(), ["refine=Training", "refine.steps=3"])
    assert config.refine == Training(steps=3)
    assert override(config, ["refine=null"]).refine is None


def test_a_union_is_switched_to_another_class_by_its_name():
    config = override(Recipe(), ["encoder=WideMire", "encoder.queries=8"])
    assert config.encoder == WideMire(queries=8)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("learning_rate=1", ["'learning_rate'", "adapt.learning_rate or instruct.learning_rate"]),
        ("adapt.learnin_rate=1", ["'adapt.learnin_rate'", "adapt.learning_rate"]),
        ("adapt.learning_rate.x=1", ["'adapt.learning_rate.x'"]),
        ("zzz=1", ["'zzz'", "name", "mixture"]),
        ("refine.steps=1", ["'refine.steps'", "adapt.steps"]),
        ("sources.7.path=x", ["'sources.7.path'", "sources.0.path"]),
        ("adapt.steps=many", ["adapt.steps='many'", "whole number"]),
        ("adapt.steps=1.5", ["adapt.steps='1.5'", "whole number"]),
        ("adapt.steps=true", ["adapt.steps='true'", "whole number"]),
        ("adapt.learning_rate=nan", ["adapt.learning_rate='nan'", "a number"]),
        ("adapt.learning_rate=null", ["adapt.learning_rate='null'", "a number"]),
        ("sources.0.weight=x", ["sources.0.weight='x'", "a number or null"]),
        ("adapt.bf16=maybe", ["adapt.bf16='maybe'", "true or false"]),
        ("adapt.zero=4", ["adapt.zero='4'", "one of 0, 1, 2, 3"]),
        ("adapt.widths=8,x", ["adapt.widths='8,x'", "each of it a whole number"]),
        ("mixture=x", ["mixture='x'", "each value a number"]),
        ("adapt=3", ["adapt='3'", "the fields of Training", "adapt.steps"]),
        ("refine=3", ["refine='3'", "the fields of Training or null"]),
        ("encoder=Unknown", ["encoder='Unknown'", "Unite", "WideMire"]),
        ("adapt.steps", ["'adapt.steps'", "NAME=VALUE"]),
        ("adapt.warmup=11", ["adapt", "warmup is 11", "10 steps"]),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_what_is_allowed(setting, words):
    with pytest.raises(Refused) as refusal:
        override(Recipe(), [setting])
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("workers", [[], ["adapt.num_workers=4"]])
def test_the_batch_of_a_worker_is_refused_with_the_batch_of_all_of_them(workers, tmp_path: Path):
    whole = 64 if workers else 16
    translated = f"give adapt.global_batch_size={whole}, the pairs of all workers together (16 x num_workers {whole // 16})"
    with pytest.raises(Refused) as refusal:
        override(recipe("quickstart"), ["adapt.per_device_train_batch_size=16", *workers])
    assert str(refusal.value) == f"there is no 'adapt.per_device_train_batch_size' here; {translated}"
    path = tmp_path / "run.yaml"
    described = describe(override(recipe("quickstart"), [*workers, "adapt.global_batch_size=16"]))
    path.write_text(described.replace("global_batch_size", "per_device_train_batch_size", 1))
    with pytest.raises(Refused) as refusal:
        read(path, Retrieval)
    assert str(path) in str(refusal.value) and str(refusal.value).endswith(f"there is no 'adapt.per_device_train_batch_size'; {translated}")
    if not workers:  # a file that leaves the number of workers to its default
        path.write_text(path.read_text().replace("  num_workers: 1  #", "  #"))
        with pytest.raises(Refused, match=re.escape(translated)):
            read(path, Retrieval)
    near = r"there is no 'per_device_train_batch_size' here; did you mean adapt\.global_batch_size, instruct\.global_batch_size"
    with pytest.raises(Refused, match=near):
        override(recipe("quickstart"), ["per_device_train_batch_size=16"])


def test_a_group_without_defaults_cannot_be_made_from_its_name_alone():
    @dataclass(frozen=True)
    class Holder:
        source: Source | None = None

    with pytest.raises(Refused, match=r"path has no default"):
        override(Holder(), ["source=Source"])


def test_a_described_config_carries_the_help_of_each_field():
    lines = describe(Recipe()).splitlines()
    assert lines[0] == "name: quickstart  # what the run is called: a word"
    assert lines[1] == "adapt:  # post-training adaptation"
    assert lines[2].startswith("  learning_rate: 0.0001  # peak")
    assert "  class: Unite" in lines


def test_any_yaml_reader_sees_the_same_values_as_ours():
    assert yaml.safe_load(describe(Recipe())) == jsonable(Recipe())


TEXTS = st.text(max_size=30) | st.sampled_from(
    [
        "null",
        "~",
        "true",
        "1e-4",
        "010",
        "0x1f",
        "on",
        "2026-01-01",
        "a: b",
        "# c",
        "- d",
        "...",
        "---",
        " e ",
        "f\ng",
        "\u2028",
        "\x00",
        "=",
        "<<",
        "!x",
    ]
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TRAININGS = st.builds(
    Training,
    learning_rate=NUMBERS,
    steps=st.integers(1, 10**18),
    warmup=st.floats(-1e300, 1),
    widths=st.lists(st.integers()).map(tuple),
    zero=st.sampled_from([0, 1, 2, 3]),
    bf16=st.booleans(),
)
SOURCES = st.builds(Source, path=TEXTS, weight=st.none() | NUMBERS)
RECIPES = st.builds(
    Recipe,
    name=TEXTS,
    adapt=TRAININGS,
    refine=st.none() | TRAININGS,
    encoder=st.builds(Unite, backbone=TEXTS) | st.builds(Mire) | st.builds(WideMire, towers=st.lists(TEXTS, max_size=3).map(tuple)),
    sources=st.lists(SOURCES, max_size=3).map(tuple),
    branches=st.dictionaries(TEXTS, SOURCES, max_size=2),
    mixture=st.dictionaries(TEXTS, NUMBERS, max_size=3),
    device=st.none() | st.integers() | TEXTS,
)


@given(RECIPES)
@settings(max_examples=150, deadline=None)
def test_whatever_is_described_is_read_back_the_same(config):
    assert read(describe(config), Recipe) == config


@given(RECIPES)
@settings(max_examples=50, deadline=None)
def test_an_empty_override_changes_nothing(config):
    assert override(config, []) == config


def test_a_file_is_read_back(tmp_path: Path):
    path = tmp_path / "run.yaml"
    path.write_text(describe(Recipe(name="köche")), encoding="utf-8")
    assert read(path, Recipe) == Recipe(name="köche")


def test_a_number_with_an_exponent_and_no_point_is_a_number():
    text = describe(Recipe()).replace("learning_rate: 0.0001", "learning_rate: 1e-4")
    assert read(text, Recipe) == Recipe()


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("  steps: 10", "  stepz: 10", ["line 4", "'adapt.stepz'", "adapt.steps"]),
        ("  steps: 10", "  steps: ten", ["line 4", "adapt.steps is 'ten'", "a whole number"]),
        ("  steps: 10", "  steps: 10.5", ["line 4", "10.5", "a whole number"]),
        ("  steps: 10", "  steps: true", ["line 4", "True", "a whole number"]),
        ("  steps: 10", "  steps: 10\n  steps: 11", ["adapt.steps is given twice", "line 5"]),
        ("  steps: 10", "  x: 10", ["line 4", "'adapt.x'"]),
        ("  warmup: 0.1\n", "", ["line 2", "adapt.warmup is missing"]),
        ("  warmup: 0.1", "  warmup: 99", ["line 5", "adapt: warmup is 99.0"]),
        ("name: quickstart", "name: 12", ["line 1", "name is 12", "text", "quotes"]),
        ("  class: Unite", "  class: Onion", ["encoder.class is 'Onion'", "Unite, Mire or WideMire"]),
        ("  class: Unite\n", "", ["encoder.class is 'missing'"]),
        ("  zero: 2", "  zero: 7", ["line 7", "one of 0, 1, 2, 3"]),
        ("  widths: [64, 32]", "  widths: [64, x]", ["line 6", "a list, each of it a whole number"]),
        ("name: quickstart", "name: [", ["not a config in YAML"]),
        ("name: quickstart", "- name", ["not a config in YAML"]),
        ("name: quickstart", "name: !!python/object:os.system {}", ["not a config in YAML"]),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path: Path, before, after, words):
    text = describe(Recipe())
    assert before in text
    path = tmp_path / "run.yaml"
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(Refused) as refusal:
        read(path, Recipe)
    assert all(word in str(refusal.value) for word in [str(path), *words]), refusal.value
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["", "3", "[]", "text"])
def test_a_text_that_holds_no_config_is_refused(text):
    with pytest.raises(Refused, match="the fields of Recipe"):
        read(text, Recipe)


def test_a_file_that_is_not_there_or_not_text_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match="cannot read the config"):
        read(tmp_path / "missing.yaml", Recipe)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Refused, match="not a config in YAML"):
        read(tmp_path / "binary.yaml", Recipe)
