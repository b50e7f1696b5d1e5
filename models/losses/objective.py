"""What a training minimises, in numbers that a run can set; `loss.py` computes it."""

import math
from dataclasses import dataclass, replace
from typing import Literal, Self

from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown


@dataclass(frozen=True)
class Objective:
    """A contrast of queries with documents, and the part that a teacher's scores have in it."""

    temperature: float | None = option(
        0.03, "of the softmax over similarities; null: the encoder's own, as a training that learnt it left it"
    )
    learned_temperature: bool = option(False, "the temperature learns too, from there on, as the logarithm of its inverse")
    temperature_floor: float = option(0.01, "lowest learned temperature; CLIP's")
    temperature_ceiling: float = option(0.5, "highest learned temperature; chosen here")
    modality_mask: bool = option(False, "contrast a positive only with documents of exactly its modality (MAMCL)")
    symmetric: bool = option(False, "contrast also documents with queries")
    in_batch: bool = option(True, "documents of the other pairs are negatives; false: a pair's own hard negatives alone (UniVL-DR)")
    margin: float | None = option(
        None, "what scores more than the positive and this is taken for an answer, and is no negative; null: nothing"
    )
    hardness: float = option(0.0, "a negative weighs exp(hardness x similarity), on average 1 in its row; 0: all weigh the same")
    widths: tuple[int, ...] = option((), "widths that vectors can be cut to: the loss is the mean over these and the whole (Matryoshka)")
    distillation: Literal["none", "kl", "margin_mse"] = option(
        "none", "what is learnt of a teacher's scores: their distribution (kl) or differences (margin_mse)"
    )
    distillation_weight: float = option(0.5, "share of the loss that this is, and the contrast the rest; chosen here")
    teacher_temperature: float = option(1.0, "the teacher's scores are divided by it")

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
                f"temperature is {self.temperature} and learns between temperature_floor {low} and temperature_ceiling {high}; "
                "give bounds that hold it"
            )
        if not 0 <= self.hardness < math.inf:
            raise Refused(f"hardness is {self.hardness}; give 0 or more")
        if self.margin is not None and not math.isfinite(self.margin):
            raise Refused(f"margin is {self.margin}; give a number, or null to take nothing for an answer")
        if not 0 <= self.distillation_weight <= 1:
            raise Refused(f"distillation_weight is {self.distillation_weight}; it is a share, give a number from 0 to 1")
        refuse_unknown(self)
        if len(set(self.widths)) < len(self.widths) or not all(width >= 1 for width in self.widths):
            raise Refused(f"widths is {self.widths}; give whole numbers from 1, each once")
        for name in ("modality_mask", "symmetric"):
            if getattr(self, name) and not self.in_batch:
                raise Refused(f"{name} is on and in_batch off, and it is of other pairs' documents and queries; give one of the two")

    def settled(self, temperature: float | None, width: int) -> Self:
        """The same for an encoder of that temperature and width, with nothing left open; refused where it does not fit."""
        if self.temperature is None and temperature is None:
            raise Refused("loss.temperature is null and the encoder has none of its own, as no training learnt it; give a number above 0")
        if too_wide := [given for given in self.widths if given >= width]:
            wide = ", ".join(map(str, too_wide))
            raise Refused(f"loss.widths has {wide}, and the encoder's vectors are {width} wide; give smaller ones")
        if self.temperature is not None:
            return self
        if self.learned_temperature:  # CLIP's own is at its bound, but for rounding
            temperature = min(max(temperature, self.temperature_floor), self.temperature_ceiling)
        return replace(self, temperature=temperature)
