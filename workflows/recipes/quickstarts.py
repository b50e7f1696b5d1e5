"""Recipes of tiny random twins over the generated world: every retriever from nothing to a search endpoint on two CPU cores.

No weight of a twin is pretrained, so a tower that a paper freezes in its first stage is trained in the first stage here; only MIRe's vision
stays as it was drawn at random. Sizes, steps and rates are chosen for these twins; their results do not predict those of published models.
"""

from dataclasses import fields, replace
from typing import Any

from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.pairs.mine_config import MineConfig
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.components.synthetic.world_config import WorldConfig
from mirepoix.components.training.backbone_config import BackboneConfig
from mirepoix.components.training.batches.augment_config import AugmentConfig
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.backbones.tuning_config import Tuning
from mirepoix.models.losses.objective import Objective
from mirepoix.models.retrievers.jfe_config import JfeConfig
from mirepoix.models.retrievers.marvel_config import MarvelConfig, MarvelTuning
from mirepoix.models.retrievers.mimic_config import MimicConfig, MimicTuning
from mirepoix.models.retrievers.mire_config import MireConfig, MireTuning
from mirepoix.models.retrievers.univldr_config import UniVLDRConfig
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.workflows.dag.comparison import Arm, Comparison
from mirepoix.workflows.dag.retrieval import Retrieval

TRAINING = TrainConfig(
    global_batch_size=72,
    learning_rate=1.1e-3,
    warmup_steps=20,
    weight_decay=0.01,
    loss=Objective(temperature=0.05),
    save_steps=40,
    cpus_per_worker=2,
)
WORLD: dict[str, Any] = {
    "sources": SourcesConfig(world=WorldConfig(entities=800, train_queries=1500)),
    # The first training is on all tasks, across modalities.
    "pairs": PairsConfig(adapt_tasks=(), adapt_instructions=True),
    "evaluate": EvaluateConfig(split="test_combination", pool="target"),
    "deploy": ServeConfig(port=0),
}
HARD = MineConfig(negatives=2, last=50, balanced=True)


def quickstart() -> Retrieval:
    """UNITE on a tiny random Qwen2-VL over the generated world, from nothing to a searched endpoint.

    mirepoix run quickstart         two CPU cores, some minutes
    """
    return Retrieval(**WORLD, **_unite().method_fields)


def quickstart_all() -> Comparison:
    """All six retrievers as tiny random twins, trained on one curated corpus of the generated world, in one table.

    mirepoix run quickstart_all                      two CPU cores, one arm after the other, within 40 minutes
    mirepoix run quickstart_all only=unite,mire      these two
    mirepoix demo quickstart_all serve=mimic         and its release searched at the end

    UNITE is trained as in `quickstart`, whose results are used if they are up to date; the others are trained for fewer steps, and the
    table gives the time of each. Every arm reads the same pairs with the same instructions; what differs is in the function of the arm.
    """
    arms = {"unite": _unite(), "jfe": _jfe(), "mimic": _mimic(), "mire": _mire(), "marvel": _marvel(), "univldr": _univldr()}
    return Comparison(**WORLD, arms=arms)


def quickstart_fusion() -> Comparison:
    """JFE and its control as tiny random twins: the same towers, data and trainings, with fusion from the first layer or at the end.

    mirepoix run quickstart_fusion                   two CPU cores, one arm after the other
    """
    late = replace(_jfe(), backbone=BackboneConfig(encoder=JfeConfig(fusion="late")))
    return Comparison(**WORLD, arms={"jfe": _jfe(), "jfe_late": late})


def _trained(steps: int, tuning: Tuning, **changed: Any) -> TrainConfig:
    """A training of so many steps; named fields of Objective are changed in its loss, all others in the training."""
    objective = {name: changed.pop(name) for name in list(changed) if name in {field.name for field in fields(Objective)}}
    return replace(TRAINING, max_steps=steps, tuning=tuning, loss=replace(TRAINING.loss, **objective), **changed)


def _unite() -> Arm:
    """Adaptation across modalities, then MAMCL at a lower rate."""
    whole = Tuning(towers=("language", "vision"), lora=None)
    return Arm(
        adapt=_trained(520, whole, symmetric=True),
        instruct=_trained(120, whole, learning_rate=2e-4, modality_mask=True),
    )


def _jfe() -> Arm:
    """Adaptation, then instruction tuning, both without the modality mask."""
    whole = Tuning(towers=("language", "vision"), lora=None)
    return Arm(
        backbone=BackboneConfig(encoder=JfeConfig()),
        adapt=_trained(STEPS["jfe"][0], whole, symmetric=True),
        instruct=_trained(STEPS["jfe"][1], whole, learning_rate=2e-4),
    )


def _mimic() -> Arm:
    """Mix-in and caption dropout in a first round, then a round with mined negatives."""
    robust, without = MimicTuning(), AugmentConfig(document_captions=0.1)
    return Arm(
        backbone=BackboneConfig(encoder=MimicConfig()),
        adapt=None,
        instruct=_trained(STEPS["mimic"][0], robust, augment=without, symmetric=True),
        mine_refine=HARD,
        refine=_trained(STEPS["mimic"][1], robust, augment=without, learning_rate=2e-4, global_batch_size=32),
    )


def _mire() -> Arm:
    """The text encoder is trained first, as a published one would be; then the pooling alone, without text in the score; then both.

    The guide is a shorter one than the published, and search has as few rows as training.
    """
    sizes: dict[str, Any] = {"width": 64, "heads": 4, "global_tokens": 4, "global_hidden": 128, "patch_hidden": 256, "document_length": 96}
    late = {"weight_decay": 0.0, "lr_scheduler_type": "constant"}
    return Arm(
        backbone=BackboneConfig(encoder=MireConfig(**sizes, document_guide="What does the picture show?", punctuation_rows=False)),
        adapt=_trained(STEPS["mire"][0], MireTuning(query_padding="none"), temperature=0.3),
        instruct=_trained(STEPS["mire"][1], MireTuning(towers=("pooling",), text_rows=False), temperature=0.3, **late),
        refine=_trained(STEPS["mire"][2], MireTuning(), temperature=0.8, learning_rate=5e-4),
    )


def _marvel() -> Arm:
    """All weights are trained in step 1; CLIP is frozen in steps 2 (in-batch) and 3 (one mined picture and one mined text)."""
    learned = {"temperature": 0.07, "learned_temperature": True}
    return Arm(
        backbone=BackboneConfig(encoder=MarvelConfig()),
        adapt=_trained(STEPS["marvel"][0], MarvelTuning(towers=("text", "vision", "projector")), symmetric=True, **learned),
        instruct=_trained(STEPS["marvel"][1], MarvelTuning(), learning_rate=4e-4, **learned | {"temperature": None}),
        mine_refine=HARD,
        refine=_trained(STEPS["marvel"][2], MarvelTuning(), learning_rate=2e-4, global_batch_size=32, **learned | {"temperature": None}),
    )


def _univldr() -> Arm:
    """In-batch negatives, then the softmax over the positive and two mined negatives."""
    whole, learned = Tuning(towers=("text", "vision"), lora=None), {"temperature": None, "learned_temperature": True}
    return Arm(
        backbone=BackboneConfig(encoder=UniVLDRConfig()),
        adapt=None,
        instruct=_trained(STEPS["univldr"][0], whole, **learned),
        mine_refine=HARD,
        refine=_trained(STEPS["univldr"][1], whole, in_batch=False, learning_rate=1e-4, global_batch_size=32, **learned),
    )


STEPS = {"jfe": (380, 80), "mimic": (400, 80), "mire": (300, 180, 200), "marvel": (300, 50, 60), "univldr": (640, 120)}
"""Steps of each arm's trainings, chosen so that no arm takes longer than UNITE."""
