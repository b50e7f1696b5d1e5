"""A file that names its recipe is the recipe with what the file says, and what it says wrongly is refused by its line."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mirepoix.components.pairs.mine_config import MineConfig
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.models.retrievers.univldr_config import UniVLDRConfig
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.config import jsonable
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.recipes.recipe_file import is_recipe_file, merged
from mirepoix.workflows.recipes.registry import recipe, recipe_name, resolve


@pytest.fixture
def mine(tmp_path):
    """Writes the file mine.yaml, and returns its path."""

    def write(text: str) -> str:
        (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
        return str(tmp_path / "mine.yaml")

    return write


def test_an_argument_that_ends_in_yaml_is_a_file():
    assert [is_recipe_file(name) for name in ("a.yaml", "b.YML", "search", "yaml")] == [True, True, False, False]


def test_what_a_file_does_not_say_is_as_its_recipe_has_it(mine):
    file = mine("recipe: search\nsources:\n  path: [/pictures]\nembed:\n  threads: 2\n")
    found, base = resolve(file), recipe("search")
    assert isinstance(found, Retrieval) and isinstance(base, Retrieval)
    assert found == replace(base, sources=replace(base.sources, path=("/pictures",)), embed=replace(base.embed, threads=2))
    assert found.embed.batch_size == 16 and found.curate.near_duplicates == "keep", "of the recipe, not of the class"
    assert recipe_name(file) == "search" and recipe_name("quickstart") == "quickstart"


def test_one_text_stands_for_a_list_of_one_as_on_the_command_line_and_its_commas_divide_nothing(mine):
    found = resolve(mine("recipe: search\nsources:\n  path: /pictures, and more\n  columns: picture=a\n"))
    assert found.sources.path == ("/pictures, and more",) and found.sources.columns == ("picture=a",)


def test_a_file_with_its_recipe_alone_is_the_recipe_and_overrides_come_last(mine):
    assert resolve(mine("recipe: search")) == recipe("search")
    file = mine("recipe: search\nembed: {threads: 2}\n")
    assert resolve(file, ["embed.threads=7"]).embed.threads == 7


def test_another_class_has_its_own_defaults_and_the_same_class_those_of_the_recipe(mine):
    same = resolve(mine("recipe: search\nbackbone:\n  encoder:\n    max_length: 40\n")).backbone.encoder
    assert same == AdoptedConfig(several="sum", max_length=40)
    named = resolve(mine("recipe: search\nbackbone:\n  encoder:\n    class: AdoptedConfig\n    max_length: 40\n")).backbone.encoder
    assert named == same
    other = resolve(mine("recipe: search\nbackbone:\n  encoder:\n    class: UniVLDRConfig\n    max_length: 40\n")).backbone.encoder
    assert other == UniVLDRConfig(max_length=40)


def test_a_part_that_the_recipe_has_not_begins_with_the_defaults_of_its_class(mine):
    found = resolve(mine("recipe: quickstart\nmine:\n  negatives: 3\ninstruct: {negatives: 3}\n"))
    assert found.mine == MineConfig(negatives=3)
    assert resolve(mine("recipe: quickstart\nadapt: null\n")).adapt is None


def test_an_arm_of_a_comparison_is_changed_and_the_others_stay(mine):
    file = mine("recipe: quickstart_all\narms:\n  mire:\n    adapt: {max_steps: 5}\n")
    found, base = resolve(file), recipe("quickstart_all")
    assert isinstance(found, Comparison) and isinstance(base, Comparison)
    assert found.arms["mire"].adapt == replace(base.arms["mire"].adapt, max_steps=5)
    assert {**found.arms, "mire": base.arms["mire"]} == base.arms


@dataclass(frozen=True)
class Leaf:
    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...] = (Leaf("a", 0.5), Leaf("b"))
    by_name: dict[str, Leaf] = field(default_factory=lambda: {"a": Leaf("a", 0.5)})
    shares: dict[str, float] = option(lambda: {"x": 1.0})


def test_a_list_and_a_dict_of_plain_values_are_taken_whole_and_a_dict_of_configs_by_its_keys():
    given = {"leaves": [{"path": "c"}], "by_name": {"a": {"weight": 2.0}, "b": {"path": "d"}}, "shares": {"y": 3.0}}
    assert merged(Tree, jsonable(Tree()), given) == {
        "leaves": [{"path": "c", "weight": 1.0}],
        "by_name": {"a": {"path": "a", "weight": 2.0}, "b": {"path": "d", "weight": 1.0}},
        "shares": {"y": 3.0},
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipe: search\nembed:\n  threds: 2\n", ["mine.yaml, line 3", "'embed.threds'", "embed.threads"]),
        ("recipe: search\nembd:\n  threads: 2\n", ["mine.yaml, line 2", "'embd'", "embed"]),
        ("recipe: search\nembed:\n  threads: two\n", ["mine.yaml, line 3", "embed.threads is 'two'", "a whole number"]),
        ("recipe: search\nembed:\n  threads: 0\n", ["mine.yaml, line 3", "embed.threads is 0"]),
        ("recipe: search\nembed: 2\n", ["mine.yaml, line 2", "embed is 2", "the fields of EmbedConfig"]),
        ("recipe: search\nbackbone:\n  encoder:\n    class: Onion\n", ["line 4", "encoder.class is 'Onion'", "AdoptedConfig"]),
        ("recipe: search\nsources:\n  # path: [/pictures]\nseed: 1\n", ["mine.yaml, line 2: sources has no value", "null"]),
        ("recipe: search\nseed: 1\nseed: 2\n", ["mine.yaml, line 3: seed is given twice"]),
        ("recipe: search\nsources:\n  path: [/pictures]\n  columns: [picture=a, txt=b]\n", ["mine.yaml, line 4", "has 'txt=b'"]),
        ("recipe: search\nsources:\n  columns:\n  - picture=a\n  - txt=b\n", ["mine.yaml, line 5", "has 'txt=b'"]),
        ("recipe: serch\n", ["mine.yaml, line 1", "no recipe 'serch'", "search"]),
        ("recipe: [search]\n", ["mine.yaml, line 1", "recipe is ['search']"]),
        ("sources:\n  path: [/pictures]\n", ["does not say of which recipe", "`recipe: search`"]),
        ("", ["does not say of which recipe"]),
        (
            "seed: 0\nmerge:\n  release: r\n",
            ["mine.yaml is of a run of `mirepoix add` or `remove`", "`mirepoix show "],
        ),
        ("- search\n", ["it holds a list", "recipe: NAME"]),
    ],
)
def test_a_wrong_file_is_refused_in_one_line_with_its_place(mine, text, words):
    with pytest.raises(Refused) as refusal:
        resolve(mine(text))
    assert all(word in str(refusal.value) for word in words), refusal.value
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there_is_refused_with_those_that_are(mine, tmp_path):
    file = mine("recipe: search\n")
    with pytest.raises(Refused, match=rf"cannot read the config .*my\.yaml: No such file.*; there is {file}"):
        resolve(str(tmp_path / "my.yaml"))
    Path(file).unlink()
    with pytest.raises(Refused, match="`mirepoix init DIR` writes one"):
        resolve(str(tmp_path / "my.yaml"))


def test_the_older_option_reads_both_kinds_of_files(mine, tmp_path):
    file = Path(mine("recipe: search\nseed: 5\n"))
    assert resolve("search", [], file) == resolve(str(file)) == replace(recipe("search"), seed=5)
    with pytest.raises(Refused, match=r"is of the recipe 'search', and 'nlvr' is given beside it; run .*mine\.yaml by itself"):
        resolve("nlvr", [], file)
    with pytest.raises(Refused, match="give one of them"):
        resolve(str(file), [], file)


def test_a_described_recipe_is_a_file_to_run(capsys, mine, tmp_path):
    assert main(["describe", "search", "seed=5"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("recipe: search\nseed: 5  # seed of")
    file = mine(out)
    assert main(["describe", file]) == 0 and capsys.readouterr().out == out
    assert main(["run", file, "sources.world.entities=60", "backbone.name=tiny", "--plan"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["sources", "runs", "never", "ran"]
