"""Vectors on disk: id, modality, hash and rows of each item, as Parquet that is read without Ray and torch."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import part_files
from mirepoix.models.ragged import RaggedRows

DESCRIPTION = "vectors.json"
CONTENT = "content"
"""The column with the hash of what the encoder read of each item."""


def rows_to_arrow(vectors: RaggedRows) -> pa.Array:
    """The rows of each item as a list of fixed-size lists."""
    flat = vectors.rows_RD.astype("float32")
    rows = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), vectors.width)
    return pa.ListArray.from_arrays(pa.array(vectors.bounds.astype("int32")), rows)


def arrow_to_rows(rows: pa.ChunkedArray) -> RaggedRows:
    """The inverse of `rows_to_arrow`."""
    lists = rows.combine_chunks()
    lists = lists if isinstance(lists, pa.Array) else lists.chunk(0)
    counts_N = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    flat = lists.flatten()
    rows_RD = flat.flatten().to_numpy(zero_copy_only=False).reshape(-1, flat.type.list_size)
    return RaggedRows(rows_RD, np.append(0, np.cumsum(counts_N)))


def read_vectors(folder: Path, part: str) -> tuple[list[str], list[int], RaggedRows]:
    """Ids, modality codes and vectors of a part that `embed` wrote."""
    table = pq.read_table(part_files(folder, part))
    return table["id"].to_pylist(), table["modality"].to_pylist(), arrow_to_rows(table["rows"])


def recorded_encoder_digest(folder: Path) -> str:
    """The digest of the encoder that made the vectors in `folder`."""
    return json.loads((folder / DESCRIPTION).read_text())["encoder"]
