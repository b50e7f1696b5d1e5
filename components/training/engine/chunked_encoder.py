"""What DeepSpeed wraps: an encoder that computes its share of a batch in chunks, in one forward of the engine and one backward.

Each chunk runs under `torch.utils.checkpoint`: its activations are dropped, and computed again when the backward pass comes to it. Memory
holds those of one chunk. The loss sees the rows of all of them, and each gradient is complete once: the engine reduces it as often as it
does without chunks, at every stage of ZeRO. Several backward passes in a step would reduce gradients that are not complete; at stages 1 and
2 that is wrong, and no error says so.

What frozen parts compute, such as the features of a frozen vision tower, is computed once and kept (`Encoder.precomputed`).

Every rank runs equally many chunks, as a collective of one rank waits for those of all others: a rank with fewer repeats a small one, whose
rows count zero times. Dropout is a function of the seeds that are given, set again when a chunk is computed again.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from mirepoix.models.encoder import Encoder
from mirepoix.models.losses.objective import Objective
from mirepoix.models.losses.temperature import LearnedTemperature

PREFIX = "encoder."
Chunk = Mapping[str, torch.Tensor]


class ChunkedEncoder(torch.nn.Module):
    """An encoder, and its temperature where that is trained."""

    def __init__(self, encoder: Encoder, objective: Objective, sharded_weights: bool = False):
        super().__init__()
        self.encoder = encoder
        self.temperature = LearnedTemperature(objective) if objective.learned_temperature else None
        self.sharded_weights = sharded_weights

    def forward(self, chunks: Sequence[Chunk], seeds: Sequence[int], idle: int = 0) -> tuple[torch.Tensor, ...]:
        """Rows and mask of all chunks in turn, but for the last `idle` of them, and, if it is trained, one over the temperature.

        A single chunk is computed as it is, without dropping its activations.
        """
        device = next(self.encoder.parameters()).device
        # With sharded weights a chunk's modules have to be left as they are entered, or the engine would not release their weights.
        with set_checkpoint_early_stop(not self.sharded_weights):
            made = [self._rows(chunk, seed, device, dropped=len(chunks) > 1) for chunk, seed in zip(chunks, seeds, strict=True)]
        real = len(made) - idle
        most = max(mask_NT.shape[1] for _, mask_NT in made[:real])
        rows_NTD = torch.cat([F.pad(rows, (0, 0, 0, most - rows.shape[1])) for rows, _ in made[:real]])
        mask_NT = torch.cat([F.pad(mask, (0, most - mask.shape[1])) for _, mask in made[:real]])
        for rows, _ in made[real:]:
            rows_NTD = rows_NTD + 0.0 * rows.sum()
        return rows_NTD, mask_NT, *(() if self.temperature is None else (self.temperature(),))

    def _rows(self, chunk: Chunk, seed: int, device: torch.device, dropped: bool) -> tuple[torch.Tensor, torch.Tensor]:
        torch.manual_seed(seed)
        kept = self.encoder.precomputed({name: tensor.to(device, non_blocking=True) for name, tensor in chunk.items()})
        names = tuple(kept)

        def run(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            torch.manual_seed(seed + 1)  # not the random numbers of the frozen parts again
            # For layers that are computed again themselves (gradient_checkpointing), whose weights the engine gathers as without chunks.
            with set_checkpoint_early_stop(True):
                rows, mask = self.encoder(**dict(zip(names, tensors, strict=True)))
            return rows, mask

        if not dropped:
            return run(*kept.values())
        made: tuple[torch.Tensor, torch.Tensor] = checkpoint(run, *kept.values(), use_reentrant=False, preserve_rng_state=False)
        return made

    def parted(self, weights: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], float | None]:
        """Splits gathered weights of this module into those of the encoder and, if it is trained, the temperature."""
        of_encoder = {name.removeprefix(PREFIX): weight for name, weight in weights.items() if name.startswith(PREFIX)}
        return of_encoder, None if self.temperature is None else self.temperature.temperature(weights["temperature.moved"])


def with_weights(encoder: Encoder, objective: Objective, weights: Mapping[str, torch.Tensor]) -> Encoder:
    """The encoder that a training started from, tuned as for it, with gathered weights of a ChunkedEncoder put in."""
    of_encoder, temperature = ChunkedEncoder(encoder, objective).parted(weights)
    encoder.widths = objective.widths
    if temperature is not None:
        encoder.temperature = temperature
    unknown = encoder.load_state_dict(of_encoder, strict=False).unexpected_keys
    assert not unknown, f"trained weights {unknown} have no parameter in the encoder"
    return encoder.eval()
