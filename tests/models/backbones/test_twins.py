"""Tiny twins have the classes and files of a hub checkpoint, from a seed, and tokenizers that read any text."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mirepoix.models.backbones.checkpoints import open_checkpoint
from mirepoix.models.backbones.twin_config import FAMILIES, QWEN_TOKENS, SCALED, Tiny
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.errors import Refused
from tests.models.conftest import SIZES, WORDS
from tests.ranks import run_ranks


def parts(checkpoints):
    kinds = {"model": "multimodal", "text": "text", "vision": "vision"}
    return {name: open_checkpoint(checkpoint, kinds[name]) for name, checkpoint in checkpoints.items()}


@pytest.mark.parametrize("family", FAMILIES)
def test_which_twins_have_a_scale_is_known_before_they_are_made(twin, family):
    weights = [name for each in twin(family).values() for name in load_file(each.name / "model.safetensors")]
    assert ("logit_scale" in weights) == (family in SCALED)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_twin_has_the_files_of_a_checkpoint_and_opens_whole(twin, family):
    for name, part in parts(twin(family)).items():
        files = {file.name for file in twin(family)[name].name.iterdir()}
        assert {"config.json", "model.safetensors"} <= files
        vocabulary = "spiece.model" if family == "siglip" else "tokenizer.json"
        assert ({vocabulary, "tokenizer_config.json"} <= files) == (name != "vision")
        assert ("preprocessor_config.json" in files) == (name != "text")
        assert sum(weight.numel() for weight in part.model.parameters()) < 1_000_000


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_weights(twin, family, tmp_path):
    made = [make_twin(tmp_path / str(seed), family, WORDS * 20, SIZES, seed=seed) for seed in (0, 1)]
    for name, checkpoint in twin(family).items():
        one, same, other = (load_file(each.name / "model.safetensors") for each in (checkpoint, *(twins[name] for twins in made)))
        assert all(torch.equal(one[weight], same[weight]) for weight in one)
        assert not all(torch.equal(one[weight], other[weight]) for weight in one)


def test_weights_are_spread_as_configured_but_where_published_models_spread_them_by_width(tmp_path):
    expected = {
        "qwen2_vl": {"language_model.layers.0.self_attn.q_proj.weight": 10, "visual.blocks.0.attn.qkv.weight": 10},
        "bert_clip": {"encoder.layer.0.attention.self.query.weight": 10},
        "clip": {"vision_model.embeddings.patch_embedding.weight": 10, "vision_model.encoder.layers.0.self_attn.q_proj.weight": 1},
        "t5_clip": {"encoder.block.0.layer.0.SelfAttention.q.weight": 1},
    }
    for family, ratios in expected.items():
        made = [
            make_twin(tmp_path / f"{family}{spread}", family, WORDS, replace(SIZES, initializer_range=spread), 0) for spread in (0.02, 0.2)
        ]
        narrow, wide = (load_file(next(iter(each.values())).name / "model.safetensors") for each in made)
        found = {weight: float(wide[weight].std() / narrow[weight].std()) for weight in ratios}
        assert found == pytest.approx(ratios), family


def _make(rank, world, folder, families):
    for family in families:
        make_twin(folder / family, family, WORDS * 20, SIZES, seed=0)


def test_another_process_makes_the_same_tokenizers(twin, tmp_path):
    """One with hashes of strings of its own: it is not forked from this one."""
    families = ["qwen2_vl", "t5_clip", "bert_clip", "clip"]
    run_ranks(_make, 1, tmp_path, families)
    for family in families:
        for name, checkpoint in twin(family).items():
            place = tmp_path / family / (name if name != "model" else "")
            for file in ("tokenizer.json", "model.safetensors"):
                if (checkpoint.name / file).exists():
                    assert (place / file).read_bytes() == (checkpoint.name / file).read_bytes(), (family, file)


def test_making_a_twin_leaves_the_random_numbers_of_others_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    make_twin(tmp_path, "clip", WORDS, SIZES, seed=0)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tokenizer_reads_what_it_was_trained_on_in_pieces_and_knows_every_sign_of_ascii(twin, family):
    tokenizer = next(part.tokenizer for part in parts(twin(family)).values() if part.tokenizer)
    pieces = len(tokenizer("two large blue stars")["input_ids"]) - len(tokenizer("")["input_ids"])
    assert pieces < len("two large blue stars")
    plain = tokenizer("what is this? (a2)", add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in plain
    assert tokenizer("Two stars")["input_ids"] != tokenizer("three moons")["input_ids"]


def test_the_byte_level_tokenizer_knows_the_control_tokens_and_loses_no_text(twin):
    tokenizer = parts(twin("qwen2_vl"))["model"].tokenizer
    assert all(len(tokenizer(token)["input_ids"]) == 1 for token in QWEN_TOKENS)
    for text in ("two large blue stars", "Ünïcödé — 日本語 \t\n"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_clip_twin_takes_pictures_of_the_largest_square_of_patches(twin):
    for pixels, side in ((56 * 56, 56), (60 * 60, 56), (30 * 30, 28)):
        assert Tiny(max_pixels=pixels).side == side
    assert parts(twin("t5_clip"))["vision"].model.config.image_size == SIZES.side


def test_an_unknown_family_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(Refused, match="qwen2_vl, qwen2_5_vl, qwen3_vl, t5_clip"):
        make_twin(tmp_path, "gpt", WORDS, SIZES, seed=0)
