"""Several retrievers on one corpus: the DAG once for each arm, and what arms have alike is made once.

sources -> curate -> [passages] -> pairs -+-> unite:adapt -> unite:instruct -> ... -> unite:evaluate, unite:release
                                          +-> mire:adapt  -> mire:instruct  -> ... -> mire:evaluate,  mire:release
                                          +-> ...                                 one of the releases -> [deploy]

A stage of an arm is called ARM:STEP. Two arms that agree in a step's config and inputs share it, under the name of the first. An arm that
fails takes down itself alone.
"""

import json
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from mirepoix.components.pairs.pairs import PairsConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.workflows.dag.retrieval import Data, Method, Service, data_stages, deploy_stage, method_stages, pairs_stage, read_by
from mirepoix.workflows.runner.fingerprint import plain
from mirepoix.workflows.runner.graph import Stage, merge_shared

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True)
class Arm(Method):
    """A method in a comparison."""

    pairs: PairsConfig | None = option(None, "which pairs it is trained on and how its queries are worded; null: those of all")


@dataclass(frozen=True)
class Comparison(Service, Data):
    """Several methods on the same data, measured with the same ruler."""

    serve: str | None = option(None, "arm whose release is deployed at the end; null: none")
    only: tuple[str, ...] = option((), "arms that are run; empty: all")
    at_once: int | None = option(None, "arms at work at the same time, the first ones first; null: as many as there are CPUs and GPUs for")
    arms: dict[str, Arm] = option(dict, "what is compared, by the name that its stages begin with")

    def __post_init__(self) -> None:
        self.refuse_split(self.evaluate.split)
        if not self.arms:
            raise Refused("arms is empty; name one or more, each with its config")
        for name in self.arms:
            if not NAME.fullmatch(name):
                raise Refused(f"arm {name!r} cannot be the beginning of a stage's name; give letters, digits, _ and -")
        for field, named in (("only", self.only), ("serve", (self.serve,) if self.serve else ())):
            known = self.arms if field == "only" else self.chosen
            if unknown := [name for name in named if name not in known]:
                raise Refused(f"{field} is {', '.join(unknown)}; the arms of this run are {', '.join(known)}")
        if self.at_once is not None and self.at_once < 1:
            raise Refused(f"at_once is {self.at_once}; give 1 or more, or null")

    @property
    def chosen(self) -> Mapping[str, Arm]:
        """The arms that are run."""
        return {name: arm for name, arm in self.arms.items() if name in self.only} or self.arms

    @property
    def served(self) -> str | None:
        """The stage whose release is deployed."""
        return self.placed[f"{self.serve}:release"] if self.serve else None

    @property
    def paired(self) -> PairsConfig:
        """Which pairs are made for the arms without their own, whichever of them run: so those that run later find them."""
        return read_by(self.pairs, [arm for arm in self.arms.values() if arm.pairs is None])

    @property
    def placed(self) -> dict[str, str]:
        """By every stage that an arm has the stage that does it, which another arm's may be."""
        return self._laid()[1]

    def prepared(self) -> Self:
        """The config with the fingerprints of what it reads from outside; refused where that is not there."""
        arms = {name: arm.prepared() if name in self.chosen else arm for name, arm in self.arms.items()}
        return replace(super().prepared(), arms=arms)

    def named_files(self) -> dict[str, Path]:
        """The settings files that the arms name, by the field that names them; refused where one cannot be read."""
        return {f"arms.{name}.{field}": file for name, arm in self.chosen.items() for field, file in arm.named_files().items()}

    def stages(self) -> list[Stage]:
        """The stages of the config, in an order in which they could run."""
        return self.prepared()._laid()[0]

    def room(self, cpus: float, gpus: float) -> int:
        """How many arms can be at work at the same time; one always can."""
        if self.at_once is not None:
            return self.at_once
        trainings = [training for arm in self.chosen.values() for training in arm.trainings.values()]
        fit = [cpus // max(training.num_workers * training.cpus_per_worker for training in trainings)]
        if taken := max(training.num_workers if training.use_gpu else 0 for training in trainings):
            fit.append(gpus // taken)
        return max(1, int(min(fit)))

    def _laid(self) -> tuple[list[Stage], dict[str, str]]:
        stages = data_stages(self, self.paired)
        shared = {stage.name for stage in stages}
        for name, arm in self.chosen.items():
            own = [] if arm.pairs is None else [pairs_stage(self, read_by(arm.pairs, [arm]))]
            own += method_stages(arm, self, arm.pairs or self.pairs, self.evaluate)
            stages += [_called(stage, name, {stage.name: f"{name}:{stage.name}" for stage in own}) for stage in own]
        measured = tuple(stage.name for stage in stages if stage.step == "evaluate")
        stages, names = merge_shared(stages, _done)
        if self.serve:
            after = tuple(names[name] for name in measured)
            stages.append(deploy_stage(self.deploy, names[f"{self.serve}:release"], after, self.seed))
        return stages, {name: stage for name, stage in names.items() if name not in shared}


def _called(stage: Stage, arm: str, names: Mapping[str, str]) -> Stage:
    """A stage under the name that it has in an arm, as have those that it hangs on, if they are the arm's own."""
    inputs = {argument: names.get(source, source) for argument, source in stage.inputs.items()}
    return replace(stage, name=names[stage.name], inputs=inputs, after=tuple(names[name] for name in stage.after))


def _done(stage: Stage) -> Hashable:
    """What two stages with the same inputs must agree in to be one."""
    return stage.step, stage.work, json.dumps(plain(stage.config), sort_keys=True)
