"""Runs of tiny random twins over the generated world: the whole life of each retriever on two CPU cores.

Nothing in a twin is pretrained, so what a paper takes from published towers has to be learnt here first: where its first stage freezes a
tower, the twin's first stage trains it, but for MIRe's vision, which stays as it was drawn. Sizes, steps and rates are chosen for these
twins and say nothing of the published models.
"""

from dataclasses import fields, replace
from typing import Any

from mirepoix.components.evaluation.evaluate import EvaluateConfig
from mirepoix.components.ingestion.sources import SourcesConfig
from mirepoix.components.pairs.hard_negatives import MineConfig
from mirepoix.components.pairs.pairs import PairsConfig
from mirepoix.components.synthetic.world import WorldConfig
from mirepoix.components.training.augment import AugmentConfig
from mirepoix.components.training.backbone import BackboneConfig
from mirepoix.components.training.job import TrainConfig
from mirepoix.models.backbones.tuning import Tuning
from mirepoix.models.losses.objective import Objective
from mirepoix.models.retrievers.jfe import JfeConfig
from mirepoix.models.retrievers.marvel import MarvelConfig, MarvelTuning
from mirepoix.models.retrievers.mimic import MimicConfig, MimicTuning
from mirepoix.models.retrievers.mire import MireConfig, MireTuning
from mirepoix.models.retrievers.univldr import UniVLDRConfig
from mirepoix.serving.app import ServeConfig
from mirepoix.workflows.dag.comparison import Arm, Comparison
from mirepoix.workflows.dag.retrieval import Retrieval

TRAINING = TrainConfig(
    per_device_train_batch_size=72,
    learning_rate=1.1e-3,
    warmup_steps=20,
    weight_decay=0.01,
    loss=Objective(temperature=0.05),
    save_steps=40,
    cpus_per_worker=2,
)
WORLD: dict[str, Any] = {
    "sources": SourcesConfig(world=WorldConfig(entities=800, train_queries=1500)),
    # The first training teaches everything at once, across modalities; what comes after it sharpens.
    "pairs": PairsConfig(adapt_tasks=(), adapt_instructions=True),
    "evaluate": EvaluateConfig(split="test_combination", pool="target"),
    "deploy": ServeConfig(port=0),
}
HARD = MineConfig(negatives=2, last=50, balanced=True)


def quickstart() -> Retrieval:
    """UNITE on a tiny random Qwen2-VL over the generated world, from nothing to a searched endpoint.

    mirepoix run quickstart         two CPU cores, some minutes
    """
    return Retrieval(**WORLD, **_unite().method)


def quickstart_all() -> Comparison:
    """All six retrievers as tiny random twins, trained on one curated corpus of the generated world, in one table.

    mirepoix run quickstart_all                      two CPU cores, one arm after the other, within 40 minutes
    mirepoix run quickstart_all only=unite,mire      these two
    mirepoix demo quickstart_all serve=mimic         and its release searched at the end

    UNITE is trained as in `quickstart` (whose results it takes, if they stand), the others more shortly: the table says how long each was.
    Every arm reads the same pairs with the same instructions; what differs is in its own function.
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
    """A training of so many steps; of Objective's fields, those that are named change in it."""
    objective = {name: changed.pop(name) for name in list(changed) if name in {field.name for field in fields(Objective)}}
    return replace(TRAINING, max_steps=steps, tuning=tuning, loss=replace(TRAINING.loss, **objective), **changed)


def _unite() -> Arm:
    """Adaptation across modalities, then MAMCL, gently."""
    whole = Tuning(towers=("language", "vision"), lora=None)
    return Arm(
        adapt=_trained(520, whole, symmetric=True),
        instruct=_trained(120, whole, learning_rate=2e-4, modality_mask=True),
    )


def _jfe() -> Arm:
    """Adaptation, then instruction tuning, both without a mask."""
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
        refine=_trained(STEPS["mimic"][1], robust, augment=without, learning_rate=2e-4, per_device_train_batch_size=32),
    )


def _mire() -> Arm:
    """The text encoder learns what a published one knows, then pooling is aligned to it, text out of the score, then both are tuned."""
    late = {"weight_decay": 0.0, "lr_scheduler_type": "constant"}
    return Arm(
        backbone=BackboneConfig(
            encoder=MireConfig(width=64, heads=4, global_tokens=4, global_hidden=128, patch_hidden=256, document_length=96)
        ),
        adapt=_trained(STEPS["mire"][0], MireTuning(query_padding="none"), temperature=0.3),
        instruct=_trained(STEPS["mire"][1], MireTuning(towers=("pooling",), text_rows=False), temperature=0.3, **late),
        refine=_trained(STEPS["mire"][2], MireTuning(), temperature=0.8, learning_rate=5e-4),
    )


def _marvel() -> Arm:
    """All learns in step 1; CLIP is frozen in steps 2 (in-batch) and 3 (one mined picture and one mined text)."""
    learned = {"temperature": 0.07, "learned_temperature": True}
    return Arm(
        backbone=BackboneConfig(encoder=MarvelConfig()),
        adapt=_trained(STEPS["marvel"][0], MarvelTuning(towers=("text", "vision", "projector")), symmetric=True, **learned),
        instruct=_trained(STEPS["marvel"][1], MarvelTuning(), learning_rate=4e-4, **learned | {"temperature": None}),
        mine_refine=HARD,
        refine=_trained(
            STEPS["marvel"][2], MarvelTuning(), learning_rate=2e-4, per_device_train_batch_size=32, **learned | {"temperature": None}
        ),
    )


def _univldr() -> Arm:
    """In-batch negatives, then the three-way softmax over mined ones."""
    whole, learned = Tuning(towers=("text", "vision"), lora=None), {"temperature": None, "learned_temperature": True}
    return Arm(
        backbone=BackboneConfig(encoder=UniVLDRConfig()),
        adapt=None,
        instruct=_trained(STEPS["univldr"][0], whole, **learned),
        mine_refine=HARD,
        refine=_trained(STEPS["univldr"][1], whole, in_batch=False, learning_rate=1e-4, per_device_train_batch_size=32, **learned),
    )


STEPS = {"jfe": (380, 80), "mimic": (400, 80), "mire": (300, 180, 200), "marvel": (300, 50, 60), "univldr": (640, 120)}
"""Steps of each arm's trainings in turn: so many that none takes longer than UNITE's."""
