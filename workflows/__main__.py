"""The command line: `mirepoix`, or `python -m mirepoix.workflows`."""

import argparse
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mirepoix.models.errors import Refused

if TYPE_CHECKING:
    from mirepoix.components.ingestion.sources import SourcesConfig
    from mirepoix.workflows.run import RunRequest

EXAMPLES = """examples:
  mirepoix run quickstart                                  the whole life on two cores, in minutes
  mirepoix run quickstart instruct.max_steps=600 --plan    what a change would run again, and why
  mirepoix describe quickstart > mine.yaml; mirepoix run quickstart --config mine.yaml
  mirepoix run quickstart_all only=unite,mire              retrievers side by side, on the same data
  mirepoix submit quickstart --address http://HEAD:8265    the same on a cluster
  mirepoix validate /data/corpus; mirepoix run unite sources.path=/data/corpus
  mirepoix serve storage/runs/quickstart-...; mirepoix search "two small red stars" --target i
  mirepoix export storage/runs/quickstart-... /models/mine --to hf
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mirepoix",
        description="The whole life of a universal multimodal retriever on Ray: raw corpus in, a searched endpoint out.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a recipe: what stands is skipped, what was killed goes on")
    _recipe(run)
    _part(run)
    run.add_argument("--plan", action="store_true", help="only say what would run and why")
    run.add_argument("--address", help="HOST:6379 of a Ray head to run on; default: RAY_ADDRESS, else a private cluster on this machine")

    describe = commands.add_parser("describe", help="print the whole config of a recipe; --config reads it back")
    _recipe(describe, storage=False)

    submit = commands.add_parser("submit", help="run a recipe as a job of a cluster; our code travels with it")
    _recipe(submit)
    _part(submit)
    submit.add_argument("--address", required=True, help="http://HEAD:8265, the cluster's dashboard")
    submit.add_argument("--no-follow", dest="follow", action="store_false", help="return when the job is submitted")

    commands.add_parser("list", help="the recipes and the retrievers")

    demo = commands.add_parser("demo", help="run a recipe, then search its endpoint with a text, a picture and both")
    _recipe(demo)

    serve = commands.add_parser("serve", help="serve a release on a private cluster, until Ctrl-C")
    serve.add_argument("release", metavar="RELEASE", help="folder or URI of a release, or the folder of a run that made one")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s); others need MIREPOIX_API_KEY")
    serve.add_argument(
        "--port",
        type=int,
        default=8000,
        help="port to listen at; 0: where the cluster's Serve listens already, else any free one (default: %(default)s)",
    )
    serve.add_argument("--encoders", type=int, default=1, help="encoder replicas (default: %(default)s)")
    serve.add_argument("--address", help="HOST:6379 of a Ray head to serve on; default: RAY_ADDRESS, else a private cluster")

    search = commands.add_parser("search", help="search a served release")
    search.add_argument("text", nargs="?", default="", help="what to look for, in words")
    search.add_argument("--image", type=Path, metavar="FILE", help="what to look for, as a picture; with or without words")
    search.add_argument("--target", help="modality of the results: t (text), i (picture), it (picture with text)")
    search.add_argument("-k", type=int, default=5, help="how many results (default: %(default)s)")
    search.add_argument("--url", default="http://127.0.0.1:8000", help="the endpoint (default: %(default)s)")
    search.add_argument("--json", action="store_true", help="print the endpoint's reply as it is")

    export = commands.add_parser("export", help="write a release as a folder that transformers, sentence-transformers or PEFT opens")
    export.add_argument("release", metavar="RELEASE", help="folder or URI of a release, or the folder of a run: then the card tells of it")
    export.add_argument("folder", type=Path, metavar="DIR", help="folder to write; it must be new or empty")
    export.add_argument(
        "--to", required=True, metavar="LAYOUT", help="hf: plain checkpoints; sentence-transformers; peft: the adapter that training added"
    )
    export.add_argument("--arm", metavar="ARM", help="of a run that compares several retrievers: the one that is exported")
    export.add_argument(
        "--base", metavar="CHECKPOINT", help="folder or hub id that an adapter is put over (default: what the run started from)"
    )

    validate = commands.add_parser(
        "validate", help="say what of a corpus training would reject, with file and line; exit status 1 if anything, or if a run would stop"
    )
    _corpora(validate)
    validate.add_argument(
        "--recipe", metavar="RECIPE", help="whose splits, rules of curation and tasks are applied (default: the usual rules, and all tasks)"
    )
    validate.add_argument("--copies", action="store_true", help="list also what would be merged: duplicates, and what is judged twice")
    validate.add_argument("--json", action="store_true", help="print the findings as JSON")

    convert = commands.add_parser("convert", help="write corpora as one folder of another format")
    _corpora(convert)
    convert.add_argument("target", type=Path, metavar="TARGET", help="folder to write; it must be new or empty")
    convert.add_argument("--to", required=True, metavar="F", help="its format; see `mirepoix list`")

    doctor = commands.add_parser("doctor", help="what this machine has, and what to do about what is missing")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def _corpora(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="+", metavar="PATH", help="folder, file or URI, as [NAME=][FORMAT+]PATH; several are read as one corpus"
    )
    parser.add_argument(
        "--format", default="auto", metavar="F", help="format of the paths that name none; see `mirepoix list` (default: %(default)s)"
    )
    parser.add_argument("--images", metavar="FOLDER", help="what the paths of pictures are relative to (default: the corpus itself)")


def _part(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--until", metavar="STAGE", help="run this stage and what it needs, and no more; a step alone: of every arm")
    parser.add_argument("--from", dest="start", metavar="STAGE", help="run this stage and all after it again; what is before must stand")
    parser.add_argument(
        "--force", metavar="STAGE", action="append", default=[], help="run this stage even if its result stands; may be repeated"
    )


def _recipe(parser: argparse.ArgumentParser, storage: bool = True) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe; see `mirepoix list`")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=value", help="fields of the config to set; `mirepoix describe RECIPE` names them"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="read the config from a file that `describe` wrote")
    if storage:
        parser.add_argument("--storage", metavar="URI", help="folder or URI of all artefacts (default: $MIREPOIX_STORAGE, else ./storage)")


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 something failed, 2 refused."""
    told = _parsed(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return COMMANDS[told.command](told)
    except Refused as refusal:
        print(f"mirepoix: {refusal}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mirepoix: interrupted; what was finished stands, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output left, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The arguments; overrides may stand among the options, in any order."""
    parser = _parser()
    told, rest = parser.parse_known_args(arguments)
    if rest and (not hasattr(told, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}; see `mirepoix {told.command} --help`")
    if rest:
        told.overrides = [*told.overrides, *rest]
    return told


def _terminated(*_: object) -> None:
    raise SystemExit(143)


def _order(told: argparse.Namespace) -> "RunRequest":
    from mirepoix.workflows.cluster.ray_cluster import default_storage
    from mirepoix.workflows.run import RunRequest

    run = {name: getattr(told, name, None) for name in ("until", "start", "address")}
    return RunRequest(
        told.recipe,
        tuple(told.overrides),
        told.config,
        told.storage or default_storage(),
        force=tuple(getattr(told, "force", ())),
        **run,
    )


def _run(told: argparse.Namespace) -> int:
    from mirepoix.workflows import run

    order = _order(told)
    if told.plan:
        planned = run.plan(order).stages
        width = max(16, *map(len, planned))
        for name, stage in planned.items():
            verb = {"skipped": "stands", "not run": "may run" if stage.reason.startswith("may run") else "runs"}[stage.status]
            print(f"{name:<{width}} {verb:<8} {stage.reason.removeprefix('may run: ') if verb != 'stands' else ''}".rstrip())
        return 0
    with ExitStack() as resources:
        return run.ended(run.run(order, resources))


def _describe(told: argparse.Namespace) -> int:
    from mirepoix.workflows.config import describe
    from mirepoix.workflows.run import resolve

    print(describe(resolve(told.recipe, told.overrides, told.config)), end="")
    return 0


def _submit(told: argparse.Namespace) -> int:
    from mirepoix.workflows.cluster.submit import submit
    from mirepoix.workflows.run import resolve

    files = resolve(told.recipe, told.overrides, told.config).named_files()
    options = [word for name in ("until", "start") for word in _option(name, getattr(told, name))]
    options += [word for stage in told.force for word in _option("force", stage)]
    return submit(
        told.recipe,
        told.overrides,
        address=told.address,
        storage=told.storage,
        config=told.config,
        options=options,
        files=files,
        follow=told.follow,
    )


def _option(name: str, value: str | None) -> list[str]:
    return [f"--{'from' if name == 'start' else name}", value] if value else []


def _list(_: argparse.Namespace) -> int:
    from mirepoix.components.ingestion.readers import FORMATS
    from mirepoix.workflows.recipes.registry import RECIPES, RETRIEVERS, summary

    print("recipes")
    for name in RECIPES:
        print(f"  {name:<14} {summary(name)}")
    print("\nretrievers")
    for name, what in RETRIEVERS.items():
        print(f"  {name:<14} {what}")
    print("\nformats of corpora (those with a * are written too)")
    for name, form in FORMATS.items():
        print(f"  {name + (' *' if hasattr(form, 'write') else ''):<24} {form.WHAT}")
    return 0


def _demo(told: argparse.Namespace) -> int:
    from mirepoix.workflows.demo import demo

    return demo(_order(told))


def _serve(told: argparse.Namespace) -> int:
    import threading

    from mirepoix.serving.app import ServeConfig, check_port, start
    from mirepoix.workflows.cluster.ray_cluster import cluster
    from mirepoix.workflows.run import release_of

    release = release_of(told.release)
    config = ServeConfig(host=told.host, port=told.port, encoders=told.encoders)
    if not (told.address or os.environ.get("RAY_ADDRESS")):
        check_port(config, running=False)
    with cluster(told.address):
        server = start(release, config)
        print(f"{server.name} {server.version} is served at {server.url}  (Ctrl-C stops it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nstopped")
        finally:
            server.stop()
    return 0


def _search(told: argparse.Namespace) -> int:
    import json

    from mirepoix.serving.http.client import KEY, search_endpoint, shown

    try:
        image = told.image.read_bytes() if told.image else None
    except OSError as error:
        raise Refused(f"picture {told.image} cannot be read ({error.strerror}); give a JPEG, PNG, WEBP or GIF file") from error
    reply = search_endpoint(told.url, told.text, image, told.k, told.target, os.environ.get(KEY))
    print(json.dumps(reply, indent=1) if told.json else shown(reply))
    return 0


def _export(told: argparse.Namespace) -> int:
    from mirepoix.components.publishing.export import export
    from mirepoix.serving.release import open_release
    from mirepoix.workflows.lineage import lineage

    release, run = lineage(told.release, told.arm)
    export(open_release(release), told.folder, told.to, run, told.base)
    return 0


def _validate(told: argparse.Namespace) -> int:
    from dataclasses import replace

    from mirepoix.workflows.corpora import ValidationPlan, validated
    from mirepoix.workflows.run import resolve

    plan = ValidationPlan(_sources(told))
    if told.recipe:
        config = resolve(told.recipe, [], None)
        sources = replace(config.sources, path=plan.sources.path, images=plan.sources.images)
        sources = sources if told.format == "auto" else replace(sources, format=told.format)
        plan = ValidationPlan(sources, config.curate, config.paired, config.seed)
    return validated(plan, told.json, told.copies)


def _convert(told: argparse.Namespace) -> int:
    from mirepoix.workflows.corpora import converted

    return converted(_sources(told), told.to, told.target)


def _sources(told: argparse.Namespace) -> "SourcesConfig":
    from mirepoix.components.ingestion.sources import SourcesConfig

    return SourcesConfig(path=tuple(told.path), format=told.format, images=told.images)


def _doctor(told: argparse.Namespace) -> int:
    from mirepoix.workflows.cluster import doctor

    return doctor.main(told.json)


COMMANDS = {
    "run": _run,
    "describe": _describe,
    "submit": _submit,
    "list": _list,
    "demo": _demo,
    "serve": _serve,
    "search": _search,
    "export": _export,
    "validate": _validate,
    "convert": _convert,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
