"""Which release is meant: by its folder or URI, by a run that made it, by its version, by an alias, or by `latest`."""

import re
from pathlib import Path

from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.workflows.storage import latest_release, opened_storage, run_names
from mirepoix.workflows.upkeep.aliases import aliased_release
from mirepoix.workflows.upkeep.releases import of_version
from mirepoix.workflows.upkeep.runs import find_run, read_runs

LATEST = "latest"
_VERSION = re.compile(r"[0-9a-f]{4,12}")


def named_release(given: str, storage: str | None = None) -> str:
    """The folder of a release or of a run, where it is given by a name in a storage: `latest` is the storage's latest release.

    A name with an @ is an alias, as @champion or mirepoix@champion: of it only the file of aliases is read, so that a server may ask often.
    Any other name is the version of a release or a run's name, or the beginning of one, as `show` takes it. What is there as a folder, and
    every path and URI, is as given.
    """
    if not is_name(given):
        return given
    home = opened_storage(storage)
    if given == LATEST:
        return latest_release(home)
    if "@" in given:
        return aliased_release(given, home)
    return _of_version(given, home) or find_run(read_runs(home), given, home).folder


def is_name(given: str) -> bool:
    """Whether a text is neither a path nor a URI, nor the name of something in the working directory."""
    return bool(given) and "/" not in given and store.is_local(given) and not Path(given).expanduser().exists()


def is_named(given: str, storage: str | None = None) -> bool:
    """Whether a name is `latest`, an alias, or the beginning of the name of a run or of a version in a storage."""
    if not is_name(given):
        return False
    if given == LATEST or "@" in given:
        return True
    home = opened_storage(storage)
    return any(run.startswith(given) for run in run_names(home)) or bool(_VERSION.fullmatch(given) and of_version(home, given))


def origin(given: str) -> str:
    """What a name means, as words for the release that it was found to be."""
    if given == LATEST:
        return "the latest release"
    if "@" in given:
        return f"the release that {given} names"
    return f"release {given}" if _VERSION.fullmatch(given) else f"the release of run {given}"


def _of_version(given: str, storage: str) -> str | None:
    """The release whose version begins with a text; None where there is none; refused where it may be another one or a run."""
    found = of_version(storage, given) if _VERSION.fullmatch(given) else []
    runs = [run for run in run_names(storage) if run.startswith(given)] if found else []
    if len(found) + len(runs) > 1:
        meant = ", ".join([*(f"release {release.version}" for release in found), *(f"run {run}" for run in runs)][:5])
        raise Refused(f"{given!r} may be {meant}; give more of it")
    return found[0].target if found else None
