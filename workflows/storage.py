"""The default folder of artefacts."""

import os
from pathlib import Path

JOB_VARIABLE = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""A variable that Ray sets in the driver of a submitted job, and in no other process."""


def default_storage() -> str:
    """MIREPOIX_STORAGE, else ./storage; in a job, whose working directory is removed with it, a folder in the home."""
    if given := os.environ.get("MIREPOIX_STORAGE"):
        return given
    home = Path.home() / ".mirepoix" / "storage"
    return str(home if JOB_VARIABLE in os.environ else Path("storage").absolute())
