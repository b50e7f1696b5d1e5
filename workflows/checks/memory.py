"""The least memory that a stage takes for the weights of an encoder, and for what training keeps of each."""

from collections.abc import Iterator
from typing import Any

from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.training.backbone_config import BackboneConfig
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.workflows.cluster.machine import Node

Need = tuple[str, float, tuple[float, str] | None, str]
LOADED = 4  # bytes of a weight: checkpoints are opened as float32


def bytes_needed(config: Any, weights: int, node: Node, backbone: BackboneConfig) -> Iterator[Need]:
    """What a stage keeps of the weights: what it is, the bytes, those that there are and where, and what to do besides."""
    host = None if node.memory is None else (node.memory, "this machine with its swap")
    gpu = (min(node.gpu_memory), "a GPU of this machine") if node.gpu_memory else None
    match config:
        case BackboneConfig():
            yield "once they are opened", LOADED * weights, host, ""
        case EmbedConfig(use_gpu=True):
            yield "in each actor of {field}", LOADED * weights, gpu, "give {field}.use_gpu=false, or "
        case EmbedConfig():
            fewer = f"lower {{field}}.workers={config.workers}, or " if config.workers > 1 else ""
            yield f"in the actors of {{field}} ({config.workers})", LOADED * weights * config.workers, host, fewer
        case TrainConfig():
            on_gpu = config.use_gpu or (config.use_gpu is None and (node.gpus or 0) >= config.fewest_workers)
            whole = config.tuning.lora is None and {*config.tuning.towers} >= {*(backbone.traits.towers or ("unknown",))}
            workers = (
                config.num_workers if on_gpu else config.fewest_workers
            )  # so that the least is kept: in each worker, or in all together
            each = weights * bytes_of_a_weight(config, whole, workers)
            kept = "in {field}" + (" with gradients and Adam's two means" if whole else "")
            adapters = "train adapters ({field}.tuning.lora=Lora), or " if whole else ""
            if on_gpu:
                yield f"{kept}, for each worker", each, gpu, adapters
            else:
                yield f"{kept}, for {workers} of its workers", each * workers, host, adapters


def bytes_of_a_weight(config: TrainConfig, whole: bool, shards: int) -> float:
    """The fewest bytes that one of so many workers keeps for each weight, with ZeRO's shares of gradients and optimizer states.

    `whole`: all weights are trained; else those of adapters alone, which are few. A settings file may keep states elsewhere.
    """
    weight, gradient = (2, 2) if config.bf16 else (4, 4)
    states = 12 if config.bf16 else 8  # Adam's two means, and with bfloat16 the weights once more as float32
    kept = weight / (shards if config.zero_stage == 3 else 1)
    if not whole or config.deepspeed is not None:
        return kept
    return kept + gradient / (shards if config.zero_stage >= 2 else 1) + states / (shards if config.zero_stage >= 1 else 1)
