"""`mirepoix.run`: a recipe from a program, beside a cluster that is up and within an event loop, and how its end is told."""

import asyncio
import doctest
import io
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import ray

import mirepoix
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.errors import Refused
from mirepoix.workflows.recipes.registry import recipe
from tests.components.fixtures import SIZES
from tests.serving.fixtures import SHAPES, drawing
from tests.workflows.recipes.small_quickstart import ROOT


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where the examples of docs/python.md run: a folder with captioned pictures, and with a tiny CLIP where the recipe looks first."""
    home = tmp_path_factory.mktemp("running")
    (home / "pictures").mkdir()
    captions = ["file,caption"]
    for number, (colour, hue) in enumerate({"red": 0.0, "yellow": 0.15, "blue": 0.6}.items()):
        for shape in SHAPES[: 2 + number % 2]:
            (home / "pictures" / f"{colour}-{shape}.png").write_bytes(drawing(shape, hue, 64))
            captions.append(f"{colour}-{shape}.png,a {colour} {shape}")
    (home / "pictures" / "captions.csv").write_text("\n".join(captions[:6]) + "\n")
    make_twin(home / "openai" / "clip-vit-base-patch32", "clip", ["a small red disc"] * 10, SIZES, seed=0)
    lines = ["recipe: search", "sources:", f"  path: [{home}/pictures]", "backbone:", f"  name: {home}/openai/clip-vit-base-patch32"]
    (home / "mine.yaml").write_text("\n".join(lines) + "\n")
    return home


class Page(NamedTuple):
    """What the examples of the page left, and of those that print something else, how."""

    names: dict[str, Any]
    differences: str


@pytest.fixture(scope="module")
def page(ray_cluster, home) -> Page:
    """docs/python.md, executed in an event loop, as a notebook has one, on the cluster that this process is connected to."""
    text = (ROOT / "docs" / "python.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "__main__"}
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), names, "docs/python.md", None, 0)
    out = io.StringIO()
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)

    async def notebook() -> None:
        runner.run(examples, out=out.write, clear_globs=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.delenv("MIREPOIX_STORAGE", raising=False)
        asyncio.run(notebook())
    assert len(examples.examples) >= 25
    return Page(examples.globs, out.getvalue())


@pytest.fixture(scope="module")
def searched(page):
    return page.names["result"]


def test_the_examples_of_the_page_print_what_it_says(page):
    assert page.differences == ""


def test_a_run_makes_a_release_that_opens_and_leaves_the_cluster_up(searched, home):
    assert ray.is_initialized()
    assert searched.ok and searched.failures == {} and searched.scores == {}
    assert Path(searched.folder).parent == home / "storage" / "runs" and Path(searched.folder).name.startswith("search-")
    assert searched.record == json.loads(Path(searched.folder, "report.json").read_text())
    assert len(mirepoix.open(searched.release).search("a star", 20)) == len(mirepoix.open(searched.folder).search("a star", 20)) == 12
    assert repr(searched) == f"<run {searched.folder}: done>"


def test_a_file_is_run_as_the_recipe_that_it_names_with_what_is_given_beside_it(searched, home, capsys):
    found = mirepoix.run(str(home / "mine.yaml"), storage=home / "storage", until="evaluate", local=True, evaluate__draws=20)
    assert found.scores.keys() == {"t->i", "i->t", "average"} and found.scores["average"] == found.record["headline"]["encoder"]["average"]
    assert found.scores["average"] == pytest.approx((found.scores["t->i"] + found.scores["i->t"]) / 2, abs=1e-3)
    assert {stage["name"]: stage["status"] for stage in found.record["stages"]}["embed"] == "skipped", "as the other run made it"
    assert "R@5 on train, universal pool" in repr(found) and "evaluate" in capsys.readouterr().err
    assert (Path(found.folder) / "config.yaml").read_text().startswith("recipe: search\n")


def test_a_config_is_run_as_it_is_and_a_stage_that_fails_is_in_the_result(searched, home, capsys):
    (home / "broken").mkdir(exist_ok=True)
    (home / "broken" / "a.png").write_bytes(b"no picture")
    failed = mirepoix.run(
        recipe("search"),
        storage=home / "storage",
        until="release",
        local=True,
        quiet=True,
        backbone__name="tiny",
        sources__path=home / "broken",
    )
    assert not failed.ok and list(failed.failures) and "\n" not in next(iter(failed.failures.values()))
    assert Path(failed.folder).name.startswith("retrieval-") and "failed" in repr(failed).splitlines()[0]
    assert next(iter(failed.failures.values())) in repr(failed)
    with pytest.raises(Refused, match=r"^the run in .* made no release: stage \w+ failed: "):
        _ = failed.release
    assert capsys.readouterr().err == ""
    assert not (Path(failed.folder) / "config.yaml").read_text().startswith("recipe:")


@pytest.mark.parametrize(
    ("given", "options", "line"),
    [
        ("serach", {}, "there is no recipe 'serach'; there are quickstart, "),
        ("search", {"sources__pat": "x"}, "there is no 'sources.pat' here; did you mean sources.path"),
        ("search", {"sources__path": "/nowhere"}, "/nowhere"),
        ("/nowhere/mine.yaml", {}, "cannot read the config /nowhere/mine.yaml: No such file or directory"),
        (3, {}, "a recipe is given as the type int; give its name, a file that names one, or a config"),
        ("search", {"until": "relase"}, ""),
        ("search", {"until": 3}, "until is 3; give a text, or leave until out"),
        ("search", {"force": 3}, "force is 3; give the name of a stage, or a list of names"),
        ("search", {"stroage": "x"}, "there is no 'stroage'; did you mean the option storage?"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_and_leaves_no_folder(given, options, line, tmp_path):
    with pytest.raises(Refused) as refused:
        mirepoix.run(given, storage=tmp_path / "storage", local=True, **options)
    assert line in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "storage" / "runs").exists()


def test_overrides_and_a_storage_of_other_types_are_refused_in_one_line():
    with pytest.raises(
        Refused, match=r"^overrides are of the type list; give a mapping, such as \{'sources.path': 'pictures'\}, or keywords$"
    ):
        mirepoix.run("search", ["a=b"])  # type: ignore[arg-type]
    with pytest.raises(Refused, match=r"^storage is 5; give a text or a path, or leave storage out$"):
        mirepoix.run("search", storage=5)  # type: ignore[arg-type]
