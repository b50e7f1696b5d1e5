"""The source code of mirepoix: its folder, and a copy for jobs and for workers on other machines."""

import shutil
from pathlib import Path

from mirepoix.serving.engine.fork_server import code_root

LAYERS = ("models", "serving", "components", "workflows")
HOME = Path(__file__).resolve().parents[2]
"""The folder that holds the four layers; an editable install has no other way to name it."""


def stage_code(folder: Path) -> Path:
    """Copy our code, and nothing else, into an empty folder as an installed wheel lays it out; jobs and workers import it from there."""
    (folder / "mirepoix").mkdir()
    # In an installed wheel the package has a file of its own; that of a checkout does as much in its place.
    shutil.copy(HOME / ("mirepoix.py" if code_root() == HOME else "__init__.py"), folder / "mirepoix" / "__init__.py")
    for layer in LAYERS:
        shutil.copytree(HOME / layer, folder / "mirepoix" / layer, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder
