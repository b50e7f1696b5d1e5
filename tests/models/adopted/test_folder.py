"""The folder of a checkpoint: one that is given, or the snapshot of a hub id."""

import re

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from mirepoix.models.adopted.folder import local_folder
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.errors import Refused


def test_a_folder_is_itself(tmp_path):
    assert local_folder(Checkpoint(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["/nowhere/model", "./nowhere", "~/nowhere-at-all"])
def test_a_path_without_a_folder_is_not_looked_for_on_the_hub(name):
    with pytest.raises(Refused, match=rf"^backbone folder {re.escape(name)} is not there; give an existing folder, or a hub id$"):
        local_folder(Checkpoint(name))


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """What is asked of the hub, which has a model of two files."""
    asked = []

    def snapshot(name, **given):
        asked.append({"name": name, **given})
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name, revision: ["model.safetensors", "pytorch_model.bin"])
    return asked


def test_a_hub_id_is_fetched_at_its_revision_without_weights_of_other_libraries_and_pickles(hub, tmp_path):
    assert local_folder(Checkpoint("some/model", "abc")) == tmp_path
    (asked,) = hub
    assert (asked["name"], asked["revision"]) == ("some/model", "abc")
    assert {"*.onnx", "*.msgpack", "*.h5", "*.bin"} <= set(asked["ignore_patterns"])


def test_a_hub_model_that_is_pickled_alone_is_fetched_so(hub, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name, revision: ["pytorch_model.bin"])
    local_folder(Checkpoint("some/model"))
    assert "*.bin" not in hub[0]["ignore_patterns"]


def test_to_know_what_it_is_no_weights_are_fetched(hub):
    local_folder(Checkpoint("some/model"), weights=False)
    assert hub[0]["allow_patterns"] == ["*.json", "*.jinja", "*.py"]


def test_a_hub_id_that_is_not_here_is_unknown_without_fetching_and_refused_with(monkeypatch):
    def absent(name, **given):
        raise LocalEntryNotFoundError("no such snapshot\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", absent)
    assert local_folder(Checkpoint("some/model"), fetch=False) is None
    with pytest.raises(Refused, match=r"^backbone 'some/model' is neither a folder here nor a model that the hub has \(no such snap"):
        local_folder(Checkpoint("some/model"))


def test_a_hub_that_cannot_be_asked_is_not_needed_where_the_model_is_here(monkeypatch, tmp_path):
    def offline(name, **given):
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "list_repo_files", offline)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, local_files_only=False, **given: str(tmp_path))
    assert local_folder(Checkpoint("some/model")) == tmp_path
