"""The command line: `mirepoix`, or `python -m mirepoix.workflows`."""

import argparse
import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirepoix.models.errors import Refused

if TYPE_CHECKING:
    from mirepoix.components.ingestion.sources_config import SourcesConfig
    from mirepoix.workflows.run import RunRequest

EXAMPLES = """examples:
  mirepoix run quickstart                                  from nothing to a searched endpoint, in minutes
  mirepoix run quickstart instruct.max_steps=600 --plan    the stages that a change runs again, and why
  mirepoix describe quickstart > mine.yaml; mirepoix run quickstart --config mine.yaml
  mirepoix run quickstart_all only=unite,mire              retrievers side by side, on the same data
  mirepoix submit quickstart --address http://HEAD:8265    the same on a cluster
  mirepoix validate /data/corpus; mirepoix run unite sources.path=/data/corpus
  mirepoix run search sources.path=/my/pictures            search them through a published encoder, without a training
  mirepoix release storage/artefacts/instruct/... --corpus /my/pictures
  mirepoix serve storage/runs/quickstart-...; mirepoix search "two small red stars" --target i
  mirepoix export storage/runs/quickstart-... /models/mine --to hf
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mirepoix",
        description="Builds and serves universal multimodal retrievers on Ray, from a raw corpus to a search endpoint.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run a recipe: stages that are up to date are skipped, those that were killed are resumed")
    _recipe(run)
    _part(run)
    _execution(run)

    describe = commands.add_parser("describe", help="print the whole config of a recipe as YAML, which --config reads")
    _recipe(describe, storage=False)

    submit = commands.add_parser("submit", help="run a recipe as a job of a Ray cluster; the code of mirepoix is sent with it")
    _recipe(submit)
    _part(submit)
    submit.add_argument("--address", required=True, help="http://HEAD:8265, the dashboard of the cluster")
    submit.add_argument("--no-follow", dest="follow", action="store_false", help="return once the job is submitted, without its log")

    commands.add_parser("list", help="print the recipes, the retrievers and the formats of corpora")

    demo = commands.add_parser("demo", help="run a recipe, then search its endpoint with a text, a picture and both")
    _recipe(demo)

    release = commands.add_parser("release", help="make a release of any encoder over a corpus, without a training")
    what = "folder of an encoder (mirepoix.json: a training's, a release's, an export's), or folder or hub id of a published checkpoint"
    release.add_argument("encoder", metavar="ENCODER", help=what)
    release.add_argument("overrides", nargs="*", metavar="a.b=value", help="fields of the recipe `search` to set")
    what = "folder, file or URI to search, as [NAME=][FORMAT+]PATH; may be repeated"
    release.add_argument("--corpus", metavar="PATH", action="append", required=True, help=what)
    release.add_argument("--name", help="model name of requests to the endpoint (default: mirepoix)")
    _execution(release)
    _storage(release)

    serve = commands.add_parser("serve", help="serve a release on a private cluster, until Ctrl-C")
    serve.add_argument("release", metavar="RELEASE", help="folder or URI of a release, or the folder of a run that made one")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s); others need MIREPOIX_API_KEY")
    serve.add_argument(
        "--port",
        type=int,
        default=8000,
        help="port to listen at; 0: the port of the cluster's Ray Serve if it runs, else any free one (default: %(default)s)",
    )
    serve.add_argument("--encoders", type=int, default=1, help="encoder replicas (default: %(default)s)")
    serve.add_argument("--address", help="HOST:6379 of a Ray head to serve on; default: RAY_ADDRESS, else a private cluster")

    search = commands.add_parser("search", help="search a served release")
    search.add_argument("text", nargs="?", default="", help="text of the query")
    search.add_argument("--image", type=Path, metavar="FILE", help="picture of the query, with or without a text")
    search.add_argument("--target", help="modality of the results: t (text), i (picture), it (picture with text)")
    search.add_argument("-k", type=int, default=5, help="number of results (default: %(default)s)")
    search.add_argument("--url", default="http://127.0.0.1:8000", help="the endpoint (default: %(default)s)")
    search.add_argument("--json", action="store_true", help="print the reply of the endpoint as JSON")

    export = commands.add_parser("export", help="write a release as a folder that transformers, sentence-transformers or PEFT opens")
    export.add_argument(
        "release",
        metavar="RELEASE",
        help="folder or URI of a release, or the folder of a run, whose data and settings the model card then lists",
    )
    export.add_argument("folder", type=Path, metavar="DIR", help="folder to write; it must be new or empty")
    export.add_argument(
        "--to", required=True, metavar="LAYOUT", help="hf: plain checkpoints; sentence-transformers; peft: the adapter that training added"
    )
    export.add_argument("--arm", metavar="ARM", help="the retriever to export, of a run that compares several")
    export.add_argument(
        "--base",
        metavar="CHECKPOINT",
        help="folder or hub id of the checkpoint that the adapter applies to (default: the one that the run started from)",
    )

    validate = commands.add_parser(
        "validate",
        help="print the rows that training would reject, by file and line; exit status 1 if there is one, or if a run would stop",
    )
    _corpora(validate)
    validate.add_argument(
        "--recipe",
        metavar="RECIPE",
        help="recipe whose splits, curation rules and tasks are applied (default: the default rules, and all tasks)",
    )
    validate.add_argument(
        "--copies", action="store_true", help="print also the rows that would be merged: duplicates, and pairs that are judged twice"
    )
    validate.add_argument("--json", action="store_true", help="print the findings as JSON")

    convert = commands.add_parser("convert", help="write corpora as one folder of another format")
    _corpora(convert)
    convert.add_argument("target", type=Path, metavar="TARGET", help="folder to write; it must be new or empty")
    convert.add_argument("--to", required=True, metavar="F", help="format of the folder; see `mirepoix list`")

    doctor = commands.add_parser("doctor", help="check this machine for a run, with advice on what is missing")
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def _execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", action="store_true", help="print which stages would run, and why, and run none")
    parser.add_argument("--local", action="store_true", help="run the stages in this process, one after the other, for a debugger")
    parser.add_argument("--address", help="HOST:6379 of a Ray head to run on; default: RAY_ADDRESS, else a private cluster on this machine")


def _storage(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--storage", metavar="URI", help="folder or URI of all artefacts (default: $MIREPOIX_STORAGE, else ./storage)")


def _corpora(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="+", metavar="PATH", help="folder, file or URI, as [NAME=][FORMAT+]PATH; several are read as one corpus"
    )
    parser.add_argument(
        "--format", default="auto", metavar="F", help="format of the paths that name none; see `mirepoix list` (default: %(default)s)"
    )
    parser.add_argument("--images", metavar="FOLDER", help="folder that the paths of pictures are relative to (default: the corpus)")


def _part(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--until", metavar="STAGE", help="run this stage and those that it depends on, and no others; a stage without its arm: in every arm"
    )
    parser.add_argument(
        "--from", dest="start", metavar="STAGE", help="run this stage and all that depend on it again; the others must be up to date"
    )
    parser.add_argument(
        "--force", metavar="STAGE", action="append", default=[], help="run this stage even if it is up to date; may be repeated"
    )


def _recipe(parser: argparse.ArgumentParser, storage: bool = True) -> None:
    parser.add_argument("recipe", metavar="RECIPE", help="name of a recipe; see `mirepoix list`")
    parser.add_argument(
        "overrides", nargs="*", metavar="a.b=value", help="fields of the config to set; `mirepoix describe RECIPE` names them"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="read the config from a file that `describe` wrote")
    if storage:
        _storage(parser)


def main(words: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 something failed, 2 refused."""
    arguments = _parsed(words)
    signal.signal(signal.SIGTERM, _terminated)
    try:
        return COMMANDS[arguments.command](arguments)
    except Refused as refusal:
        print(f"mirepoix: {refusal}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mirepoix: interrupted; results of finished stages are kept, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parsed(words: list[str] | None) -> argparse.Namespace:
    """The arguments; overrides may come before, between and after the options."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(words)
    if rest and (not hasattr(arguments, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}; see `mirepoix {arguments.command} --help`")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def _terminated(*_: object) -> None:
    raise SystemExit(143)


def _request(arguments: argparse.Namespace) -> "RunRequest":
    from mirepoix.workflows.run import RunRequest
    from mirepoix.workflows.storage import default_storage

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


def _run(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows import run

    request = _request(arguments)
    if arguments.plan:
        planned = run.plan(request).stages
        width = max(16, *map(len, planned))
        for name, stage in planned.items():
            verb = {"skipped": "up to date", "not run": "may run" if stage.reason.startswith("may run") else "runs"}[stage.status]
            print(f"{name:<{width}} {verb:<10} {stage.reason.removeprefix('may run: ') if verb != 'up to date' else ''}".rstrip())
        return 0
    with ExitStack() as resources:
        return run.print_outcome(run.run(request, resources), to_serve=arguments.command == "release")


def _release(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.encoder_release import LAST, RECIPE, settings

    arguments.recipe, arguments.config, arguments.until = RECIPE, None, LAST
    arguments.overrides = [*settings(arguments.encoder, arguments.corpus, arguments.name), *arguments.overrides]
    return _run(arguments)


def _describe(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.config import describe
    from mirepoix.workflows.recipes.registry import resolve

    print(describe(resolve(arguments.recipe, arguments.overrides, arguments.config)), end="")
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
    from mirepoix.workflows.demo import demo

    return demo(_request(arguments))


def _serve(arguments: argparse.Namespace) -> int:
    import threading

    from mirepoix.serving.serve_config import ServeConfig
    from mirepoix.workflows.run import release_of

    release = release_of(arguments.release)
    config = ServeConfig(host=arguments.host, port=arguments.port, encoders=arguments.encoders)
    from mirepoix.serving.app import check_port, start  # Ray and FastAPI, which a refused release or port does not wait for
    from mirepoix.workflows.cluster.ray_cluster import cluster

    if not (arguments.address or os.environ.get("RAY_ADDRESS")):
        check_port(config, running=False)
    with cluster(arguments.address):
        server = start(release, config)
        print(f"{server.name} {server.version} is served at {server.url}  (Ctrl-C stops it)", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("\nstopped")
        finally:
            server.stop()
    return 0


def _search(arguments: argparse.Namespace) -> int:
    import json

    from mirepoix.serving.http.client import KEY, search_endpoint, shown

    try:
        image = arguments.image.read_bytes() if arguments.image else None
    except OSError as error:
        raise Refused(f"picture {arguments.image} cannot be read ({error.strerror}); give a JPEG, PNG, WEBP or GIF file") from error
    reply = search_endpoint(arguments.url, arguments.text, image, arguments.k, arguments.target, os.environ.get(KEY))
    print(json.dumps(reply, indent=1) if arguments.json else shown(reply))
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from mirepoix.serving.release import open_release
    from mirepoix.workflows.lineage import lineage

    release, run = lineage(arguments.release, arguments.arm)
    from mirepoix.components.publishing.export import export  # torch, which a refused release does not wait for

    export(open_release(release), arguments.folder, arguments.to, run, arguments.base)
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from dataclasses import replace

    from mirepoix.workflows.corpora import ValidationPlan, validate_command
    from mirepoix.workflows.recipes.registry import resolve

    plan = ValidationPlan(_sources(arguments))
    if arguments.recipe:
        config = resolve(arguments.recipe, [], None)
        sources = replace(config.sources, path=plan.sources.path, images=plan.sources.images)
        sources = sources if arguments.format == "auto" else replace(sources, format=arguments.format)
        plan = ValidationPlan(sources, config.curate, config.made_pairs, config.seed)
    return validate_command(plan, arguments.json, arguments.copies)


def _convert(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.corpora import convert_command

    return convert_command(_sources(arguments), arguments.to, arguments.target)


def _sources(arguments: argparse.Namespace) -> "SourcesConfig":
    from mirepoix.components.ingestion.sources_config import SourcesConfig

    return SourcesConfig(path=tuple(arguments.path), format=arguments.format, images=arguments.images)


def _doctor(arguments: argparse.Namespace) -> int:
    from mirepoix.workflows.cluster import doctor

    return doctor.main(arguments.json)


COMMANDS = {
    "run": _run,
    "describe": _describe,
    "submit": _submit,
    "list": _list,
    "demo": _demo,
    "release": _release,
    "serve": _serve,
    "search": _search,
    "export": _export,
    "validate": _validate,
    "convert": _convert,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
