"""Checkpoints are opened as what they are, and what cannot be opened is refused in one line."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import open_checkpoint
from mirepoix.models.errors import Refused
from tests.models.conftest import WORDS


def test_a_multimodal_checkpoint_brings_a_tokenizer_and_an_image_processor(tiny_qwen):
    part = open_checkpoint(Checkpoint(tiny_qwen), "multimodal")
    assert type(part.model).__name__ == "Qwen2VLModel"
    assert type(part.tokenizer).__name__.startswith("Qwen2Tokenizer")
    assert type(part.image_processor).__name__.startswith("Qwen2VLImageProcessor")


def test_a_vision_part_of_a_checkpoint_of_both_is_its_vision_half(twin):
    whole, half = (open_checkpoint(twin("clip")["model"], kind) for kind in ("multimodal", "vision"))
    assert half.tokenizer is None and type(half.model).__name__ == "CLIPVisionModel"
    weights = whole.model.vision_model.state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in half.model.state_dict().items())


def test_a_text_tower_comes_without_a_pooler_whether_or_not_it_was_published_with_one(twin, tmp_path):
    from transformers import BertModel

    part = open_checkpoint(twin("bert_clip")["text"], "text")
    pooled = BertModel(part.model.config)
    pooled.save_pretrained(tmp_path)
    part.tokenizer.save_pretrained(tmp_path)
    for checkpoint in (twin("bert_clip")["text"], Checkpoint(tmp_path)):
        opened = open_checkpoint(checkpoint, "text")
        assert opened.image_processor is None
        assert not any(name.startswith("pooler") for name in opened.model.state_dict())


def test_a_saved_part_opens_as_it_was(twin, tmp_path):
    part = open_checkpoint(twin("t5_clip")["text"], "text")
    part.save(tmp_path, part.model.state_dict())
    again = open_checkpoint(Checkpoint(tmp_path), "text")
    assert all(torch.equal(weight, again.model.state_dict()[name]) for name, weight in part.model.state_dict().items())
    assert again.tokenizer("two stars")["input_ids"] == part.tokenizer("two stars")["input_ids"]


def test_what_is_neither_folder_nor_model_is_refused_in_one_line():
    with pytest.raises(Refused) as refusal:
        open_checkpoint(Checkpoint("nobody/no-such-model"), "multimodal")
    assert "\n" not in str(refusal.value)
    assert "give an existing folder, a hub id, or 'tiny'" in str(refusal.value)


def test_a_folder_without_a_config_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"config\.json"):
        open_checkpoint(Checkpoint(tmp_path), "text")


def test_a_t5_whose_words_are_a_sentencepiece_model_alone_is_opened(twin, tmp_path):
    """As older checkpoints were published: spiece.model, and no tokenizer.json."""
    shutil.copytree(twin("t5_clip")["text"].name, tmp_path / "t5")
    (tmp_path / "t5" / "tokenizer.json").unlink()
    marks = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    SentencePieceTrainer.train(
        sentence_iterator=iter(WORDS * 20), model_prefix=str(tmp_path / "t5" / "spiece"), vocab_size=40, minloglevel=2, **marks
    )
    pieces = SentencePieceProcessor(model_file=str(tmp_path / "t5" / "spiece.model")).encode("two large blue stars")
    assert len(pieces) > 3 and open_checkpoint(Checkpoint(tmp_path / "t5"), "text").tokenizer("two large blue stars")["input_ids"] == [
        *pieces,
        1,
    ]


@pytest.mark.parametrize("family", ["t5_clip", "bert_clip", "clip", "qwen2_vl"])
def test_a_checkpoint_without_words_is_refused_and_not_given_an_empty_tokenizer(twin, tmp_path, family):
    name, checkpoint = next(iter(twin(family).items()))
    shutil.copytree(checkpoint.name, tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / "tokenizer.json").unlink()
    with pytest.raises(Refused, match=r"cannot be opened: it has none of .*tokenizer\.json, .* no vocabulary; it needs config\.json"):
        open_checkpoint(Checkpoint(tmp_path / "checkpoint"), "text" if name == "text" else "multimodal")


def test_a_checkpoint_with_missing_weights_is_refused_and_not_made_up(tiny_qwen, tmp_path):
    for file in tiny_qwen.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = load_file(tmp_path / "model.safetensors")
    name = next(name for name in sorted(weights) if "layers.0" in name)
    del weights[name]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(Refused, match="lacks 1 weights"):
        open_checkpoint(Checkpoint(tmp_path), "multimodal")


def test_a_checkpoint_with_a_language_head_is_a_backbone_too(tiny_qwen, tmp_path):
    """The published checkpoints are of the generating class; its inner model is what encodes."""
    from transformers import Qwen2VLForConditionalGeneration

    model, tokenizer, image_processor, _ = open_checkpoint(Checkpoint(tiny_qwen), "multimodal")
    whole = Qwen2VLForConditionalGeneration(model.config)
    whole.model.load_state_dict(model.state_dict())
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    image_processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Qwen2VLForConditionalGeneration"]
    again = open_checkpoint(Checkpoint(tmp_path), "multimodal").model
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in model.state_dict().items())


def test_saving_a_checkpoint_imports_no_library_that_it_does_not_use(tiny_qwen, tmp_path):
    """transformers imports DeepSpeed where it saves, and DeepSpeed MLflow: more than a CPU second of every stage that saves an encoder."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mirepoix.models.backbones.checkpoint_config import Checkpoint\n"
        "from mirepoix.models.backbones.checkpoints import open_checkpoint\n"
        "from mirepoix.models.backbones.tuning import merged\n"
        "opened = open_checkpoint(Checkpoint(Path(sys.argv[1])), 'multimodal')\n"
        "opened.save(Path(sys.argv[2]), merged(opened.model, opened.model.state_dict()))\n"
        "print(*sorted({'deepspeed', 'mlflow', 'peft'} & {*sys.modules}))\n"
    )
    command = [sys.executable, "-c", code, str(tiny_qwen), str(tmp_path / "saved")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "\n" and (tmp_path / "saved" / "model.safetensors").is_file()
