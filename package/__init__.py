"""Mirepoix: the whole life of a universal multimodal retriever, on Ray."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirepoix.workflows.python.opening import open as open
    from mirepoix.workflows.python.running import run as run
else:
    from mirepoix.workflows.python.names import __all__ as __all__
    from mirepoix.workflows.python.names import __dir__ as __dir__
    from mirepoix.workflows.python.names import __getattr__ as __getattr__
