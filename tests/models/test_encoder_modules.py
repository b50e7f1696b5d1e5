"""In training every batch runs the same modules in the same order, forward and backward, whatever its items are.

An engine that shards weights gathers them module by module, on all ranks at once: a rank whose batch runs one more module, or one fewer,
waits for ever.
"""

import copy
from functools import cache
from itertools import combinations, product
from typing import Any

import pytest
import torch

from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.backbones.tuning_config import Lora
from mirepoix.models.backbones.twins import seeded
from mirepoix.models.encoder import Encoder, encoder_class
from mirepoix.models.encoder_config import ARCHITECTURES, config_class
from mirepoix.models.item import Item, Modality
from tests.models.conftest import picture
from tests.models.module_order import module_order

soak = pytest.mark.soak
TEXT, PICTURE = Item("t", text="two stars"), Item("p", images=(picture(),))
BOTH, SEVERAL = Item("b", text="a star", images=(picture("blue"),)), Item("s", images=(picture("blue"), picture("green", 40)))
CLIP = Item("c", text="it turns", video=(picture("red"), picture("blue")))
BATCHES: dict[str, tuple[list[Item], list[Item]]] = {
    "both": ([TEXT, BOTH], [PICTURE, SEVERAL, TEXT]),
    "texts": ([TEXT], [TEXT, TEXT]),
    "pictures": ([PICTURE], [PICTURE]),
    "queries of text": ([TEXT], []),
    "documents of text": ([], [TEXT]),
    "queries with pictures": ([BOTH], []),
    "documents with pictures": ([], [BOTH, PICTURE]),
    "clips": ([TEXT], [CLIP]),
}
REPLACED = {
    "unite": "features",
    "jfe": "features",
    "marvel": "patch_states",
    "mimic": "patch_states",
    "mire": "states",
    "univldr": "picture_vectors",
    "adopted": "image.vectors",
}
"""What a frozen vision tower gives, by the retriever, as a precomputed batch names it."""
READ = ("pixel_values", "picture_keys", "image.pixel_values", "image.pixel_attention_mask", "image.spatial_shapes")
"""What a vision tower reads."""


def cases() -> list:
    """Every tuning of every retriever over every family; those with all towers adapted, or one tower trained, and the others as soak."""
    found = []
    for name in ARCHITECTURES:
        config = config_class(name)
        sums = [towers for count in range(1, len(config.TOWERS) + 1) for towers in combinations(config.TOWERS, count)]
        for family in config.FAMILIES:
            told = family in (config.FAMILIES if name == "unite" else config.FAMILIES[-1:])
            for towers, lora in product(sums, (False, True)):
                quick = told and (towers == config.TOWERS if lora else len(towers) == 1)
                found.append(
                    pytest.param(
                        name, family, towers, lora, id=f"{name}-{family}-{'+'.join(towers)}{'-lora' * lora}", marks=[] if quick else soak
                    )
                )
    return found


@pytest.fixture(scope="module")
def built(twin):
    """The encoder of a retriever over a family's twin, each built once."""

    @cache
    def made(name: str, family: str) -> Encoder:
        config = AdoptedConfig(several="sum") if name == "adopted" else config_class(name)()
        with seeded(0):
            return encoder_class(config).build(twin(family), config)

    return made


@pytest.fixture
def tuned(built):
    """A copy of the encoder of a retriever, prepared for training."""

    def made(name: str, family: str, towers: tuple[str, ...], lora: bool, dropout: float = 0.0, **more: Any) -> Encoder:
        encoder = copy.deepcopy(built(name, family))
        return encoder.tune(encoder.config.TUNING(towers=towers, lora=Lora(2, 4, dropout) if lora else None, **more))

    return made


def collated(encoder: Encoder) -> dict[str, dict[str, torch.Tensor]]:
    """The batches that a retriever reads, by their names."""
    return {
        name: encoder.training_collator(queries, documents)
        for name, (queries, documents) in BATCHES.items()
        if name != "clips" or encoder.reads & Modality.VIDEO
    }


def results(encoder: Encoder, batch: dict[str, torch.Tensor]) -> list[torch.Tensor | None]:
    """The rows, their mask, and the gradient of every trained weight."""
    rows_NTD, mask_NT = encoder(**batch)
    (rows_NTD * torch.linspace(0, 1, rows_NTD.numel()).reshape(rows_NTD.shape)).sum().backward()
    gradients = [weight.grad for weight in encoder.parameters() if weight.requires_grad]
    encoder.zero_grad()
    return [rows_NTD.detach(), mask_NT, *gradients]


@pytest.mark.parametrize(("name", "family", "towers", "lora"), cases())
def test_every_batch_runs_the_same_modules_in_the_same_order(name, family, towers, lora, tuned):
    encoder = tuned(name, family, towers, lora, 0.1, **({"mix_in": 0.5} if name == "mimic" else {}))
    orders = {kind: module_order(encoder, batch) for kind, batch in collated(encoder).items()}
    assert sum(each.endswith("backward") for each in orders["both"]) >= 4
    for kind, order in orders.items():
        assert order == orders["both"], kind


@pytest.mark.parametrize(("name", "family", "towers", "lora"), [case for case in cases() if len(case.values[2]) == 1])
def test_a_precomputed_batch_has_the_outputs_of_a_frozen_vision_tower_and_gives_equal_rows_and_gradients(name, family, towers, lora, tuned):
    encoder = tuned(name, family, towers, lora, **({"mix_in": 0.0} if name == "mimic" else {}))
    orders = []
    for kind, batch in collated(encoder).items():
        before, kept = dict(batch), encoder.precomputed(batch)
        assert batch.keys() == before.keys(), "the batch that is given stays as it is"
        assert encoder.precomputed(kept).keys() == kept.keys(), "what is precomputed is not computed again"
        assert all(isinstance(tensor, torch.Tensor) and not tensor.requires_grad for tensor in kept.values())
        assert (REPLACED[name] in kept) == ("vision" not in towers), kind
        if "vision" not in towers:
            assert not kept.keys() & {*READ}
            orders.append(module_order(encoder, kept))
        for found, expected in zip(results(encoder, kept), results(encoder, batch), strict=True):
            assert (found is None and expected is None) or torch.equal(found, expected), kind
    assert all(order == orders[0] for order in orders)
    assert not any(entry.startswith(("model.visual", "model.vision_model", "vision.")) for order in orders for entry in order)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_in_search_a_batch_without_pictures_is_precomputed_as_it_is(name, built):
    encoder = copy.deepcopy(built(name, config_class(name).FAMILIES[-1])).eval().requires_grad_(False)
    batch = encoder.collator([TEXT], [TEXT])
    assert name == "adopted" or encoder.precomputed(batch).keys() == batch.keys()
    with torch.inference_mode():
        for each in (batch, encoder.collator([TEXT], [BOTH, PICTURE])):
            assert torch.equal(encoder(**encoder.precomputed(each))[0], encoder(**each)[0])
