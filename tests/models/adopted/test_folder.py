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


def test_a_hub_id_is_fetched_at_its_revision_without_weights_of_other_libraries(monkeypatch, tmp_path):
    asked = {}

    def snapshot(name, **given):
        asked.update(given, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    assert local_folder(Checkpoint("some/model", "abc")) == tmp_path
    assert (asked["name"], asked["revision"], asked["local_files_only"]) == ("some/model", "abc", False)
    assert {"*.onnx", "*.msgpack", "*.h5"} <= set(asked["ignore_patterns"])


def test_a_hub_id_that_is_not_here_is_unknown_without_fetching_and_refused_with(monkeypatch):
    def absent(name, **given):
        raise LocalEntryNotFoundError("no such snapshot\nmore")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", absent)
    assert local_folder(Checkpoint("some/model"), fetch=False) is None
    with pytest.raises(
        Refused, match=r"^backbone 'some/model' is neither a folder here nor a model that the hub has \(no such snapshot\); give"
    ):
        local_folder(Checkpoint("some/model"))
