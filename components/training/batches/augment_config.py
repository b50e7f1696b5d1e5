"""The rates of the augmentations."""

from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option


@dataclass(frozen=True)
class AugmentConfig:
    """Rates at which parts of training pairs are removed; drawn anew in each epoch."""

    document_captions: float = option(0.0, "share of the documents with text beside a picture or clip from which the text is removed")
    query_captions: float = option(
        0.0,
        "share of the queries with text beside a picture or clip from which the text is removed; for corpora where that text is a caption "
        "and not the question; two queries with the same picture are then equal, but the answers of one stay negatives of the other",
    )
    single_modality: float = option(
        0.0, "share of the items of several modalities, queries and documents, that are reduced to one of these, drawn uniformly"
    )

    def __post_init__(self) -> None:
        for name in ("document_captions", "query_captions", "single_modality"):
            if not 0 <= getattr(self, name) <= 1:
                raise Refused(f"{name} is {getattr(self, name)}; it is a share, give a number from 0 to 1")
