"""The arguments of the command line: commands, their options, and their help."""

import argparse
import difflib
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from mirepoix.workflows.commands.compare import add_compare
from mirepoix.workflows.commands.keys import add_arguments
from mirepoix.workflows.commands.measure import add_measure
from mirepoix.workflows.commands.results import add_results
from mirepoix.workflows.commands.serve_arguments import add_serve

EXAMPLES = """examples:
  mirepoix init /my/pictures; mirepoix run mirepoix.yaml   search your own pictures: what was found, proposed, and costs
  mirepoix run quickstart                                  from nothing to a searched endpoint, in minutes
  mirepoix run quickstart instruct.max_steps=600 --plan    the stages that a change runs again, and why
  mirepoix describe quickstart > mine.yaml; mirepoix run mine.yaml
  mirepoix run quickstart_all only=unite,mire              retrievers side by side, on the same data
  mirepoix submit quickstart --address http://HEAD:8265    the same on a cluster
  mirepoix validate /data/corpus; mirepoix run unite sources.path=/data/corpus
  mirepoix run search sources.path=/my/pictures            search them through a published encoder, without a training
  mirepoix release storage/artefacts/instruct/... --corpus /my/pictures
  mirepoix serve --open; mirepoix search "two small red stars" --target i
  mirepoix releases promote latest; mirepoix serve @champion; mirepoix releases rollback
  mirepoix add storage/runs/search-... /my/new/pictures; mirepoix remove storage/runs/add-... beach/p01.png.image
  mirepoix export storage/runs/quickstart-... /models/mine --to hf
"""

RELEASE = (
    "folder or URI of a release; folder, name or beginning of the name of a run that made one; its version or the beginning of it; "
    "an alias, as @champion; or latest, the storage's latest release"
)

ADDITIONS = """examples:
  mirepoix add storage/runs/search-... /my/pictures/2027
  mirepoix add s3://bucket/release captions=folder+/new --prefix 2027/ --storage /data/storage
  mirepoix add storage/artefacts/release/... /my/pictures --replace curate.near_duplicates=merge
"""

REMOVALS = """Makes a release with fewer items of a release, which stays as it is. An item is given by its id or by its source, exactly as a
search shows them: beach/p01.png.image, or Pictures/beach/p01.png. A source is that of every item that was read there; a folder is none.
A caption in a table, as Pictures/captions.csv:2, is an item of its own where captions are read apart: give it too.
Nothing is encoded, unless all items of a modality go by which the release is verified: then a few others of that modality are.
"""


REQUIRED = "the following arguments are required: "


class Parser(argparse.ArgumentParser):
    """Answers a mistyped command or option with the nearest one, and a missing argument with an example."""

    def error(self, message: str) -> NoReturn:
        super().error(message + self._example(message) if message.startswith(REQUIRED) else message)

    def _example(self, message: str) -> str:
        """What to give where a recipe, or the release to add to, is missing."""
        if "RECIPE" in message:
            here = [name for name in ("mirepoix.yaml", "mirepoix.yml") if Path(name).is_file()]
            if here:
                return f"; {here[0]} is here: {self.prog} {here[0]}{' --address http://HEAD:8265' if '--address' in message else ''}"
            return "; `mirepoix list` names the recipes, and `mirepoix init DIR` writes a file of one for your own pictures or texts"
        return ", PATH; such as: mirepoix add latest FOLDER" if self.prog.endswith(" add") else ""

    def refuse_unknown(self, words: Sequence[str], commands: "Mapping[str, Parser]") -> None:
        """Ends with the nearest command or option where the words name one that there is not."""
        first = next(iter(words), "")
        if not first or first.startswith("-"):
            return
        if first not in commands:
            self.error(f"there is no command {first!r}; {_nearest(first, commands)}")
        command = commands[first]
        nested = next((action.choices for action in command._actions if isinstance(action, argparse._SubParsersAction)), {})
        command = next((nested[word] for word in words[1:] if word in nested), command)
        options = [option for option in command._option_string_actions if option.startswith("--")]
        for word in words[1:]:
            if word == "--":
                return
            name = word.partition("=")[0]
            # A text with a space is an argument, whatever it begins with; an option may be given by its beginning.
            if name.startswith("--") and " " not in word and not any(option.startswith(name) for option in options):
                command.error(f"there is no option {name}; {_nearest(name, options)}; see `{command.prog} --help`")


def _nearest(given: str, names: Iterable[str]) -> str:
    """The name that was probably meant; all of them where none is like what was given."""
    known = list(names)
    near = difflib.get_close_matches(given, known, 1, 0.6)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"


def _parser() -> tuple[Parser, dict[str, Parser]]:
    """The parser, and those of its commands by their names."""
    parser = Parser(
        prog="mirepoix",
        description="Builds and serves universal multimodal retrievers on Ray, from a raw corpus to a search endpoint.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    init = commands.add_parser("init", help="look at a folder of pictures or texts, and write a config for it: mirepoix.yaml")
    init.add_argument("folder", type=Path, metavar="DIR", help="folder of pictures, of tables, or of a corpus in a known format")
    init.add_argument("--output", type=Path, default=Path("mirepoix.yaml"), metavar="FILE", help="file to write (default: %(default)s)")
    init.add_argument("--force", action="store_true", help="write over the file if it is there")
    init.add_argument("--recipe", metavar="RECIPE", help="search: a model as it is; finetune: trained on pairs (default: what fits)")
    init.add_argument("--json", action="store_true", help="print what was found and proposed as JSON")

    run = commands.add_parser("run", help="run a recipe: stages that are up to date are skipped, those that were killed are resumed")
    _recipe(run)
    _part(run)
    _execution(run)

    describe = commands.add_parser("describe", help="print the whole config of a recipe as YAML, which `run` reads")
    _recipe(describe, storage=False)

    submit = commands.add_parser("submit", help="run a recipe as a job of a Ray cluster; the code of mirepoix is sent with it")
    _recipe(submit)
    _part(submit)
    submit.add_argument("--address", required=True, help="http://HEAD:8265, the dashboard of the cluster")
    submit.add_argument("--no-follow", dest="follow", action="store_false", help="return once the job is submitted, without its log")

    commands.add_parser("list", help="print the recipes, the retrievers and the formats of corpora")

    demo = commands.add_parser("demo", help="run a recipe, then search its endpoint with a text, a picture and both")
    _recipe(demo)
    _output(demo)

    release = commands.add_parser("release", help="make a release of any encoder over a corpus, without a training")
    what = "folder of an encoder (mirepoix.json: a training's, a release's, an export's), or folder or hub id of a checkpoint or adapter"
    release.add_argument("encoder", metavar="ENCODER", help=what)
    release.add_argument("overrides", nargs="*", default=[], metavar="a.b=value", help="fields of the recipe `search` to set")
    what = "folder, file or URI to search, as [NAME=][FORMAT+]PATH; may be repeated"
    release.add_argument("--corpus", metavar="PATH", action="append", required=True, help=what)
    release.add_argument("--name", help="model name of requests to the endpoint (default: mirepoix)")
    _execution(release)
    _storage(release)

    add = commands.add_parser(
        "add",
        help="make a release with more items of a release: only new items are encoded, and the old release stays as it is",
        epilog=ADDITIONS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add.add_argument("release", metavar="RELEASE", help=RELEASE)
    what = "folder, file or URI with the new items, as [NAME=][FORMAT+]PATH; fields to set, as curate.max_rejected=1, may be among them"
    add.add_argument("overrides", nargs="*", default=[], metavar="PATH", help=what)
    add.add_argument("--replace", action="store_true", help="replace items by new ones with the same ids (default: refuse them)")
    add.add_argument("--prefix", default="", metavar="TEXT", help="put this before the ids of the new items")
    _revision(add)

    remove = commands.add_parser("remove", help="make a release with fewer items of a release, which stays as it is")
    remove.description = REMOVALS
    remove.add_argument("release", metavar="RELEASE", help=RELEASE)
    remove.add_argument(
        "overrides", nargs="*", default=[], metavar="ID", help="ids or sources of the items to remove, as a search shows them"
    )
    remove.add_argument("--ids", metavar="FILE", help="file with an id or a source on each line, of items to remove")
    _revision(remove)

    serve = add_serve(commands, RELEASE)
    _trusted(serve)
    _storage(serve)

    search = commands.add_parser("search", help="search a served release")
    search.add_argument("text", nargs="?", default="", help="text of the query")
    search.add_argument("--image", type=Path, metavar="FILE", help="picture of the query, with or without a text")
    search.add_argument("--target", help="modality of the results: t (text), i (picture), it (picture with text), v (video)")
    search.add_argument("-k", type=int, default=5, help="number of results (default: %(default)s)")
    search.add_argument("--url", help="the endpoint (default: http://127.0.0.1:8000)")
    search.add_argument("--json", action="store_true", help="print the reply of the endpoint as JSON")

    export = commands.add_parser("export", help="write a release as a folder that transformers, sentence-transformers or PEFT opens")
    export.add_argument(
        "release",
        metavar="RELEASE",
        help=f"{RELEASE}; of a run, the model card lists data and settings",
    )
    export.add_argument("folder", type=Path, metavar="DIR", help="folder to write; it must be new or empty")
    export.add_argument(
        "--to", required=True, metavar="LAYOUT", help="hf: plain checkpoints; sentence-transformers; peft: the adapter that training added"
    )
    _trusted(export)
    export.add_argument("--arm", metavar="ARM", help="the retriever to export, of a run that compares several")
    export.add_argument(
        "--base",
        metavar="CHECKPOINT",
        help="folder or hub id of the checkpoint that the adapter applies to (default: the one that the run started from)",
    )

    add_arguments(commands)
    add_measure(commands)
    add_compare(commands)
    add_results(commands)
    _upkeep(commands)

    validate = commands.add_parser(
        "validate",
        help="print the rows that training would reject, by file and line; exit status 1 if any, or if a run or a training would stop",
    )
    _corpora(validate, "*", "folder, file or URI, as [NAME=][FORMAT+]PATH; a .yaml file of a recipe; fields of its config, as a.b=value")
    validate.add_argument(
        "--recipe",
        metavar="RECIPE",
        help="recipe, or .yaml file of one, whose splits, curation rules and tasks are applied (default: the default rules, and all tasks)",
    )
    validate.add_argument(
        "--copies", action="store_true", help="print also the rows that would be merged: duplicates, and pairs that are judged twice"
    )
    validate.add_argument("--out", type=Path, metavar="FILE", help="write all findings into a file that ends in .json or .csv")
    validate.add_argument("--json", action="store_true", help="print the findings as JSON")

    convert = commands.add_parser("convert", help="write corpora as one folder of another format")
    _corpora(convert, "+", "folder, file or URI, as [NAME=][FORMAT+]PATH; several are read as one corpus")
    convert.add_argument("target", type=Path, metavar="TARGET", help="folder to write; it must be new or empty")
    convert.add_argument("--to", required=True, metavar="F", help="format of the folder; see `mirepoix list`")

    doctor = commands.add_parser("doctor", help="check this machine, and a recipe if one is given, with advice on what is missing")
    doctor.add_argument("recipe", nargs="?", metavar="RECIPE", help="recipe that is checked too, as `run` checks it before its first stage")
    doctor.add_argument("overrides", nargs="*", default=[], metavar="a.b=value", help="fields of its config to set")
    doctor.add_argument("--config", type=Path, metavar="FILE", help="read the config from a file that `describe` wrote")
    doctor.add_argument("--address", help="HOST:6379 of a Ray head that the recipe would run on; default: RAY_ADDRESS, else this machine")
    _storage(doctor)
    doctor.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser, commands.choices


def _revision(parser: argparse.ArgumentParser) -> None:
    _trusted(parser)
    _execution(parser)
    _storage(parser)


def _execution(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--plan", action="store_true", help="print which stages would run, and why, and run none")
    parser.add_argument("--local", action="store_true", help="run the stages in this process, one after the other, for a debugger")
    parser.add_argument("--address", help="HOST:6379 of a Ray head to run on; default: RAY_ADDRESS, else a private cluster on this machine")
    _output(parser)


def _output(parser: argparse.ArgumentParser) -> None:
    forms = parser.add_mutually_exclusive_group()
    what = "print an object of JSON a line on standard output: every stage's begin, progress and end, and the result (docs/storage.md)"
    forms.add_argument("--json", dest="form", action="store_const", const="json", default="text", help=what)
    forms.add_argument("--quiet", dest="form", action="store_const", const="quiet", help="print errors and the result, and no progress")


def _upkeep(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The commands on what a storage holds."""
    which = "folder of a run, its name, the beginning of its name, or latest"
    runs = commands.add_parser("runs", help="list the runs of a storage: recipe, state, score, size, whether kept or served")
    show = commands.add_parser("show", help="print one run: stages, scores, release, which other runs need its results, what to do next")
    show.add_argument("run", metavar="RUN", help=which)
    tried = commands.add_parser(
        "try", help="print what the last checkpoint of a training finds for a few held-out queries, while it goes on"
    )
    tried.add_argument("run", metavar="RUN", help=which)
    tried.add_argument(
        "--stage", metavar="STAGE", help="the training to try, of a run that has several at once (default: the last that began)"
    )
    tried.add_argument("--queries", type=int, default=8, metavar="N", help="held-out queries that are asked (default: %(default)s)")
    tried.add_argument("--documents", type=int, default=500, metavar="N", help="documents that are searched (default: %(default)s)")
    tried.add_argument("--seed", type=int, default=0, help="another seed draws other queries and documents (default: %(default)s)")
    keep = commands.add_parser("keep", help="pin a run, so that `gc` keeps it and all results that it names")
    keep.add_argument("run", metavar="RUN", help=which)
    keep.add_argument("--undo", action="store_true", help="take the pin away")
    gc = commands.add_parser("gc", help="remove runs, and the results, scratch and logs that no kept run needs")
    gc.add_argument("--keep-last", type=int, metavar="N", help="keep the last N runs that are done, and what began after them")
    age = "remove runs that ended longer ago, and older results that no run names: 30d, 12h, 2w, 0 (default: no run; such results: 7d)"
    gc.add_argument("--older-than", metavar="D", help=age)
    gc.add_argument("--dry-run", action="store_true", help="print what would go, and why the rest stays; remove nothing")
    page = commands.add_parser("mlflow", help="start the tracking page of MLflow on a storage, until Ctrl-C")
    page.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s); the page has no password")
    page.add_argument("--port", type=int, default=5000, help="port to listen at (default: %(default)s)")
    _releases(commands)
    for command in (runs, show, tried, gc):
        command.add_argument("--json", action="store_true", help="print it as JSON")
    for command in (runs, show, tried, keep, gc, page):
        _storage(command)


def _releases(commands: "argparse._SubParsersAction[Parser]") -> None:
    """The command on releases and their aliases, which has commands of its own."""
    releases = commands.add_parser(
        "releases",
        help="list the releases of a storage: what made each, score, size, aliases, servers; give aliases, as @champion, and roll back",
    )
    releases.add_argument("--json", action="store_true", help="print the list as JSON")
    _storage(releases)
    actions = releases.add_subparsers(dest="action", metavar="ACTION", title="actions (none: list the releases)")
    promote = actions.add_parser("promote", help="let an alias name a release; `serve @champion` and MLflow follow")
    promote.add_argument("release", metavar="RELEASE", help=RELEASE)
    rollback = actions.add_parser("rollback", help="let an alias name the release before again; may be repeated")
    for action in (promote, rollback):
        what = (
            "the alias, of releases of one name"
            if action is promote
            else "the alias, or NAME@ALIAS where releases of several names have it"
        )
        action.add_argument("--alias", default="champion", help=f"{what} (default: %(default)s)")
    unalias = actions.add_parser("unalias", help="remove an alias; the release stays")
    unalias.add_argument("alias", metavar="ALIAS", help="the alias, or NAME@ALIAS where releases of several names have it")
    sync = actions.add_parser("sync", help="write the aliases into the model registry of MLflow, with what it missed")
    for action in (promote, rollback, unalias, sync):
        _storage(action, argparse.SUPPRESS)  # given after the action, it holds; else what stands before it


def _storage(parser: argparse.ArgumentParser, default: str | None = None) -> None:
    what = "folder or URI of all artefacts (default: $MIREPOIX_STORAGE, else ./storage)"
    parser.add_argument("--storage", metavar="URI", default=default, help=what)


def _trusted(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="open a release whose encoder runs code that its checkpoint brought; read that code first",
    )


def _corpora(parser: argparse.ArgumentParser, count: str, help: str) -> None:
    parser.add_argument("path", nargs=count, metavar="PATH", help=help)
    parser.add_argument("--format", metavar="F", help="format of the paths that name none; see `mirepoix list` (default: auto)")
    parser.add_argument("--images", metavar="FOLDER", help="folder that the paths of pictures are relative to (default: the corpus)")
    parser.add_argument(
        "--columns",
        metavar="ROLE=COLUMN",
        action="append",
        help="a column of tables of any names, as picture=file; roles: picture, text, id, query, split; may be repeated",
    )
    parser.add_argument(
        "--captions",
        choices=["apart", "together"],
        help="whether a picture and its caption are two candidates or one (default: apart)",
    )


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
    what = "name of a recipe, see `mirepoix list`; or a .yaml file: `recipe: NAME` on top, and what of its config differs"
    parser.add_argument("recipe", metavar="RECIPE", help=what)
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=value", help="fields of the config to set; `mirepoix describe RECIPE` names them"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="read the config of the recipe from a file")
    if storage:
        _storage(parser)


def parsed(words: list[str] | None) -> argparse.Namespace:
    """The arguments; overrides may come before, between and after the options."""
    parser, commands = _parser()
    words = sys.argv[1:] if words is None else words
    parser.refuse_unknown(words, commands)
    arguments, rest = parser.parse_known_args(words)
    words_of = "path" if arguments.command == "validate" else "overrides"
    if rest and (not hasattr(arguments, words_of) or any(word.startswith("-") for word in rest)):
        commands[arguments.command].error(f"unrecognized arguments: {' '.join(rest)}; see `mirepoix {arguments.command} --help`")
    if rest:
        setattr(arguments, words_of, [*getattr(arguments, words_of), *rest])
    return arguments
