"""The DAG of a public benchmark: a retriever is measured as its board says, and no release is made.

sources -> curate -> [captions] -> check, floors, pairs, backbone -> [trainings] -> embed -> index -> evaluate
"""

from dataclasses import dataclass, replace

from mirepoix.components.corpus.captions_config import CaptionsConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.dag.stages import CURATING, make_stage
from mirepoix.workflows.runner.graph import Stage

CAPTIONS = "captions"
LEFT_OUT = ("release", "deploy")


@dataclass(frozen=True)
class Benchmark(Retrieval):
    """The config of a retriever that is measured on a benchmark."""

    captions: CaptionsConfig | None = option(None, "shares of pictures that lose their captions, as data sets of their own; null: none")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.captions is not None and self.trainings:
            name = next(iter(self.trainings))
            raise Refused(
                f"captions are removed for measuring alone, and {name} is a training; give {name}=null, or captions=null to train"
            )

    @property
    def served(self) -> str | None:
        return None

    def stages(self) -> list[Stage]:
        """The stages of the config, in an order in which they could run."""
        stages = [stage for stage in super().stages() if stage.name not in LEFT_OUT]
        if self.captions is None:
            return stages
        place = next(place for place, stage in enumerate(stages) if stage.name == "curate") + 1
        removed = make_stage(CAPTIONS, "corpus.captions:work", self.captions, {"curate": "curate"}, CURATING)
        later = [
            replace(stage, inputs={name: CAPTIONS if of == "curate" else of for name, of in stage.inputs.items()})
            for stage in stages[place:]
        ]
        return [*stages[:place], replace(removed, seed=self.seed, requires=()), *later]
