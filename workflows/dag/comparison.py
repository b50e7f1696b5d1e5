"""Several retrievers on one corpus: the DAG once for each arm; a stage that is equal in two arms is run once.

sources -> curate -> [passages] -> pairs -+-> unite:adapt -> unite:instruct -> ... -> unite:evaluate, unite:release
                                          +-> mire:adapt  -> mire:instruct  -> ... -> mire:evaluate,  mire:release
                                          +-> ...                                 one of the releases -> [deploy]

A stage of an arm is named ARM:STEP. Two arms whose step has the same config and inputs share it, under the name of the first. The stages of
an arm depend on no other arm, but for those that it shares, so an arm that fails does not stop the others.
"""

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mirepoix.components.pairs.corpus_check_config import CorpusCheckConfig
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.workflows.dag.boards import measurable
from mirepoix.workflows.dag.outside import with_outside
from mirepoix.workflows.dag.retrieval import (
    Data,
    Method,
    Service,
    asked_of_corpus,
    data_stages,
    deploy_stage,
    method_stages,
    pairs_for,
    pairs_stage,
)
from mirepoix.workflows.runner.fingerprint import plain
from mirepoix.workflows.runner.graph import Stage, merge_shared

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Arm(Method):
    """A method that is compared with others."""

    pairs: PairsConfig | None = option(None, "pairs that it is trained on, and the wording of its queries; null: those of the comparison")


@dataclass(frozen=True)
class Comparison(Service, Data):
    """Several methods on the same data, evaluated in the same way."""

    serve: str | None = option(None, "arm whose release is deployed at the end; null: none")
    only: tuple[str, ...] = option((), "arms that are run; empty: all")
    at_once: int | None = option(None, "arms that run at the same time, in their order; null: as many as the CPUs and GPUs allow")
    arms: dict[str, Arm] = option(dict, "the methods that are compared, by the name with which their stages begin")

    def __post_init__(self) -> None:
        trained = any(arm.trainings for arm in self.arms.values())
        self.refuse_split(self.evaluate.split, trained)
        if not self.arms:
            raise Refused("arms is empty; name one or more, each with its config")
        for name in self.arms:
            if not NAME.fullmatch(name):
                raise Refused(f"the name {name!r} of an arm cannot begin the name of a stage; give letters, digits, _ and -")
        for field, named in (("only", self.only), ("serve", (self.serve,) if self.serve else ())):
            known = self.arms if field == "only" else self.chosen
            if unknown := [name for name in named if name not in known]:
                raise Refused(f"{field} is {', '.join(unknown)}; the arms of this run are {', '.join(known)}")
        self.refuse_passages(trained)
        if self.serve:
            self.refuse_untrusted(self.arms[self.serve].backbone)
        if self.at_once is not None and self.at_once < 1:
            raise Refused(f"at_once is {self.at_once}; give 1 or more, or null")

    @property
    def chosen(self) -> Mapping[str, Arm]:
        """The arms that are run."""
        return {name: arm for name, arm in self.arms.items() if name in self.only} or self.arms

    @property
    def served(self) -> str | None:
        """The stage whose release is deployed."""
        return self.executed_as[f"{self.serve}:release"] if self.serve else None

    @property
    def made_pairs(self) -> PairsConfig:
        """The config of the pairs for all arms without their own, whether they run now or not: an arm that runs later finds them made."""
        return pairs_for(self.pairs, [arm for arm in self.arms.values() if arm.pairs is None])

    @property
    def corpus_check(self) -> CorpusCheckConfig:
        """What the arms that are run ask of the corpus."""
        pairs = {"pairs": self.made_pairs} if any(arm.pairs is None for arm in self.chosen.values()) else {}
        pairs |= {f"{name}:pairs": pairs_for(arm.pairs, [arm]) for name, arm in self.chosen.items() if arm.pairs is not None}
        return asked_of_corpus(self, pairs, self.chosen.values(), self.evaluate)

    @property
    def executed_as(self) -> dict[str, str]:
        """For each stage of each arm the stage that is run for it, which may be one of an earlier arm."""
        return self._merged()[1]

    def named_files(self) -> dict[str, Path]:
        """The settings files that the arms name, by field; refused where one cannot be read."""
        return {f"arms.{name}.{field}": file for name, arm in self.chosen.items() for field, file in arm.named_files().items()}

    def stages(self) -> list[Stage]:
        """The stages of the config, in an order in which they could run."""
        return measurable(with_outside(self._merged()[0]))

    def parallel_arms(self, cpus: float, gpus: float) -> int:
        """How many arms can run at the same time; at least one."""
        if self.at_once is not None:
            return self.at_once
        trainings = [training for arm in self.chosen.values() for training in arm.trainings.values()]
        embeddings = [arm.embed for arm in self.chosen.values() if not arm.trainings]
        claimed = [training.num_workers * training.cpus_per_worker for training in trainings]
        fit = [cpus // max(claimed + [embedding.workers for embedding in embeddings])]
        on_gpus = [training.num_workers for training in trainings if training.use_gpu]
        if taken := max(on_gpus + [embedding.workers for embedding in embeddings if embedding.use_gpu], default=0):
            fit.append(gpus // taken)
        return max(1, int(min(fit)))

    def _merged(self) -> tuple[list[Stage], dict[str, str]]:
        """The stages of all arms without duplicates, and for each stage of an arm the one that is run for it."""
        trained = any(arm.trainings for arm in self.arms.values())
        stages = data_stages(self, self.made_pairs, self.corpus_check, self.evaluate, trained)
        shared = {stage.name for stage in stages}
        for name, arm in self.chosen.items():
            own = [] if arm.pairs is None else [pairs_stage(self, pairs_for(arm.pairs, [arm]))]
            own += method_stages(arm, self, arm.pairs or self.pairs, self.evaluate)
            stages += [_in_arm(stage, name, {stage.name: f"{name}:{stage.name}" for stage in own}) for stage in own]
        measured = tuple(stage.name for stage in stages if stage.step == "evaluate")
        stages, names = merge_shared(stages, _identity)
        if self.serve:
            after = tuple(names[name] for name in measured)
            stages.append(deploy_stage(self.deploy, names[f"{self.serve}:release"], after, self.seed))
        return stages, {name: stage for name, stage in names.items() if name not in shared}


def _in_arm(stage: Stage, arm: str, names: Mapping[str, str]) -> Stage:
    """A stage under its name in an arm, with its inputs renamed in the same way if they are the arm's own."""
    inputs = {argument: names.get(source, source) for argument, source in stage.inputs.items()}
    return replace(stage, name=names[stage.name], inputs=inputs, after=tuple(names[name] for name in stage.after))


def _identity(stage: Stage) -> Hashable:
    """What must be equal for two stages with the same inputs to be one."""
    return stage.step, stage.work, json.dumps(plain(stage.config, deciding=True), sort_keys=True)
