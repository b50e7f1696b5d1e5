"""`mirepoix.run`: a recipe, run from a Python program or a notebook as the command `run` runs it."""

import difflib
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mirepoix.models.errors import Refused
from mirepoix.workflows.python.values import with_values

if TYPE_CHECKING:
    from mirepoix.workflows.recipes.registry import Recipe


@dataclass(frozen=True, repr=False)
class RunResult:
    """How a run ended, and where its results are."""

    ok: bool  # whether every stage has a result
    folder: str  # of the run: config.yaml, report.json, report.html
    failures: dict[str, str]  # by the stage that failed: why, in one line
    scores: dict[str, float]  # of what is released, by task, and their average; in a comparison by ARM:TASK; empty if nothing was measured
    endpoint: str | None  # the URL of an endpoint that is up after the run
    record: dict[str, Any]  # the content of report.json

    @property
    def release(self) -> str:
        """The release that the run made, which `mirepoix.open` opens; refused where it made none, or, of several arms, several."""
        from mirepoix.workflows.storage import release_of

        if self.failures:
            stage, why = next(iter(self.failures.items()))
            raise Refused(f"the run in {self.folder} made no release: stage {stage} failed: {why}")
        return release_of(self.folder)

    def __repr__(self) -> str:
        from mirepoix.workflows.dag.results import results_table

        lines = [f"<run {self.folder}: {'done' if self.ok else 'failed'}>"]
        lines += [f"stage {stage} failed: {why}" for stage, why in self.failures.items()]
        return "\n".join([*lines, *filter(None, [results_table(self.record)])])


OPTIONS = ("storage", "until", "force", "local", "address", "quiet")


def _refuse_options(overrides: Any, settings: Mapping[str, Any], texts: Mapping[str, Any], force: Any) -> None:
    """Refuses options of other types, and a keyword that is like an option and like no field of a config."""
    if overrides is not None and not isinstance(overrides, Mapping):
        kind = type(overrides).__name__
        raise Refused(f"overrides are of the type {kind}; give a mapping, such as {{'sources.path': 'pictures'}}, or keywords")
    for name, value in texts.items():
        paths = name == "storage" and isinstance(value, os.PathLike)
        if value is not None and not paths and not (isinstance(value, str) and value.strip()):
            raise Refused(f"{name} is {value!r}; give a text{' or a path' if name == 'storage' else ''}, or leave {name} out")
    if not isinstance(force, str) and not (isinstance(force, Sequence) and all(isinstance(stage, str) for stage in force)):
        raise Refused(f"force is {force!r}; give the name of a stage, or a list of names")
    for name in settings:
        if "__" not in name and (near := difflib.get_close_matches(name, OPTIONS, 1, 0.75)):
            raise Refused(f"there is no {name!r}; did you mean the option {near[0]}? Fields of the config have dotted names")


def run(
    recipe: "str | os.PathLike[str] | Recipe",
    overrides: Mapping[str, Any] | None = None,
    /,
    *,
    storage: str | os.PathLike[str] | None = None,
    until: str | None = None,
    force: Sequence[str] = (),
    local: bool = False,
    address: str | None = None,
    quiet: bool = False,
    **settings: Any,
) -> RunResult:
    """Runs a recipe, given by its name, by a file that names one (FILE.yaml) or as a config, and returns how it ended.

    `settings` and `overrides` are values of the config by their dotted names; as a keyword two underscores stand for a dot:
    `instruct__max_steps=600`. `until` is the last stage to run, `force` stages to run again, `local` runs them in this process. The cluster
    is the one that this process is connected to, that of `address` or of RAY_ADDRESS, or a private one, which ends with the run.
    What cannot be run is refused; a stage that fails is not raised, but said in the result, as what other stages made is there.
    """
    from mirepoix.workflows.dag.comparison import Comparison
    from mirepoix.workflows.dag.results import scores
    from mirepoix.workflows.dag.retrieval import Retrieval
    from mirepoix.workflows.recipes.registry import resolve
    from mirepoix.workflows.run import RunRequest
    from mirepoix.workflows.run import run as run_request
    from mirepoix.workflows.runner.progress import Display
    from mirepoix.workflows.storage import default_storage

    _refuse_options(overrides, settings, {"storage": storage, "until": until, "address": address}, force)
    if isinstance(recipe, str | os.PathLike):
        name = os.fspath(recipe)
        config = resolve(name)
    elif isinstance(recipe, Retrieval | Comparison):
        name, config = type(recipe).__name__.lower(), recipe
    else:
        raise Refused(f"a recipe is given as the type {type(recipe).__name__}; give its name, a file that names one, or a config")
    request = RunRequest(
        name,
        storage=os.fspath(storage) if storage is not None else default_storage(),
        until=until,
        force=(force,) if isinstance(force, str) else tuple(force),
        address=address,
        local=local,
        given=with_values(config, {**(overrides or {}), **settings}),
    )
    with ExitStack() as resources:
        ended = run_request(request, resources, Display(io.StringIO()) if quiet else None)
    failures = {name: stage.error for name, stage in ended.report.stages.items() if stage.status == "failed"}
    return RunResult(ended.report.ok, ended.folder, failures, scores(ended.record), ended.endpoint, ended.record)
