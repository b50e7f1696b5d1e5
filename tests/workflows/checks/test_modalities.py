"""A benchmark with items that the encoder does not read is refused before it is read, with the data sets that it does read."""

import json

import pytest

from mirepoix.components.ingestion.sources import opened
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.training.backbone_config import BackboneConfig
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.workflows.checks.modalities import unread_problems
from tests.components.ingestion.formats import miniatures


@pytest.fixture
def model(tmp_path):
    """The folder of an adopted model that reads as a family does, without weights."""

    def write(family):
        folder = tmp_path / family
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps({"model_type": family}))
        if family == "bert":
            (folder / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Transformer", "path": ""}]))
        return BackboneConfig(name=str(folder), encoder=AdoptedConfig())

    return write


def told(backbone, folder, *names, field="backbone"):
    sources = opened(SourcesConfig(path=(str(folder),), only_datasets=names))
    return [str(problem).replace(backbone.name, "MODEL") for problem in unread_problems(field, backbone, sources)]


def test_clips_are_left_out_by_group_for_a_model_that_reads_none(model, tmp_path):
    folder = miniatures.mmeb_v2(tmp_path / "s")
    assert told(model("clip"), folder) == [
        "backbone.name=MODEL reads text and image alone, and SmthSmthV2, UCF101, MVBench and 9 more have video; give "
        "sources.only_datasets=Image,VisDoc, or take a model that reads text and image and video"
    ]
    assert told(model("clip"), folder, "Image", "VisDoc") == []
    assert told(BackboneConfig(), folder) == [], "the twin of UNITE reads clips"
    assert told(BackboneConfig(name="some/hub-id", encoder=AdoptedConfig()), folder) == [], "what it reads is known once it is here"


@pytest.mark.parametrize(
    ("chosen", "cure"),
    [
        (["Video", "Image"], "give sources.only_datasets=Image, or take a model"),
        (["UCF101", "OK-VQA"], "UCF101 has video; give sources.only_datasets=OK-VQA, or take a model"),
        (["*"], "give sources.only_datasets=Image,VisDoc, or take a model"),
        (["UCF101"], "UCF101 has video; take a model that reads text and image and video"),
    ],
)
def test_of_the_names_that_were_given_those_are_kept_that_are_read(model, tmp_path, chosen, cure):
    (line,) = told(model("clip"), miniatures.mmeb_v2(tmp_path / "s"), *chosen)
    assert cure in line


def test_texts_alone_are_read_of_the_data_sets_that_have_them_alone(model, tmp_path):
    (line,) = told(model("bert"), miniatures.mbeir(tmp_path / "s"), field="arms.a.backbone")
    assert line == (
        "arms.a.backbone.name=MODEL reads text alone, and fashioniq_task7, mscoco_task0, mscoco_task3 and 5 more have image; give "
        "sources.only_datasets=webqa_task1, or take a model that reads text and image"
    )
    assert told(model("bert"), tmp_path / "s", "webqa_task1") == []


@pytest.mark.parametrize("name", ["webqa", "okvqa", "remuq", "evqa", "vidore", "mmeb"])
def test_a_benchmark_of_pictures_is_none_for_a_model_that_reads_texts(model, tmp_path, name):
    folder = getattr(miniatures, name)(tmp_path / "s")
    (line,) = told(model("bert"), folder)
    assert line.startswith("backbone.name=MODEL reads text alone, and ") and line.endswith("take a model that reads text and image")
    assert told(model("clip"), folder) == []


def test_of_other_corpora_nothing_is_known(model, tmp_path):
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a.png").touch()
    assert told(model("bert"), tmp_path / "s") == []
