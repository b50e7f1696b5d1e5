"""The DAG of one retriever, from a raw corpus to a search endpoint, and the config from which it is built.

sources -> curate -> [passages] -> pairs -> [adapt] -> [mine -> instruct] -> [mine-refine -> refine] -> embed -> index -> evaluate
              |                               ^                                   ^                                          ^
              +-> backbone -------------------+-> [embed-untrained -> index-untrained] --------------------------------------+
              +-> [verbalise -> pairs-verbalised] --------------------------------+
              +-> [floors -> evaluate]
              the last training's encoder, its index, the corpus that it searches -> release -> deploy

Stages in brackets are there when the config asks for them. Mining searches an index of its own, made by the encoder that it mines with:
adapt -> embed-adapted -> index-adapted -> mine, and instruct -> embed-instructed -> index-instructed -> mine-refine. A verbalised corpus is
what `refine` trains on and what is searched afterwards; the negatives of that training are still found in the corpus as it was.

`check` reads the curated corpus and refuses one that the run cannot use: with nothing to train on, nothing to measure by, or no query of
`evaluate.split`. Nothing reads its result, so a change of that split trains nothing anew; what reads the curated corpus only waits until it
has succeeded (`Stage.requires`).

Each of adapt, instruct and refine may be null. Without any of them the encoder of `backbone` is the one that is measured and released:

sources -> curate -> pairs -> embed -> index -> evaluate
              +-> backbone ---^          +-> release -> deploy

`pairs` then writes the queries of evaluation alone. Whether a corpus has queries is known only when it is read, so `pairs` and `evaluate`
are stages of every graph, and succeed where there are none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.evaluation.floors_config import FloorsConfig
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.pairs.corpus_check_config import CorpusCheckConfig
from mirepoix.components.pairs.mine_config import MineConfig
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.components.passages.passages_config import PassagesConfig
from mirepoix.components.passages.verbalise_config import VerbaliseConfig
from mirepoix.components.publishing.release_config import ReleaseConfig
from mirepoix.components.ray_tasks import is_small
from mirepoix.components.training.backbone_config import TINY, BackboneConfig
from mirepoix.components.training.engine.deepspeed_settings import read_settings
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.backbones.adapter import CONFIG as ADAPTER
from mirepoix.models.backbones.tuning_config import tuning_problem
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.serving.search.index_config import IndexConfig
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.workflows.dag.boards import measurable
from mirepoix.workflows.dag.outside import with_outside
from mirepoix.workflows.dag.stages import CHECK, COMPONENTS, ENCODING, FLOORS, SEARCHING, TRAINING, TRAININGS, WRITING, make_stage
from mirepoix.workflows.runner.graph import Stage

LEARNT = {"backbone": "untrained", "adapt": "adapted", "instruct": "instructed"}
"""The names of an encoder's vectors, by the stage that made the encoder."""
ROWS_OF_AN_ENTITY = 10
"""Rows of the generated world for each entity, about: 8.5 with its default settings."""


@dataclass(frozen=True)
class Data:
    """The data of a run: its corpus, and what is made of it to train on."""

    seed: int = option(0, "seed of the random numbers of every stage")
    sources: SourcesConfig = option(SourcesConfig, "the sources of the corpus")
    curate: CurateConfig = option(CurateConfig, "the rules by which rows of the corpus are kept")
    passages: PassagesConfig = option(PassagesConfig, "passages that are made to train on")
    pairs: PairsConfig = option(PairsConfig, "pairs that are trained on")

    def refuse_split(self, split: str | None, trained: bool) -> None:
        """Refuses a split of evaluation that the generated world does not have, or that is trained on."""
        if not self.sources.path and self.sources.format == "auto":
            sizes = self.sources.world.sizes()
            measured = [split for split, entities in sizes.items() if entities and not (trained and split == "train")]
            if split not in (None, *measured):
                given = ", ".join(measured) or "none"
                raise Refused(f"evaluate.split is {split!r}; the generated world has queries of {given}")

    def refuse_passages(self, trained: bool) -> None:
        """Refuses passages where nothing is trained on them."""
        if self.passages.kind != "none" and not trained:
            raise Refused(f"passages.kind is {self.passages.kind}, and there is no training to read passages; give passages.kind=none")


@dataclass(frozen=True)
class Method:
    """One way of making a retriever: its backbone, its trainings, its index."""

    backbone: BackboneConfig = option(BackboneConfig, "the encoder that training starts from")
    adapt: TrainConfig | None = option(TrainConfig, "first stage: post-training adaptation; null: none")
    mine: MineConfig | None = option(None, "hard negatives for the second stage; null: none; MineConfig: by the encoder before it")
    instruct: TrainConfig | None = option(TrainConfig, "second stage: instruction tuning; null: none")
    verbalise: VerbaliseConfig = option(
        VerbaliseConfig, "captions that are extended for the third stage and for the corpus that is searched"
    )
    mine_refine: MineConfig | None = option(None, "hard negatives for the third stage, in place of those of the second; null: the same")
    refine: TrainConfig | None = option(None, "third stage: a round with the negatives that are hard for the second; null: none")
    embed: EmbedConfig = option(EmbedConfig, "how corpus and queries are encoded")
    index: IndexConfig = option(IndexConfig, "how the corpus is searched")
    release: ReleaseConfig = option(ReleaseConfig, "the release that is published")

    def __post_init__(self) -> None:
        retriever = self.backbone.encoder
        towers = self.backbone.traits.towers if self.trainings else None  # None: known once the backbone is opened
        for stage, training in self.trainings.items():
            if reason := tuning_problem(training.tuning, training.tuning.towers if towers is None else towers, retriever.TUNING):
                raise Refused(f"{stage}.tuning: {reason}")
            if training.negatives == 0 and not training.loss.in_batch:
                raise Refused(
                    f"{stage}.negatives is 0 and {stage}.loss.in_batch is off, which leaves no negatives, mined or not; "
                    f"give one or more negatives, or {stage}.loss.in_batch=true"
                )
            mining = {"instruct": self.mine, "refine": self.mine_refine}.get(stage)
            shared = stage == "instruct" and self.mine_refine is None and self.verbalise.kind == "none"
            later = shared and self.refine is not None and self.refine.negatives != 0
            if mining is not None and training.negatives == 0 and not later:
                raise Refused(
                    f"{stage}.negatives is 0, so the negatives that are mined for it would not be read; "
                    f"give {stage}.negatives={mining.negatives}, or null"
                )
        self._refuse_untempered()
        if self.mine is not None and self.instruct is None:
            raise Refused("mine is given, and there is no instruct to train on its negatives; give instruct=TrainConfig too, or mine=null")
        if self.mine_refine is not None and self.refine is None:
            raise Refused("mine_refine is given, and there is no refine to train on its negatives; give refine=TrainConfig too")
        if self.verbalise.kind != "none" and self.refine is None:
            raise Refused(f"verbalise.kind is {self.verbalise.kind}, and there is no refine to train on it; give refine=TrainConfig too")

    def _refuse_untempered(self) -> None:
        """Refuses a training at the temperature of an encoder that is known to have none by then."""
        tempered = self.backbone.tempered
        for stage, training in self.trainings.items():
            if training.loss.temperature is None and tempered is False:
                name, retriever = self.backbone.name, self.backbone.encoder.ARCHITECTURE
                raise Refused(
                    f"{stage}.loss.temperature is null, which is the temperature that the encoder has by then, and {retriever} over {name} "
                    f"has none; give a number above 0, such as {stage}.loss.temperature=0.07"
                )
            tempered = tempered or training.loss.learned_temperature

    @property
    def method_fields(self) -> dict[str, Any]:
        """The fields of the method by name, without those that a run adds: data, evaluation, endpoint."""
        return {field.name: getattr(self, field.name) for field in fields(Method)}

    @property
    def trainings(self) -> dict[str, TrainConfig]:
        """The trainings that are configured, by stage."""
        return {stage: training for stage in TRAININGS if (training := getattr(self, stage)) is not None}

    def named_files(self) -> dict[str, Path]:
        """The settings files that the config names, by field; refused where one cannot be read."""
        named = {f"{stage}.deepspeed": training.deepspeed for stage, training in self.trainings.items()}
        for path in named.values():
            read_settings(path)
        return {field: Path(path) for field, path in named.items() if path is not None}


@dataclass(frozen=True)
class Service:
    """How a retriever is evaluated and served."""

    evaluate: EvaluateConfig = option(EvaluateConfig, "how the retriever is evaluated")
    deploy: ServeConfig = option(ServeConfig, "how the release is served")

    def refuse_untrusted(self, backbone: BackboneConfig) -> None:
        """Refuses an endpoint that would not open the release of a backbone that may run code of its own."""
        if backbone.trust_remote_code and not self.deploy.trust_remote_code:
            raise Refused(
                "backbone.trust_remote_code is on and deploy.trust_remote_code off, so the endpoint would not open the release; give "
                "deploy.trust_remote_code=true too"
            )


@dataclass(frozen=True)
class Retrieval(Service, Method, Data):
    """The config of one retriever, from the corpus to the endpoint."""

    def __post_init__(self) -> None:
        Method.__post_init__(self)
        self.refuse_split(self.evaluate.split, trained=bool(self.trainings))
        self.refuse_passages(trained=bool(self.trainings))
        self.refuse_untrusted(self.backbone)

    @property
    def served(self) -> str | None:
        """The stage whose release is deployed."""
        return "release"

    @property
    def made_pairs(self) -> PairsConfig:
        """The config of the pairs that are made."""
        return pairs_for(self.pairs, [self])

    @property
    def corpus_check(self) -> CorpusCheckConfig:
        """What the run asks of its corpus."""
        return asked_of_corpus(self, {"pairs": self.made_pairs}, [self], self.evaluate)

    def stages(self) -> list[Stage]:
        """The stages of the config, in an order in which they could run."""
        stages = [
            *data_stages(self, self.made_pairs, self.corpus_check, self.evaluate, trained=bool(self.trainings)),
            *method_stages(self, self, self.pairs, self.evaluate),
            deploy_stage(self.deploy, "release", ("evaluate",), self.seed),
        ]
        return measurable(with_outside(stages))


def pairs_for(chosen: PairsConfig, methods: Iterable[Method]) -> PairsConfig:
    """The config of the pairs that the methods read: without those of a training that none of them has."""
    trainings = {name for method in methods for name in method.trainings}
    if "adapt" not in trainings:
        chosen = without_adaptation(chosen)
    elif chosen.adapt_tasks is None and not chosen.adapt_captions:
        raise Refused("pairs.adapt_tasks is null, and adapt trains on these pairs; name tasks, give [] for all, or set adapt=null")
    readers = [name for name in ("instruct", "refine") if name in trainings]
    if readers and chosen.instruct_tasks is None:
        null = " and ".join(f"{name}=null" for name in readers)
        raise Refused(f"pairs.instruct_tasks is null, and {readers[0]} trains on these pairs; name tasks, give [] for all, or set {null}")
    return chosen if readers else replace(chosen, instruct_tasks=None)


def without_adaptation(chosen: PairsConfig) -> PairsConfig:
    """The config without pairs to adapt on."""
    return replace(chosen, adapt_tasks=None, adapt_captions=False)


def asked_of_corpus(data: Data, pairs: Mapping[str, PairsConfig], methods: Iterable[Method], measured: EvaluateConfig) -> CorpusCheckConfig:
    """What the methods ask of a corpus, by the configs of their pairs."""
    untrained = any(not method.trainings for method in methods)
    return CorpusCheckConfig(pairs, passages=data.passages.kind != "none", untrained=untrained, split=measured.split)


def data_stages(config: Data, paired: PairsConfig, asked: CorpusCheckConfig, measured: EvaluateConfig, trained: bool) -> list[Stage]:
    """The stages from the sources to the pairs, and the floors, which depend on the data alone."""
    stages = [
        make_stage("sources", "ingestion.sources:work", config.sources, {}, ("pillow", "pyarrow")),
        make_stage(
            "curate", "curation.curate:work", config.curate, {"sources": "sources"}, ("pillow", "numpy", "pyarrow", "ray", "xxhash")
        ),
    ]
    if config.sources.path or not is_small(rows=ROWS_OF_AN_ENTITY * config.sources.world.entities):
        stages = [replace(stage, uses_ray=True) for stage in stages]  # large corpora are read and curated by workers of Ray Data
    stages.append(make_stage(CHECK, "pairs.corpus_check:work", asked, {"curate": "curate"}, ("pyarrow",)))
    if config.passages.kind != "none":
        stages.append(make_stage("passages", "passages.passages:work", config.passages, {"curate": "curate"}, WRITING))
    if measured.floors:
        floors = FloorsConfig.of(measured, trained)
        stages.append(make_stage(FLOORS, "evaluation.floors:work", floors, {"curate": "curate"}, (*SEARCHING, "bm25s", "pillow")))
    return [*(replace(stage, seed=config.seed) for stage in stages), pairs_stage(config, paired)]


def pairs_stage(data: Data, chosen: PairsConfig, name: str = "pairs", corpus: str = "curate") -> Stage:
    """The stage that makes pairs of the data with a config."""
    added = {"passages": "passages"} if data.passages.kind != "none" else {}
    return replace(make_stage(name, "pairs.pairs:work", chosen, {"curate": corpus, **added}, ("pyarrow",)), seed=data.seed)


def method_stages(config: Method, data: Data, chosen: PairsConfig, measured: EvaluateConfig) -> list[Stage]:
    """The stages from the pairs to a release."""
    encoder = config.backbone.encoder
    corpus, paired = "curate", "pairs"
    read = {"curate": "curate", "pairs": "pairs"}
    untrained = [
        make_stage("embed-untrained", "embedding.embed:work", config.embed, {"encoder": "backbone", **read}, ENCODING, encoder),
        make_stage("index-untrained", "embedding.index:work", config.index, {"embed": "embed-untrained"}, SEARCHING),
    ]
    if not config.trainings:
        untrained = []  # the encoder that is embedded with at the end is that of the backbone
    merging = ("peft",) if _may_be_adapter(config.backbone) else ()
    stages = [make_stage("backbone", "training.backbone:work", config.backbone, {"curate": "curate"}, (*ENCODING, *merging), encoder)]
    learnt, trained_on = "backbone", "pairs"
    for name, training in config.trainings.items():
        if name == "refine" and config.verbalise.kind != "none":
            corpus, paired = "verbalise", "pairs-verbalised"
            stages.append(make_stage(corpus, "passages.verbalise:work", config.verbalise, {"curate": "curate"}, WRITING))
            stages.append(pairs_stage(data, without_adaptation(chosen), paired, corpus))
            trained_on = paired
        mining = {"instruct": config.mine, "refine": config.mine_refine}.get(name)
        if mining is not None:
            if learnt == "backbone" and mining.release is None:
                stages, untrained = [*stages, *untrained], []
            trained_on = "mine" if name == "instruct" else f"mine-{name}"
            stages += _mining(trained_on, mining, config, learnt, {"pairs": paired, "curate": corpus})
        stages.append(make_stage(name, TRAININGS[name], training, {"pairs": trained_on, "encoder": learnt}, TRAINING, encoder))
        learnt = name
    if untrained:  # one embedding at a time, for a small machine's sake
        untrained[0] = replace(untrained[0], after=("embed",), inputs={**untrained[0].inputs, "curate": corpus})
    searched = {"curate": "curate", "embed": "embed", "index": "index"}
    if config.trainings:
        searched |= {"untrained_embed": "embed-untrained", "untrained_index": "index-untrained"}
    if measured.floors:
        searched["floors"] = FLOORS
    released = {"encoder": learnt, "index": "index", "curate": corpus, "pairs": "pairs"}
    stages += [
        make_stage("embed", "embedding.embed:work", config.embed, {"encoder": learnt, **read, "curate": corpus}, ENCODING, encoder),
        *untrained[:1],
        make_stage("index", "embedding.index:work", config.index, {"embed": "embed"}, SEARCHING),
        *untrained[1:],
        make_stage("evaluate", "evaluation.evaluate:work", measured, searched, SEARCHING),
        make_stage("release", "publishing.release:work", config.release, released, (*SEARCHING, "pillow"), encoder),
    ]
    return [replace(stage, seed=data.seed) for stage in stages]


def deploy_stage(config: ServeConfig, released: str, after: tuple[str, ...], seed: int) -> Stage:
    """The stage that serves a release; it follows evaluation, so that an endpoint is replaced only by a release that was measured."""
    stage = make_stage("deploy", "publishing.deploy:work", config, {"release": released}, ("ray", "fastapi"))
    return replace(stage, valid=f"{COMPONENTS}.publishing.receipt:still_served", on_head=True, after=after, seed=seed)


def _mining(name: str, mining: MineConfig, config: Method, learnt: str, found: dict[str, str]) -> list[Stage]:
    """The stages that mine negatives for pairs with the encoder of a stage, in the curated corpus.

    A given release has an index already, and so has the untrained encoder.
    """
    if mining.release is not None:
        return [make_stage(name, "pairs.mine:work", mining, found, (*ENCODING, *SEARCHING))]
    encoder, trait = config.backbone.encoder, LEARNT[learnt]
    own = [
        make_stage(
            f"embed-{trait}",
            "embedding.embed:work",
            config.embed,
            {"pairs": "pairs", "curate": "curate", "encoder": learnt},
            ENCODING,
            encoder,
        ),
        make_stage(f"index-{trait}", "embedding.index:work", config.index, {"embed": f"embed-{trait}"}, SEARCHING),
    ]
    searched = {**found, "encoder": learnt, "index": f"index-{trait}"}
    mined = make_stage(name, "pairs.mine:work", mining, searched, (*ENCODING, *SEARCHING), encoder)
    return [mined] if learnt == "backbone" else [*own, mined]


def _may_be_adapter(backbone: BackboneConfig) -> bool:
    """Whether the checkpoint is an adapter over a model, or a hub id, of which this is not known before it is fetched."""
    if backbone.name == TINY or backbone.is_encoder:
        return False
    folder = Path(backbone.name).expanduser()
    return not folder.is_dir() or (folder / ADAPTER).is_file()
