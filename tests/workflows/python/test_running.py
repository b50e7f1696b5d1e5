"""`mirepoix.run`: a recipe from a program, beside a cluster that is up and within an event loop, and how its end is told."""

import asyncio
import json
from pathlib import Path

import pytest
import ray

import mirepoix
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.errors import Refused
from mirepoix.workflows.recipes.registry import recipe
from tests.components.fixtures import SIZES
from tests.workflows.recipes.test_search import write_pictures


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Pictures with captions, a published CLIP, and a file that names both."""
    home = tmp_path_factory.mktemp("running")
    captions = "".join(f"p{number:02}.png,picture number {number}\n" for number in range(0, 6, 2))
    (write_pictures(home / "pictures", 6) / "captions.csv").write_text(f"file,caption\n{captions}")
    make_twin(home / "clip", "clip", ["two small red stars"] * 10, SIZES, seed=0)
    lines = ["recipe: search", "sources:", f"  path: [{home}/pictures]", "backbone:", f"  name: {home}/clip"]
    (home / "mine.yaml").write_text("\n".join(lines) + "\n")
    return home


@pytest.fixture(scope="module")
def searched(ray_cluster, home):
    """The result of a run in an event loop, as a notebook has one, on the cluster that this process is connected to."""

    async def cell():
        return mirepoix.run(
            "search",
            {"evaluate.draws": 20},
            storage=home / "storage",
            until="release",
            local=True,
            quiet=True,
            sources__path=home / "pictures",
            backbone__name=home / "clip",
        )

    return asyncio.run(cell())


def test_a_run_makes_a_release_that_opens_and_leaves_the_cluster_up(searched, home):
    assert ray.is_initialized()
    assert searched.ok and searched.failures == {} and searched.scores == {}
    assert Path(searched.folder).parent == home / "storage" / "runs" and Path(searched.folder).name.startswith("search-")
    assert searched.record == json.loads(Path(searched.folder, "report.json").read_text())
    assert len(mirepoix.open(searched.release).search("a star", 20)) == len(mirepoix.open(searched.folder).search("a star", 20)) == 9
    assert repr(searched) == f"<run {searched.folder}: done>"


def test_a_file_is_run_as_the_recipe_that_it_names_with_what_is_given_beside_it(searched, home, capsys):
    found = mirepoix.run(str(home / "mine.yaml"), storage=home / "storage", until="evaluate", local=True, evaluate__draws=20)
    assert found.scores.keys() == {"t->i", "i->t", "average"} and found.scores["average"] == found.record["headline"]["encoder"]["average"]
    assert found.scores["average"] == pytest.approx((found.scores["t->i"] + found.scores["i->t"]) / 2, abs=1e-3)
    assert {stage["name"]: stage["status"] for stage in found.record["stages"]}["embed"] == "skipped", "as the other run made it"
    assert "recall@5 on train, universal pool" in repr(found) and "evaluate" in capsys.readouterr().err
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
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line_and_leaves_no_folder(given, options, line, tmp_path):
    with pytest.raises(Refused) as refused:
        mirepoix.run(given, storage=tmp_path / "storage", local=True, **options)
    assert line in str(refused.value) and "\n" not in str(refused.value)
    assert not (tmp_path / "storage" / "runs").exists()
