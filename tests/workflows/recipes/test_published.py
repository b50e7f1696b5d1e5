"""The published recipes say what the papers and their code say, field by field."""

import ast
import re
from dataclasses import fields, replace
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from mirepoix.components.training.batches.augment_config import AugmentConfig
from mirepoix.workflows.dag.retrieval import Method
from mirepoix.workflows.recipes import published
from mirepoix.workflows.recipes.published import CHOSEN_HERE
from mirepoix.workflows.recipes.registry import recipe

T5_ANCE, CLIP_B32 = "OpenMatch/t5-ance", "openai/clip-vit-base-patch32"
DENSE = {
    "global_batch_size": 64,
    "num_workers": 1,
    "learning_rate": 5e-6,
    "weight_decay": 0.2,
    "adam_betas": (0.9, 0.98),
    "adam_epsilon": 1e-6,
    "max_grad_norm": 0.0,
    "num_train_epochs": 20,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0,
    "loss.temperature": None,
    "loss.learned_temperature": True,
    "loss.temperature_floor": 0.001,
}
"""MARVEL's optimizer in every step of its own and of UniVL-DR's; the temperature is that of the CLIP checkpoint."""
ANCE = {"last": 100, "margin": None, "balanced": True, "strategy": "random", "negatives": 2, "own": "replace", "max_score": None}
FLAT = {"lr_scheduler_type": "constant", "global_batch_size": 512, "num_workers": 4, "weight_decay": 0.0, "max_grad_norm": 0.0}
LORA = {"num_train_epochs": 1, "loss.temperature": 0.03, "lr_scheduler_type": "cosine", "warmup_steps": 0.03, "weight_decay": 0.0}
CLIPPED = {"max_grad_norm": 64.0, "adam_epsilon": 6.4e-7, "adam_betas": (0.9, 0.999), "seed": 42}
"""UNITE's 1.0 and 1e-8, on gradients that its loss divides by the 64 GPUs of scripts/multi_node/qwen2_vl_2b."""
IN_BATCH = {"negatives": 0, "loss.in_batch": True}


def under(stage: str, *settings: dict[str, Any]) -> dict[str, Any]:
    """Published settings of a training, by dotted name."""
    return {f"{stage}.{field}": value for fields in settings for field, value in fields.items()}


PUBLISHED: dict[str, dict[str, Any]] = {
    "unite": {
        "backbone.name": "Qwen/Qwen2-VL-2B-Instruct",
        "backbone.encoder.positions": "1d",
        "backbone.encoder.prompt": "summary",
        "backbone.encoder.max_length": 2048,
        "backbone.encoder.min_pixels": 256 * 28 * 28,
        "backbone.encoder.max_pixels": 1280 * 28 * 28,
        "backbone.encoder.max_frame_pixels": 240 * 320,
        "backbone.encoder.min_frame_pixels": 256 * 28 * 28,
        "backbone.encoder.resized_twice": True,
        "backbone.encoder.max_frames": 12,
        "pairs.adapt_tasks": ("t->t", "t->i", "i->t", "t->v", "v->t"),
        "pairs.adapt_instructions": False,
        "pairs.without_instruction": 0.0,
        **under("adapt", LORA, CLIPPED, IN_BATCH, {"learning_rate": 1e-4, "loss.symmetric": True, "loss.modality_mask": False}),
        **under("adapt.tuning", {"towers": ("language",), "lora.rank": 8, "lora.alpha": 16, "lora.dropout": 0.05}),
        **under("instruct", LORA, CLIPPED, IN_BATCH, {"learning_rate": 2e-5, "loss.symmetric": False, "loss.modality_mask": True}),
        **under("instruct.tuning", {"towers": ("language",), "lora.rank": 8, "lora.alpha": 64, "lora.dropout": 0.05}),
        "mine": None,
        "refine": None,
    },
    "jfe": {  # the paper says that there are two stages, and one tower; the rest is chosen here, and compared with the docs
        **under("adapt", LORA, IN_BATCH, {"learning_rate": 1e-4, "tuning.lora.rank": 32, "tuning.lora.alpha": 64, "loss.symmetric": True}),
        **under("instruct", LORA, IN_BATCH, {"learning_rate": 1e-4, "tuning.lora.rank": 32, "loss.symmetric": False}),
        "backbone.encoder.fusion": "joint",
        "backbone.encoder.positions": "mrope",
        "pairs.without_instruction": 0.0,
        "adapt.loss.modality_mask": False,
        "instruct.loss.modality_mask": False,
        "adapt.max_grad_norm": 1.0,
        "instruct.max_grad_norm": 1.0,
        "refine": None,
    },
    "jfe_late": {"backbone.encoder.fusion": "late"},
    "mimic": {
        "backbone.name": T5_ANCE,
        "backbone.vision": CLIP_B32,
        "backbone.encoder.text_length": 128,
        "pairs.without_instruction": 1.0,
        "adapt": None,
        **under("instruct", DENSE, IN_BATCH, {"tuning.mix_in": 0.2, "augment": AugmentConfig(document_captions=0.2)}),
        **under("mine_refine", ANCE),
        **under("refine", DENSE, {"negatives": 2, "loss.in_batch": True, "augment": AugmentConfig(document_captions=0.2)}),
    },
    "mire": {
        "backbone.name": "colbert-ir/colbertv2.0",
        "backbone.vision": CLIP_B32,
        **under("backbone.encoder", {"width": 128, "heads": 12, "global_tokens": 16, "global_hidden": 1024, "patch_hidden": 3072}),
        **under("backbone.encoder", {"query_length": 64, "document_length": 384}),
        "pairs.without_instruction": 1.0,
        **under("adapt", FLAT, IN_BATCH, {"num_train_epochs": 5, "learning_rate": 1e-4, "warmup_steps": 300, "loss.temperature": 0.3}),
        **under("adapt", {"seed": 2024, "bf16": False}),
        **under("adapt.tuning", {"towers": ("pooling",), "text_rows": False, "query_length": 40, "document_length": 400}),
        "adapt.tuning.query_padding": "mask",
        **under("instruct", FLAT, IN_BATCH, {"num_train_epochs": 15, "learning_rate": 5e-5, "warmup_steps": 10, "loss.temperature": 0.8}),
        **under("instruct.tuning", {"towers": ("text", "pooling"), "text_rows": True, "query_length": 32, "document_length": 180}),
        "instruct.tuning.query_padding": "mask",
        "backbone.encoder.document_guide": "Can you describe the primary elements in this image?",
        "backbone.encoder.punctuation_rows": True,
        **under("passages.vid2r", {"phrases": "anywhere", "min_characters": 30, "few_words": 4, "neighbours": 3, "sentences": 2}),
        "refine": None,
    },
    "marvel": {
        "backbone.name": T5_ANCE,
        "backbone.vision": CLIP_B32,
        "backbone.encoder.text_length": 128,
        "pairs.without_instruction": 1.0,
        **under("adapt", DENSE, IN_BATCH, {"seed": 1234, "loss.symmetric": True, "augment": AugmentConfig()}),
        **under("adapt.tuning", {"towers": ("vision", "projector"), "text_length": 64}),
        "pairs.adapt_captions": True,
        **under("instruct", DENSE, IN_BATCH, {"seed": 1234, "loss.symmetric": False, "augment": AugmentConfig()}),
        "instruct.tuning.towers": ("text", "projector"),
        "mine": None,
        **under("mine_refine", ANCE),
        **under("refine", DENSE, {"seed": 1234, "negatives": 2, "loss.in_batch": True}),
        "refine.tuning.towers": ("text", "projector"),
    },
    "univldr": {
        "backbone.name": CLIP_B32,
        "pairs.without_instruction": 1.0,
        "adapt": None,
        **under("instruct", DENSE, IN_BATCH, {"seed": 1234}),
        "instruct.tuning.towers": ("text", "vision"),
        "mine": None,
        **under("mine_refine", ANCE),
        **under("refine", DENSE, {"seed": 1234, "negatives": 2, "loss.in_batch": False}),
    },
    "uniir": {
        "backbone.name": "openai/clip-vit-large-patch14",
        "pairs.without_instruction": 0.0,
        "adapt": None,
        **under("instruct", IN_BATCH, {"global_batch_size": 840, "num_workers": 8, "learning_rate": 1e-5, "weight_decay": 0.2}),
        **under("instruct", {"num_train_epochs": 20, "lr_scheduler_type": "cosine", "loss.learned_temperature": True, "bf16": True}),
        **under("instruct", {"adam_betas": (0.9, 0.98), "adam_epsilon": 1e-6, "max_grad_norm": 0.0, "seed": 2023}),
        **under("instruct.loss", {"temperature": None, "temperature_floor": 0.001}),
        "instruct.tuning.towers": ("text", "vision"),
        "refine": None,
    },
}


@pytest.mark.parametrize(
    ("name", "field", "value"), [(name, field, value) for name, settings in PUBLISHED.items() for field, value in settings.items()]
)
def test_a_published_recipe_has_the_settings_of_the_paper(name, field, value):
    assert reduce(getattr, field.split("."), recipe(name)) == value


def test_the_control_of_jfe_differs_in_fusion_alone():
    joint, late = recipe("jfe"), recipe("jfe_late")
    fused = replace(late.backbone.encoder, fusion="joint")
    assert joint != late and replace(late, backbone=replace(late.backbone, encoder=fused)) == joint


def test_the_claim_of_jfe_is_tested_on_the_same_pairs_by_the_arms_as_they_are_alone():
    claim = recipe("jfe_claim")
    for name, arm in claim.arms.items():
        alone = recipe(name)
        assert all(getattr(arm, field.name) == getattr(alone, field.name) for field in fields(Method))
        assert (arm.pairs or claim.pairs) == alone.pairs
    assert [stage.name for stage in claim.stages() if stage.step == "pairs"] == ["pairs"], "the three are trained on the same"


def test_the_twins_of_jfe_differ_in_fusion_alone():
    arms = recipe("quickstart_fusion").arms
    fused = replace(arms["jfe_late"].backbone.encoder, fusion="joint")
    assert arms["jfe"] != arms["jfe_late"]
    assert replace(arms["jfe_late"], backbone=replace(arms["jfe_late"].backbone, encoder=fused)) == arms["jfe"]
    assert recipe("quickstart_all").arms["jfe"] == arms["jfe"]


def test_the_table_of_sources_has_the_values_of_the_recipes():
    table = (Path(__file__).parents[3] / "docs/retrievers.md").read_text().partition("## Where the recipes' settings come from")[2]
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| `(.+?)` \| (.+) \|$", table, re.MULTILINE)
    lines = [line for line in table.partition("\n---\n")[0].splitlines() if line.startswith("| `")]
    assert len(rows) == len(lines) == len({row[:2] for row in rows}) and len(rows) >= 75
    for name, field, value, source in rows:
        assert reduce(getattr, field.split("."), recipe(name)) == ast.literal_eval(value), (name, field)
        assert "`" in source or "no public code" in source, (name, field)
    chosen = {(name, field) for name, field, _, source in rows if "chosen here" in source}
    assert chosen == {(name, field) for name, fields in CHOSEN_HERE.items() for field in fields}


def test_a_recipe_that_calls_fields_chosen_here_lists_them():
    makers = {name: maker for name, maker in vars(published).items() if name in PUBLISHED}
    assert makers.keys() == PUBLISHED.keys()
    assert {name for name, maker in makers.items() if "hosen here" in " ".join(maker.__doc__.split())} == CHOSEN_HERE.keys()
