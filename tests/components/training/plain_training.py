"""Reference training in one process of plain torch, which the training loop is compared with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mirepoix.components.pairs.store import PairStore
from mirepoix.components.training.batches.augment import augmented
from mirepoix.components.training.batches.batch_plan import BatchPlan
from mirepoix.components.training.job import TrainingJob
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from mirepoix.models.losses.contrastive import Labels, contrastive
from mirepoix.models.losses.temperature import LearnedTemperature
from mirepoix.models.vectors import Vectors
from tests.keys import filled


def plain(job: TrainingJob, folder: Path | None = None) -> list[dict[str, Any]]:
    """The rows of the same training without dropout; the first row also has the gradients before clipping.

    The encoder is saved to the folder, if one is given.
    """
    config = job.config
    torch.manual_seed(int(np.random.SeedSequence(job.seed).generate_state(1)[0]))  # adapters are initialised at random
    encoder = load_encoder(job.encoder).tune(config.tuning)
    temperature = LearnedTemperature(config.loss) if config.loss.learned_temperature else None
    module = torch.nn.ModuleDict({"encoder": encoder} | ({} if temperature is None else {"temperature": temperature}))
    learning = [p for p in module.parameters() if p.requires_grad]
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    decayed = [p for name, p in named if p.ndim > 1 and "relative_attention_bias" not in name]
    others = [p for name, p in named if p.ndim == 1 or "relative_attention_bias" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}], lr=config.learning_rate
    )
    store = PairStore(job.pairs)
    plan = BatchPlan(store, config.global_batch_size, job.seed, config.homogeneous, config.homogeneous_by)
    everything = store.pairs(range(len(store)))
    rows = []
    for step in range(job.total):
        # ZeRO's gradients of unused parameters are zeros, not None, so AdamW's momentum still decays.
        optimizer.zero_grad(set_to_none=step == 0)
        losses, temperatures = [], []
        for micro in range(config.gradient_accumulation_steps):
            number = step * config.gradient_accumulation_steps + micro
            batch = plan.batch(number)
            seeds = [(*job.seed, number // plan.per_epoch, row) for row in batch]
            drawn = store.drawn(batch)
            whole = [entry.pair for entry in drawn]
            pairs = [augmented(pair, config.augment, seed) for pair, seed in zip(whole, seeds, strict=True)]
            documents = [pair.positive for pair in pairs] + [item for pair in pairs for item in pair.negatives]
            rows_NTD, mask_NT = encoder(**encoder.training_collator([pair.query for pair in pairs], documents))
            vectors = Vectors(rows_NTD, mask_NT)
            originals = [p.positive for p in whole] + [item for p in whole for item in p.negatives]
            asked = [(_content(p.query), p.task) for p in whole]
            known = [{_content(o.positive) for o in everything if (_content(o.query), o.task) == query} for query in asked]
            known = [answers | {_content(pair.positive)} for answers, pair in zip(known, pairs, strict=True)]
            labels = Labels(
                counts_B=torch.tensor([len(pair.negatives) for pair in pairs]),
                codes_M=torch.tensor([int(item.modality) for item in documents]),
                keys_MH=torch.tensor([[_content(item) for item in each] for each in zip(originals, documents, strict=True)]),
                scores_M=torch.tensor([entry.scores[0] for entry in drawn] + [score for entry in drawn for score in entry.scores[1:]]),
                relevant_BR=filled(known) if config.mask_relevant else None,
            )
            scale = 1 / config.loss.temperature if temperature is None else temperature()
            contrast = contrastive(vectors[: len(pairs)], vectors[len(pairs) :], labels, config.loss, scale)
            (contrast.loss / config.gradient_accumulation_steps).backward()
            losses.append(contrast.loss.item())
            temperatures.append(contrast.temperature.item())
        gradients = {} if step else {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
        norm = torch.nn.utils.clip_grad_norm_(learning, config.max_grad_norm)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * job.factor(step)
        optimizer.step()
        means = {"loss": np.mean(losses), "temperature": np.mean(temperatures)}
        rows.append({**means, "grad_norm": float(norm), "learning_rate": optimizer.param_groups[0]["lr"], "gradients": gradients})
    if folder is not None:
        encoder.save(folder)
    return rows


def _content(item: Item) -> int:
    return hash((item.text, item.images, item.video))


def assert_same_trace(rows: list[dict], expected: list[dict], loss: float = 2e-4, norm: float = 2e-2) -> None:
    assert [row["step"] for row in rows] == list(range(1, len(expected) + 1))
    for row, other in zip(rows, expected, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], abs=loss), (rows, expected)
        assert row["grad_norm"] == pytest.approx(other["grad_norm"], rel=norm), (rows, expected)
        assert row["learning_rate"] == pytest.approx(other["learning_rate"])
        assert row["temperature"] == pytest.approx(other["temperature"], rel=1e-4), (rows, expected)
