"""The recipe that trains a published model on a corpus's own pairs, on a laptop or one GPU."""

from dataclasses import replace

from mirepoix.components.curation.curate_config import NearRules
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.losses.objective import Objective
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.recipes.published import BARE
from mirepoix.workflows.recipes.search import MODEL, OWN

TRAINING = TrainConfig(
    tuning=Tuning(towers=("text", "vision"), lora=Lora(rank=8, alpha=4, dropout=0.25)),
    global_batch_size=32,
    chunk_tokens=16384,  # all of a batch for a CLIP; a model with long sequences of pictures keeps within memory
    learning_rate=2e-4,
    max_steps=300,
    negatives=1,
    save_steps=50,
    cpus_per_worker=2,
    loss=Objective(temperature=None, learned_temperature=True, symmetric=True),
)
"""Low-rank adapters on both towers of a CLIP. Rate, batch, dropout, the adapters' scale of a half, and that both towers are trained, are
those of `run_utils.py` in MaxZanella/CLIP-LoRA; rank, steps and the temperature that goes on learning from CLIP's own are chosen here."""


def finetune() -> Retrieval:
    """A published model trained on your own pairs: CLIP ViT-B/32 through low-rank adapters, on a laptop's CPU or one GPU.

    mirepoix run finetune sources.path=DIR                        a folder with captions, or any corpus with pairs
    mirepoix run finetune sources.path=DIR backbone.name=MODEL    another CLIP, SigLIP or Chinese-CLIP, by folder or hub id
    mirepoix run finetune sources.path=DIR instruct.tuning.towers=text    pictures' vectors stay as they are, in less time

    Where a source has training rows only, a tenth of the queries is held out, and no picture or caption that is near-equal to one of these
    is trained on; the result has the model's scores on them before and after. A corpus with splits of its own needs curate.held_out=0.
    `mirepoix init DIR` estimates what the 300 steps of 32 pairs take on your machine. Similar pictures all stay, as in `search`.
    """
    return Retrieval(
        curate=replace(OWN, near=NearRules(), leakage="all", held_out=0.1),
        pairs=replace(BARE, adapt_tasks=None),
        backbone=MODEL,
        adapt=None,
        instruct=TRAINING,
        embed=EmbedConfig(batch_size=16, threads=4, shard_rows=256),
        deploy=ServeConfig(port=0),
    )
