"""UNITE's prompts and positions, its vectors from the equations, and what its two stages move."""

import pytest
import torch

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from mirepoix.models.retrievers.unite import Unite
from mirepoix.models.retrievers.unite_config import UniteConfig
from tests.models.conftest import ITEMS, picture
from tests.models.retrievers.plain_qwen import EVERY, FAMILIES, SEEN, SHOWN, Plain

NAMES = (("text", "sentence"), ("images", "image"), ("video", "video"))


@pytest.fixture(scope="module")
def unite(tiny_qwen):
    return Unite.open(tiny_qwen, UniteConfig()).eval()


@pytest.fixture(scope="module", params=FAMILIES)
def plain(request, twin):
    return Plain(twin(request.param)["model"].name, request.param)


def over(plain, **changes) -> Unite:
    return Unite.build({"model": Checkpoint(plain.model.name_or_path)}, UniteConfig(**changes)).eval()


def written(item: Item, prompt: str) -> str:
    words = "\n".join(part for part in (item.instruction, item.text) if part)
    views = SEEN * len(item.images) + SHOWN * bool(item.video)
    names = " and ".join(name for field, name in NAMES if getattr(item, field))
    asked = f"\nSummary above {names} in one word:" if prompt == "summary" else ""
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        + views
        + ("\n" if views and words else "")
        + f"{words}{asked}<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
    )


def read(unite, item):
    ids = unite.collator([item])["input_ids"][0]
    return unite.tokenizer.decode(ids).replace("<|image_pad|>" * 4, "<|image_pad|>")


def test_a_sentence_is_asked_for_one_word_and_ends_with_the_token_that_is_pooled(unite):
    assert read(unite, Item("a", text="a red circle")) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\na red circle\n"
        "Summary above sentence in one word:<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
    )


def test_the_modalities_are_named_and_the_picture_comes_first(unite):
    prompt = read(unite, Item("a", text="a red circle", images=(picture(),)))
    assert "user\n<|vision_start|><|image_pad|><|vision_end|>\na red circle\nSummary above sentence and image in one word:" in prompt
    assert "user\n<|vision_start|><|image_pad|><|vision_end|>\nSummary above image in one" in read(unite, Item("a", images=(picture(),)))


def test_without_a_newline_the_words_follow_the_picture_as_in_the_published_demonstration(tiny_qwen):
    demonstrated = Unite.open(tiny_qwen, UniteConfig(newline_after_pictures=False))
    prompt = read(demonstrated, Item("a", text="a red circle", images=(picture(),)))
    assert "user\n<|vision_start|><|image_pad|><|vision_end|>a red circle\nSummary above sentence and image in one word:" in prompt
    alone = read(demonstrated, Item("a", images=(picture(),)))
    assert "user\n<|vision_start|><|image_pad|><|vision_end|>\nSummary above image in one" in alone


def test_every_picture_has_a_frame_of_its_own_and_the_clip_follows_them(unite):
    prompt = read(unite, Item("a", images=(picture(), picture("blue")), video=(picture(),)))
    shown = SHOWN.replace("<|video_pad|>", "<|video_pad|>" * 4)
    assert f"user\n{SEEN}{SEEN}{shown}\nSummary above image and video in one word:" in prompt


def test_an_instruction_comes_before_the_text_and_names_no_modality(unite):
    prompt = read(unite, Item("a", images=(picture(),), instruction="Find a text."))
    assert "<|vision_end|>\nFind a text.\nSummary above image in one word:" in prompt


def test_the_raw_prompt_has_only_the_content(tiny_qwen):
    raw = Unite.open(tiny_qwen, UniteConfig(prompt="raw"))
    assert "user\na red circle<|im_end|>" in read(raw, Item("a", text="a red circle"))
    assert f"user\n{SEEN}<|im_end|>\n<|im_start|>assistant\n<|endoftext|>" in read(raw, Item("a", images=(picture(),)))


def test_the_prompt_is_what_the_template_gives_when_tokenised_as_one(unite):
    item = Item("a", text="a red circle.")
    assert unite.collator([item])["input_ids"][0].tolist() == unite.tokenizer(written(item, "summary"))["input_ids"]


def test_the_request_for_a_word_outlives_a_cut(tiny_qwen):
    short = Unite.open(tiny_qwen, UniteConfig(max_length=80))
    prompt = read(short, Item("a", text="a red circle on snow " * 100, images=(picture(),)))
    assert prompt.endswith("Summary above sentence and image in one word:<|im_end|>\n<|im_start|>assistant\n<|endoftext|>")


@pytest.mark.parametrize("prompt", ["summary", "raw"])
@pytest.mark.parametrize("positions", ["1d", "mrope"])
def test_its_vectors_are_those_of_the_equations(plain, positions, prompt):
    """e = h_L / |h_L| of every item alone, from the stock model and the prompt's words; ours in one padded batch."""
    unite = over(plain, positions=positions, prompt=prompt)
    expected = []
    for item in EVERY:
        last = plain.states(written(item, prompt), item, positions)[-1]
        expected.append(last / sum(float(value) ** 2 for value in last) ** 0.5)
    with torch.inference_mode():
        rows, mask = unite(**unite.collator(EVERY[:3], EVERY[3:]))
    assert rows.shape == (len(EVERY), 1, 64) and mask.all()
    for item, row, value in zip(EVERY, rows[:, 0], expected, strict=True):
        assert torch.allclose(row, value, atol=1e-5), item.id


def test_positions_with_a_grid_are_the_stock_models_own(plain):
    """Called as anyone would, without positions."""
    unite = over(plain, positions="mrope")
    for item in EVERY:
        last = plain.states(written(item, "summary"), item, "stock")[-1]
        assert torch.allclose(unite.encode([item]).rows_NTD[0, 0], last / last.norm(), atol=1e-5), item.id


def test_positions_with_a_grid_differ_for_pictures_and_agree_for_text(plain):
    difference = (over(plain, positions="mrope").encode(ITEMS).rows_NTD - over(plain).encode(ITEMS).rows_NTD).abs().amax((1, 2))
    assert difference[0] < 1e-6
    assert (difference[1:] > 1e-5).all()


def assert_adapters_alone_move(unite, alpha: int) -> set[str]:
    """In a step under adapters of rank 8; the layers that they sit on."""
    unite.tune(Tuning(towers=("language",), lora=Lora(8, alpha, 0.05)))
    before = {name: weight.clone() for name, weight in unite.state_dict().items()}
    optimizer = torch.optim.SGD([weight for weight in unite.parameters() if weight.requires_grad], lr=1.0)
    rows, _ = unite(**unite.training_collator(ITEMS))
    (rows * torch.randn_like(rows)).sum().backward()
    optimizer.step()
    moved = {name for name, weight in unite.state_dict().items() if not torch.equal(weight, before[name])}
    linear = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert {name.split(".")[-4] for name in moved} == linear
    assert moved == {name for name in before if "lora_B" in name and "language_model" in name}  # A follows when B is no longer zero
    return {name.replace("lora_B.default.weight", "weight") for name in moved}


def test_each_stage_moves_the_language_models_adapters_and_nothing_else(plain, tmp_path):
    """Stage 1 has rank 8 and alpha 16, stage 2 rank 8 and alpha 64 over the merged weights; vision and its merger stay frozen in both."""
    unite = over(plain)
    published = {name: weight.clone() for name, weight in unite.state_dict().items()}
    layers = assert_adapters_alone_move(unite, 16)
    unite.save(tmp_path)
    adapted = load_encoder(tmp_path)
    assert {name for name, weight in adapted.state_dict().items() if not torch.equal(weight, published[name])} == layers
    assert assert_adapters_alone_move(adapted, 64) == layers
