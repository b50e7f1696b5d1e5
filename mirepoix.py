"""Mirepoix: the whole life of a universal multimodal retriever, on Ray."""

from pathlib import Path as _Path

# A checkout, or a shipped working directory, holds the four folders beside this file; an installed wheel is a package instead (package/).
__path__ = [str(_Path(__file__).resolve().parent)]

from mirepoix.workflows.python.names import __all__ as __all__
from mirepoix.workflows.python.names import __dir__ as __dir__
from mirepoix.workflows.python.names import __getattr__ as __getattr__
