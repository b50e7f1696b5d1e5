"""Training starts from a given checkpoint with its own weights, or from a tiny random twin made for the corpus."""

from dataclasses import replace

import pytest
import torch

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.training import backbone
from mirepoix.components.training.backbone_config import BackboneConfig, fingerprint
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.retrievers.unite import Unite
from mirepoix.models.retrievers.unite_config import UniteConfig
from mirepoix.serving.store import read_manifest
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
    assert encoder.config == config.encoder
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
