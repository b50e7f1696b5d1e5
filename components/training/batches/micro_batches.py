"""The collated micro-batches of one rank, with the labels that the loss needs."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist

from mirepoix.components.pairs.store import Drawn, PairStore
from mirepoix.components.training.batches.augment import augmented
from mirepoix.components.training.batches.batch_plan import BatchPlan
from mirepoix.components.training.batches.prefetch import Replicas, prefetched
from mirepoix.components.training.job import TrainingJob
from mirepoix.models.encoder import Encoder
from mirepoix.models.item import Pair, content_key
from mirepoix.models.losses.contrastive import Labels

T = TypeVar("T")
MicroBatch = tuple[dict[str, torch.Tensor], Labels]


def micro_batches(job: TrainingJob, store: PairStore, encoder: Encoder, step: int) -> Iterator[MicroBatch]:
    """This rank's collated micro-batches from a step on, with the labels of their documents."""
    config, size = job.config, job.config.batch // dist.get_world_size()
    plan = BatchPlan(store, config.batch, job.seed, config.homogeneous, config.homogeneous_by)
    own = slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)
    collate = Replicas(encoder.training_collator, max(1, config.dataloader_num_workers))

    def relevant(rows: np.ndarray, keys: list[list[tuple[int, int]]]) -> np.ndarray:
        """The content keys of the known answers to each pair's query, and those of the pair's augmented positive."""
        return np.concatenate([store.relevant(rows, config.mask_kin), [positive for positive, *_ in keys]], 1)

    def micro_batch(number: int) -> MicroBatch:
        rows, epoch = plan.batch(number)[own], number // plan.per_epoch
        drawn = store.drawn(rows, config.negatives, job.filled, (*job.seed, number))
        pairs = [augmented(whole.pair, config.augment, (*job.seed, epoch, row)) for row, whole in zip(rows, drawn, strict=True)]
        keys = [_keys(whole, pair) for whole, pair in zip(drawn, pairs, strict=True)]
        batch = collate([pair.query for pair in pairs], documents([[pair.positive, *pair.negatives] for pair in pairs]))
        labels = Labels(
            counts_B=torch.tensor([len(pair.negatives) for pair in pairs]),
            codes_M=torch.tensor(documents([[int(item.modality) for item in (pair.positive, *pair.negatives)] for pair in pairs])),
            keys_MH=torch.tensor(documents(keys)),
            scores_M=torch.tensor(documents([whole.scores for whole in drawn])),
            relevant_BR=torch.from_numpy(relevant(rows, keys)) if config.mask_relevant else None,
        )
        return batch, labels

    accumulation = config.gradient_accumulation_steps
    return prefetched(micro_batch, range(step * accumulation, job.total * accumulation), config.dataloader_num_workers)


def _keys(whole: Drawn, pair: Pair) -> list[tuple[int, int]]:
    """The content keys of each of a pair's documents, before and after augmentation, which may make documents equal."""
    items = zip(whole.keys, *((version.positive, *version.negatives) for version in (whole.pair, pair)), strict=True)
    return [(key, key if after is before else content_key(after)) for key, before, after in items]


def documents(per_pair: Sequence[Sequence[T]]) -> list[T]:
    """Values of each pair's documents, the positive's first, in the order of the loss: all positives, then each pair's negatives."""
    return [positive for positive, *_ in per_pair] + [each for _, *negatives in per_pair for each in negatives]
