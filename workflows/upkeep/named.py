"""Which release is meant: by its folder or URI, by a run that made it, or by `latest`."""

from pathlib import Path

from mirepoix.serving import store
from mirepoix.workflows.storage import latest_release, opened_storage
from mirepoix.workflows.upkeep.runs import find_run, read_runs

LATEST = "latest"


def named_release(given: str, storage: str | None = None) -> str:
    """The folder of a release or of a run, where it is given by a name in a storage: `latest` is the storage's latest release.

    Any other name is a run's, or the beginning of one, as `show` takes it. What is there as a folder, and every path and URI, is as given.
    """
    if not is_name(given):
        return given
    home = opened_storage(storage)
    return latest_release(home) if given == LATEST else find_run(read_runs(home), given, home).folder


def is_name(given: str) -> bool:
    """Whether a text is neither a path nor a URI, nor the name of something in the working directory."""
    return bool(given) and "/" not in given and store.is_local(given) and not Path(given).expanduser().exists()
