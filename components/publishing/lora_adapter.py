"""The difference between trained and published weights as one low-rank adapter for PEFT.

Every training stage merges its adapters into the weights that it writes. The sum of all of them still has low rank, at most the sum of
their ranks, so it can be factored from the difference of the weights, exactly up to float32 rounding, whatever the number of stages.

Shapes: M outputs, N inputs, R rank, K random directions.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mirepoix.models.errors import Refused

RANK = 512  # the largest that is tried
ROUNDING = 2.0**-24 * 8  # of a float32, over a few sums


def low_rank(change_MN: torch.Tensor, largest: float) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The matrices B and A of the least rank whose product is the change; None if they would be no smaller than the change itself.

    `largest` is the largest of the weights whose difference the change is; it bounds their rounding, below which the change is noise.
    """
    outputs, inputs = change_MN.shape
    directions = min(RANK, outputs * inputs // (outputs + inputs))
    noise = ROUNDING * largest * (outputs**0.5 + inputs**0.5)
    change_MN = change_MN.double()
    # A change of a rank below K lies in the span of K random combinations of its columns.
    drawn_NK = torch.randn(inputs, directions, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    span_MK, _ = torch.linalg.qr(change_MN @ drawn_NK)
    within_KN = span_MK.T @ change_MN
    if (change_MN - span_MK @ within_KN).norm() > noise * min(outputs, inputs) ** 0.5:
        return None
    left_KK, sizes_K, right_KN = torch.linalg.svd(within_KN, full_matrices=False)
    rank = int((sizes_K > noise).sum())
    if rank >= directions:
        return None
    return (span_MK @ left_KK[:, :rank] * sizes_K[:rank]).float(), right_KN[:rank].float()


def adapters(
    trained: Mapping[str, torch.Tensor],
    base: Mapping[str, torch.Tensor],
    linear: set[str],
    report: Callable[[str], None] = lambda line: None,
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """B and A of each linear layer that training changed; refused where other weights changed, or a change is not of low rank."""
    if unmatched := sorted(trained.keys() ^ base.keys()):
        raise Refused(
            f"{len(unmatched)} weights are only in the release or only in its base ({', '.join(unmatched[:3])}, ...); give the base that "
            "it was trained from"
        )
    changed = [name for name in trained if trained[name].shape != base[name].shape or not torch.equal(trained[name], base[name])]
    if not changed:
        raise Refused("the release has the weights of its base: training added nothing to them; export it --to hf")
    found = {}
    for number, name in enumerate(changed, 1):
        layer, dot, kind = name.rpartition(".")
        pair = None
        if dot and kind == "weight" and layer in linear and trained[name].shape == base[name].shape:
            pair = low_rank(
                trained[name].float() - base[name].float(), max(base[name].abs().max().item(), trained[name].abs().max().item())
            )
        if pair is None:
            raise Refused(f"the release was not trained by adapters alone (the change of {name} is not of low rank); export it --to hf")
        found[layer] = pair
        report(f"{number} of {len(changed)} layers")
    return found


def write_adapter(folder: Path, found: Mapping[str, tuple[torch.Tensor, torch.Tensor]], base: str, revision: str | None) -> int:
    """Writes adapter_config.json and adapter_model.safetensors for `PeftModel.from_pretrained`; returns the rank."""
    from peft import LoraConfig, TaskType

    rank = max(down_RN.shape[0] for _, down_RN in found.values())
    settings: dict[str, Any] = {"r": rank, "lora_alpha": rank, "target_modules": sorted(found), "bias": "none", "lora_dropout": 0.0}
    LoraConfig(
        **settings, task_type=TaskType.FEATURE_EXTRACTION, base_model_name_or_path=base, revision=revision, inference_mode=True
    ).save_pretrained(str(folder))
    weights = {}
    for layer, (up_MR, down_RN) in found.items():
        missing = rank - down_RN.shape[0]
        weights[f"base_model.model.{layer}.lora_A.weight"] = torch.nn.functional.pad(down_RN, (0, 0, 0, missing))
        weights[f"base_model.model.{layer}.lora_B.weight"] = torch.nn.functional.pad(up_MR, (0, missing))
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / "adapter_model.safetensors", {"format": "pt"})
    return rank
