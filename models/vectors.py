"""Vectors: any number of unit rows per item; a single vector is a multi-vector with one row.

Shapes: N items, Q queries, T rows an item, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from mirepoix.models.ragged import RaggedRows

BLOCK = 2**26  # most scores of rows with rows that are in memory at once


@dataclass(frozen=True)
class Vectors:
    """Rows of unit norm, and a mask that is False on padding."""

    rows_NTD: torch.Tensor
    mask_NT: torch.Tensor

    def __post_init__(self) -> None:
        assert self.rows_NTD.ndim == 3 and self.mask_NT.shape == self.rows_NTD.shape[:2], (self.rows_NTD.shape, self.mask_NT.shape)

    def __len__(self) -> int:
        return self.rows_NTD.shape[0]

    def __getitem__(self, index: slice | Sequence[int] | torch.Tensor) -> "Vectors":
        return Vectors(self.rows_NTD[index], self.mask_NT[index])

    @property
    def width(self) -> int:
        return self.rows_NTD.shape[2]

    @classmethod
    def single(cls, rows_ND: torch.Tensor) -> "Vectors":
        """One row an item."""
        return cls(rows_ND[:, None, :], torch.ones(len(rows_ND), 1, dtype=torch.bool, device=rows_ND.device))

    @classmethod
    def cat(cls, parts: Sequence["Vectors"]) -> "Vectors":
        """All parts concatenated, padded to the largest number of rows."""
        most = max(part.rows_NTD.shape[1] for part in parts)
        rows = [F.pad(part.rows_NTD, (0, 0, 0, most - part.rows_NTD.shape[1])) for part in parts]
        masks = [F.pad(part.mask_NT, (0, most - part.mask_NT.shape[1])) for part in parts]
        return cls(torch.cat(rows), torch.cat(masks))

    def cpu(self) -> "Vectors":
        return Vectors(self.rows_NTD.detach().float().cpu(), self.mask_NT.cpu())

    def ragged(self) -> RaggedRows:
        """The real rows without padding, on the CPU as float32: what is written to disk, indexed and searched."""
        mask_NT = self.mask_NT.cpu().numpy()
        return RaggedRows(self.rows_NTD.detach().float().cpu().numpy()[mask_NT], np.append(0, np.cumsum(mask_NT.sum(1))))

    def truncated(self, width: int) -> "Vectors":
        """The first `width` dimensions, normalised again; search quality holds only at a width that was trained."""
        return Vectors(F.normalize(self.rows_NTD[..., :width], dim=-1) * self.mask_NT[..., None], self.mask_NT)


def maxsim(queries: Vectors, items: Vectors) -> torch.Tensor:
    """Scores of queries against items, (Q, N): over query rows the sum of the best item row's score; with one row each, the dot product.

    Scores of rows that would exceed a block are computed by blocks of items, and computed again in the backward pass.
    """
    if queries.rows_NTD.shape[1] == 1 and items.rows_NTD.shape[1] == 1:
        return queries.rows_NTD[:, 0] @ items.rows_NTD[:, 0].T
    of_an_item = len(queries) * queries.rows_NTD.shape[1] * items.rows_NTD.shape[1]
    size = max(1, BLOCK // max(1, of_an_item))
    if size >= len(items):
        return _summed(queries, items)
    blocks = [items[start : start + size] for start in range(0, len(items), size)]
    return torch.cat([checkpoint(_summed, queries, block, use_reentrant=False, preserve_rng_state=False) for block in blocks], 1)


def _summed(queries: Vectors, items: Vectors) -> torch.Tensor:
    scores_QSNT = torch.einsum("qsd,ntd->qsnt", queries.rows_NTD, items.rows_NTD)
    scores_QSNT = scores_QSNT.masked_fill(~items.mask_NT[None, None], float("-inf"))
    best_QSN = scores_QSNT.amax(-1)
    return best_QSN.masked_fill(~queries.mask_NT[:, :, None], 0.0).sum(1)
