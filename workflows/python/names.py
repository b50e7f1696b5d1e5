"""The names of the package itself: mirepoix.py and package/__init__.py take them from here.

Each is imported when it is first asked for, so that `import mirepoix` imports neither torch nor Ray.
"""

import sys
from importlib import import_module
from typing import Any

HOMES = {
    "open": "mirepoix.workflows.python.opening",
    "run": "mirepoix.workflows.python.running",
    "mteb_encoder": "mirepoix.workflows.python.benchmarking",
}
"""The module of each."""
__all__ = ["mteb_encoder", "run"]  # noqa: F822 - `__getattr__` below finds it
"""What `from mirepoix import *` takes: not `open`, which would take the place of Python's own."""


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'mirepoix' has no attribute {name!r}")
    return getattr(import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*vars(sys.modules["mirepoix"]), *HOMES})
