"""The lineage of a comparison's release equals that of a single run."""

import json

import pytest

from mirepoix.models.errors import Refused
from mirepoix.workflows.config import describe, jsonable
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.recipes.registry import recipe
from mirepoix.workflows.upkeep.lineage import lineage


@pytest.fixture
def compared(tmp_path):
    """The folder of a run of two arms, of which the second made no release."""
    config = recipe("quickstart_all")
    config = Comparison(sources=config.sources, pairs=config.pairs, arms={name: config.arms[name] for name in ("unite", "mire")})
    stages = [
        {"name": stage.name, "digest": "d" * 64, "target": f"/artefacts/{stage.name}", "rows": {"read": 1, "written": 1}}
        for stage in config.stages()
    ]
    for stage in stages:
        if stage["name"].startswith("mire:") and stage["name"].endswith("release"):
            stage["digest"] = ""
    report = {"recipe": "both", "settings": jsonable(config), "stages": stages}
    report["arms"] = {name: {"headline": {"measure": name}, "results": [name], "facts": {}, "failure": ""} for name in config.arms}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "config.yaml").write_text(describe(config))
    return tmp_path


def test_an_arm_has_its_own_stages_settings_and_results_and_those_of_all(compared):
    release, run = lineage(str(compared), "unite")
    assert release == "/artefacts/unite:release"
    places = {stage["name"]: stage["target"] for stage in run["stages"]}
    assert places["curate"] == "/artefacts/curate" and places["instruct"] == "/artefacts/unite:instruct"
    assert not any(":" in name for name in places)
    assert run["settings"]["backbone"] == jsonable(recipe("quickstart_all").arms["unite"])["backbone"]
    assert run["settings"]["pairs"]["adapt_instructions"] is True and "arms" not in run["settings"]
    assert (run["recipe"], run["headline"], run["results"]) == ("both", {"measure": "unite"}, ["unite"])


def test_a_comparison_needs_an_arm_that_it_has_and_that_made_a_release(compared):
    for arm, message in ((None, "no arm is named"), ("jfe", "no arm 'jfe'"), ("mire", "made no release")):
        with pytest.raises(Refused, match=message):
            lineage(str(compared), arm)


def test_the_only_arm_of_a_run_needs_no_name(compared):
    report, alone = json.loads((compared / "report.json").read_text()), recipe("quickstart_all")
    config = Comparison(sources=alone.sources, pairs=alone.pairs, arms={"unite": alone.arms["unite"]})
    (compared / "report.json").write_text(json.dumps({**report, "settings": jsonable(config)}))
    (compared / "config.yaml").write_text(describe(config))
    assert lineage(str(compared)) == lineage(str(compared), "unite")


def test_a_single_run_has_no_arms(tmp_path):
    stages = [{"name": "release", "digest": "d" * 64, "target": "/artefacts/release"}]
    (tmp_path / "report.json").write_text(json.dumps({"stages": stages}))
    assert lineage(str(tmp_path)) == ("/artefacts/release", {"stages": stages})
    with pytest.raises(Refused, match="compares no arms; leave it out"):
        lineage(str(tmp_path), "unite")


def test_a_revised_release_of_a_comparison_has_the_lineage_of_its_arm(compared, tmp_path):
    place = "artefacts/release/0123456789abcdef"
    made, revised = (tmp_path / "storage" / "runs" / f"{name}-20270101-00000{n}-abcd" for n, name in enumerate(("both", "add")))
    for folder in (made, revised):
        folder.mkdir(parents=True)
    report = json.loads((compared / "report.json").read_text())
    for stage in report["stages"]:
        stage["target"] = f"/elsewhere/{place}" if stage["name"] == "unite:release" else stage["target"]
    (made / "report.json").write_text(json.dumps(report))
    (made / "config.yaml").write_text((compared / "config.yaml").read_text())
    own = {"name": "release", "digest": "e" * 64, "target": "/artefacts/revised"}
    settings = {"merge": {"release": f"{tmp_path}/storage/{place}"}}
    (revised / "report.json").write_text(json.dumps({"settings": settings, "stages": [own]}))
    release, run = lineage(str(revised))
    assert (release, run["results"]) == ("/artefacts/revised", ["unite"])
