"""Vectors on disk: id, modality and rows of each item as Parquet that needs neither Ray nor torch to be read."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mirepoix.components.corpus.parts import part_files
from mirepoix.models.vectors import Vectors

DESCRIPTION = "vectors.json"


def rows_to_arrow(vectors: Vectors) -> pa.Array:
    """The real rows of each item as a list of fixed-size lists: readable without Ray."""
    counts = vectors.mask_NT.sum(1)
    flat = vectors.rows_NTD[vectors.mask_NT].numpy().astype("float32")
    rows = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), vectors.width)
    offsets = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)]).numpy().astype("int32")
    return pa.ListArray.from_arrays(pa.array(offsets), rows)


def arrow_to_vectors(rows: pa.ChunkedArray) -> Vectors:
    """The inverse of `rows_to_arrow`."""
    lists = rows.combine_chunks()
    lists = lists if isinstance(lists, pa.Array) else lists.chunk(0)
    counts = torch.tensor(lists.value_lengths().to_numpy(zero_copy_only=False), dtype=torch.long)
    flat = lists.flatten()
    width = flat.type.list_size
    values = torch.from_numpy(flat.flatten().to_numpy(zero_copy_only=False).reshape(-1, width).copy())
    mask_NT = torch.arange(int(counts.max()))[None] < counts[:, None]
    rows_NTD = torch.zeros(*mask_NT.shape, width)
    rows_NTD[mask_NT] = values
    return Vectors(rows_NTD, mask_NT)


def read_vectors(folder: Path, part: str) -> tuple[list[str], list[int], Vectors]:
    """Ids, modality codes and vectors of a part that `work` wrote."""
    table = pq.read_table(part_files(folder, part))
    return table["id"].to_pylist(), table["modality"].to_pylist(), arrow_to_vectors(table["rows"])


def recorded_encoder_digest(folder: Path) -> str:
    """The digest of the encoder that the vectors in `folder` came from."""
    return json.loads((folder / DESCRIPTION).read_text())["encoder"]
