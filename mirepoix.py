"""Mirepoix: the whole life of a universal multimodal retriever, on Ray.

mirepoix.run(RECIPE)              runs a recipe, as the command `mirepoix run` does, and returns how it ended
mirepoix.open(TARGET)             opens a release, or an encoder by itself, in this process
    .encode(items)                their vectors
    .search(query, k, target)     the best documents of the release
    .similarity(a, b)             the scores of queries with documents
mirepoix.mteb_encoder(TARGET)     a release or an encoder for mteb, which measures it by its tasks

help(mirepoix.run) and help(mirepoix.open) say more, and so does docs/python.md.
"""

from pathlib import Path as _Path

# A checkout, or a shipped working directory, holds the four folders beside this file; an installed wheel is a package instead (package/).
__path__ = [str(_Path(__file__).resolve().parent)]

from mirepoix.workflows.python.names import __all__ as __all__
from mirepoix.workflows.python.names import __dir__ as __dir__
from mirepoix.workflows.python.names import __getattr__ as __getattr__
