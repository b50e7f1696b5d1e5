"""The runs that have a name: each a function that returns a config. Its docstring says the command, the cost and what to expect."""

from collections.abc import Callable
from dataclasses import replace
from inspect import getdoc

from mirepoix.components.backbone import BackboneConfig
from mirepoix.components.curate import CurateConfig
from mirepoix.components.embed import EmbedConfig
from mirepoix.components.evaluate import EvaluateConfig
from mirepoix.components.job import TrainConfig
from mirepoix.components.pairs import PairsConfig
from mirepoix.components.sources import SourcesConfig
from mirepoix.components.world import WorldConfig
from mirepoix.models.errors import Refused
from mirepoix.models.tuning import Lora, Tuning
from mirepoix.models.unite import UniteConfig
from mirepoix.serving.app import ServeConfig
from mirepoix.workflows.retrieval import Retrieval


def quickstart() -> Retrieval:
    """UNITE on a tiny random Qwen2-VL over the generated world, from nothing to a searched endpoint.

    mirepoix run quickstart         two CPU cores, some minutes
    """
    whole = Tuning(towers=("language", "vision"), lora=None)
    training = TrainConfig(
        tuning=whole,
        per_device_train_batch_size=72,
        learning_rate=1.1e-3,
        warmup_steps=20,
        weight_decay=0.01,
        temperature=0.05,
        save_steps=40,
        cpus_per_worker=2,
    )
    return Retrieval(
        sources=SourcesConfig(world=WorldConfig(entities=800, train_queries=1500)),
        # Adaptation teaches everything at once, across modalities; instruction tuning then sharpens within the modality that is wanted.
        pairs=PairsConfig(adapt_tasks=(), adapt_instructions=True),
        adapt=replace(training, max_steps=520, symmetric=True),
        instruct=replace(training, max_steps=120, learning_rate=2e-4, modality_mask=True),
        evaluate=EvaluateConfig(pool="target"),
        deploy=ServeConfig(port=0),
    )


def unite() -> Retrieval:
    """UNITE as published, on Qwen2-VL-2B: LoRA on the language model, two stages, MAMCL in the second; a GPU for each of eight workers.

    mirepoix run unite sources.path=/data/corpus         global batch 512; the paper has 4096 on 64 GPUs
    """
    training = TrainConfig(
        per_device_train_batch_size=64,
        warmup_steps=0.03,
        num_train_epochs=1,
        bf16=True,
        gradient_checkpointing=True,
        num_workers=8,
        use_gpu=True,
        cpus_per_worker=4,
        dataloader_num_workers=4,
    )
    first, second = Tuning(lora=Lora(8, 16, 0.05)), Tuning(lora=Lora(8, 64, 0.05))
    return Retrieval(
        backbone=BackboneConfig(name="Qwen/Qwen2-VL-2B-Instruct", encoder=UniteConfig(max_pixels=1280 * 28 * 28)),
        adapt=replace(training, tuning=first, learning_rate=1e-4, symmetric=True),
        instruct=replace(training, tuning=second, learning_rate=2e-5, modality_mask=True),
        embed=EmbedConfig(batch_size=32, workers=8, use_gpu=True),
        deploy=ServeConfig(encoder_gpus=1),
    )


def nlvr() -> Retrieval:
    """Human sentences over pictures of which they are true: UNITE on a tiny random Qwen2-VL, over Cornell NLVR as Parquet.

    mirepoix run nlvr sources.path=FOLDER        dev.parquet is trained on, test.parquet measured; two CPU cores, some minutes

    A sentence that compares boxes is far beyond a model of a million weights: what this shows is the way of real data through the whole,
    with the six permutations of each picture found, merged, and kept out of the wrong split.
    """
    training = TrainConfig(
        tuning=Tuning(towers=("language", "vision"), lora=None),
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        warmup_steps=20,
        temperature=0.05,
        save_steps=40,
        cpus_per_worker=2,
    )
    return Retrieval(
        sources=SourcesConfig(format="nlvr", splits=("validation=train",)),
        # Nine tenths of the candidates are permutations of others, which curation takes as one.
        curate=CurateConfig(max_rejected=0.05),
        pairs=PairsConfig(adapt_tasks=()),
        adapt=replace(training, max_steps=60, symmetric=True, negatives=0),
        # The pictures of which a sentence is false are its hard negatives; not every sentence has as many.
        instruct=replace(training, max_steps=40, learning_rate=3e-4, modality_mask=True, negatives=1, fill_negatives=True),
        evaluate=EvaluateConfig(split="test"),
        deploy=ServeConfig(port=0),
    )


RETRIEVERS = {
    "unite": "one multimodal language model, last token, modality-aware masked contrast",
    "jfe": "joint fusion and encoding in one multimodal tower",
    "mimic": "fusion in the decoder, mix-in and caption dropout against missing modalities",
    "mire": "late interaction of text with visual tokens that were pooled by it",
    "marvel": "pictures as tokens of a text encoder-decoder (baseline)",
    "univldr": "sum of CLIP's text and picture vectors (baseline)",
}

RECIPES: dict[str, Callable[[], Retrieval]] = {"quickstart": quickstart, "nlvr": nlvr, "unite": unite}


def recipe(name: str) -> Retrieval:
    """The config of a recipe by its name."""
    if name not in RECIPES:
        raise Refused(f"there is no recipe {name!r}; there are {', '.join(RECIPES)}: see `mirepoix list`")
    return RECIPES[name]()


def summary(name: str) -> str:
    """The first line of what a recipe says of itself."""
    return (getdoc(RECIPES[name]) or "").splitlines()[0]
