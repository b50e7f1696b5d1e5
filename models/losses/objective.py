"""The settings of the loss that a training minimises; `contrastive.py` computes it."""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown


@dataclass(frozen=True)
class Objective:
    """The contrastive loss of queries with documents, and the distillation of a teacher's scores that may be added to it."""

    temperature: float | None = option(
        0.03, "temperature of the softmax over similarities; null: the one learned with the encoder, or that its CLIP was trained with"
    )
    learned_temperature: bool = option(False, "train the temperature too, starting there, as the logarithm of its inverse")
    temperature_floor: float = option(0.01, "lowest learned temperature; that of CLIP's own training")
    temperature_ceiling: float = option(0.5, "highest learned temperature; chosen here")
    modality_mask: bool = option(False, "negatives are only documents of exactly the positive's modality (MAMCL)")
    symmetric: bool = option(False, "add the loss from document to query")
    in_batch: bool = option(True, "documents of other pairs are negatives too; false: only a pair's own hard negatives (UniVL-DR)")
    margin: float | None = option(
        None, "a document that scores above the positive by more than this likely answers too and is no negative; null: all are negatives"
    )
    hardness: float = option(0.0, "negatives have the weight exp(hardness x similarity), with mean 1 in a row; 0: equal weights")
    widths: tuple[int, ...] = option((), "widths to train for truncation: the loss is the mean over these and the full width (Matryoshka)")
    distillation: Literal["none", "kl", "margin_mse"] = option(
        "none", "how a teacher's scores are distilled: by their distribution (kl) or their differences (margin_mse)"
    )
    distillation_weight: float = option(0.5, "share of distillation in the loss, the rest is the contrastive loss; chosen here")
    teacher_temperature: float = option(1.0, "the teacher's scores are divided by this")

    def __post_init__(self) -> None:
        for name in ("temperature", "temperature_floor", "temperature_ceiling", "teacher_temperature"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise Refused(f"{name} is {value}; give a number above 0")
        low, high = self.temperature_floor, self.temperature_ceiling
        if self.learned_temperature and low > high:
            raise Refused(f"temperature_floor is {low} and temperature_ceiling {high}; give a floor not above the ceiling")
        if self.learned_temperature and self.temperature is not None and not low <= self.temperature <= high:
            raise Refused(
                f"temperature is {self.temperature} and is learned between temperature_floor {low} and temperature_ceiling {high}; "
                "give bounds that hold it"
            )
        if not 0 <= self.hardness < math.inf:
            raise Refused(f"hardness is {self.hardness}; give 0 or more")
        if self.margin is not None and not math.isfinite(self.margin):
            raise Refused(f"margin is {self.margin}; give a number, or null for no margin")
        if not 0 <= self.distillation_weight <= 1:
            raise Refused(f"distillation_weight is {self.distillation_weight}; it is a share, give a number from 0 to 1")
        refuse_unknown(self)
        if len(set(self.widths)) < len(self.widths) or not all(width >= 1 for width in self.widths):
            raise Refused(f"widths is {self.widths}; give whole numbers from 1, each once")
        for name in ("modality_mask", "symmetric"):
            if getattr(self, name) and not self.in_batch:
                raise Refused(
                    f"{name} is on and in_batch is off, but it applies to documents and queries of other pairs; give one of the two"
                )

    def resolved(self, temperature: float | None, width: int) -> Self:
        """The objective with its temperature resolved for an encoder of that temperature and width; refused where it does not fit."""
        if self.temperature is None and temperature is None:
            raise Refused(
                "loss.temperature is null and the encoder has none: none was learned with it, and its checkpoint brings none; "
                "give a number above 0"
            )
        if too_wide := [given for given in self.widths if given >= width]:
            wide = ", ".join(map(str, too_wide))
            raise Refused(f"loss.widths has {wide}, and the encoder's vectors are {width} wide; give smaller ones")
        if self.temperature is not None:
            return self
        if self.learned_temperature and temperature is not None:  # a checkpoint's may be beyond them: CLIP's by rounding, others' by more
            temperature = min(max(temperature, self.temperature_floor), self.temperature_ceiling)
        return replace(self, temperature=temperature)
