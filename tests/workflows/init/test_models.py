"""The figures of published models are those of transformers' own classes with their settings."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    SiglipConfig,
    SiglipModel,
)

from mirepoix.workflows.init.models import (
    CHINESE_CLIP,
    CLIP_B32,
    CLIP_L14,
    MINILM,
    MINILM_MULTILINGUAL,
    MODELS,
    SIGLIP_MULTILINGUAL,
    Model,
    Tower,
)


def sizes(tower: Tower, vocabulary: bool = False) -> dict[str, int]:
    common = {"hidden_size": tower.width, "intermediate_size": tower.inner, "num_hidden_layers": tower.layers}
    words = {"vocab_size": tower.vocabulary} if vocabulary else {}
    return common | {"num_attention_heads": tower.heads} | words


def built(model: Model) -> torch.nn.Module:
    """The model of transformers with these sizes, without memory for its weights."""
    with torch.device("meta"):
        if model.vision is None:
            return BertModel(BertConfig(**sizes(model.text, True)))
        picture = 256 if model is SIGLIP_MULTILINGUAL else 224
        parts = {"text_config": sizes(model.text, True), "vision_config": sizes(model.vision) | {"patch_size": model.vision.patch}}
        parts["vision_config"]["image_size"] = picture
        if model is SIGLIP_MULTILINGUAL:
            return SiglipModel(SiglipConfig(**parts))
        if model is CHINESE_CLIP:
            return ChineseCLIPModel(ChineseCLIPConfig(**parts, projection_dim=model.vector))
        return CLIPModel(CLIPConfig(**parts, projection_dim=model.vector))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_parameters_and_operations_are_those_of_its_class(model):
    module = built(model)
    assert sum(weight.numel() for weight in module.parameters()) == model.parameters
    words = torch.zeros(1, model.text.tokens, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counted:
        (module if model.vision is None else module.text_model)(input_ids=words)
    assert model.text.operations == pytest.approx(counted.get_total_flops(), rel=0.01)
    if model.vision is not None:
        side = module.config.vision_config.image_size
        with FlopCounterMode(display=False) as counted:
            module.vision_model(pixel_values=torch.empty(1, 3, side, side, device="meta"))
        assert model.vision.operations == pytest.approx(counted.get_total_flops(), rel=0.02)


def test_what_they_download():
    assert [model.download // 10**6 for model in (CLIP_B32, CLIP_L14, SIGLIP_MULTILINGUAL, CHINESE_CLIP)] == [605, 1710, 1482, 1506]
    assert [model.download // 10**6 for model in (MINILM, MINILM_MULTILINGUAL)] == [90, 470]


def test_operations_and_memory_by_hand():
    tower = Tower(layers=2, width=10, inner=40, heads=2, tokens=5, patch=4)
    # A layer: 2 x 5 x (4 x 100 + 2 x 400) = 12,000, and attention 4 x 25 x 10 = 1,000; patches: 2 x 5 x 3 x 16 x 10 = 4,800.
    assert tower.operations == 2 * 13_000 + 4_800
    # 5 x 10 x (34 + 5 x 2 x 5 / 10) = 1,950 bytes a layer in float16; of three items, two layers, float32: 2 x 3 x 2 x 1,950.
    assert tower.activation_bytes(3) == 23_400
