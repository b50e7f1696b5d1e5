"""The command line: `mirepoix`, or `python -m mirepoix.workflows`."""

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirepoix.models.errors import Refused
from mirepoix.models.options import import_named
from mirepoix.workflows.arguments import parsed

if TYPE_CHECKING:
    from mirepoix.workflows.dag.revision import Revision
    from mirepoix.workflows.run import RunRequest


def main(words: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 something failed, 2 refused."""
    arguments = parsed(words)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return COMMANDS[arguments.command](arguments)
    except Refused as refusal:
        return _ended(arguments, 2, "refused", str(refusal))
    except KeyboardInterrupt:
        return _ended(arguments, 130, "interrupted", _stopped(arguments, "interrupted"))
    except SystemExit as end:
        if end.code not in TERMINATED:
            raise
        return _ended(arguments, 143, "interrupted", _stopped(arguments, "terminated"))
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


GOES_ON = "results of finished stages are kept, and the same command goes on from there"
RUNS, SERVERS = ("run", "demo", "release", "add", "remove"), ("serve", "mlflow")
"""The commands that run stages, and those that go on until they are stopped."""
TERMINATED = (143, signal.SIGTERM)
"""How a process exits at SIGTERM: by our handler, and by Ray's, until its cluster is up."""


def _stopped(arguments: argparse.Namespace, how: str) -> str:
    """What is said of a command that a signal ended."""
    if arguments.command in SERVERS:
        return "stopped"
    return f"{how}; {GOES_ON}" if arguments.command in RUNS else how


def _ended(arguments: argparse.Namespace, status: int, event: str, why: str) -> int:
    """Says in one line, or in one for each reason, or under --json as the last event, why a command did not do its work.

    Returns the exit status.
    """
    if getattr(arguments, "form", "text") == "json":
        from mirepoix.workflows.runner.progress import write_event

        write_event(event, error=why)
    else:
        for line in why.splitlines():  # one, or one for each reason
            print(f"mirepoix: {line}", file=sys.stderr)
    return status


def _terminated(*_: object) -> None:
    raise SystemExit(143)


def _request(arguments: argparse.Namespace) -> "RunRequest":
    from mirepoix.workflows.recipes.recipe_file import is_recipe_file
    from mirepoix.workflows.run import RunRequest
    from mirepoix.workflows.storage import default_storage, storage_beside

    file = arguments.config or (Path(arguments.recipe) if is_recipe_file(arguments.recipe or "") else None)
    quiet = getattr(arguments, "form", "text") == "quiet"
    if file and not arguments.storage and not quiet and (beside := storage_beside(file)):
        there = f"the current folder has no storage, and {file.parent} has one"
        print(f"mirepoix: {there}; to go on with it: --storage {shlex.quote(beside)}", file=sys.stderr)
    run: dict[str, Any] = {name: getattr(arguments, name, None) for name in ("until", "start", "address")}
    return RunRequest(
        arguments.recipe,
        tuple(arguments.overrides),
        arguments.config,
        arguments.storage or default_storage(),
        force=tuple(getattr(arguments, "force", ())),
        local=getattr(arguments, "local", False),
        **run,
    )


def _init(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.init.command import init

    return init(arguments.folder, arguments.output, arguments.force, arguments.recipe, arguments.json)


def _run(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows import run
    from mirepoix.workflows.runner.progress import display_of

    request = _request(arguments)
    if arguments.plan:
        config = request.resolved()
        report, problems = run.plan_config(request, config)
        return run.print_plan(report, arguments.form, problems, run.to_be_revised(request, config, report))
    with ExitStack() as resources:
        made = run.run(request, resources, display_of(arguments.form))
        return run.print_outcome(made, arguments.command == "release", arguments.form)


def _release(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.recipes.encoder_release import LAST, RECIPE, settings

    arguments.recipe, arguments.config, arguments.until = RECIPE, None, LAST
    arguments.overrides = [*settings(arguments.encoder, arguments.corpus, arguments.name), *arguments.overrides]
    return _run(arguments)


def _add(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.upkeep.named import named_release
    from mirepoix.workflows.upkeep.revisions import addition, refuse_corpus_alone

    if not arguments.overrides:
        refuse_corpus_alone(arguments.release)
    arguments.release = named_release(arguments.release, arguments.storage)
    trusted = arguments.trust_remote_code
    revision, origin = addition(arguments.release, arguments.overrides, arguments.replace, arguments.prefix, trusted)
    return _revise(arguments, revision, origin)


def _remove(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.upkeep.named import named_release
    from mirepoix.workflows.upkeep.revisions import removal

    arguments.release = named_release(arguments.release, arguments.storage)
    return _revise(arguments, removal(arguments.release, arguments.overrides, arguments.ids, arguments.trust_remote_code))


def _revise(arguments: argparse.Namespace, revision: "Revision", origin: str = "") -> int:
    from mirepoix.workflows.run import plan_config, print_plan
    from mirepoix.workflows.upkeep.revisions import revise

    arguments.recipe, arguments.config, arguments.overrides = arguments.command, None, []
    request = _request(arguments)
    if arguments.plan:
        report, problems = plan_config(request, revision)
        return print_plan(report, arguments.form, problems)
    return revise(revision, request, origin, arguments.form)


def _describe(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.recipes.registry import described, resolve

    print(described(arguments.recipe, resolve(arguments.recipe, arguments.overrides, arguments.config)), end="")
    return 0


def _submit(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.recipes.registry import resolve

    files = resolve(arguments.recipe, arguments.overrides, arguments.config).named_files()
    from mirepoix.workflows.cluster.submit import submit  # Ray, which a refused recipe does not wait for

    options = [word for name in ("until", "start") for word in _option(name, getattr(arguments, name))]
    options += [word for stage in arguments.force for word in _option("force", stage)]
    return submit(
        arguments.recipe,
        arguments.overrides,
        address=arguments.address,
        storage=arguments.storage,
        config=arguments.config,
        options=options,
        files=files,
        follow=arguments.follow,
    )


def _option(name: str, value: str | None) -> list[str]:
    return [f"--{'from' if name == 'start' else name}", value] if value else []


def _list(_: argparse.Namespace) -> int:
    from mirepoix.components.ingestion.sources_config import FORMATS
    from mirepoix.workflows.recipes.registry import RECIPES, RETRIEVERS, summary

    print("recipes")
    for name in RECIPES:
        print(f"  {name:<14} {summary(name)}")
    print("\nretrievers")
    for name, what in RETRIEVERS.items():
        print(f"  {name:<14} {what}")
    print("\nformats of corpora (those with a * are written too)")
    for name, form in FORMATS.items():
        print(f"  {name + (' *' if form.written else ''):<24} {form.what}")
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.commands.demo import demo

    return demo(_request(arguments), arguments.form)


def _serve(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.commands.serve_request import print_settings, requested, write_deployment

    request = requested(arguments)
    if arguments.settings:
        return print_settings(request)
    if arguments.write:
        return write_deployment(request, arguments.write)
    from mirepoix.workflows.commands.serve import serve  # FastAPI, which a refused release does not wait for

    return serve(request)


def _named(path: str) -> Callable[[argparse.Namespace], int]:
    """The command at a path MODULE:NAME below workflows.commands, imported when it is run."""
    return lambda arguments: import_named(f"mirepoix.workflows.commands.{path}")(arguments)


def _search(arguments: argparse.Namespace) -> int:
    import json

    from mirepoix.serving.http.client import KEY, NoAnswer, search_endpoint, shown

    if not arguments.text.strip() and arguments.image is None:
        raise Refused('there is no query; give a text, --image FILE, or both: mirepoix search "a red bicycle"')
    try:
        image = arguments.image.read_bytes() if arguments.image else None
    except OSError as error:
        raise Refused(f"picture {arguments.image} cannot be read ({error.strerror}); give a JPEG, PNG, WEBP or GIF file") from error
    url = arguments.url or "http://127.0.0.1:8000"
    try:
        reply = search_endpoint(url, arguments.text, image, arguments.k, arguments.target, os.environ.get(KEY))
    except NoAnswer as refusal:
        raise (refusal if arguments.url else _served_elsewhere(refusal)) from None
    print(json.dumps(reply, indent=1) if arguments.json else shown(reply))
    return 0


def _served_elsewhere(refusal: Refused) -> Refused:
    """A refusal that names the server of the storage in use, which is not searched unasked: another one may be meant."""
    from mirepoix.workflows.cluster.served import served_releases
    from mirepoix.workflows.storage import opened_storage

    storage = opened_storage(None)
    found = served_releases([storage])
    if not found:
        return refusal
    said = ", ".join(f"--url {server.url} ({server.name})" for server in found)
    return Refused(f"{str(refusal).partition(';')[0]}; a release of {storage} is served elsewhere: give {said}")


def _export(arguments: argparse.Namespace) -> int:
    from mirepoix.serving.release import open_release
    from mirepoix.workflows.upkeep.lineage import lineage
    from mirepoix.workflows.upkeep.named import named_release

    release, run = lineage(named_release(arguments.release), arguments.arm)
    from mirepoix.components.publishing.export import export  # torch, which a refused release does not wait for

    trusted = arguments.trust_remote_code
    export(open_release(release), arguments.folder, arguments.to, run, arguments.base, trust_remote_code=trusted)
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.checks.validate import planned, validate_command

    plan = planned(arguments.path, _reading(arguments), arguments.recipe)
    return validate_command(plan, arguments.json, arguments.copies, arguments.out)


def _convert(arguments: argparse.Namespace) -> int:
    from mirepoix.components.ingestion.sources_config import SourcesConfig
    from mirepoix.workflows.commands.convert import convert_command

    sources = SourcesConfig(path=tuple(arguments.path), **_reading(arguments))
    return convert_command(sources, arguments.to, arguments.target)


def _reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of how sources are read, as far as they are given."""
    given = {name: getattr(arguments, name) for name in ("format", "images", "captions")}
    given["columns"] = tuple(arguments.columns) if arguments.columns else None
    return {name: value for name, value in given.items() if value is not None}


def _runs(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.storage import opened_storage
    from mirepoix.workflows.upkeep.listing import runs_command

    return runs_command(opened_storage(arguments.storage), arguments.json)


def _releases(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.storage import opened_storage

    storage, action = opened_storage(arguments.storage), arguments.action
    if action is None:
        from mirepoix.workflows.upkeep.releases import releases_command

        return releases_command(storage, arguments.json)
    from mirepoix.workflows.upkeep import promotion

    if action == "promote":
        return promotion.promote_command(storage, arguments.release, arguments.alias)
    if action == "sync":
        return promotion.sync_command(storage)
    command = promotion.rollback_command if action == "rollback" else promotion.unalias_command
    return command(storage, arguments.alias)


def _show(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.storage import opened_storage
    from mirepoix.workflows.upkeep.listing import show_command

    return show_command(opened_storage(arguments.storage), arguments.run, arguments.json)


def _try(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.commands.try_run import TryRequest, try_command
    from mirepoix.workflows.storage import opened_storage

    request = TryRequest(arguments.run, arguments.stage, arguments.queries, arguments.documents, arguments.seed)
    return try_command(opened_storage(arguments.storage), request, arguments.json)


def _keep(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.storage import opened_storage
    from mirepoix.workflows.upkeep.listing import keep_command

    return keep_command(opened_storage(arguments.storage), arguments.run, arguments.undo)


def _gc(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.storage import opened_storage
    from mirepoix.workflows.upkeep.gc import Limits, gc_command, seconds_of

    age = None if arguments.older_than is None else seconds_of(arguments.older_than)
    return gc_command(opened_storage(arguments.storage), Limits(arguments.keep_last, age), arguments.dry_run, arguments.json)


def _mlflow(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.storage import opened_storage
    from mirepoix.workflows.upkeep.mlflow_page import mlflow_command

    return mlflow_command(opened_storage(arguments.storage), arguments.host, arguments.port)


def _doctor(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.cluster import doctor

    found = []
    if arguments.recipe:
        from mirepoix.workflows.run import diagnose

        found = diagnose(_request(arguments))
    return doctor.main(arguments.json, arguments.storage, found)


COMMANDS = {
    "init": _init,
    "run": _run,
    "describe": _describe,
    "submit": _submit,
    "list": _list,
    "demo": _demo,
    "release": _release,
    "add": _add,
    "remove": _remove,
    "serve": _serve,
    "keys": _named("keys:keys_command"),
    "search": _search,
    "measure": _named("measure:measure_command"),
    "compare": _named("compare:compare_command"),
    "results": _named("results:results_command"),
    "export": _export,
    "runs": _runs,
    "releases": _releases,
    "show": _show,
    "try": _try,
    "keep": _keep,
    "gc": _gc,
    "mlflow": _mlflow,
    "validate": _validate,
    "convert": _convert,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
