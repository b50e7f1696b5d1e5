"""The key changes with whatever decides a result, and with nothing else."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest

from mirepoix.models.options import option
from mirepoix.serving.store import publish
from mirepoix.workflows.runner.fingerprint import flatten, ingredients, key_of, latest, library_version, plain, undecisive, why_rerun
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.source_code import module_hashes, parsed
from tests.workflows.runner.stub_stages import COPY, FAIL, StubConfig


@dataclass(frozen=True)
class Tower:
    layers: int = 2


@dataclass(frozen=True)
class OtherTower:
    layers: int = 2


@dataclass(frozen=True)
class Machine:
    cpus: int = option(1, "how many", decides=False)
    model: str = option("tiny", "which")


@dataclass(frozen=True)
class Run:
    machine: Machine | None = option(Machine, "nested")
    machines: tuple[Machine, ...] = option((Machine(),), "in a list")
    named: Mapping[str, Machine] = option(lambda: {"first": Machine()}, "in a dict")
    patience: float = option(60.0, "seconds", decides=False)


@dataclass(frozen=True)
class Recipe:
    tower: Tower | OtherTower = field(default_factory=Tower)
    rates: tuple[float, ...] = (1e-4,)
    name: str | None = None


STAGE = Stage("join", COPY, StubConfig("log"), {"left": "load"}, ("mirepoix.workflows.cluster.janitor",), ("pyarrow",))
DIGESTS = {"left": "d1"}


@pytest.mark.parametrize(
    "same",
    [
        "def f(x):\n    # a comment\n    return x+1\n",
        'def f(x):\n    """A docstring."""\n    return (\n        x + 1\n    )\n',
        "    def f(x):\n        return x + 1\n",
        '"""A module."""\n\n\ndef f( x ): return x + 1',
    ],
)
def test_comments_layout_and_docstrings_do_not_count(same):
    assert parsed(same).hash == parsed("def f(x):\n    return x + 1\n").hash


@pytest.mark.parametrize(
    "other", ["def f(x):\n    return x + 2\n", "def f(y):\n    return y + 1\n", "def f(x):\n    'a'\n    'b'\n    return x + 1\n"]
)
def test_code_counts(other):
    assert parsed(other).hash != parsed("def f(x):\n    return x + 1\n").hash


def test_a_module_is_hashed_without_being_imported(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "never_imported_here.py").write_text("raise RuntimeError\n")
    assert module_hashes("never_imported_here") == {"never_imported_here": parsed("raise RuntimeError").hash}
    assert "never_imported_here" not in sys.modules
    with pytest.raises(
        AssertionError, match="module no_such_module is named by a stage or imported by its work, but there is no file of it"
    ):
        module_hashes("no_such_module")


def test_a_config_is_plain_json_and_keeps_the_names_of_its_classes():
    assert plain(Recipe()) == {"class": "Recipe", "tower": {"class": "Tower", "layers": 2}, "rates": [1e-4], "name": None}
    assert plain(Recipe(tower=OtherTower())) != plain(Recipe())
    assert flatten(plain(Recipe()))["tower.class"] == "Tower"
    with pytest.raises(AssertionError, match="plain values, not object"):
        plain({"x": object()})


def test_what_does_not_decide_the_result_is_left_out_of_keys_at_every_depth_and_nowhere_else():
    other = Run(Machine(2), (Machine(3),), {"first": Machine(4)}, 1.0)
    tiny = {"class": "Machine", "model": "tiny"}
    assert plain(other, deciding=True) == {"class": "Run", "machine": tiny, "machines": [tiny], "named": {"first": tiny}}
    assert flatten(plain(other))["machine.cpus"] == 2 and flatten(plain(other))["patience"] == 1.0
    before, after = (ingredients(replace(STAGE, config=config), DIGESTS) for config in (Run(), other))
    assert key_of(before) == key_of(after)
    assert key_of(before) != key_of(ingredients(replace(STAGE, config=Run(Machine(model="large"))), DIGESTS))


def test_no_reason_names_what_does_not_decide_the_result_though_it_was_in_the_key_of_an_earlier_version():
    old = {**ingredients(STAGE, DIGESTS), "config": plain(Run(Machine(2)))}
    new = ingredients(replace(STAGE, config=Run(Machine(4, "large"), patience=1.0)), DIGESTS)
    assert undecisive(Run()) == {"machine.cpus", "patience", "named.first.cpus"}
    assert why_rerun(old, new, STAGE.inputs, undecisive(Run())).startswith(
        "config changed: machine.model tiny -> large; config changed: machines "
    )
    assert why_rerun({**old, "config": plain(Run(Machine(4, "large")), deciding=True)}, new, STAGE.inputs) == "its result is gone"


@pytest.mark.parametrize(
    ("stage", "digests", "reason"),
    [
        (STAGE, {"left": "d2"}, "input load changed"),
        (replace(STAGE, config=StubConfig("log", salt=1)), DIGESTS, "config changed: salt 0 -> 1"),
        (replace(STAGE, seed=3), DIGESTS, "seed 0 -> 3"),
        (replace(STAGE, modules=()), DIGESTS, "source changed: mirepoix.workflows.cluster.janitor"),
        (replace(STAGE, libraries=("pyarrow", "none-such")), DIGESTS, "library none-such absent -> absent"),
        (replace(STAGE, work=FAIL), DIGESTS, f"work {COPY} -> {FAIL}"),
        (replace(STAGE, outside={"corpus": "f1"}), DIGESTS, "corpus changed"),
    ],
)
def test_whatever_decides_the_result_changes_the_key_and_is_named(stage, digests, reason):
    before, after = ingredients(STAGE, DIGESTS), ingredients(stage, digests)
    assert key_of(before) != key_of(after)
    assert why_rerun(before, after, stage.inputs) == reason


def test_what_does_not_decide_the_result_leaves_the_key_alone():
    assert key_of(ingredients(STAGE, DIGESTS)) == key_of(
        ingredients(replace(STAGE, num_cpus=4, retries=2, cached=False, light=True, arguments={"x": 1}), DIGESTS)
    )


def test_a_library_that_changes_is_named_with_both_versions():
    before = ingredients(STAGE, DIGESTS)
    after = before | {"libraries": {"pyarrow": "99"}}
    assert why_rerun(before, after, STAGE.inputs) == f"library pyarrow {library_version('pyarrow')} -> 99"


def test_no_earlier_result_and_the_same_ingredients_have_words_of_their_own():
    parts = ingredients(STAGE, DIGESTS)
    assert why_rerun(None, parts, STAGE.inputs) == "never ran"
    assert why_rerun(parts, parts, STAGE.inputs) == "its result is gone"


def test_the_reason_is_seen_in_results_of_the_same_work_or_of_a_module_that_was_renamed(tmp_path):
    def make(key: str, created: float, work: str | None) -> None:
        (tmp_path / key).mkdir()
        fields = {**ingredients(STAGE, DIGESTS), "name": "join", "key": key, "created": created}
        fields = fields | {"work": work} if work else {name: value for name, value in fields.items() if name != "work"}
        publish(tmp_path / key, tmp_path / "storage" / "artefacts" / "join" / key, fields)

    def newest() -> str | None:
        found = latest(STAGE, str(tmp_path / "storage"))
        return found and found["key"]

    make("other work", 5.0, FAIL)
    assert newest() is None
    make("before works were noted", 1.0, None)
    assert newest() == "before works were noted"
    make("renamed", 4.0, "mirepoix.components.renamed:work")
    assert newest() == "renamed"
    make("own", 2.0, COPY)
    make("own, newer", 3.0, COPY)
    assert newest() == "own, newer"
