"""The stages of a run, their order, and the choice of some of them."""

import difflib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mirepoix.models.errors import Refused


@dataclass(frozen=True)
class Stage:
    """One step of a run: its work, all that its result depends on, and how it is run. In a comparison its name is ARM:STEP, else STEP."""

    name: str
    work: str  # MODULE:FUNCTION of (context, config, **inputs); imported only where the stage runs
    config: Any
    inputs: Mapping[str, str] = field(default_factory=dict)  # argument -> stage
    modules: tuple[str, ...] = ()  # modules that the work imports by name at run time; those that its source imports are found by parsing
    libraries: tuple[str, ...] = ()  # distributions whose versions decide the result
    outside: Mapping[str, str] = field(default_factory=dict)  # data that it reads besides its inputs -> its fingerprint
    arguments: Mapping[str, Any] = field(default_factory=dict)  # passed to the work by name; not part of the key
    num_cpus: float = 0
    retries: int = 0  # after its worker process died; a stage that raised an exception is not run again
    seed: int = 0
    cached: bool = True  # False: it runs every time
    after: tuple[str, ...] = ()  # stages that end before it starts, though their results are not its inputs
    requires: tuple[str, ...] = ()  # stages without whose success it does not start, though their results are not its inputs
    on_head: bool = False  # runs on the head node: where an endpoint that it starts is reached, or which outlives its workers
    light: bool = False  # imports little, so its process may go on to run other light stages
    uses_ray: bool = True  # starts Ray tasks, actors, trainings or replicas of its own
    valid: str | None = None  # MODULE:FUNCTION of (folder, config): whether a finished result still holds; an endpoint may have stopped

    @property
    def arm(self) -> str:
        """The arm of a comparison that it belongs to; empty where there are no arms, or all arms share it."""
        return self.name.rpartition(":")[0]

    @property
    def step(self) -> str:
        """The name without the arm. Results are stored under it, so equal steps of two arms or two runs are run once."""
        return self.name.rpartition(":")[2]


def choose(stages: Sequence[Stage], until: str | None, start: str | None, force: set[str]) -> tuple[list[Stage], set[str]]:
    """The stages that `until` and `start` select, each after its inputs, and the names of those that run even if they are up to date.

    Stages are given by their names; the name of a step alone means that step of every arm.
    """
    by_name = {stage.name: stage for stage in stages}
    assert len(by_name) == len(stages), "two stages have one name"
    ordered: dict[str, Stage] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name in by_name, f"stage {path[-1]} takes the result of {name}, which is no stage"
        assert name not in path, f"stages depend on each other in a circle: {' -> '.join((*path, name))}"
        for source in (*by_name[name].inputs.values(), *by_name[name].requires):
            visit(source, (*path, name))
        ordered.setdefault(name, by_name[name])

    forced = {name for given in force for name in matching_names(stages, given)}
    first = matching_names(stages, start) if start else []
    for name in matching_names(stages, until) if until else by_name:
        visit(name, ())
    if start:
        again = downstream(list(ordered.values()), first)
        if not set(first) & set(ordered):
            raise Refused(f"--from {start} --until {until} leaves nothing to run: {until} does not depend on {start}")
        forced, wanted = forced | again, dict(ordered)
        ordered.clear()
        for stage in wanted.values():
            if stage.name in again:
                visit(stage.name, ())
    return list(ordered.values()), forced


def matching_names(stages: Sequence[Stage], given: str) -> list[str]:
    """The names of the stages that a given name means; refused where there is none."""
    found = [stage.name for stage in stages if stage.name == given] or [stage.name for stage in stages if stage.step == given]
    if not found:
        names = [stage.name for stage in stages]
        near = difflib.get_close_matches(given, names, n=3, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"
        raise Refused(f"there is no stage {given}; {hint}")
    return found


def downstream(ordered: Sequence[Stage], first: Sequence[str]) -> set[str]:
    """The names of the given stages, and of all that depend on them."""
    names = set(first)
    for stage in ordered:
        if names & set(stage.inputs.values()):
            names.add(stage.name)
    return names & {stage.name for stage in ordered}


def merge_shared(stages: Sequence[Stage], same: Callable[[Stage], Hashable]) -> tuple[list[Stage], dict[str, str]]:
    """The stages without those that equal an earlier one in `same` and in their inputs, and for each name that of the stage kept."""
    first: dict[Hashable, str] = {}
    names: dict[str, str] = {}
    kept = []
    for stage in stages:
        inputs = {argument: names[source] for argument, source in stage.inputs.items()}
        done = replace(stage, inputs=inputs)
        names[stage.name] = first.setdefault((same(done), tuple(sorted(inputs.items()))), stage.name)
        if names[stage.name] == stage.name:
            kept.append(done)

    def renamed(given: Sequence[str]) -> tuple[str, ...]:
        return tuple(names[name] for name in given)

    return [replace(stage, after=renamed(stage.after), requires=renamed(stage.requires)) for stage in kept], names
