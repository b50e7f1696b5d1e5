"""The collated micro-batches of one rank, in chunks, with the labels that the loss needs.

A rank has a contiguous share of the pairs of each global batch. Its items, queries and documents alike, are sorted by their tokens, so that
a chunk has items of similar length and little padding, and put into chunks up to a number of tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from mirepoix.components.pairs.store import Drawn, PairStore
from mirepoix.components.training.batches.augment import augmented
from mirepoix.components.training.batches.batch_plan import BatchPlan
from mirepoix.components.training.batches.prefetch import Replicas, prefetched
from mirepoix.components.training.job import TrainingJob
from mirepoix.models.encoder import Collator, Encoder
from mirepoix.models.item import Item, Pair, content_key
from mirepoix.models.losses.contrastive import Labels
from mirepoix.models.token_batches import fill

T = TypeVar("T")


@dataclass(frozen=True)
class MicroBatch:
    """A rank's share of a global batch."""

    chunks: list[dict[str, torch.Tensor]]
    idle: dict[str, torch.Tensor]  # a small chunk, to run where other ranks have more chunks
    back_N: torch.Tensor  # the position of each item, queries and then documents, among the rows of the chunks
    labels: Labels
    tokens: int
    places: int  # tokens with padding
    pictures: int


def share(pairs: int, rank: int, world: int) -> slice:
    """The pairs of a rank: contiguous, and as many as those of any other rank, or one more or fewer."""
    return slice(rank * pairs // world, (rank + 1) * pairs // world)


def micro_batches(job: TrainingJob, store: PairStore, encoder: Encoder, step: int) -> Iterator[MicroBatch]:
    """This rank's micro-batches from a step on."""
    config = job.config
    plan = BatchPlan(store, config.global_batch_size, job.seed, config.homogeneous, config.homogeneous_by)
    own = share(config.global_batch_size, dist.get_rank(), dist.get_world_size())
    replicas = Replicas(encoder.training_collator, max(1, config.dataloader_num_workers))

    def relevant(rows: np.ndarray, keys: list[list[tuple[int, int]]]) -> np.ndarray:
        """The content keys of the known answers to each pair's query, and those of the pair's augmented positive."""
        return np.concatenate([store.relevant(rows, config.mask_kin), [positive for positive, *_ in keys]], 1)

    def micro_batch(number: int) -> MicroBatch:
        rows, epoch = plan.batch(number)[own], number // plan.per_epoch
        drawn = store.drawn(rows, config.negatives, job.filled, (*job.seed, number))
        pairs = [augmented(whole.pair, config.augment, (*job.seed, epoch, row)) for row, whole in zip(rows, drawn, strict=True)]
        keys = [_keys(whole, pair) for whole, pair in zip(drawn, pairs, strict=True)]
        labels = Labels(
            counts_B=torch.tensor([len(pair.negatives) for pair in pairs]),
            codes_M=torch.tensor(documents([[int(item.modality) for item in (pair.positive, *pair.negatives)] for pair in pairs])),
            keys_MH=torch.tensor(documents(keys)),
            scores_M=torch.tensor(documents([whole.scores for whole in drawn])),
            relevant_BR=torch.from_numpy(relevant(rows, keys)) if config.mask_relevant else None,
        )
        queries, found = [pair.query for pair in pairs], documents([[pair.positive, *pair.negatives] for pair in pairs])
        with replicas.one() as collate:
            return collated(collate, queries, found, labels, config.chunk_tokens)

    accumulation = config.gradient_accumulation_steps
    return prefetched(micro_batch, range(step * accumulation, job.total * accumulation), config.dataloader_num_workers)


def collated(collate: Collator, queries: Sequence[Item], found: Sequence[Item], labels: Labels, budget: int | None) -> MicroBatch:
    """The micro-batch of these queries and documents, in chunks of at most `budget` tokens."""
    items = [*queries, *found]
    parts = [[*range(len(items))]]
    idle: dict[str, torch.Tensor] = {}

    def chunk(places: Sequence[int]) -> dict[str, torch.Tensor]:
        return collate([items[n] for n in places if n < len(queries)], [items[n] for n in places if n >= len(queries)])

    if budget is not None:
        lengths = collate.lengths(queries, found)
        parts = [sorted(places) for places in fill(lengths, budget, len(items))]  # a collator puts queries before documents
        idle = chunk([int(np.argmin(lengths))])
    chunks = [chunk(places) for places in parts]
    masks = [made["attention_mask"] for made in chunks]
    return MicroBatch(
        chunks,
        idle,
        torch.tensor([place for places in parts for place in places]).argsort(),
        labels,
        tokens=sum(int(mask.sum()) for mask in masks),
        places=sum(mask.numel() for mask in masks),
        pictures=sum(len(item.images) + len(item.video) for item in items),
    )


def _keys(whole: Drawn, pair: Pair) -> list[tuple[int, int]]:
    """The content keys of each of a pair's documents, before and after augmentation, which may make documents equal."""
    items = zip(whole.keys, *((version.positive, *version.negatives) for version in (whole.pair, pair)), strict=True)
    return [(key, key if after is before else content_key(after)) for key, before, after in items]


def documents(per_pair: Sequence[Sequence[T]]) -> list[T]:
    """Values of each pair's documents, the positive's first, in the order of the loss: all positives, then each pair's negatives."""
    return [positive for positive, *_ in per_pair] + [each for _, *negatives in per_pair for each in negatives]
