"""The DAG: from a raw corpus to a searched endpoint, and the config that a recipe fills in.

sources -> curate -> [passages] -> pairs -+-> adapt -> [mine] -> instruct -> embed -> index -+-> evaluate
              |                           |                                    |             |
              +-------> backbone ---------+-> embed-untrained -> index-untrained ------------+
                                                     instruct, index, curate -> release -> deploy

Stages in brackets are there when the config asks for them. Mining searches an index of its own: adapt -> embed-adapted -> index-adapted.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mirepoix.components import backbone, curate, deploy, embed, evaluate, index, mine, pairs, passages, release, sources, train, zero
from mirepoix.components.backbone import BackboneConfig
from mirepoix.components.curate import CurateConfig
from mirepoix.components.embed import EmbedConfig
from mirepoix.components.evaluate import EvaluateConfig
from mirepoix.components.job import TrainConfig
from mirepoix.components.negatives import MineConfig
from mirepoix.components.pairs import PairsConfig
from mirepoix.components.passages import PassagesConfig
from mirepoix.components.release import ReleaseConfig
from mirepoix.components.sources import SourcesConfig
from mirepoix.models.encoder import ARCHITECTURES, architecture
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.models.tuning import unfit
from mirepoix.serving.app import ServeConfig
from mirepoix.serving.index import IndexConfig
from mirepoix.serving.store import Outcome
from mirepoix.workflows.fingerprint import source_modules
from mirepoix.workflows.graph import Stage

# Opened by name and not by import, wherever an encoder is opened.
ENCODERS = tuple(module for module, _ in ARCHITECTURES.values())
ENCODING = ("torch", "transformers", "tokenizers", "pillow", "numpy", "pyarrow")
TRAINING = (*ENCODING, "deepspeed", "peft")
WRITING = (*ENCODING, "bm25s", "faiss-cpu", "faiss-gpu")
SEARCHING = ("faiss-cpu", "faiss-gpu", "numpy", "pyarrow")


@dataclass(frozen=True)
class Retrieval:
    """One retriever's whole life."""

    seed: int = option(0, "every stage draws its random numbers from it")
    sources: SourcesConfig = option(SourcesConfig, "where the corpus comes from")
    curate: CurateConfig = option(CurateConfig, "what of it is kept")
    passages: PassagesConfig = option(PassagesConfig, "which passages are made to train on")
    pairs: PairsConfig = option(PairsConfig, "which pairs are trained on")
    backbone: BackboneConfig = option(BackboneConfig, "what training starts from")
    adapt: TrainConfig = option(TrainConfig, "first stage: post-training adaptation")
    mine: MineConfig | None = option(None, "hard negatives for the second stage; null: none; MineConfig: by the first's encoder")
    instruct: TrainConfig = option(TrainConfig, "second stage: instruction tuning")
    embed: EmbedConfig = option(EmbedConfig, "how corpus and queries are encoded")
    index: IndexConfig = option(IndexConfig, "how the corpus is searched")
    evaluate: EvaluateConfig = option(EvaluateConfig, "how results are measured")
    release: ReleaseConfig = option(ReleaseConfig, "what is published")
    deploy: ServeConfig = option(ServeConfig, "where it is served")

    def __post_init__(self) -> None:
        for stage in ("adapt", "instruct"):
            if reason := unfit(getattr(self, stage).tuning, architecture(self.backbone.retriever).TOWERS):
                raise Refused(f"{stage}.tuning.{reason}")
        if not self.sources.path and self.sources.format == "auto":
            held_out = [split for split, entities in self.sources.world.sizes().items() if entities and split != "train"]
            if self.evaluate.split not in held_out:
                given = ", ".join(held_out) or "none"
                raise Refused(f"evaluate.split is {self.evaluate.split!r}; the generated world has queries of {given}")


def named_files(config: Retrieval) -> dict[str, Path]:
    """The settings files that a config names, by the field that names them; refused where one cannot be read."""
    named = {f"{stage}.deepspeed": getattr(config, stage).deepspeed for stage in ("adapt", "instruct")}
    for path in named.values():
        zero.read_settings(path)
    return {field: Path(path) for field, path in named.items() if path is not None}


def prepared(config: Retrieval) -> Retrieval:
    """The config with the fingerprints of what it reads from outside; refused where that is not there."""
    if config.sources.path:
        config = replace(config, sources=replace(config.sources, fingerprint=sources.fingerprint(config.sources)))
    elif config.sources.format != "auto":
        raise Refused(f"sources.path is not given; give the folder or URI of a corpus in the format {config.sources.format}")
    config = replace(config, passages=passages.prepared(config.passages))
    if config.mine is not None and config.mine.release is not None:
        config = replace(config, mine=replace(config.mine, fingerprint=mine.fingerprint(config.mine.release)))
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
    untrained = {"encoder": "backbone", "curate": "curate", "pairs": "pairs"}
    measured = {"curate": "curate", "embed": "embed", "index": "index"}
    measured |= {"untrained_embed": "embed-untrained", "untrained_index": "index-untrained"}
    added = {"passages": "passages"} if config.passages.kind != "none" else {}
    plan = [
        _stage("sources", sources.work, config.sources, {}, ("pillow", "pyarrow")),
        _stage("curate", curate.work, config.curate, {"sources": "sources"}, ("pillow", "numpy", "pyarrow", "ray", "xxhash")),
        *([_stage("passages", passages.work, config.passages, {"curate": "curate"}, WRITING)] if added else []),
        _stage("pairs", pairs.work, config.pairs, {"curate": "curate", **added}, ("pyarrow",)),
        _stage("backbone", backbone.work, config.backbone, {"curate": "curate"}, ENCODING),
        _stage("adapt", train.adapt, config.adapt, {"pairs": "pairs", "encoder": "backbone"}, TRAINING),
        *_mining(config),
        _stage("instruct", train.instruct, config.instruct, {"pairs": "mine" if config.mine else "pairs", "encoder": "adapt"}, TRAINING),
        _stage("embed", embed.work, config.embed, {**untrained, "encoder": "instruct"}, ENCODING),
        replace(_stage("embed-untrained", embed.work, config.embed, untrained, ENCODING), after=("embed",)),
        _stage("index", index.work, config.index, {"embed": "embed"}, SEARCHING),
        _stage("index-untrained", index.work, config.index, {"embed": "embed-untrained"}, SEARCHING),
        _stage("evaluate", evaluate.work, config.evaluate, measured, SEARCHING),
        _stage(
            "release", release.work, config.release, {"encoder": "instruct", "index": "index", "curate": "curate"}, (*ENCODING, *SEARCHING)
        ),
        replace(  # what is served changes only once the figures of what comes are there
            _stage("deploy", deploy.work, config.deploy, {"release": "release"}, ("ray", "fastapi")),
            stands=deploy.stands,
            on_head=True,
            after=("evaluate",),
        ),
    ]
    # The others only wait for workers of Ray Data, Ray Train or Ray Serve, which claim CPUs of their own.
    busy = {"pairs", "backbone", "index", "index-untrained", "index-adapted", "evaluate", "release"}
    return [replace(stage, seed=config.seed, num_cpus=float(stage.name in busy)) for stage in plan]


def _mining(config: Retrieval) -> list[Stage]:
    """The stages between the two trainings, if negatives are mined; a release that is given has an index already."""
    if config.mine is None:
        return []
    found = {"pairs": "pairs", "curate": "curate"}
    if config.mine.release is not None:
        return [_stage("mine", mine.work, config.mine, found, (*ENCODING, *SEARCHING))]
    return [
        _stage("embed-adapted", embed.work, config.embed, {**found, "encoder": "adapt"}, ENCODING),
        _stage("index-adapted", index.work, config.index, {"embed": "embed-adapted"}, SEARCHING),
        _stage("mine", mine.work, config.mine, {**found, "encoder": "adapt", "index": "index-adapted"}, (*ENCODING, *SEARCHING)),
    ]


def _stage(name: str, work: Callable[..., Outcome], config: Any, inputs: dict[str, str], libraries: tuple[str, ...]) -> Stage:
    """A stage whose key holds the source of everything that its work is made of; where an encoder is opened, of all encoders."""
    parts = source_modules(work.__module__)
    if "mirepoix.models.encoder" in parts:
        parts = source_modules(work.__module__, *ENCODERS)
    return Stage(name, work, config, inputs, parts, libraries, retries=1)
