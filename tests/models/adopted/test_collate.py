"""The calls of a batch: one for each modality that its items have, and in training one for each that the model reads."""

import copy
import pickle

import pytest
import torch

from mirepoix.models.adopted.collate import BLANK
from mirepoix.models.backbones.tuning_config import Tuning
from mirepoix.models.item import Item
from tests.models.adopted.test_adopted import PASSAGES, PICTURES, TEXTS, adopt
from tests.models.module_order import module_order

MIXED = [TEXTS[0], PICTURES[0], TEXTS[1]]


@pytest.mark.parametrize("name", ["clip", "clip with a dense layer"])
def test_a_batch_has_a_call_for_each_modality_of_its_items_and_tensors_alone(name, layout):
    batch = adopt(layout(name)).collator(MIXED[:2], MIXED[2:])
    assert batch["text.places"].tolist() == [0, 2] and batch["image.places"].tolist() == [1]
    assert all(isinstance(tensor, torch.Tensor) for tensor in batch.values())
    texts = adopt(layout(name)).collator((), TEXTS)
    assert not any(key.startswith("image") for key in texts)


@pytest.mark.parametrize("name", ["clip", "clip with a dense layer"])
@pytest.mark.parametrize(("items", "missing"), [(TEXTS, "image"), (PICTURES, "text"), (MIXED, None)])
def test_in_training_a_blank_is_read_where_a_batch_has_nothing_for_a_call(name, items, missing, layout):
    encoder = adopt(layout(name))
    batch = encoder.training_collator((), items)
    for call in ("text", "image"):
        places = batch[f"{call}.places"].tolist()
        assert (places == [BLANK]) == (call == missing) and (call == missing or BLANK not in places)
    with torch.inference_mode():
        torch.testing.assert_close(encoder(**batch)[0], encoder(**encoder.collator((), items))[0], atol=1e-6, rtol=0)


def test_a_blank_has_no_gradient_and_runs_its_tower(layout):
    encoder = adopt(layout("clip"))
    rows_NTD, _ = encoder(**encoder.training_collator((), TEXTS))
    rows_NTD[:, :, :3].sum().backward()
    seen = {name: weight.grad for name, weight in encoder.named_parameters()}
    assert all(grad is not None for grad in seen.values())
    assert not any(grad.any() for name, grad in seen.items() if "vis" in name)
    assert any(grad.any() for name, grad in seen.items() if "text" in name)


def test_a_model_of_the_library_runs_the_same_modules_whatever_a_batch_has_and_precomputes_nothing(layout):
    encoder = adopt(layout("clip with a dense layer"))
    encoder.tune(Tuning(towers=("text",), lora=None))
    batches = [encoder.training_collator(*each) for each in ((TEXTS, ()), ((), PICTURES), (MIXED[:2], MIXED[2:]))]
    first, *others = (module_order(encoder, batch) for batch in batches)
    assert all(order == first for order in others) and first[-1].endswith("backward")
    assert all(encoder.precomputed(batch).keys() == batch.keys() for batch in batches)


def test_queries_and_documents_of_a_routed_model_are_calls_of_their_own(layout):
    batch = adopt(layout("routed")).collator(TEXTS[:1], TEXTS[1:])
    assert batch["text-query.places"].tolist() == [0] and batch["text-document.places"].tolist() == [1, 2]


def test_the_attention_mask_has_the_tokens_of_each_item(layout):
    batch = adopt(layout("clip")).collator((), MIXED)
    assert batch["attention_mask"].sum(1).tolist()[1] == 0  # a picture has none
    assert batch["attention_mask"].sum(1)[[0, 2]].tolist() == batch["text.attention_mask"].sum(1).tolist()


@pytest.mark.parametrize("name", ["clip with a dense layer", "bert, mean", "bert, as it was saved in 2022"])
def test_lengths_are_the_tokens_of_texts_and_the_patches_of_pictures(name, layout):
    collator = adopt(layout(name)).collator
    long = Item("long", text="two large blue stars " * 100)
    counted = collator([*TEXTS, long], [*TEXTS, long])["attention_mask"].sum(1).tolist()
    found = collator.lengths([*TEXTS, long], [*TEXTS, long])
    assert found == counted and counted[-1] > counted[0] > 2
    if "clip" in name:
        assert collator.lengths((), PICTURES) == [16] * len(PICTURES)


@pytest.mark.parametrize("name", ["routed", "static"])
def test_where_the_library_has_no_tokenizer_of_transformers_a_longer_text_has_a_greater_length(name, layout):
    short, long = adopt(layout(name)).collator.lengths([TEXTS[0]], [Item("long", text=TEXTS[0].text * 3)])
    assert 0 < short < long


@pytest.mark.parametrize("name", ["clip", "clip with a dense layer", "static"])
def test_a_collator_is_copied_and_pickled_without_the_models_weights(name, layout):
    collator = adopt(layout(name)).training_collator
    data = pickle.dumps(collator)
    assert len(data) < 400_000
    for other in (copy.deepcopy(collator), pickle.loads(data)):
        found, expected = other((), TEXTS), collator((), TEXTS)
        assert found.keys() == expected.keys() and all(torch.equal(found[key], expected[key]) for key in found)


def test_an_instruction_alone_is_no_item(layout):
    asked = Item("a", images=PICTURES[0].images, instruction="Find it.")
    encoder = adopt(layout("clip"))
    torch.testing.assert_close(encoder.encode([asked]).rows_NTD, encoder.encode(PICTURES[:1]).rows_NTD)


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("bert, mean", 512),
        ("bert, mean without its prompt", 512),
        (PASSAGES, 24),
        ("clip with a dense layer", 77),
        ("routed", 512),
        ("static", None),
    ],
)
def test_a_text_is_too_long_where_the_folder_says_so_its_prompt_among_it(name, limit, layout):
    """The limit is that of the folder, and the tokens are those of the whole text."""
    collator = adopt(layout(name)).collator
    words = "star " * 700
    for role in ("query", "document"):
        found = collator.overlong(Item("long", text=words), role)
        if limit is None or (name == "routed" and role == "query"):
            assert found is None
            continue
        assert found.limit == limit and found.tokens > limit
        ten = collator.overlong(Item("longer", text=words + "star " * 10), role)
        assert ten.tokens - found.tokens == 10 * (found.tokens // 700)
        assert collator.overlong(Item("short", text="star"), role) is None
        fitting = (limit - 10) // (found.tokens // 700)
        assert collator.overlong(Item("fits", text="star " * fitting), role) is None
