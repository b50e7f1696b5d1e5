"""JFE's turn, its vectors from the equations in every setting, its control arm, and what its two stages move.

Shapes: L tokens, D width.
"""

import itertools

import pytest
import torch
from transformers import AutoModel

from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from mirepoix.models.retrievers.jfe import Jfe
from mirepoix.models.retrievers.jfe_config import JfeConfig
from tests.models.conftest import ITEMS, picture
from tests.models.retrievers.plain_qwen import EVERY, FAMILIES, SEEN, SHOWN, Plain

SETTINGS = list(itertools.product(("causal", "bidirectional"), ("last", "mean"), ("joint", "late")))


@pytest.fixture(scope="module", params=FAMILIES)
def plain(request, twin):
    return Plain(twin(request.param)["model"].name, request.param)


@pytest.fixture(scope="module")
def jfe(tiny_qwen):
    return Jfe.open(tiny_qwen, JfeConfig()).eval()


def over(plain, **changes) -> Jfe:
    return Jfe.build({"model": Checkpoint(plain.model.name_or_path)}, JfeConfig(**changes)).eval()


def turn(item: Item) -> str:
    views = SEEN * len(item.images) + SHOWN * bool(item.video)
    return "<|im_start|>user\n" + "\n".join(part for part in (item.instruction, views, item.text) if part) + "<|im_end|>"


def halves(item: Item) -> list[Item]:
    visual, textual = Item("visual", images=item.images, video=item.video), Item("textual", item.text, instruction=item.instruction)
    return [half for half, there in ((visual, item.images or item.video), (textual, item.text or item.instruction)) if there]


def slow(plain, item: Item, attention: str, pooling: str, fusion: str, positions: str) -> torch.Tensor:
    """The equations, over states of each sequence alone, whose attention is written as a mask."""
    whole_D = torch.zeros(64)
    for part in [item] if fusion == "joint" else halves(item):
        states_LD = plain.states(turn(part), part, positions, both_ways=attention == "bidirectional")
        if pooling == "last":
            whole_D = whole_D + states_LD[-1]
        else:
            whole_D = whole_D + sum(states_LD[place] for place in range(len(states_LD))) / len(states_LD)
    return whole_D / sum(float(value) ** 2 for value in whole_D) ** 0.5


@pytest.mark.parametrize("setting", SETTINGS, ids="-".join)
def test_its_vectors_are_those_of_the_equations(plain, setting):
    jfe = over(plain, **dict(zip(("attention", "pooling", "fusion"), setting, strict=True)))
    with torch.inference_mode():
        rows, mask = jfe(**jfe.collator(EVERY[:3], EVERY[3:]))
    assert rows.shape == (len(EVERY), 1, 64) and mask.all()
    for item, row in zip(EVERY, rows[:, 0], strict=True):
        assert torch.allclose(row, slow(plain, item, *setting, "mrope"), atol=1e-5), item.id


def test_positions_can_count_tokens(plain):
    jfe = over(plain, positions="1d")
    for item in EVERY:
        assert torch.allclose(jfe.encode([item]).rows_NTD[0, 0], slow(plain, item, "causal", "last", "joint", "1d"), atol=1e-5)


def test_the_turn_is_the_instruction_the_pictures_and_the_text_each_where_there_is_one(jfe):
    def read(item):
        return jfe.tokenizer.decode(jfe.collator([item])["input_ids"][0]).replace("<|image_pad|>" * 4, "<|image_pad|>")

    whole = Item("a", "two stars", (picture(), picture("blue")), instruction="Find it.")
    assert read(whole) == f"<|im_start|>user\nFind it.\n{SEEN}{SEEN}\ntwo stars<|im_end|>"
    assert read(Item("a", "two stars", instruction="Find it.")) == "<|im_start|>user\nFind it.\ntwo stars<|im_end|>"
    assert read(Item("a", images=(picture(),), instruction="Find it.")) == f"<|im_start|>user\nFind it.\n{SEEN}<|im_end|>"
    assert read(Item("a", images=(picture(),))) == f"<|im_start|>user\n{SEEN}<|im_end|>"
    assert read(Item("a", "two stars")) == "<|im_start|>user\ntwo stars<|im_end|>"


def test_the_turn_is_what_it_is_when_tokenised_as_one(jfe):
    item = Item("a", "Two stars.", instruction="Find it.")
    assert jfe.collator([item])["input_ids"][0].tolist() == jfe.tokenizer(turn(item))["input_ids"]


def test_a_text_is_cut_before_the_instruction_and_a_picture_never(tiny_qwen):
    short = Jfe.open(tiny_qwen, JfeConfig(max_length=60))
    prompt = short.tokenizer.decode(short.collator([Item("a", "red " * 200, (picture(),), instruction="Find it.")])["input_ids"][0])
    assert prompt.startswith("<|im_start|>user\nFind it.\n<|vision_start|>") and prompt.endswith(" red<|im_end|>")
    prompt = short.tokenizer.decode(short.collator([Item("a", "red", (picture(),), instruction="blue " * 200)])["input_ids"][0])
    assert prompt.count("<|image_pad|>") == 4 and "red" not in prompt and " blue\n<|vision_start|>" in prompt


@pytest.mark.parametrize("attention", ["causal", "bidirectional"])
def test_a_later_token_reaches_an_earlier_state_only_both_ways(plain, attention):
    jfe = over(plain, attention=attention)
    one, other = (jfe.collator([Item("a", f"two stars {last}", (picture(),))]) for last in ("a", "at"))
    assert one["input_ids"].shape == other["input_ids"].shape
    same = int((one["input_ids"] == other["input_ids"])[0].long().cumprod(0).sum())
    with torch.inference_mode():
        states = [jfe.states(*list(batch.values())[:3], **dict(list(batch.items())[3:]))[0, :same] for batch in (one, other)]
    assert torch.allclose(*states, atol=1e-6) == (attention == "causal")


@pytest.mark.parametrize(
    "item",
    [
        Item("t", "two stars", instruction="Find it."),
        Item("i", images=(picture(), picture("blue"))),
        Item("asked", images=(picture(),), instruction="Find it."),
        ITEMS[-1],
    ],
    ids=lambda item: item.id,
)
def test_both_arms_agree_on_words_alone_and_on_pictures_alone_and_an_instruction_is_words(plain, item):
    joint, late = (over(plain, fusion=fusion).encode([item]).rows_NTD for fusion in ("joint", "late"))
    assert torch.allclose(joint, late, atol=1e-6) == (len(halves(item)) == 1)


def test_the_late_arm_sums_before_it_normalises(plain):
    late, item = over(plain, fusion="late", pooling="mean"), ITEMS[2]
    visual, textual = (over(plain, pooling="mean").encode([half]).rows_NTD[0, 0] for half in halves(item))
    of_units = torch.nn.functional.normalize(visual + textual, dim=-1)
    assert not torch.allclose(late.encode([item]).rows_NTD[0, 0], of_units, atol=1e-4)


def test_the_late_arm_counts_the_tokens_of_both_its_sequences(tiny_qwen):
    late, item = Jfe.open(tiny_qwen, JfeConfig(fusion="late")), ITEMS[2]
    counts = [int(late.collator([one])["attention_mask"].sum()) for one in (item, *halves(item))]
    assert counts[0] == counts[1] + counts[2]


def test_the_saved_checkpoint_alone_records_that_attention_is_bidirectional(plain, tmp_path):
    """Plain transformers, which does not know JFE, attends as it does; and what is opened again stays as it was."""
    jfe, item = over(plain, attention="bidirectional", pooling="mean"), ITEMS[0]
    jfe.save(tmp_path)
    ids = plain.tokenizer(turn(item), return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        mean = AutoModel.from_pretrained(tmp_path)(input_ids=ids).last_hidden_state[0].mean(0)
    assert torch.allclose(jfe.encode([item]).rows_NTD[0, 0], mean / mean.norm(), atol=1e-5)
    assert torch.equal(load_encoder(tmp_path).encode(EVERY).rows_NTD, jfe.encode(EVERY).rows_NTD)


def moved_in_a_step(jfe) -> tuple[set[str], set[str]]:
    """The weights that a step of either stage changes, and those that it must: A of an adapter follows when its B is no longer zero."""
    jfe.tune(Tuning(towers=("language",), lora=Lora(8, 16, 0.05)))
    before = {name: weight.clone() for name, weight in jfe.state_dict().items()}
    optimizer = torch.optim.SGD([weight for weight in jfe.parameters() if weight.requires_grad], lr=1.0)
    rows, _ = jfe(**jfe.training_collator(ITEMS))
    (rows * torch.randn_like(rows)).sum().backward()
    optimizer.step()
    moved = {name for name, weight in jfe.state_dict().items() if not torch.equal(weight, before[name])}
    return moved, {name for name in before if "lora_B" in name and "language_model" in name}


@pytest.mark.parametrize("fusion", ["joint", "late"])
def test_adaptation_moves_the_language_models_adapters_and_instruction_tuning_new_ones_over_what_these_left(plain, fusion, tmp_path):
    """The stages are chosen to tune alike; vision is frozen in both."""
    jfe = over(plain, fusion=fusion)
    published = {name: weight.clone() for name, weight in jfe.state_dict().items()}
    moved, adapters = moved_in_a_step(jfe)
    assert moved == adapters
    jfe.save(tmp_path)
    adapted = load_encoder(tmp_path)
    merged = {name for name, weight in adapted.state_dict().items() if not torch.equal(weight, published[name])}
    assert merged == {name.replace("lora_B.default.weight", "weight") for name in adapters}
    moved, adapters = moved_in_a_step(adapted)
    assert moved == adapters
