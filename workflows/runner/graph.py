"""The stages of a run and the order in which they hang together."""

import difflib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.serving.store import Outcome


@dataclass(frozen=True)
class Stage:
    """One step of a run: its work, and everything that the result depends on. In a comparison its name is ARM:STEP, else the step's."""

    name: str
    work: Callable[..., Outcome]  # (context, config, **inputs), importable
    config: Any
    inputs: Mapping[str, str] = field(default_factory=dict)  # argument -> stage
    modules: tuple[str, ...] = ()  # whose source is part of the key, besides the work function's own
    libraries: tuple[str, ...] = ()  # distributions whose versions decide the result
    num_cpus: float = 0
    retries: int = 0  # when its worker dies; an exception is not retried
    seed: int = 0
    cached: bool = True
    after: tuple[str, ...] = ()  # stages that it lets go first, though it takes nothing from them
    on_head: bool = False  # runs where an endpoint that it starts is reached
    stands: Callable[[Path, Any], bool] | None = None  # asked whether a finished result still holds outside the storage

    @property
    def arm(self) -> str:
        """The arm of a comparison that it belongs to; empty: none, or all."""
        return self.name.rpartition(":")[0]

    @property
    def step(self) -> str:
        """What is done, whichever arm asks for it: what two arms, or two runs, ask for alike is made once."""
        return self.name.rpartition(":")[2]


def choose(stages: Sequence[Stage], until: str | None, start: str | None, force: set[str]) -> tuple[list[Stage], set[str]]:
    """The stages to consider, each after its inputs, and the names of those that run even if they stand.

    A stage is named as it is called; the name of a step alone means that step of every arm.
    """
    by_name = {stage.name: stage for stage in stages}
    assert len(by_name) == len(stages), "two stages have one name"
    ordered: dict[str, Stage] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name in by_name, f"stage {path[-1]} takes the result of {name}, which is no stage"
        assert name not in path, f"stages depend on each other in a circle: {' -> '.join((*path, name))}"
        for source in by_name[name].inputs.values():
            visit(source, (*path, name))
        ordered.setdefault(name, by_name[name])

    forced = {name for given in force for name in called(stages, given)}
    first = called(stages, start) if start else []
    for name in called(stages, until) if until else by_name:
        visit(name, ())
    if start:
        again = beneath(list(ordered.values()), first)
        if not set(first) & set(ordered):
            raise Refused(f"--from {start} --until {until} leaves nothing to run: {until} does not depend on {start}")
        forced, wanted = forced | again, dict(ordered)
        ordered.clear()
        for stage in wanted.values():
            if stage.name in again:
                visit(stage.name, ())
    return list(ordered.values()), forced


def called(stages: Sequence[Stage], given: str) -> list[str]:
    """The names of the stages that a user means."""
    found = [stage.name for stage in stages if stage.name == given] or [stage.name for stage in stages if stage.step == given]
    if not found:
        names = [stage.name for stage in stages]
        near = difflib.get_close_matches(given, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise Refused(f"there is no stage {given}; {hint}")
    return found


def beneath(ordered: Sequence[Stage], first: Sequence[str]) -> set[str]:
    """The names of stages and of all that hang on them."""
    names = set(first)
    for stage in ordered:
        if names & set(stage.inputs.values()):
            names.add(stage.name)
    return names & {stage.name for stage in ordered}


def merge_shared(stages: Sequence[Stage], same: Callable[[Stage], Hashable]) -> tuple[list[Stage], dict[str, str]]:
    """The stages without those that do what an earlier one does, and by each name the stage that does it."""
    first: dict[Hashable, str] = {}
    names: dict[str, str] = {}
    kept = []
    for stage in stages:
        inputs = {argument: names[source] for argument, source in stage.inputs.items()}
        done = replace(stage, inputs=inputs)
        names[stage.name] = first.setdefault((same(done), tuple(sorted(inputs.items()))), stage.name)
        if names[stage.name] == stage.name:
            kept.append(done)
    return [replace(stage, after=tuple(names[name] for name in stage.after)) for stage in kept], names
