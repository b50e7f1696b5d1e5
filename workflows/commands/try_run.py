"""The command `try`: what the last checkpoint of a training finds for a few held-out queries, while the training goes on.

Nothing is written into the run, and no worker of it is asked: the checkpoint is read as any other file, and its weights are put into the
encoder that the training started from. Both encode the same queries and documents, on few threads of this machine and at low priority.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirepoix.components.evaluation.sample import Asked, Sample, draw, first_rank, rankings, recalls
from mirepoix.components.training.checkpoint_encoder import committed_checkpoints, newest_encoder
from mirepoix.components.training.job import make_job
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.encoder_config import ARCHITECTURES, config_class
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving import store
from mirepoix.serving.search.hits import Hit
from mirepoix.workflows.config import build, parse
from mirepoix.workflows.dag.retrieval import TRAININGS
from mirepoix.workflows.runner.progress import LINE, clock
from mirepoix.workflows.runner.task import BEGUN
from mirepoix.workflows.storage import present
from mirepoix.workflows.upkeep.runs import StoredRun, find_run, read_runs

CORPORA = ("curate", "verbalise")
"""Stages whose result is a corpus that pairs are made of."""
STORES = {"adapt": "adapt"}
"""The store of pairs that a training reads, where it is not `instruct`."""
THREADS, NICENESS, BATCH_SIZE = 2, 10, 16
"""Of the encoding: a training beside it is hardly slowed."""
SHOWN = 3
REPORT_SECONDS = 15.0


@dataclass(frozen=True)
class TryRequest:
    """What is tried of a run."""

    run: str
    stage: str | None = None
    queries: int = 8
    documents: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("queries", "documents"):
            if getattr(self, name) < 1:
                raise Refused(f"--{name} is {getattr(self, name)}; give 1 or more")
        if self.seed < 0:
            raise Refused(f"--seed is {self.seed}; give 0 or more")


@dataclass(frozen=True)
class Training:
    """A training that has begun and has not ended."""

    name: str  # of its stage
    scratch: str
    inputs: Mapping[str, str]  # the targets of its pairs and its encoder

    @property
    def step(self) -> str:
        return self.name.rpartition(":")[2]


@dataclass(frozen=True)
class Trial:
    """What the encoder of a checkpoint, and the one that the training started from, find for the same queries among the same documents."""

    run: StoredRun
    training: Training
    step: int  # of the checkpoint
    saved: float  # when, in seconds since 1970
    damaged: Mapping[str, str]  # what is wrong with newer checkpoints, by their names
    total: int  # steps of the training
    sample: Sample
    found: Sequence[Sequence[Hit]]
    before: Sequence[Sequence[Hit]]


def try_command(storage: str, request: TryRequest, as_json: bool) -> int:
    """Prints what the last checkpoint of a run's training finds."""
    run = find_run(read_runs(storage), request.run, storage)
    trial = _trial(storage, run, request)
    print(json.dumps(_record(trial), indent=1) if as_json else "\n".join(_shown(trial)))
    return 0


def _trial(storage: str, run: StoredRun, request: TryRequest) -> Trial:
    training = _training(storage, run, request.stage)
    config, seed = _config(run, training.name)
    pairs, encoder = (store.fetch(training.inputs[name], store.cache_folder()) for name in ("pairs", "encoder"))
    total = make_job(config, seed, pairs / STORES.get(training.step, "instruct"), encoder).total
    if not committed_checkpoints(training.scratch):
        raise _no_checkpoint(run, training, config, total)
    sample = draw(pairs, _corpus(storage, run, training, pairs), request.queries, request.documents, request.seed)
    from mirepoix.models.encoder import load_own_encoder  # torch, which no refusal so far has waited for

    _give_way()
    newest = newest_encoder(training.scratch, encoder, config)
    if newest is None:  # there was one before the sample was drawn
        raise Refused(
            f"the training {training.name} of {run.name} has ended meanwhile; `mirepoix show {run.name}` prints what became of it"
        )
    step, saved, damaged = newest.step, newest.saved, newest.damaged
    found = rankings(newest.encoder, sample, BATCH_SIZE, _reporting(f"the encoder of step {step}", len(sample.documents)))
    del newest
    before = rankings(load_own_encoder(encoder), sample, BATCH_SIZE, _reporting("the one before the training", len(sample.documents)))
    return Trial(run, training, step, saved, damaged, total, sample, found, before)


def _give_way() -> None:
    """Lowers the priority of this process, and bounds its threads."""
    import torch

    os.nice(NICENESS)
    torch.set_num_threads(min(THREADS, os.cpu_count() or 1))


def _training(storage: str, run: StoredRun, wanted: str | None) -> Training:
    """The training to try: the last that began and has a checkpoint, else the last that began; refused where none goes on."""
    begun = [place for place in run.made if place.split("/")[1] in TRAININGS]
    going, unknown = [], []
    for place in reversed(begun):
        scratch = store.join(storage, "work", place.rpartition("/")[2])
        record = store.read(store.join(scratch, BEGUN))
        if record is not None:
            content = json.loads(record)
            inputs = {name: present(target, run.folder) for name, target in content["inputs"].items()}
            going.append(Training(content["stage"], scratch, inputs))
        elif store.list_names(scratch):
            unknown.append(place)
    chosen = [training for training in going if wanted in (None, training.name, training.step)]
    if chosen:
        return next((training for training in chosen if committed_checkpoints(training.scratch)), chosen[0])
    if going:
        raise Refused(f"--stage is {wanted}; the trainings of {run.name} that go on are {', '.join(each.name for each in going)}")
    if unknown:
        raise Refused(f"the training of {run.name} was begun by an earlier version, which did not record its inputs; run it again to go on")
    if begun:
        steps = ", ".join(dict.fromkeys(place.split("/")[1] for place in begun))
        raise Refused(f"the trainings of {run.name} have ended ({steps}); `mirepoix show {run.name}` prints what became of them")
    if not _trained(run):
        raise Refused(f"{run.name} has no training to try; `mirepoix show {run.name}` prints what it did")
    raise Refused(f"no training of {run.name} has begun, and it is {run.state}; `mirepoix show {run.name}` prints how far it is")


def _plain(run: StoredRun) -> tuple[dict[str, Any], Any]:
    """The config of a run in plain form, and where its values stand."""
    _, plain, origin = parse((store.read(store.join(run.folder, "config.yaml")) or b"").decode())
    return plain if isinstance(plain, dict) else {}, origin


def _trained(run: StoredRun) -> bool:
    """Whether the config of a run has any training."""
    plain, _ = _plain(run)
    methods = [plain, *(arm for arm in (plain.get("arms") or {}).values() if isinstance(arm, dict))]
    return any(method.get(step) for method in methods for step in TRAININGS)


def _config(run: StoredRun, stage: str) -> tuple[TrainConfig, int]:
    """The config of a training of a run, and the seed of the run."""
    for name in ARCHITECTURES:  # a tuning is built by the name of its class, which is known once its module is imported
        config_class(name)
    plain, origin = _plain(run)
    arm, _, step = stage.rpartition(":")
    given = (plain.get("arms") or {}).get(arm, {}).get(step) if arm else plain.get(step)
    if given is None:
        raise Refused(f"the config of {run.name} has no training {stage}, which another run with the same results began; try that one")
    config: TrainConfig = build(TrainConfig, given, f"arms.{arm}.{step}" if arm else step, origin)
    return config, plain.get("seed", 0)


def _corpus(storage: str, run: StoredRun, training: Training, pairs: Path) -> Path:
    """The corpus that the pairs of a training were made of."""
    manifest = store.read_manifest(training.inputs["pairs"])
    digest = manifest.fields["inputs"]["curate"] if manifest else ""
    own = [place for place in run.places if place.split("/")[1] in CORPORA]
    others = [f"artefacts/{step}/{key}" for step in CORPORA for key in store.list_names(store.join(storage, "artefacts", step))]
    for place in dict.fromkeys((*own, *others)):
        target = store.join(storage, *place.split("/"))
        with suppress(store.Damaged):
            found = store.read_manifest(target)
            if found is not None and found.digest == digest:
                return store.fetch(target, store.cache_folder())
    raise Refused(f"the corpus that {pairs} was made of is not in {storage}; it was removed, and the run makes it again")


def _no_checkpoint(run: StoredRun, training: Training, config: TrainConfig, total: int) -> Refused:
    """The refusal of a training without a checkpoint, which says when there will be one."""
    every = f"{training.name}.save_steps is {config.save_steps}"
    if config.save_steps >= total:
        return Refused(f"the training {training.name} of {run.name} saves no checkpoint before its end: it has {total} steps, and {every}")
    first = f"the first is saved after step {config.save_steps} of {total} ({every})"
    state = "" if run.state == "running" else f"; the run is {run.state}, and the same command goes on with it"
    return Refused(f"the training {training.name} of {run.name} has no checkpoint yet; {first}{state}")


def _reporting(what: str, total: int) -> Callable[[int], None]:
    """Says on standard error how many documents are encoded, where that takes long."""
    last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        if time.monotonic() - last > REPORT_SECONDS:
            last = time.monotonic()
            print(f"mirepoix: {done} of {total} documents encoded by {what}", file=sys.stderr)

    return report


def _record(trial: Trial) -> dict[str, Any]:
    """What `--json` prints."""
    items = {item.id: item for item in trial.sample.documents}
    return {
        "run": trial.run.name,
        "state": trial.run.state,
        "stage": trial.training.name,
        "step": trial.step,
        "total": trial.total,
        "saved": trial.saved,
        "damaged": dict(trial.damaged),
        "documents": len(items),
        "all_documents": trial.sample.all_documents,
        "all_queries": trial.sample.all_queries,
        "recall": {"checkpoint": recalls(trial.found, trial.sample), "before": recalls(trial.before, trial.sample)},
        "queries": [
            {
                "id": asked.item.id,
                "task": asked.task,
                "text": asked.item.text,
                "source": asked.item.source,
                "answers": sorted(asked.answers),
                "rank": first_rank(found, asked.answers),
                "rank_before": first_rank(before, asked.answers),
                "results": [
                    {"id": hit.id, "score": round(hit.score, 4), "answers": hit.id in asked.answers, "text": items[hit.id].text}
                    | {"modality": items[hit.id].modality.letters, "source": items[hit.id].source}
                    for hit in found[:SHOWN]
                ],
            }
            for asked, found, before in _each(trial)
        ],
    }


def _each(trial: Trial) -> Iterator[tuple[Asked, Sequence[Hit], Sequence[Hit]]]:
    return zip(trial.sample.queries, trial.found, trial.before, strict=True)


def _shown(trial: Trial) -> Iterator[str]:
    sample = trial.sample
    items = {item.id: item for item in sample.documents}
    saved = f"saved {clock(time.time() - trial.saved)} ago, at {time.strftime('%H:%M:%S', time.localtime(trial.saved))}"
    yield f"{trial.run.name}  {trial.run.state}"
    yield f"  training    {trial.training.name}, checkpoint of step {trial.step} of {trial.total}, {saved}"
    for name, fault in trial.damaged.items():
        yield f"  damaged     {name}: {fault}"
    yield f"  queries     {len(sample.queries)} of the {sample.all_queries:,} that are held out"
    yield f"  documents   {len(items):,} of {sample.all_documents:,}, with all answers to these queries that are ranked below"
    for asked, found, before in _each(trial):
        yield ""
        rank, was = first_rank(found, asked.answers), first_rank(before, asked.answers)
        told = f"answer at {rank} (before {was})"
        yield f"{asked.task:<8} {_words(asked.item, LINE - len(told) - 11)}  {told}"
        for place, hit in enumerate(found[:SHOWN], 1):
            item, mark = items[hit.id], "*" if hit.id in asked.answers else " "
            line = f"  {place:>2}. {mark} {hit.score:.3f}  {item.modality.letters:<3} {hit.id:<14} "
            yield f"{line}{_words(item, LINE - len(line))}".rstrip()
    yield ""
    columns = recalls(trial.found, sample)
    yield f"{'(* answers the query)':<27}" + "".join(f"{name:>11}" for name in columns)
    rows = {f"step {trial.step}": columns, "before this training": recalls(trial.before, sample)}
    for label, row in rows.items():
        yield f"{label:<27}" + "".join(f"{value:>11.3f}" for value in row.values())


def _words(item: Item, room: int) -> str:
    """What an item says, in so many characters: its text behind what it shows; where it has no text, its source."""
    kinds = ["[picture]"] * bool(item.images) + ["[clip]"] * bool(item.video)
    text = " ".join([*kinds, *(item.text.split() or [item.source or item.id])])
    return text if len(text) <= room else f"{text[: max(1, room - 3)]}..."
