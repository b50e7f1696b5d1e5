"""Names of classes and functions as text, MODULE:NAME, so that naming one imports nothing."""

from importlib import import_module
from typing import Any


def import_named(path: str) -> Any:
    """The class or function at a path MODULE:NAME, with its module imported."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)
