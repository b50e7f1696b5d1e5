"""The position of a training, which every checkpoint contains, and the sums of its figures since the last report."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mirepoix.components.training.step import Step
from mirepoix.components.training.workers.layout import PROGRESS
from mirepoix.models.losses.contrastive import COUNTS
from mirepoix.models.token_batches import Padding

SUMMED = ("tokens", "places", "pictures", "chunks")


@dataclass
class Progress:
    """The position of a training, which every checkpoint contains."""

    step: int = 0
    world: int = 0
    batch: int = 0
    metrics: dict[str, float] | None = None  # the result, once training has finished
    window: dict[str, float] = field(default_factory=dict)  # sums since the last report
    seen: dict[str, float] = field(default_factory=dict)  # sums since notes were last looked for
    noted: dict[str, int] = field(default_factory=dict)  # by the kind of a note, the step at which it last held
    notes: list[dict[str, Any]] = field(default_factory=list)  # all that was said, as rows of a table
    counts: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*COUNTS, "steps_without_loss"), 0.0))

    @classmethod
    def read(cls, folder: Path) -> "Progress":
        return cls(**json.loads((folder / PROGRESS).read_text()))

    def write(self, folder: Path) -> None:
        (folder / PROGRESS).write_text(json.dumps(asdict(self)))

    def add(self, taken: Step, learning_rate: float) -> None:
        figures = {**taken.figures, "learning_rate": learning_rate, "steps": 1.0}
        for name, value in (figures | {name: float(getattr(taken, name)) for name in SUMMED}).items():
            self.window[name] = self.window.get(name, 0.0) + value
        sums = {name: taken.figures[name] for name in ("loss", "accuracy", "effective_negatives")} | {"steps": 1.0}
        for modality, (pairs, bare) in taken.modalities.items():
            sums |= {f"pairs: {modality}": float(pairs), f"bare: {modality}": float(bare)}
        self.seen = {name: self.seen.get(name, 0.0) + sums.get(name, 0.0) for name in self.seen | sums}
        for name in COUNTS:
            self.counts[name] += taken.figures[name]
        self.counts["steps_without_loss"] += taken.figures["loss"] == 0

    def report(self) -> dict[str, float]:
        """Means since the last report, and the share of padding among the tokens."""
        window, self.window = self.window, {}
        steps, tokens, places, _ = (window.pop(name) for name in ("steps", "tokens", "places", "pictures"))
        return {name: value / steps for name, value in window.items()} | {"padding": Padding(int(tokens), int(places)).share}
