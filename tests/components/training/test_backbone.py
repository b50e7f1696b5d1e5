"""Training starts from a checkpoint that is wrapped as it is, or from a tiny random one that is made for the corpus."""

import json
import os
from dataclasses import replace

import pytest
import torch

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.training import backbone
from mirepoix.components.training.backbone import BackboneConfig, fingerprint
from mirepoix.models.backbones.twins import Tiny, make_twin
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.retrievers.unite import Unite, UniteConfig
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


def test_it_encodes_has_the_sizes_asked_for_and_says_so(untrained, curated):
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


def test_a_checkpoint_folder_is_wrapped_with_the_weights_it_has(checkpoint, corpus, tmp_path):
    config = BackboneConfig(name=str(checkpoint), encoder=UniteConfig(prompt="raw"))
    found = made(tmp_path, backbone.work, config, curate=corpus)
    encoder = load_encoder(found.folder)
    assert encoder.config == config.encoder
    expected = Unite.open(checkpoint, config.encoder).eval().encode(ITEMS)
    assert torch.equal(encoder.encode(ITEMS).rows_NTD, expected.rows_NTD)


def test_a_folder_that_is_not_there_is_refused_before_and_in_the_run(corpus, tmp_path):
    gone = str(tmp_path / "gone")
    with pytest.raises(Refused, match=r"gone is not there; give an existing checkpoint folder, a hub id, or tiny"):
        fingerprint(BackboneConfig(name=gone))
    with pytest.raises(Refused, match="neither a folder here nor a model that the hub gave"):
        backbone.work(context(tmp_path / "out"), BackboneConfig(name=gone), curate=corpus)


def test_a_folder_that_is_no_checkpoint_is_refused(corpus, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match="empty cannot be opened"):
        backbone.work(context(tmp_path / "out"), BackboneConfig(name=str(tmp_path / "empty")), curate=corpus)


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"name": "a", "vision": "b"}, "backbone.vision is 'b' and unite is built over model"),
        ({"vision": "b"}, "backbone.name is tiny; give both towers, or neither"),
        ({"tiny": Tiny(family="t5_clip")}, "backbone.tiny.family is 't5_clip'; unite is built over qwen2_vl"),
    ],
)
def test_checkpoints_that_the_retriever_is_not_built_over_are_refused_when_the_config_is_made(fields, fault):
    with pytest.raises(Refused, match=fault):
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
