"""The DAG: from a raw corpus to a searched endpoint, and the config that a recipe fills in.

sources -> curate -> [passages] -> pairs -> [adapt] -> [mine] -> instruct -> [mine-refine -> refine] -> embed -> index -> evaluate
              |                               ^                                   ^                                          ^
              +-> backbone -------------------+-> embed-untrained -> index-untrained ----------------------------------------+
              +-> [verbalise -> pairs-verbalised] --------------------------------+
              the last training's encoder, its index, the corpus that it searches -> release -> deploy

Stages in brackets are there when the config asks for them. Mining searches an index of its own, made by the encoder that it mines with:
adapt -> embed-adapted -> index-adapted -> mine, and instruct -> embed-instructed -> index-instructed -> mine-refine. A verbalised corpus is
what `refine` trains on and what is searched afterwards; the negatives of that training are still found in the corpus as it was.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from mirepoix.components.curation import curate
from mirepoix.components.curation.curate import CurateConfig
from mirepoix.components.embedding import embed, index
from mirepoix.components.embedding.embed import EmbedConfig
from mirepoix.components.evaluation import evaluate
from mirepoix.components.evaluation.evaluate import EvaluateConfig
from mirepoix.components.ingestion import sources
from mirepoix.components.ingestion.sources import SourcesConfig
from mirepoix.components.pairs import mine, pairs
from mirepoix.components.pairs.hard_negatives import MineConfig
from mirepoix.components.pairs.pairs import PairsConfig
from mirepoix.components.passages import passages, verbalise
from mirepoix.components.passages.passages import PassagesConfig
from mirepoix.components.passages.verbalise import VerbaliseConfig
from mirepoix.components.publishing import deploy, release
from mirepoix.components.publishing.release import ReleaseConfig
from mirepoix.components.training import backbone, deepspeed_engine, train
from mirepoix.components.training.backbone import BackboneConfig
from mirepoix.components.training.job import TrainConfig
from mirepoix.models.backbones.tuning import unfit
from mirepoix.models.encoder import ARCHITECTURES, EncoderConfig, architecture_of
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.serving.app import ServeConfig
from mirepoix.serving.search.dense import IndexConfig
from mirepoix.serving.store import Outcome
from mirepoix.workflows.runner.fingerprint import source_modules
from mirepoix.workflows.runner.graph import Stage

ENCODING = ("torch", "transformers", "tokenizers", "pillow", "numpy", "pyarrow")
TRAINING = (*ENCODING, "deepspeed", "peft")
WRITING = (*ENCODING, "bm25s", "faiss-cpu", "faiss-gpu")
SEARCHING = ("faiss-cpu", "faiss-gpu", "numpy", "pyarrow")
TRAININGS = {"adapt": train.adapt, "instruct": train.instruct, "refine": train.refine}
LEARNT = {"backbone": "untrained", "adapt": "adapted", "instruct": "instructed"}
"""What the vectors of an encoder are called, by the stage that it comes from."""
# The others only wait for workers of Ray Data, Ray Train or Ray Serve, which claim CPUs of their own.
BUSY = ("pairs", "pairs-verbalised", "backbone", "evaluate", "release")


@dataclass(frozen=True)
class Data:
    """What is trained on and searched, whoever does it."""

    seed: int = option(0, "every stage draws its random numbers from it")
    sources: SourcesConfig = option(SourcesConfig, "where the corpus comes from")
    curate: CurateConfig = option(CurateConfig, "what of it is kept")
    passages: PassagesConfig = option(PassagesConfig, "which passages are made to train on")
    pairs: PairsConfig = option(PairsConfig, "which pairs are trained on")

    def prepared(self) -> Self:
        """The config with the fingerprints of what it reads from outside; refused where that is not there."""
        if not self.sources.path and self.sources.format != "auto":
            raise Refused(f"sources.path is not given; give the folder or URI of a corpus in the format {self.sources.format}")
        fingerprint = sources.fingerprint(self.sources) if self.sources.path else self.sources.fingerprint
        return replace(self, sources=replace(self.sources, fingerprint=fingerprint), passages=passages.prepared(self.passages))

    def refuse_split(self, split: str | None) -> None:
        """Refuses a split to evaluate on that the generated world is known not to have."""
        if not self.sources.path and self.sources.format == "auto":
            held_out = [split for split, entities in self.sources.world.sizes().items() if entities and split != "train"]
            if split not in (None, *held_out):
                given = ", ".join(held_out) or "none"
                raise Refused(f"evaluate.split is {split!r}; the generated world has queries of {given}")


@dataclass(frozen=True)
class Method:
    """One way of making a retriever: what it starts from, how it is trained, how it searches."""

    backbone: BackboneConfig = option(BackboneConfig, "what training starts from")
    adapt: TrainConfig | None = option(TrainConfig, "first stage: post-training adaptation; null: there is none")
    mine: MineConfig | None = option(None, "hard negatives for the second stage; null: none; MineConfig: by the encoder before it")
    instruct: TrainConfig = option(TrainConfig, "second stage: instruction tuning")
    verbalise: VerbaliseConfig = option(VerbaliseConfig, "which texts of pictures grow for the third stage, and for what is searched")
    mine_refine: MineConfig | None = option(None, "hard negatives for the third stage, in place of those of the second; null: the same")
    refine: TrainConfig | None = option(None, "third stage: a round with the negatives that are hard now; null: there is none")
    embed: EmbedConfig = option(EmbedConfig, "how corpus and queries are encoded")
    index: IndexConfig = option(IndexConfig, "how the corpus is searched")
    release: ReleaseConfig = option(ReleaseConfig, "what is published")

    def __post_init__(self) -> None:
        retriever = architecture_of(self.backbone.encoder)
        for stage, training in self.trainings.items():
            if reason := unfit(training.tuning, retriever.TOWERS, retriever.Tuning):
                raise Refused(f"{stage}.tuning: {reason}")
            if training.negatives == 0 and not training.loss.in_batch:
                raise Refused(
                    f"{stage}.negatives is 0 and {stage}.loss.in_batch off, which leaves nothing to contrast, mined or not; "
                    f"give one or more negatives, or {stage}.loss.in_batch=true"
                )
            mining = {"instruct": self.mine, "refine": self.mine_refine}.get(stage)
            shared = stage == "instruct" and self.mine_refine is None and self.verbalise.kind == "none"
            later = shared and self.refine is not None and self.refine.negatives != 0
            if mining is not None and training.negatives == 0 and not later:
                raise Refused(
                    f"{stage}.negatives is 0, so what is mined for it would not be read; give {stage}.negatives={mining.negatives}, or null"
                )
        if self.mine_refine is not None and self.refine is None:
            raise Refused("mine_refine is given and refine is not, which would train on its negatives; give refine=TrainConfig too")
        if self.verbalise.kind != "none" and self.refine is None:
            raise Refused(f"verbalise.kind is {self.verbalise.kind} and refine null, which would train on it; give refine=TrainConfig too")

    @property
    def method(self) -> dict[str, Any]:
        """By field what makes the retriever, without what a run adds to it: the data, the ruler, the endpoint."""
        return {field.name: getattr(self, field.name) for field in fields(Method)}

    @property
    def trainings(self) -> dict[str, TrainConfig]:
        """The trainings that there are, by their stages."""
        return {stage: training for stage in TRAININGS if (training := getattr(self, stage)) is not None}

    def named_files(self) -> dict[str, Path]:
        """The settings files that the config names, by the field that names them; refused where one cannot be read."""
        named = {f"{stage}.deepspeed": training.deepspeed for stage, training in self.trainings.items()}
        for path in named.values():
            deepspeed_engine.read_settings(path)
        return {field: Path(path) for field, path in named.items() if path is not None}

    def prepared(self) -> Self:
        """The config with the fingerprints of what it reads from outside; refused where that is not there."""
        changed: dict[str, Any] = {"verbalise": verbalise.prepared(self.verbalise)}
        for stage in ("mine", "mine_refine"):
            mining = getattr(self, stage)
            if mining is not None and mining.release is not None:
                changed[stage] = replace(mining, fingerprint=mine.fingerprint(mining.release))
        if self.backbone.name != backbone.TINY:
            changed["backbone"] = replace(self.backbone, fingerprint=backbone.fingerprint(self.backbone))
        for stage, training in self.trainings.items():
            if training.deepspeed is not None:
                changed[stage] = replace(training, deepspeed_digest=deepspeed_engine.settings_digest(training.deepspeed))
        return replace(self, **changed)


@dataclass(frozen=True)
class Service:
    """What becomes of what was trained."""

    evaluate: EvaluateConfig = option(EvaluateConfig, "how results are measured")
    deploy: ServeConfig = option(ServeConfig, "where it is served")


@dataclass(frozen=True)
class Retrieval(Service, Method, Data):
    """One retriever's whole life."""

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        self.refuse_split(self.evaluate.split)

    def prepared(self) -> Self:
        """The config with the fingerprints of what it reads from outside; refused where that is not there."""
        return Method.prepared(Data.prepared(self))

    @property
    def served(self) -> str | None:
        """The stage whose release is deployed."""
        return "release"

    @property
    def paired(self) -> PairsConfig:
        """Which pairs are made."""
        return read_by(self.pairs, [self])

    def stages(self) -> list[Stage]:
        """The stages of the config, in an order in which they could run."""
        config = self.prepared()
        return [
            *data_stages(config, config.paired),
            *method_stages(config, config, config.pairs, config.evaluate),
            deploy_stage(config.deploy, "release", ("evaluate",), config.seed),
        ]


def read_by(chosen: PairsConfig, methods: Iterable[Method]) -> PairsConfig:
    """The pairs that some methods read: none to adapt on where none of them does."""
    if not any(method.adapt for method in methods):
        return replace(chosen, adapt_tasks=None, adapt_captions=False)
    if chosen.adapt_tasks is None and not chosen.adapt_captions:
        raise Refused("pairs.adapt_tasks is null and adapt is not, which trains on them; name tasks, give [] for all, or set adapt=null")
    return chosen


def data_stages(config: Data, paired: PairsConfig) -> list[Stage]:
    """The stages up to the pairs that are made; the config is prepared."""
    stages = [
        _stage("sources", sources.work, config.sources, {}, ("pillow", "pyarrow")),
        _stage("curate", curate.work, config.curate, {"sources": "sources"}, ("pillow", "numpy", "pyarrow", "ray", "xxhash")),
    ]
    if config.passages.kind != "none":
        stages.append(_stage("passages", passages.work, config.passages, {"curate": "curate"}, WRITING))
    return [*(replace(stage, seed=config.seed) for stage in stages), pairs_stage(config, paired)]


def pairs_stage(data: Data, chosen: PairsConfig, name: str = "pairs", corpus: str = "curate") -> Stage:
    """The stage that makes such pairs of the data."""
    added = {"passages": "passages"} if data.passages.kind != "none" else {}
    return replace(_stage(name, pairs.work, chosen, {"curate": corpus, **added}, ("pyarrow",)), seed=data.seed)


def method_stages(config: Method, data: Data, chosen: PairsConfig, measured: EvaluateConfig) -> list[Stage]:
    """The stages from the pairs to a release; the configs are prepared."""
    encoder = config.backbone.encoder
    corpus, paired = "curate", "pairs"
    read = {"curate": "curate", "pairs": "pairs"}
    untrained = [
        _stage("embed-untrained", embed.work, config.embed, {"encoder": "backbone", **read}, ENCODING, encoder),
        _stage("index-untrained", index.work, config.index, {"embed": "embed-untrained"}, SEARCHING),
    ]
    stages = [_stage("backbone", backbone.work, config.backbone, {"curate": "curate"}, ENCODING, encoder)]
    learnt, trained_on = "backbone", "pairs"
    for name, training in config.trainings.items():
        if name == "refine" and config.verbalise.kind != "none":
            corpus, paired = "verbalise", "pairs-verbalised"
            stages.append(_stage(corpus, verbalise.work, config.verbalise, {"curate": "curate"}, WRITING))
            stages.append(pairs_stage(data, read_by(chosen, ()), paired, corpus))
            trained_on = paired
        mining = {"instruct": config.mine, "refine": config.mine_refine}.get(name)
        if mining is not None:
            if learnt == "backbone" and mining.release is None:
                stages, untrained = [*stages, *untrained], []
            trained_on = "mine" if name == "instruct" else f"mine-{name}"
            stages += _mining(trained_on, mining, config, learnt, {"pairs": paired, "curate": corpus})
        stages.append(_stage(name, TRAININGS[name], training, {"pairs": trained_on, "encoder": learnt}, TRAINING, encoder))
        learnt = name
    if untrained:  # a small machine holds one embedding at a time
        untrained[0] = replace(untrained[0], after=("embed",), inputs={**untrained[0].inputs, "curate": corpus})
    searched = {"curate": "curate", "embed": "embed", "index": "index"}
    searched |= {"untrained_embed": "embed-untrained", "untrained_index": "index-untrained"}
    released = {"encoder": learnt, "index": "index", "curate": corpus, "pairs": "pairs"}
    stages += [
        _stage("embed", embed.work, config.embed, {"encoder": learnt, **read, "curate": corpus}, ENCODING, encoder),
        *untrained[:1],
        _stage("index", index.work, config.index, {"embed": "embed"}, SEARCHING),
        *untrained[1:],
        _stage("evaluate", evaluate.work, measured, searched, SEARCHING),
        _stage("release", release.work, config.release, released, (*ENCODING, *SEARCHING), encoder),
    ]
    return [replace(stage, seed=data.seed) for stage in stages]


def deploy_stage(config: ServeConfig, released: str, after: tuple[str, ...], seed: int) -> Stage:
    """The stage that serves a release: what is served changes only once the figures of what comes are there."""
    stage = _stage("deploy", deploy.work, config, {"release": released}, ("ray", "fastapi"))
    return replace(stage, stands=deploy.stands, on_head=True, after=after, seed=seed)


def _mining(name: str, mining: MineConfig, config: Method, learnt: str, found: dict[str, str]) -> list[Stage]:
    """The stages that mine for pairs of a corpus with the encoder of a stage, in the corpus as curation left it.

    A release that is given has an index already, as has the untrained encoder.
    """
    if mining.release is not None:
        return [_stage(name, mine.work, mining, found, (*ENCODING, *SEARCHING))]
    encoder, trait = config.backbone.encoder, LEARNT[learnt]
    own = [
        _stage(f"embed-{trait}", embed.work, config.embed, {"pairs": "pairs", "curate": "curate", "encoder": learnt}, ENCODING, encoder),
        _stage(f"index-{trait}", index.work, config.index, {"embed": f"embed-{trait}"}, SEARCHING),
    ]
    searched = {**found, "encoder": learnt, "index": f"index-{trait}"}
    mined = _stage(name, mine.work, mining, searched, (*ENCODING, *SEARCHING), encoder)
    return [mined] if learnt == "backbone" else [*own, mined]


def _stage(
    name: str,
    work: Callable[..., Outcome],
    config: Any,
    inputs: dict[str, str],
    libraries: tuple[str, ...],
    encoder: EncoderConfig | None = None,
) -> Stage:
    """A stage whose key holds the source of all that its work is made of; an encoder is opened by name, and is the given one, or any."""
    parts = source_modules(work.__module__)
    if "mirepoix.models.encoder" in parts:
        opened = [type(encoder).__module__] if encoder else [module for module, _ in ARCHITECTURES.values()]
        parts = source_modules(work.__module__, *opened)
    busy = name in BUSY or name.startswith("index")
    return Stage(name, work, config, inputs, parts, libraries, num_cpus=float(busy), retries=1)
