"""Checkpoints must fit their retriever; their fingerprint depends on their files."""

import json
import os

import pytest

from mirepoix.components.training.backbone_config import BackboneConfig, fingerprint
from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.errors import Refused
from tests.components.fixtures import SIZES


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    make_twin(folder, "qwen2_vl", ["a small red star", "find the blue disc"] * 10, SIZES, seed=5)
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a", "vision": "b"}, "backbone.vision is 'b' and unite is built over model"),
        ({"vision": "b"}, "backbone.name is tiny; give both towers, or neither"),
        ({"tiny": Tiny(family="t5_clip")}, "backbone.tiny.family is 't5_clip'; unite is built over qwen2_vl"),
    ],
)
def test_checkpoints_that_do_not_fit_the_retriever_are_refused_when_the_config_is_made(fields, message):
    with pytest.raises(Refused, match=message):
        BackboneConfig(**fields)


def test_the_fingerprint_of_a_folder_changes_with_its_files(checkpoint, tmp_path):
    before = fingerprint(BackboneConfig(name=str(checkpoint)))
    assert before == fingerprint(BackboneConfig(name=str(checkpoint))) and "config.json" in before and "\n" not in before
    config = checkpoint / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text())))
    os.utime(config, ns=(1, 1))
    assert fingerprint(BackboneConfig(name=str(checkpoint))) != before


def test_a_hub_id_needs_no_fingerprint():
    assert fingerprint(BackboneConfig(name="Qwen/Qwen2-VL-2B-Instruct")) is None
