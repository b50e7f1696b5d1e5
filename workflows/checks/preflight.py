"""Problems that config and machine alone show, before the first stage: GPUs, CPUs, memory, disk, ports, hub ids, extras, splits, data sets.

Only stages that would run are looked at, and only what is certain is a problem: what cannot be known here is left to the stage.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.generation.writer_config import EngineConfig
from mirepoix.components.ingestion.readers import Source
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.pairs.corpus_check_config import CorpusCheckConfig
from mirepoix.components.pairs.mine_config import MineConfig
from mirepoix.components.passages.passages_config import PassagesConfig
from mirepoix.components.passages.verbalise_config import VerbaliseConfig
from mirepoix.components.training.backbone_config import TINY, BackboneConfig
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.backbones.adapter import adapter_folder, base_of
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.errors import Refused
from mirepoix.serving.search.index_config import IndexConfig
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.serving.store import Damaged, is_local, join, list_names, local_path, read_manifest
from mirepoix.workflows.checks.hub import HubModel, State, find_models, snapshot, why_not
from mirepoix.workflows.checks.memory import LOADED, bytes_needed
from mirepoix.workflows.checks.modalities import unread_problems
from mirepoix.workflows.checks.problem import Problem
from mirepoix.workflows.checks.weights import count_weights
from mirepoix.workflows.cluster.machine import Machine
from mirepoix.workflows.runner.execute import Report
from mirepoix.workflows.runner.fingerprint import ingredients
from mirepoix.workflows.runner.graph import Stage

GIB, MIB = 1 << 30, 1 << 20
ELSEWHERE = "or give --address of a cluster that has them"
FindModels = Callable[[Iterable[HubModel]], dict[HubModel, tuple[State, str]]]


@dataclass(frozen=True)
class Preflight:
    """The stages of a run, those of them that are certain to run, and where.

    `waiting` are those that may run: they wait for others, and were made before from other inputs. They may need nothing of the machine,
    yet what the config and its sources contradict would stop them in any case.
    """

    stages: Sequence[Stage]
    running: frozenset[str]
    storage: str
    machine: Machine
    find_models: FindModels = find_models
    waiting: frozenset[str] = frozenset()

    def problems(self) -> list[Problem]:
        """All problems, each once, in the order in which the stages would meet them."""
        checks = (
            self._cluster,
            self._splits,
            self._queries,
            self._modalities,
            self._models,
            self._extras,
            self._gpus,
            self._cpus,
            self._memory,
            self._disk,
            self._port,
        )
        return list(dict.fromkeys(problem for check in checks for problem in check()))

    def _configs(self, kind: type, waiting: bool = False) -> Iterator[tuple[str, Any]]:
        """The configs of a class of the stages that would run, or with `waiting` may run, each with the field that holds it."""
        names = self.running | self.waiting if waiting else self.running
        for stage in self.stages:
            if stage.name in names:
                yield from ((field, config) for field, config in _nested(field_of(stage), stage.config) if isinstance(config, kind))

    def _cluster(self) -> Iterator[Problem]:
        if self.machine.problem:
            said, _, cure = self.machine.problem.partition("; ")
            yield Problem(f"the run joins {self.machine.name}", said, cure or "check its address and its token")

    # What the config asks the machine for

    def _gpus(self) -> Iterator[Problem]:
        there = self.machine.gpus
        if there is None or not self.machine.kinds:
            return
        has = f"{self.machine.name} has {_count(there, 'GPU')}" + self._startable
        for field, config in self._configs(TrainConfig):
            name, fewest = _workers(config)
            if config.use_gpu and fewest > there:
                given = f"{field}.use_gpu=true and {field}.{name}={fewest} take {_count(fewest, 'GPU')}"
                fewer = f"lower {field}.{name}, " if there else ""
                yield Problem(given, has, f"{fewer}give {field}.use_gpu=null to train on CPUs where there are too few, {ELSEWHERE}")
        for field, config in self._configs(EmbedConfig):
            if config.use_gpu and there < 1:
                yield Problem(f"{field}.use_gpu=true takes a GPU for each of its actors", has, f"give {field}.use_gpu=false, {ELSEWHERE}")
        for field, config in self._configs(EngineConfig):
            if config.gpus_per_worker > there:
                given = f"{field}.gpus_per_worker={config.gpus_per_worker} takes {_count(config.gpus_per_worker, 'GPU')} for an engine"
                yield Problem(given, has, f"name an endpoint ({field}=EndpointConfig), {ELSEWHERE}")
        for field, config in self._configs(ServeConfig):
            if (wanted := config.encoders * config.encoder_gpus) > there:
                given = f"{field}.encoder_gpus={config.encoder_gpus:g} and {field}.encoders={config.encoders} take {_count(wanted, 'GPU')}"
                yield Problem(given, has, f"give {field}.encoder_gpus=0 or fewer encoders, {ELSEWHERE}")

    def _cpus(self) -> Iterator[Problem]:
        if not self.machine.kinds:
            return
        there, largest = self.machine.cpus, max(node.cpus for node in self.machine.kinds)
        has = (
            f"{self.machine.name} has {_count(there, 'CPU')}"
            + ("" if self.machine.joined else " for a cluster of its own")
            + self._startable
        )
        for field, config in self._configs(TrainConfig):
            name, fewest = _workers(config)
            wanted, each = fewest * config.cpus_per_worker, config.cpus_per_worker
            given = f"{field}.{name}={fewest} and {field}.cpus_per_worker={each} take {_count(wanted, 'CPU')}"
            if wanted > there:
                yield Problem(given, has, f"lower one of them, {ELSEWHERE}")
            elif each > largest:
                yield Problem(f"{field}.cpus_per_worker={each}", f"no node has more than {_count(largest, 'CPU')}", "lower it")
        for field, config in self._configs(ServeConfig):
            wanted = config.encoders * config.encoder_cpus
            if wanted > there:
                given = f"{field}.encoders={config.encoders} and {field}.encoder_cpus={config.encoder_cpus:g} take {_count(wanted, 'CPU')}"
                yield Problem(given, has, f"lower one of them, {ELSEWHERE}")

    @property
    def _startable(self) -> str:
        return ", with all that its autoscaler may start" if self.machine.startable else ""

    def _port(self) -> Iterator[Problem]:
        for field, config in self._configs(ServeConfig):
            if config.port and not self.machine.joined and not self.machine.free_port(config.host, config.port):
                yield Problem(
                    f"{field}.port is {config.port}",
                    f"nothing more can listen at {config.host}:{config.port}",
                    f"stop what listens there (mirepoix doctor names it), or give {field}.port=0 for any free port",
                )

    def _disk(self) -> Iterator[Problem]:
        if not is_local(self.storage):
            return
        written = sum(self._picture_bytes() for _ in self._configs(SourcesConfig))
        written += sum(self._picture_bytes() for _, config in self._configs(CurateConfig) if config.picture_pixels is None)
        for stage in self.stages:
            if stage.name in self.running and isinstance(stage.config, BackboneConfig | TrainConfig):
                written += LOADED * (self._weights(stage) or 0)
        free = self.machine.free_disk(local_path(self.storage))
        if written > free:
            yield Problem(
                f"the run writes {_size(written)} or more to {self.storage}",
                f"{_size(free)} are free there",
                "free some, or give --storage a folder or URI with more room",
            )

    def _picture_bytes(self) -> int:
        """The bytes of pictures in the sources, which are copied as they are."""
        sources = next((stage.arguments.get("sources", ()) for stage in self.stages if isinstance(stage.config, SourcesConfig)), ())
        return sum(source.picture_bytes for source in sources)

    def _memory(self) -> Iterator[Problem]:
        """Weights and what training keeps of each, in the memory of one machine or of one GPU; a joined cluster's is not known."""
        if self.machine.joined or not self.machine.nodes:
            return
        node = self.machine.nodes[0]
        for stage in self.stages:
            if stage.name not in self.running or not (weights := self._weights(stage)):
                continue
            backbone = self._backbone(stage)
            assert backbone is not None
            what = f"backbone.name={backbone.name} has {weights / 1e9:.2f} billion weights"
            field = field_of(stage)
            for means, wanted, there, cure in bytes_needed(stage.config, weights, node, backbone):
                if there is not None and wanted > there[0]:
                    given = f"{what}, which take {_size(wanted)} {means.format(field=field)}"
                    yield Problem(given, f"{there[1]} has {_size(there[0])}", f"{cure.format(field=field)}take a smaller model")

    def _weights(self, stage: Stage) -> int | None:
        """The weights of the encoder that a stage opens, as far as files here say."""
        backbone = self._backbone(stage)
        if backbone is None or backbone.name == TINY or not isinstance(stage.config, BackboneConfig | TrainConfig | EmbedConfig):
            return None
        if backbone.is_encoder:
            return count_weights(Path(backbone.name).expanduser())
        (kind,) = set(backbone.encoder.CHECKPOINTS.values()) if len(backbone.encoder.CHECKPOINTS) == 1 else ("",)
        if kind != "multimodal":
            return None  # of each of two checkpoints one tower is opened
        folder = _folder(_opened(next(iter(backbone.checkpoints.values()))))
        return count_weights(folder) if folder else None

    def _backbone(self, stage: Stage) -> BackboneConfig | None:
        """The config of the backbone of a stage's arm."""
        found = [other for other in self.stages if isinstance(other.config, BackboneConfig)]
        named = [other for other in found if other.arm == stage.arm] or found[:1]
        return named[0].config if named else None

    # What the config names

    def _models(self) -> Iterator[Problem]:
        wanted = list(self._hub_models())
        for model, (state, detail) in self.find_models(wanted).items() if wanted else ():
            if (problem := why_not(model, state, detail)) is not None:
                yield problem

    def _hub_models(self) -> Iterator[HubModel]:
        for _, config in self._configs(BackboneConfig):
            if config.name == TINY or config.is_encoder:
                continue
            fields = ("backbone.name", "backbone.vision")
            for field, checkpoint in zip(fields, config.checkpoints.values(), strict=False):
                opened = _opened(checkpoint)
                named = [(field, checkpoint)] + ([("backbone.base", opened)] if opened != checkpoint else [])
                yield from (HubModel(at, str(each.name), each.revision) for at, each in named if _is_hub_id(str(each.name)))
        for field, config in self._configs(EngineConfig):
            if "://" not in config.model and _is_hub_id(config.model):
                yield HubModel(f"{field}.model", config.model, None)

    def _extras(self) -> Iterator[Problem]:
        if self.machine.joined:  # its workers have libraries of their own
            return
        has = self.machine.has_module
        for _, config in self._configs(BackboneConfig):
            if config.name != TINY and config.encoder.OBEYS_THE_FOLDER and not has("sentence_transformers") and _needs_library(config):
                yield Problem(
                    f"backbone.name={config.name} is a sentence-transformers folder",
                    "that library is not installed",
                    "pip install 'mirepoix[sentence-transformers]', or take a model that transformers opens: CLIP, SigLIP, Chinese-CLIP",
                )
        for field, _ in self._configs(EngineConfig):
            if not has("vllm"):
                there, cure = "vLLM is not installed", f"pip install 'mirepoix[vllm]', or give {field}=EndpointConfig or LocalConfig"
                yield Problem(f"{field} is an EngineConfig", there, cure)
        if any(True for _ in self._configs(IndexConfig)) and not has("faiss"):
            there = "FAISS is not installed"
            yield Problem("the run makes an index", there, "pip install 'mirepoix[cpu]', or [gpu] or [gpu-cuda13], only one of them")

    def _splits(self) -> Iterator[Problem]:
        """A split of evaluation that no source has, where all of them name their splits in the names of their files."""
        there = self._named_splits()
        trained = all(any(isinstance(other.config, TrainConfig) and other.arm == arm for other in self.stages) for arm in self._arms)
        for _, config in self._configs(EvaluateConfig, waiting=True):
            if there is None:
                return
            measured = sorted(there - ({"train"} if trained else set()))
            if config.split is not None and config.split not in measured:
                there_are = f"the files of the sources are of {', '.join(sorted(there)) or 'no split'}"
                give = (
                    f"give one of {', '.join(measured)}, or null"
                    if measured
                    else "bring held-out queries: curate.held_out=0.1 makes a split"
                )
                yield Problem(f"evaluate.split is {config.split!r}", there_are, f"{give}; sources.splits=OLD=NEW renames one")
            elif trained and not measured:
                cure = "give curate.held_out=0.1, which holds out a tenth of the queries, or rename a split: sources.splits=OLD=NEW"
                yield Problem("the run trains, and then evaluates", "all files of the sources are of the split train", cure)

    def _queries(self) -> Iterator[Problem]:
        """A training on pairs, of sources that are all read so that no query is made of them."""
        config, opened = self._sources
        trained = any(pairs.trained_tasks for _, check in self._configs(CorpusCheckConfig, waiting=True) for pairs in check.pairs.values())
        if trained and opened and not any(source.may_have_queries for source in opened):
            there = "no source has queries of its own: a caption that is read with its picture is none, and the training has no pair"
            cure = (
                "give sources.captions=apart, a column of queries (sources.columns=query=NAME), or `mirepoix run search` without a training"
            )
            yield Problem(f"sources.captions is {config.captions}", there, cure)

    def _modalities(self) -> Iterator[Problem]:
        for field, config in self._configs(BackboneConfig, waiting=True):
            yield from unread_problems(field, config, self._sources[1])

    @property
    def _sources(self) -> tuple[SourcesConfig, Sequence[Source]]:
        """The config of the sources, and the sources; none where the corpus is the generated world."""
        stage = next((stage for stage in self.stages if isinstance(stage.config, SourcesConfig)), None)
        return (stage.config, stage.arguments.get("sources", ())) if stage is not None else (SourcesConfig(), ())

    @property
    def _arms(self) -> set[str]:
        return {stage.arm for stage in self.stages if isinstance(stage.config, EvaluateConfig)}

    def _named_splits(self) -> set[str] | None:
        """The splits that the sources have; None where that is known only once they are read."""
        config, opened = self._sources
        if not config.path:
            return None
        found: set[str] = set()
        for source in opened:
            if (splits := source.named_splits) is None:
                return None
            found |= splits if not config.only_splits else splits & {*config.only_splits}
        held_out = any(isinstance(stage.config, CurateConfig) and stage.config.held_out for stage in self.stages)
        return found | ({"held_out"} if held_out else set())


def stages_that_run(stages: Sequence[Stage], planned: Report, storage: str) -> frozenset[str]:
    """The stages of a plan that are certain to run.

    One that waits for another is, unless it was made before with all but the input the same: that may come out as it was then.
    """
    found = set()
    for stage in stages:
        report = planned.stages.get(stage.name)
        if report is None or report.status == "skipped":
            continue
        if not report.reason.startswith("may run") or not _made_before(stage, storage):
            found.add(stage.name)
    return frozenset(found)


def _made_before(stage: Stage, storage: str) -> bool:
    """Whether the storage has a result of the stage that differs at most in its inputs."""
    home, parts = join(storage, "artefacts", stage.step), ingredients(stage, {})
    same = [name for name in parts if name != "inputs"]
    for key in list_names(home):
        with suppress(Damaged):
            manifest = read_manifest(join(home, key))
            if manifest is not None and all(manifest.fields.get(name) == parts[name] for name in same):
                return True
    return False


def _workers(config: TrainConfig) -> tuple[str, int]:
    """The fewest workers of a training, after the field that says so."""
    return ("num_workers", config.num_workers) if config.min_workers is None else ("min_workers", config.min_workers)


def field_of(stage: Stage) -> str:
    """The field of the config that a stage has its settings from."""
    step = "embed" if stage.step.startswith("embed") else "index" if stage.step.startswith("index") else stage.step.replace("-", "_")
    return f"arms.{stage.arm}.{step}" if stage.arm and step not in ("evaluate", "deploy") else step


def _nested(field: str, config: Any) -> Iterator[tuple[str, Any]]:
    """A stage's config, and of those within it the ones that ask for a machine or name a model, if the stage uses them."""
    yield field, config
    match config:
        case MineConfig():
            yield f"{field}.encode", config.encode
        case PassagesConfig(kind="written"):
            yield f"{field}.written.writer", config.written.writer
        case VerbaliseConfig(kind="written"):
            yield f"{field}.writer", config.writer


def _needs_library(config: BackboneConfig) -> bool:
    """Whether the folder of a model is opened by sentence-transformers; False where it is not here."""
    from mirepoix.models.adopted.layout import MODULES, read_layout

    folder = _folder(_opened(next(iter(config.checkpoints.values()))))
    if folder is None or not (folder / MODULES).is_file():
        return False
    try:
        return read_layout(folder, config.ignore).opened_by == "sentence-transformers"
    except Refused:
        return False  # the stage says what is wrong with the folder


def _opened(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint whose weights are opened: of an adapter that is here, the model under it."""
    adapter = adapter_folder(checkpoint, fetch=False)
    return checkpoint if adapter is None else base_of(checkpoint, adapter)


def _folder(checkpoint: Checkpoint) -> Path | None:
    """The folder of a checkpoint on this machine, or in the cache of hub ids."""
    folder = Path(checkpoint.name).expanduser()
    if folder.is_dir():
        return folder
    return snapshot(str(checkpoint.name), checkpoint.revision) if _is_hub_id(str(checkpoint.name)) else None


def _is_hub_id(name: str) -> bool:
    return bool(name) and not name.startswith(("/", ".", "~")) and not Path(name).is_dir()


def _count(number: float, what: str) -> str:
    return f"no {what}" if not number else f"{number:g} {what}{'' if number == 1 else 's'}"


def _size(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / MIB:.1f} MiB"
