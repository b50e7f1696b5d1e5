"""The DAG that revises a release: what hangs on what, and what its keys hold."""

import json

import pytest

from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.revision.revision_config import MergeConfig
from mirepoix.models.errors import Refused
from mirepoix.serving.store import publish
from mirepoix.workflows.dag.revision import Revision
from mirepoix.workflows.recipes.registry import resolve
from mirepoix.workflows.runner.fingerprint import ingredients

FIELDS = {"name": "x", "version": "1", "encoder": "e", "index": "i", "documents": "d", "golden": "g", "widths": [4], "instructions": {}}


def release(folder, **more):
    (folder / "draft" / "encoder").mkdir(parents=True)
    (folder / "draft" / "release.json").write_text(json.dumps(FIELDS | more))
    described = {"architecture": "univldr", "config": {}, "temperature": None, "widths": []}
    (folder / "draft" / "encoder" / "mirepoix.json").write_text(json.dumps(described))
    publish(folder / "draft", folder / "release", {}, replace=True)
    return str(folder / "release")


def corpus(folder):
    (folder / "corpus").mkdir()
    (folder / "corpus" / "corpus.jsonl").write_text('{"_id": "d1", "text": "a text"}\n')
    (folder / "corpus" / "queries.jsonl").write_text('{"_id": "q1", "text": "a query"}\n')
    return str(folder / "corpus")


def test_what_is_added_is_curated_and_what_is_removed_needs_no_corpus(tmp_path):
    of = release(tmp_path)
    added = {
        stage.name: stage.inputs for stage in Revision(merge=MergeConfig(of), sources=SourcesConfig(path=(corpus(tmp_path),))).stages()
    }
    assert added == {
        "sources": {},
        "curate": {"sources": "sources"},
        "merge": {"curate": "curate"},
        "embed": {"merge": "merge"},
        "index": {"merge": "merge", "embed": "embed"},
        "release": {"merge": "merge", "index": "index"},
    }
    removed = {stage.name: stage.inputs for stage in Revision(merge=MergeConfig(of, remove=("a",))).stages()}
    assert removed == {name: {} if name == "merge" else inputs for name, inputs in added.items() if name not in ("sources", "curate")}


def test_the_release_and_the_list_of_ids_are_in_the_keys(tmp_path):
    of = release(tmp_path)
    (tmp_path / "ids").write_text("a")
    revision = Revision(merge=MergeConfig(of, remove_listed=str(tmp_path / "ids")))
    before = {stage.name: stage.outside for stage in revision.stages()}
    assert {name: {*found} for name, found in before.items()} == {
        "merge": {"release", "ids"},
        "embed": {"release"},
        "index": {"release"},
        "release": {"release"},
    }
    release(tmp_path, name="y")
    assert all(stage.outside["release"] != before[stage.name]["release"] for stage in revision.stages())
    (tmp_path / "ids").write_text("b")
    assert {stage.name: stage.outside for stage in revision.stages()}["merge"]["ids"] != before["merge"]["ids"]


def test_where_the_release_lies_is_in_no_key_of_what_goes_into_the_revised_one(tmp_path):
    stages = Revision(merge=MergeConfig(of := release(tmp_path))).stages()
    named = {stage.name: of in json.dumps(ingredients(stage, {})) for stage in stages}
    assert named == {"merge": True, "embed": True, "index": False, "release": False}


def test_new_items_are_encoded_by_the_code_and_libraries_of_a_run_so_that_either_reuses_what_the_other_encoded(tmp_path):
    embed = next(stage for stage in Revision(merge=MergeConfig(release(tmp_path), remove=("a",))).stages() if stage.name == "embed")
    run = {stage.name: stage for stage in resolve("univldr", [f"sources.path={corpus(tmp_path)}", "backbone.name=tiny"]).stages()}
    assert embed.arguments["versions"] == run["embed"].arguments["versions"] != ""
    assert "mirepoix.models.retrievers.univldr" in ingredients(embed, {})["source"]


def test_a_release_is_needed_and_code_of_its_own_runs_only_where_it_is_trusted(tmp_path):
    with pytest.raises(Refused, match=r"merge\.release is not given"):
        Revision()
    with pytest.raises(Refused, match="holds no published release"):
        Revision(merge=MergeConfig(str(tmp_path / "nothing"))).stages()
    of = release(tmp_path, custom_code=True)
    with pytest.raises(Refused, match=r"runs code that its checkpoint brought .*--trust-remote-code"):
        Revision(merge=MergeConfig(of)).stages()
    assert Revision(merge=MergeConfig(of), trust_remote_code=True).stages()
