"""Steps in chunks, with kept pictures: against gradient checkpointing, the arithmetic floor, and the cached loss of sentence-transformers.

Adapters on the language model, the vision tower frozen, so that its features are computed once and kept. The floor is what the same
arithmetic takes: the vision tower once, the language model forward twice, and the backward pass.
"""

import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ratios import Row, interleaved
from training_world import ADAPTERS, OBJECTIVE, alone, job_of, sentence, write_world

from mirepoix.components.pairs.store import PairStore
from mirepoix.components.training.batches.micro_batches import MicroBatch, collated, micro_batches
from mirepoix.components.training.engine.chunked_encoder import ChunkedEncoder
from mirepoix.components.training.loop import checkpoint_activations
from mirepoix.models.encoder import Encoder, load_own_encoder
from mirepoix.models.item import Item
from mirepoix.models.losses.contrastive import Labels, contrastive
from mirepoix.models.vectors import Vectors

PAIRS = 48
AGAINST_CHECKPOINTING, AGAINST_FLOOR = 1.05, 1.15


def backward(batch: MicroBatch, rows: torch.Tensor, mask: torch.Tensor) -> None:
    vectors = Vectors(rows, mask)[batch.back_N]
    contrastive(vectors[:PAIRS], vectors[PAIRS:], batch.labels, OBJECTIVE, 1 / OBJECTIVE.temperature).loss.backward()


def beside(theirs: Encoder, ours: ChunkedEncoder) -> dict[str, Any]:
    """A step of the cached loss of sentence-transformers over an encoder, on sentences alone, and a step in chunks over an equal one."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    class Read(torch.nn.Module):
        """The encoder as a module of sentence-transformers."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = theirs

        def forward(self, features: dict[str, Any], **_: Any) -> dict[str, Any]:
            batch = {name: features[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
            return {**features, "sentence_embedding": self.encoder(**batch)[0][:, 0]}

    draw = np.random.default_rng(1)
    queries, found = ([Item(f"{kind}{number}", text=sentence(draw, 20, 60)) for number in range(PAIRS)] for kind in "qd")
    collate = theirs.training_collator
    columns = [collate(queries), collate((), found)]
    loss = CachedMultipleNegativesRankingLoss(SentenceTransformer(modules=[Read()]), 1 / OBJECTIVE.temperature, mini_batch_size=PAIRS // 4)
    labels = Labels(
        torch.zeros(PAIRS, dtype=torch.long),
        torch.ones(PAIRS, dtype=torch.long),
        torch.arange(PAIRS)[:, None],
        torch.full((PAIRS,), float("nan")),
    )
    lengths = collate.lengths(queries, found)
    batch = collated(collate, queries, found, labels, max(lengths) * PAIRS // 4)
    return {
        "cached loss": lambda: loss([dict(column) for column in columns], None).backward(),
        "chunks of sentences": lambda: backward(batch, *ours(batch.chunks, [*range(len(batch.chunks))])[:2]),
    }


def measure(rounds: int) -> list[Row]:
    alone()
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        encoder_folder, pairs = write_world(home)
        store = PairStore(pairs)
        job = job_of(home, encoder_folder, pairs, tuning=ADAPTERS, global_batch_size=PAIRS)

        def opened() -> Encoder:
            torch.manual_seed(0)
            return load_own_encoder(encoder_folder).tune(ADAPTERS)

        plain = opened()
        whole = next(micro_batches(job, store, plain, 0))
        drawn = [each.pair for each in store.drawn(range(PAIRS))]
        budget = max(64, whole.places // 6)
        # Both in the order of lengths, so that neither has less padding than the other.
        queries, found = [pair.query for pair in drawn], [pair.positive for pair in drawn]
        chunked = collated(plain.training_collator, queries, found, whole.labels, budget)
        module, recomputing = ChunkedEncoder(opened(), OBJECTIVE), opened()
        checkpoint_activations(recomputing)
        checkpointed = ChunkedEncoder(recomputing, OBJECTIVE)
        kept = ChunkedEncoder(plain, OBJECTIVE)
        seeds = [*range(len(chunked.chunks))]
        sections: dict[str, list[float]] = {"vision": [], "language": [], "backward": []}

        def in_turn(of: ChunkedEncoder) -> list[tuple[torch.Tensor, ...]]:
            """The chunks with all their activations kept, or those that the layers' checkpoints keep."""
            return [of([chunk], [seed]) for chunk, seed in zip(chunked.chunks, seeds, strict=True)]

        def joined(made: list[tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.cat([each[0] for each in made]), torch.cat([each[1] for each in made])

        def floor() -> None:
            began = time.process_time()
            batches = [plain.precomputed(chunk) for chunk in chunked.chunks]
            seen = time.process_time()
            made = [plain(**batch) for batch in batches]
            read = time.process_time()
            backward(chunked, *joined(made))
            ended = time.process_time()
            for name, seconds in zip(sections, (seen - began, read - seen, ended - read), strict=True):
                sections[name].append(seconds)

        candidates: dict[str, Any] = {
            "plain": lambda: backward(chunked, *joined(in_turn(kept))),
            "checkpointing": lambda: backward(chunked, *joined(in_turn(checkpointed))),
            "chunks": lambda: backward(chunked, *module(chunked.chunks, seeds)[:2]),
            "floor": floor,
        }
        candidates |= beside(opened(), ChunkedEncoder(opened(), OBJECTIVE))
        seconds = interleaved(candidates, rounds)
        least = np.array([2 * language + vision + back for vision, language, back in zip(*sections.values(), strict=True)])[-rounds:]
        where = f"{PAIRS} pairs in {len(chunked.chunks)} chunks"
        found_rows = [
            Row(
                f"chunks with kept pictures over gradient checkpointing, {where}",
                seconds["chunks"] / seconds["checkpointing"],
                AGAINST_CHECKPOINTING,
            ),
            Row("chunks with kept pictures over the arithmetic floor", seconds["chunks"] / least, AGAINST_FLOOR),
            Row("chunks with kept pictures over the step with all activations kept", seconds["chunks"] / seconds["plain"]),
            Row("gradient checkpointing over the step with all activations kept", seconds["checkpointing"] / seconds["plain"]),
            Row(
                f"cached loss of sentence-transformers {version('sentence-transformers')} over chunks, the same {PAIRS} pairs of sentences",
                seconds["cached loss"] / seconds["chunks of sentences"],
            ),
        ]
        return found_rows
