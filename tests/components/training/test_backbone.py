"""Training starts from a given checkpoint with its own weights, or from a tiny random twin made for the corpus."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.training import backbone
from mirepoix.components.training.backbone_config import BackboneConfig, fingerprint
from mirepoix.models.adopted.adopted import Adopted
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.encoder import HEAD, load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.retrievers.marvel_config import MarvelConfig
from mirepoix.models.retrievers.unite import Unite
from mirepoix.models.retrievers.unite_config import UniteConfig
from mirepoix.serving.store import publish, read_manifest
from tests.components.fixtures import SIZES, context, made, write_corpus

ITEMS = [Item("a", text="a small red star"), Item("b", text="find the blue disc")]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rows = [{"id": f"d{n}", "text": f"{words} number {n}"} for n, words in enumerate(["a small red star", "find the blue disc"] * 10)]
    return write_corpus(tmp_path_factory.mktemp("corpus") / "in", corpus=rows)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoint")
    make_twin(folder, "qwen2_vl", ["a small red star", "find the blue disc"] * 10, SIZES, seed=5)
    return folder


def test_the_tiny_encoder_is_the_same_by_seed_to_the_byte(corpus, tmp_path):
    digests = [
        read_manifest(made(tmp_path / name, backbone.work, BackboneConfig(tiny=SIZES), seed, curate=corpus).folder).digest
        for name, seed in (("one", 0), ("again", 0), ("other", 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_it_encodes_and_its_sizes_are_those_of_the_config_and_of_the_metrics(untrained, curated):
    encoder = load_encoder(untrained.folder)
    assert encoder.encode(ITEMS).rows_NTD.norm(dim=-1).allclose(torch.ones(2, 1), atol=1e-5)
    assert untrained.outcome.metrics == {
        "dimension": SIZES.hidden_size,
        "parameters": sum(weight.numel() for weight in encoder.parameters()),
    }
    texts = read_part(curated.folder, "corpus", ["id"]).num_rows
    assert untrained.outcome.rows.read == untrained.outcome.rows.written == texts


def test_its_tokenizer_knows_the_words_of_the_corpus(tmp_path, corpus):
    sizes = replace(SIZES, vocabulary=600)
    found = made(tmp_path, backbone.work, BackboneConfig(tiny=sizes), curate=corpus)
    tokenizer = load_encoder(found.folder).collator.tokenizer
    assert len(tokenizer(" small")["input_ids"]) == 1 < len(tokenizer(" zebra")["input_ids"])


def test_an_encoder_over_a_checkpoint_folder_has_the_weights_of_the_folder(checkpoint, corpus, tmp_path):
    config = BackboneConfig(name=str(checkpoint), encoder=UniteConfig(prompt="raw"))
    found = made(tmp_path, backbone.work, config, curate=corpus)
    encoder = load_encoder(found.folder)
    assert encoder.config == UniteConfig(prompt="raw", resized_twice=False), "it is saved as it is built"
    expected = Unite.open(checkpoint, config.encoder).eval().encode(ITEMS)
    assert torch.equal(encoder.encode(ITEMS).rows_NTD, expected.rows_NTD)


def test_a_missing_folder_is_refused_before_and_in_the_run(corpus, tmp_path):
    gone = str(tmp_path / "gone")
    with pytest.raises(Refused, match=r"gone is not there; give an existing checkpoint folder, a hub id, or tiny"):
        fingerprint(BackboneConfig(name=gone))
    with pytest.raises(Refused, match="neither a folder here nor a model that the hub has"):
        backbone.work(context(tmp_path / "out"), BackboneConfig(name=gone), curate=corpus)


def test_a_folder_without_a_checkpoint_is_refused(corpus, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="empty cannot be opened"):
        backbone.work(context(tmp_path / "out"), BackboneConfig(name=str(tmp_path / "empty")), curate=corpus)


@pytest.fixture(scope="module")
def saved(corpus, tmp_path_factory):
    """An encoder over two checkpoints, as a training leaves it: with a temperature, narrower widths and settings of its own."""
    home = tmp_path_factory.mktemp("saved")
    tiny = replace(SIZES, vocabulary=400)
    encoder = load_encoder(made(home, backbone.work, BackboneConfig(encoder=MarvelConfig(text_length=33), tiny=tiny), curate=corpus).folder)
    encoder.temperature, encoder.widths = 0.02, (8, 16)
    encoder.save(home / "encoder")
    publish(home / "encoder", home / "artefact-of-a-training", {})
    return home / "artefact-of-a-training"


def test_an_encoder_that_was_saved_is_taken_as_it_is_to_the_byte(saved, corpus, tmp_path):
    config = BackboneConfig(name=str(saved), encoder=MarvelConfig())
    assert config.encoder == MarvelConfig(text_length=33), "the settings that were saved with it"
    found = made(tmp_path, backbone.work, config, seed=7, curate=corpus)
    assert read_manifest(found.folder).digest == read_manifest(saved).digest
    copied = load_encoder(found.folder)
    assert (copied.temperature, copied.widths, copied.config.text_length) == (0.02, (8, 16), 33)
    assert found.outcome.metrics["dimension"] == copied.dimension
    assert str(saved) not in str(fingerprint(config)) and "mirepoix.json" in fingerprint(config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "an encoder of marvel, and backbone.encoder a UniteConfig; give backbone.encoder=MarvelConfig"),
        ({"encoder": MarvelConfig(), "vision": "x"}, "backbone.vision is given, and .* a whole encoder; give backbone.vision=null"),
        ({"encoder": MarvelConfig(), "revision": "x"}, "backbone.revision is given, and .* give backbone.revision=null"),
    ],
)
def test_a_config_that_does_not_fit_a_saved_encoder_is_refused(saved, settings, words):
    with pytest.raises(Refused, match=words):
        BackboneConfig(name=str(saved), **settings)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("text/model.safetensors", None, r"text lacks model\.safetensors; give the folder of a whole encoder"),
        ("vision/config.json", None, r"vision lacks config\.json; give the folder of a whole encoder"),
        ("mirepoix.json", "{", r"mirepoix\.json is no JSON \(Expecting .*\); give the folder of a whole encoder"),
        ("mirepoix.json", '{"architecture": "marvel"}', r"mirepoix\.json has no config, temperature, widths"),
        ("mirepoix.json", "[]", r"mirepoix\.json is no JSON object"),
        ("text/model.safetensors.index.json", '{"weight_map": {"a": "one.safetensors"}}', r"text lacks one\.safetensors"),
    ],
)
def test_an_encoder_of_which_a_part_is_missing_is_refused_before_anything_runs(saved, tmp_path, file, content, words):
    half = tmp_path / "half"
    shutil.copytree(saved, half)
    (half / file).unlink() if content is None else (half / file).write_text(content)
    with pytest.raises(Refused, match=words) as refusal:
        BackboneConfig(name=str(half), encoder=MarvelConfig())
    assert "\n" not in str(refusal.value)


def test_an_encoder_whose_weights_are_of_another_is_refused_in_the_run(saved, corpus, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(saved, half)
    (half / HEAD).unlink()
    with pytest.raises(Refused, match=r"weights of the marvel are missing or unexpected: .*; give a whole encoder"):
        backbone.work(context(tmp_path / "out"), BackboneConfig(name=str(half), encoder=MarvelConfig()), curate=corpus)


@pytest.mark.parametrize("several", ["refuse", "sum"])
def test_a_corpus_that_the_encoder_does_not_read_is_refused_with_how_much_of_it_there_is(several, curated, tmp_path, monkeypatch):
    folder = make_twin(tmp_path / "clip", "clip", ["a small red circle"] * 40, SIZES, seed=0)["model"].name
    config = BackboneConfig(AdoptedConfig(several=several), str(folder))
    if several == "refuse":
        with pytest.raises(
            Refused, match=r"of the (corpus|queries), such as '\S+', have text and image, and .* one of them at a time; give"
        ):
            made(tmp_path / "both", backbone.work, config, curate=curated.folder)
    else:
        assert load_encoder(made(tmp_path / "both", backbone.work, config, curate=curated.folder).folder).config == config.encoder
    first = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    (folder / "modules.json").write_text(json.dumps([first]))
    (folder / "sentence_bert_config.json").write_text('{"modality_config": {"text": {"method": "get_text_features"}}}')
    monkeypatch.setattr(Adopted, "build", None)  # no weight is loaded for it
    with pytest.raises(Refused, match=r"of the corpus, such as '\S+', have (text and )?image, and .*clip reads text alone$"):
        made(tmp_path / "text", backbone.work, config, curate=curated.folder)
