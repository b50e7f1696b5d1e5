"""Tiny twins have the classes and files of a hub checkpoint, and what cannot be opened is refused in one line."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mirepoix.models.backbone import SPECIAL_TOKENS, TinyQwen2VL, make_tiny, open_backbone
from mirepoix.models.errors import Refused

from .conftest import WORDS


def test_a_twin_has_the_files_and_classes_of_a_checkpoint(tiny_qwen):
    names = {file.name for file in tiny_qwen.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"} <= names
    model, tokenizer, image_processor = open_backbone(tiny_qwen)
    assert type(model).__name__ == "Qwen2VLModel"
    assert type(tokenizer).__name__.startswith("Qwen2Tokenizer")
    assert type(image_processor).__name__.startswith("Qwen2VLImageProcessor")


def test_the_same_seed_gives_the_same_weights(tiny_qwen, tmp_path):
    config = TinyQwen2VL(hidden_size=64, intermediate_size=128, layers=2, vision_width=32)
    for seed, same in ((0, True), (1, False)):
        make_tiny(tmp_path / str(seed), WORDS * 20, config, seed=seed)
        one, other = load_file(tiny_qwen / "model.safetensors"), load_file(tmp_path / str(seed) / "model.safetensors")
        assert all(torch.equal(one[name], other[name]) for name in one) is same


def test_making_a_twin_leaves_the_random_numbers_of_others_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    make_tiny(tmp_path, WORDS, TinyQwen2VL(hidden_size=32, heads=2, vision_width=16, vision_heads=2, intermediate_size=32), seed=0)
    assert torch.equal(torch.rand(2), expected)


def test_the_tokenizer_knows_the_control_tokens_and_loses_no_text(tiny_qwen):
    _, tokenizer, _ = open_backbone(tiny_qwen)
    assert all(len(tokenizer(token)["input_ids"]) == 1 for token in SPECIAL_TOKENS)
    for text in ("two large blue stars", "Ünïcödé — 日本語 \t\n"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@pytest.mark.parametrize("sizes", [{"hidden_size": 100, "heads": 3}, {"vision_width": 30, "vision_heads": 4}, {"vocabulary": 100}], ids=str)
def test_sizes_that_do_not_divide_are_refused(sizes):
    with pytest.raises(Refused, match=next(iter(sizes))):
        TinyQwen2VL(**sizes)


def test_what_is_neither_folder_nor_model_is_refused_in_one_line():
    with pytest.raises(Refused) as refusal:
        open_backbone("nobody/no-such-model")
    assert "\n" not in str(refusal.value)
    assert "give an existing folder, a hub id, or 'tiny'" in str(refusal.value)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"config\.json"):
        open_backbone(tmp_path)


def test_a_checkpoint_with_missing_weights_is_refused_and_not_made_up(tiny_qwen, tmp_path):
    for file in tiny_qwen.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in sorted(weights) if "layers.0" in name)
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match="lacks 1 weights"):
        open_backbone(tmp_path)


def test_a_checkpoint_with_a_language_head_is_a_backbone_too(tiny_qwen, tmp_path):
    """The published checkpoints are of the generating class; its inner model is what encodes."""
    from transformers import Qwen2VLForConditionalGeneration

    model, tokenizer, image_processor = open_backbone(tiny_qwen)
    whole = Qwen2VLForConditionalGeneration(model.config)
    whole.model.load_state_dict(model.state_dict())
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Qwen2VLForConditionalGeneration"]
    again, _, _ = open_backbone(tmp_path)
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())
