"""The commands `add` and `remove`: the config that revises a release, and what is said of the result."""

import json
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.revision.revision_config import MergeConfig, items_to_remove
from mirepoix.models.errors import Refused
from mirepoix.models.options import revive
from mirepoix.serving import store
from mirepoix.serving.release import item_ids, item_sources, peek
from mirepoix.workflows.cluster.served import servers_of
from mirepoix.workflows.config import flatten, override, read
from mirepoix.workflows.dag import results
from mirepoix.workflows.dag.revision import Revision
from mirepoix.workflows.recipes.search import search
from mirepoix.workflows.run import Run, RunRequest, print_outcome, run_config
from mirepoix.workflows.runner.progress import Output, display_of
from mirepoix.workflows.storage import present, release_of, run_name_of, storage_option
from mirepoix.workflows.upkeep.lineage import makers
from mirepoix.workflows.upkeep.named import is_name

OVERRIDE = re.compile(r"(seed|trust_remote_code|(sources|curate|merge|embed)(\.\w+)+)=.*", re.DOTALL)
"""A word of the command line that sets a field, and is no path."""


class Rules(NamedTuple):
    """How the items of a release were curated and encoded, and where that is known from."""

    curate: CurateConfig
    embed: EmbedConfig
    origin: str


def refuse_corpus_alone(given: str) -> None:
    """Refuses what is given to `add` alone where it is no release and no run, and therefore what to add."""
    with suppress(Refused, OSError):
        release_of(given)
        return
    if not is_name(given):
        raise Refused(
            f"{given} is neither a release nor a run, so it is taken as what to add, and RELEASE is missing; "
            f"to add it to the latest release: mirepoix add latest {shlex.quote(given)}"
        )


def addition(release: str, words: Sequence[str], replaced: bool = False, prefix: str = "", trusted: bool = False) -> tuple[Revision, str]:
    """The config that adds corpora to a release, and the origin of the rules by which items are kept; `words` are paths and overrides."""
    paths = tuple(word for word in words if not OVERRIDE.fullmatch(word))
    if not paths:
        raise Refused("there is nothing to add; give a folder, file or URI: mirepoix add RELEASE PATH")
    target = release_of(release)
    rules = rules_of(release, target)
    merge = MergeConfig(target, prefix, replaced)
    revision = Revision(0, SourcesConfig(path=paths), rules.curate, merge, rules.embed, trusted)
    return override(revision, [word for word in words if OVERRIDE.fullmatch(word)]), rules.origin


def removal(release: str, ids: Sequence[str], listed: str | None = None, trusted: bool = False) -> Revision:
    """The config that removes items from a release; refused where the release has no such items, or would have none left."""
    target = release_of(release)
    merge = MergeConfig(target, remove=tuple(ids), remove_listed=listed)
    if not merge.removed:
        raise Refused("there is nothing to remove; give ids or sources of items as a search shows them, or --ids FILE")
    items_to_remove(release, item_ids(target), merge.removed, lambda: item_sources(target))
    rules = rules_of(release, target)  # of which `curate` decides nothing here: it is passed on to what is added afterwards
    return Revision(0, curate=rules.curate, merge=merge, embed=rules.embed, trust_remote_code=trusted)


def command_again(command: str, run: str) -> str | None:
    """The command that made a run of `add` or `remove`, from the config in its folder; None where that is of another version."""
    try:
        revision = read((store.read(store.join(run, "config.yaml")) or b"").decode(), Revision)
    except Refused:
        return None
    merge, target = revision.merge, present(revision.merge.release, run)
    words = ["mirepoix", command, target]
    if command == "add":
        words += [*revision.sources.path, *["--replace"] * merge.replace] + (["--prefix", merge.prefix] if merge.prefix else [])
        rules = rules_of(target, target)
        sources, merge = SourcesConfig(path=revision.sources.path), MergeConfig(merge.release, merge.prefix, merge.replace)
        given = flatten(Revision(0, sources, rules.curate, merge, rules.embed, revision.trust_remote_code))
        words += [f"{name}={_as_word(value)}" for name, value in flatten(revision).items() if given[name] != value]
    else:
        words += [*merge.remove, *(["--ids", merge.remove_listed] if merge.remove_listed else [])]
    return shlex.join(words + ["--trust-remote-code"] * revision.trust_remote_code)


def _as_word(value: Any) -> str:
    """A value of a config as the command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


def rules_of(given: str, target: str) -> Rules:
    """The rules of the run that made a release, given by its own folder or by the run's; if that is not known, those of `search`."""
    plain = search()
    for maker in makers(target, [given] if given != target else None):
        settings = maker.report["settings"]
        with suppress(Refused, KeyError, TypeError):  # settings of another version
            arm = settings.get("arms", {}).get(maker.arm, {})
            # Nothing is trained here, so there is nothing to hold out, and nothing that could leak.
            curate = replace(revive(CurateConfig, settings["curate"]), leakage="off", held_out=0.0)
            return Rules(curate, revive(EmbedConfig, {**settings, **arm}["embed"]), f"those of the run {maker.run}")
    return Rules(plain.curate, plain.embed, "those of the recipe search, as the run that made the release is not known")


def revise(revision: Revision, request: RunRequest, origin: str = "", form: Output = "text") -> int:
    """Runs the stages of a revision, and prints what became of the items and where the new release is; returns the exit status."""
    if origin and form == "text":
        print(f"rules     {origin}")
    with ExitStack() as resources:
        done = run_config(request, revision, resources, display_of(form))
    if done.report.ok and form != "json":
        rejected = results.rejected_rows(done.report.stages)
        print(f"\n{counted(done, revision)}" + (f"left out  {rejected}\n" if rejected else ""), end="")
    status = print_outcome(done, to_serve=True, output=form)
    if done.report.ok and form != "json":
        print("".join(_still_served(done, request.storage)), end="")
    return status


def _still_served(done: Run, storage: str) -> Iterator[str]:
    """A line for each server of a release that the new one was made of: it goes on with that one until it is swapped, or started again."""
    serve = f"mirepoix serve {run_name_of(done.folder)}{storage_option(storage)}"
    for server in servers_of(done.record["bases"]):
        port = urlsplit(server.url).port
        again = f"start it again to serve this one: {serve}"
        if server.pid is not None:  # the command `serve` of this machine, which swaps
            again = f"swap it to this one: {serve} --port {port}"
        yield f"the server at {server.url} still has {server.name}; {again}\n"


def counted(run: Run, revision: Revision) -> str:
    """What became of the items, in a line."""
    metrics: Mapping[str, Any] = run.report.stages["merge"].metrics
    count = {name: int(metrics[name]) for name in ("added", "replaced", "there already", "removed", "items")}
    encoded = int(run.report.stages["embed"].metrics["encoded"])
    said = [f"{count[name]} {name}" for name in ("added", "replaced", "there already", "removed") if count[name]]
    before, _ = peek(revision.merge.release)
    all_of = f"{count['items']} in all ({before.name} {before.version} is as it was)"
    return f"items     {', '.join(said) or 'none are new'}; {encoded} encoded; {all_of}\n"
