"""The labels of a batch of pairs, which say what each query is contrasted with.

Shapes: B pairs, M documents: B positives, then the hard negatives of each pair in turn; H hashes of a document, R hashes of what is
known to answer a query.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch


@dataclass(frozen=True)
class Labels:
    """Labels of a batch of pairs: hard-negative counts, modalities, content hashes, a teacher's scores, known answers."""

    counts_B: torch.Tensor  # how many hard negatives each pair has
    codes_M: torch.Tensor  # modality codes of the documents
    keys_MH: torch.Tensor  # content hashes of the documents; one match makes it the same document: as stored, as augmented for this step
    scores_M: torch.Tensor  # a teacher's scores of the documents, NaN where there is none
    relevant_BR: torch.Tensor | None = None  # hashes of the known answers of each query; shorter rows repeat one of their own

    def to(self, device: torch.device) -> Self:
        return replace(self, **{name: tensor.to(device) for name, tensor in vars(self).items() if tensor is not None})
