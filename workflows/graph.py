"""The stages of a run and the order in which they hang together."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.serving.store import Outcome


@dataclass(frozen=True)
class Stage:
    """One step of a run: its work, and everything that the result depends on."""

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


def choose(stages: Sequence[Stage], until: str | None, start: str | None, force: set[str]) -> tuple[list[Stage], set[str]]:
    """The stages to consider, each after its inputs, and the names of those that run even if they stand."""
    by_name = {stage.name: stage for stage in stages}
    assert len(by_name) == len(stages), "two stages have one name"
    for name in [*([until] if until else []), *([start] if start else []), *force]:
        if name not in by_name:
            near = difflib.get_close_matches(name, by_name, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(by_name)}"
            raise Refused(f"there is no stage {name}; {hint}")
    ordered: dict[str, Stage] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name in by_name, f"stage {path[-1]} takes the result of {name}, which is no stage"
        assert name not in path, f"stages depend on each other in a circle: {' -> '.join((*path, name))}"
        for source in by_name[name].inputs.values():
            visit(source, (*path, name))
        ordered.setdefault(name, by_name[name])

    for stage in [by_name[until]] if until else stages:
        visit(stage.name, ())
    if start:
        again = beneath(list(ordered.values()), start)
        if start not in ordered:
            raise Refused(f"--from {start} --until {until} leaves nothing to run: {until} does not depend on {start}")
        force, wanted = force | again, dict(ordered)
        ordered.clear()
        for stage in wanted.values():
            if stage.name in again:
                visit(stage.name, ())
    return list(ordered.values()), force


def beneath(ordered: Sequence[Stage], start: str) -> set[str]:
    """The names of a stage and of all that hang on it."""
    names = {start}
    for stage in ordered:
        if names & set(stage.inputs.values()):
            names.add(stage.name)
    return names
