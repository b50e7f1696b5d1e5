"""InfoNCE of rows of scores: the cross-entropy of each row's positive against its unmasked negatives.

Shapes: B rows, N scores of a row.
"""

import torch
import torch.nn.functional as F

ROUNDING = 16
"""Units in the last place of 1, or of a larger score, by which two sums of the same score may differ.

Measured: up to 5, between matrix products and sums of products in float32 of widths from 16 to 4096.
"""


def likely_answers(scores_BN: torch.Tensor, positive_B: torch.Tensor, margin: float | None) -> torch.Tensor:
    """True where a document scores above a query's positive by more than the margin: it likely answers the query as well."""
    if margin is None:
        return torch.zeros_like(scores_BN, dtype=torch.bool)
    return scores_BN.detach() > margin_limit(positive_B, margin)[:, None]


def margin_limit(positive_B: torch.Tensor, margin: float) -> torch.Tensor:
    """The score above which a document likely answers a query: that of its positive and the margin, and what rounding may make of it.

    Without the last, at a margin of 0, a copy of the positive would be above it or not by how either's score is summed: within a large
    matrix product or a small one, or alone.
    """
    positive_B = positive_B.detach()
    return positive_B + margin + ROUNDING * torch.finfo(positive_B.dtype).eps * positive_B.abs().clamp(min=1)


def cross_entropy(
    scores_BN: torch.Tensor, negative_BN: torch.Tensor, place_B: torch.Tensor, scale: torch.Tensor | float, hardness: float
) -> torch.Tensor:
    """The sum over the rows; 0 for a row without negatives. `place_B` has the position of each row's positive.

    `hardness` is the beta of Robinson et al. (Contrastive Learning with Hard Negative Samples, 2021) without their debiasing: a negative
    has the weight exp(hardness x similarity), normalised to a mean of 1 in its row. Chosen here: the weights are of the similarity before
    it is scaled, so that a learned temperature does not change them, and carry no gradient.
    """
    logits_BN = scores_BN * scale
    if hardness:
        log_weight_BN = hardness * scores_BN.detach()
        log_mean_B1 = (
            log_weight_BN.masked_fill(~negative_BN, float("-inf")).logsumexp(1, keepdim=True)
            - negative_BN.sum(1, keepdim=True).to(log_weight_BN.dtype).log()
        )
        logits_BN = logits_BN + torch.where(negative_BN, log_weight_BN - log_mean_B1, 0.0)
    kept_BN = negative_BN.scatter(1, place_B[:, None], True)
    return F.cross_entropy(logits_BN.masked_fill(~kept_BN, float("-inf")), place_B, reduction="sum")
