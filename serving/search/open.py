"""Opens an index of either kind."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from mirepoix.models.errors import Refused
from mirepoix.serving.search.bm25_config import KIND

if TYPE_CHECKING:
    from mirepoix.serving.search.bm25 import SparseIndex
    from mirepoix.serving.search.dense import Index


def open_index(folder: str | Path) -> "Index | SparseIndex":
    """The index that `Index.save` or `SparseIndex.save` wrote, its rows or scores memory-mapped; only its own library is imported."""
    file = Path(folder) / "index.json"
    if not file.is_file():
        raise Refused(f"{folder} holds no index.json; give the folder of an index")
    if json.loads(file.read_text())["kind"] == KIND:
        from mirepoix.serving.search.bm25 import open_sparse

        return open_sparse(folder)
    from mirepoix.serving.search.dense import open_dense

    return open_dense(folder)
