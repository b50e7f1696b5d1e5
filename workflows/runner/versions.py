"""Which code and which libraries a run was made with."""

import platform
import shutil
import subprocess

from mirepoix.serving.store import digest_of
from mirepoix.workflows.cluster.shipped_code import HOME, LAYERS
from mirepoix.workflows.runner.fingerprint import library_version
from mirepoix.workflows.runner.source_code import sources

LIBRARIES = ("ray", "torch", "transformers", "deepspeed", "pyarrow", "mlflow")
"""Those that most results depend on."""


def code_version() -> dict[str, str]:
    """The commit that this package was checked out from, or the hash of its source where there is none (an image, a shipped folder)."""
    if (HOME / ".git").exists() and shutil.which("git"):
        command = ["git", "-C", str(HOME), "describe", "--always", "--dirty", "--abbrev=40"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode == 0:  # a repository without a commit has nothing to describe
            return {"mlflow.source.git.commit": answer.stdout.strip()}
    files = [path for layer in LAYERS for path in (HOME / layer).rglob("*.py")]
    return {"source": digest_of((str(path.relative_to(HOME)), sources().read(path).hash) for path in files)}


def library_versions() -> dict[str, str]:
    """The versions of Python and of the libraries that most results depend on."""
    return {"version.python": platform.python_version()} | {f"version.{name}": library_version(name) for name in LIBRARIES}
