"""Mirepoix: the whole life of a universal multimodal retriever, on Ray.

mirepoix.run(RECIPE)              runs a recipe, as the command `mirepoix run` does, and returns how it ended
mirepoix.open(TARGET)             opens a release, or an encoder by itself, in this process
    .encode(items)                their vectors
    .search(query, k, target)     the best documents of the release
    .similarity(a, b)             the scores of queries with documents
mirepoix.mteb_encoder(TARGET)     a release or an encoder for mteb, which measures it by its tasks

help(mirepoix.run) and help(mirepoix.open) say more, and so does docs/python.md.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirepoix.workflows.python.benchmarking import mteb_encoder as mteb_encoder
    from mirepoix.workflows.python.opening import open as open
    from mirepoix.workflows.python.running import run as run
else:
    from mirepoix.workflows.python.names import __all__ as __all__
    from mirepoix.workflows.python.names import __dir__ as __dir__
    from mirepoix.workflows.python.names import __getattr__ as __getattr__
