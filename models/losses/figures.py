"""The loss with the figures that a training is watched by.

Figures are averaged over the ranks or summed over them; those that are averaged are, as the loss, the sum of this rank, divided by the
count over all ranks, times the number of ranks. So they are right however unevenly rows and negatives are spread.

Shapes: B pairs of this rank, N documents that they are scored against, C codes of modalities.
"""

from dataclasses import dataclass, fields

import torch

from mirepoix.models.item import Modality
from mirepoix.models.losses.collectives import rank_and_world, total

CODES = 1 + sum(Modality)


@dataclass(frozen=True)
class Contrast:
    """The loss of this rank, and detached figures to monitor it by, all at full vector width."""

    loss: torch.Tensor
    accuracy: torch.Tensor  # share of the rows with negatives whose positive scores above all of them
    positive_similarity: torch.Tensor
    negative_similarity: torch.Tensor  # mean over the unmasked negatives
    effective_negatives: torch.Tensor  # unmasked negatives per row
    share_masked: torch.Tensor  # share that masks leave out of the documents a row could be contrasted with; 0 for a row with none
    masked_by_margin: torch.Tensor  # documents per row that the margin masks as likely answers
    temperature: torch.Tensor
    rows_without_negatives: torch.Tensor  # rows of this rank without an unmasked negative
    rows_without_teacher: torch.Tensor  # rows of this rank that distillation leaves out
    modalities_C2: torch.Tensor  # by the positive's modality code: the rows of this rank, and those of them without an unmasked negative


FIGURES = tuple(figure.name for figure in fields(Contrast) if figure.name != "modalities_C2")
COUNTS = tuple(name for name in FIGURES if name.startswith("rows_"))
"""The figures that are summed over the ranks; the others are averaged. `modalities_C2` is summed too."""


@dataclass(frozen=True)
class RowStatistics:
    """Each query's scores of its positive and of its unmasked negatives, detached."""

    positive_B: torch.Tensor
    hardest_B: torch.Tensor  # highest score of a negative; -inf where there is none
    similarity_B: torch.Tensor  # sum of the negatives' scores
    count_B: torch.Tensor  # of negatives
    likely_B: torch.Tensor  # count of documents that the margin leaves out
    candidates_B: torch.Tensor  # count of the documents that would be negatives without any mask

    @classmethod
    def of(
        cls, scores_BN: torch.Tensor, negative_BN: torch.Tensor, likely_BN: torch.Tensor, place_B: torch.Tensor, candidates_B: torch.Tensor
    ) -> "RowStatistics":
        """Of whole rows of scores; `place_B` has the position of the positive in each."""
        scores_BN = scores_BN.detach()
        return cls(
            scores_BN.gather(1, place_B[:, None])[:, 0],
            scores_BN.masked_fill(~negative_BN, float("-inf")).amax(1),
            scores_BN.masked_fill(~negative_BN, 0.0).sum(1),
            negative_BN.sum(1),
            likely_BN.sum(1),
            candidates_B,
        )


def contrast_of(
    loss: torch.Tensor,
    rows: RowStatistics,
    codes_B: torch.Tensor,
    pairs: int,
    rows_without_teacher: torch.Tensor,
    scale: torch.Tensor | float,
) -> Contrast:
    """The loss with its figures; `codes_B` are the modality codes of the positives, `pairs` is the number of pairs of all ranks."""
    contrasted_B = rows.count_B > 0
    share = rank_and_world()[1] / pairs
    whole = total(torch.stack([contrasted_B.sum(), rows.count_B.sum()])).clamp(min=1) / rank_and_world()[1]
    kept_B = rows.count_B / rows.candidates_B.clamp(min=1)
    return Contrast(
        loss=loss,
        accuracy=((rows.positive_B > rows.hardest_B) & contrasted_B).sum() / whole[0],
        positive_similarity=rows.positive_B.sum() * share,
        negative_similarity=rows.similarity_B.sum() / whole[1],
        effective_negatives=rows.count_B.sum() * share,
        share_masked=(1 - kept_B).masked_fill(rows.candidates_B == 0, 0.0).sum() * share,
        masked_by_margin=rows.likely_B.sum() * share,
        temperature=1 / torch.as_tensor(scale, device=rows.positive_B.device).detach(),
        rows_without_negatives=(~contrasted_B).sum(),
        rows_without_teacher=rows_without_teacher,
        modalities_C2=torch.stack([torch.bincount(codes, minlength=CODES) for codes in (codes_B, codes_B[~contrasted_B])], 1),
    )
