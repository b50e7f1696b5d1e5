"""The DAG: from a raw corpus to a searched endpoint, and the config that a recipe fills in.

    sources -> curate -> pairs -+-> adapt -> instruct -> embed -> index -+-> evaluate
                  |             |                          |             |
                  +-> backbone -+-> embed-untrained -> index-untrained --+
                                               instruct, index, curate -> release -> deploy
"""

from dataclasses import dataclass, replace

from mirepoix.components import backbone, curate, deploy, embed, evaluate, index, pairs, release, sources, train, zero
from mirepoix.components.backbone import BackboneConfig
from mirepoix.components.curate import CurateConfig
from mirepoix.components.embed import EmbedConfig
from mirepoix.components.evaluate import EvaluateConfig
from mirepoix.components.job import TrainConfig
from mirepoix.components.pairs import PairsConfig
from mirepoix.components.release import ReleaseConfig
from mirepoix.components.sources import SourcesConfig
from mirepoix.models.options import option
from mirepoix.serving.app import ServeConfig
from mirepoix.serving.index import IndexConfig
from mirepoix.workflows.graph import Stage


def modules(names: str) -> tuple[str, ...]:
    return tuple(f"mirepoix.{name}" for name in names.split())


# What each kind of work consists of: a change of any of these modules makes its results anew.
ITEMS = "models.item models.options"
ENCODER = f"{ITEMS} models.vectors models.encoder models.tuning models.backbone models.unite"
CORPUS = f"{ITEMS} components.sources"
TRAINING = f"{ENCODER} models.loss components.batches components.job components.zero components.train"
ENCODING_LIBRARIES = ("torch", "transformers", "tokenizers", "pillow", "numpy")


@dataclass(frozen=True)
class Retrieval:
    """One retriever's whole life."""

    seed: int = option(0, "every stage draws its random numbers from it")
    sources: SourcesConfig = option(SourcesConfig, "where the corpus comes from")
    curate: CurateConfig = option(CurateConfig, "what of it is kept")
    pairs: PairsConfig = option(PairsConfig, "which pairs are trained on")
    backbone: BackboneConfig = option(BackboneConfig, "what training starts from")
    adapt: TrainConfig = option(TrainConfig, "first stage: post-training adaptation")
    instruct: TrainConfig = option(TrainConfig, "second stage: instruction tuning")
    embed: EmbedConfig = option(EmbedConfig, "how corpus and queries are encoded")
    index: IndexConfig = option(IndexConfig, "how the corpus is searched")
    evaluate: EvaluateConfig = option(EvaluateConfig, "how results are measured")
    release: ReleaseConfig = option(ReleaseConfig, "what is published")
    deploy: ServeConfig = option(ServeConfig, "where it is served")


def prepared(config: Retrieval) -> Retrieval:
    """The config with the fingerprints of what it reads from outside; refused where that is not there."""
    if config.sources.path is not None:
        config = replace(config, sources=replace(config.sources, fingerprint=sources.fingerprint(config.sources.path)))
    if config.backbone.name != "tiny":
        config = replace(config, backbone=replace(config.backbone, fingerprint=backbone.fingerprint(config.backbone.name)))
    for stage in ("adapt", "instruct"):
        training = getattr(config, stage)
        if training.deepspeed is not None:
            config = replace(config, **{stage: replace(training, deepspeed_digest=zero.settings_digest(training.deepspeed))})
    return config


def stages(config: Retrieval) -> list[Stage]:
    """The stages of the config, in an order in which they could run."""
    config = prepared(config)
    encoding = {"modules": modules(f"{ENCODER} components.embed components.sources"), "libraries": ENCODING_LIBRARIES}
    indexing = {"modules": modules("models.vectors serving.index components.embed"), "libraries": ("faiss-cpu", "numpy")}
    training = {"modules": modules(TRAINING), "libraries": (*ENCODING_LIBRARIES, "deepspeed", "peft"), "retries": 1}
    plan = [
        Stage(
            "sources",
            sources.work,
            config.sources,
            modules=modules(f"{CORPUS} components.world components.entities components.wishes components.drawing"),
            libraries=("pillow", "pyarrow"),
        ),
        Stage(
            "curate",
            curate.work,
            config.curate,
            {"sources": "sources"},
            modules=modules(f"{CORPUS} serving.pictures components.curate"),
            libraries=("pillow", "pyarrow"),
        ),
        Stage(
            "pairs",
            pairs.work,
            config.pairs,
            {"curate": "curate"},
            modules=modules(f"{CORPUS} components.pairs components.batches"),
            libraries=("pyarrow",),
        ),
        Stage(
            "backbone",
            backbone.work,
            config.backbone,
            {"curate": "curate"},
            modules=modules(f"{ENCODER} components.backbone"),
            libraries=("torch", "transformers", "tokenizers"),
        ),
        Stage("adapt", train.adapt, config.adapt, {"pairs": "pairs", "encoder": "backbone"}, **training),
        Stage("instruct", train.instruct, config.instruct, {"pairs": "pairs", "encoder": "adapt"}, **training),
        Stage("embed", embed.work, config.embed, {"encoder": "instruct", "curate": "curate", "pairs": "pairs"}, **encoding),
        Stage("embed-untrained", embed.work, config.embed, {"encoder": "backbone", "curate": "curate", "pairs": "pairs"}, **encoding),
        Stage("index", index.work, config.index, {"embed": "embed"}, **indexing),
        Stage("index-untrained", index.work, config.index, {"embed": "embed-untrained"}, **indexing),
        Stage(
            "evaluate",
            evaluate.work,
            config.evaluate,
            {
                "curate": "curate",
                "embed": "embed",
                "index": "index",
                "untrained_embed": "embed-untrained",
                "untrained_index": "index-untrained",
            },
            modules=modules("models.vectors serving.index components.embed components.metrics components.evaluate"),
            libraries=("faiss-cpu", "numpy"),
        ),
        Stage(
            "release",
            release.work,
            config.release,
            {"encoder": "instruct", "index": "index", "curate": "curate"},
            modules=modules(f"{ENCODER} serving.index serving.release serving.pictures components.pairs components.release"),
            libraries=(*ENCODING_LIBRARIES, "faiss-cpu"),
        ),
        Stage(
            "deploy",
            deploy.work,
            config.deploy,
            {"release": "release"},
            modules=modules("serving.app serving.api serving.schemas serving.door serving.replicas components.deploy"),
            stands=deploy.stands,
        ),
    ]
    return [replace(stage, seed=config.seed) for stage in plan]
