"""The contrastive loss over the global batch: every rank scores its own queries against the documents of all ranks.

Start at `contrastive`. The parts, in the order in which they are used:

- `labels.py`          what is given with a batch: modalities, content hashes, known answers, a teacher's scores
- `pool.py`            the documents of all ranks, gathered
- `dense.py`           the contrast of a small batch: all scores at once
- `tiled.py`           the contrast of a large batch: scores by tiles, so that memory grows with the batch and not with its square
- `own_documents.py`   the contrast without other pairs, and distillation: each query with its own documents alone
- `figures.py`         what a training is watched by

Shapes: B pairs of this rank, M documents of this rank: B positives, then the hard negatives of each pair in turn.

Means are taken over all ranks: the sum of this rank, divided by the count over all ranks, times the number of ranks. So the loss and its
gradients, averaged over the ranks, are those of one process with the whole batch, however unevenly pairs and negatives are spread.
"""

import torch

from mirepoix.models.losses.dense import dense_contrast
from mirepoix.models.losses.figures import COUNTS, FIGURES, Contrast, contrast_of
from mirepoix.models.losses.labels import Labels
from mirepoix.models.losses.objective import Objective
from mirepoix.models.losses.own_documents import OwnDocuments, distillation, own_contrast
from mirepoix.models.losses.pool import Pool, Sizes
from mirepoix.models.losses.tiled import tiled_contrast
from mirepoix.models.vectors import Vectors

__all__ = ["COUNTS", "FIGURES", "Contrast", "Labels", "contrastive"]

DENSE = 2**17
"""Most scores of rows with rows, over all ranks, that are computed at once: those of 362 pairs with one vector an item.

Measured forward and backward in seconds of a CPU core, interleaved, with one vector of width 256 and 1024 and with 4 x 4 to 32 x 128 rows
of width 128: up to half of it tiles take 0.7 to 3.4 times as long, by some milliseconds; at twice of it 0.4 to 1.4 times, at eight times
of it 0.2 to 1.3 times, the higher numbers where no modality is masked.
"""


def contrastive(queries: Vectors, documents: Vectors, labels: Labels, objective: Objective, scale: torch.Tensor | float) -> Contrast:
    """The loss of B queries with M documents, and its figures; `scale` is one over the temperature.

    InfoNCE, from query to document or in both directions. The modality mask (MAMCL) keeps only the negatives whose modality is exactly that
    of the query's positive; as in the paper this holds for in-batch and hard negatives alike (UNITE's code leaves hard ones unmasked on a
    path that its trainer cannot reach). Known answers of a query, and documents that score above its positive by more than the margin,
    are masked in both directions. From document to query only positives are contrasted, as hard negatives have no query of their own.
    With `widths`, the loss is the mean over all widths; the full vectors decide which negatives are masked (chosen here).
    """
    sizes = Sizes.of(queries, documents, labels)
    pairs, own = sum(sizes.pairs), OwnDocuments.of(queries, documents, labels)
    if not objective.in_batch:
        loss, rows = own_contrast(own, labels, objective, scale, pairs)
    else:
        in_batch_contrast = dense_contrast if sizes.scores <= DENSE else tiled_contrast
        loss, rows = in_batch_contrast(queries, documents, Pool.gathered(documents, labels, sizes), labels, objective, scale)
    without_teacher = torch.zeros_like(rows.count_B.sum())
    if objective.distillation != "none":
        distilled, without_teacher = distillation(own, labels, objective, scale)
        loss = torch.lerp(loss, distilled, objective.distillation_weight)
    return contrast_of(loss, rows, labels.codes_M[: len(queries)], pairs, without_teacher, scale)
