"""The settings of embedding."""

from dataclasses import dataclass

from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.models.token_batches import BATCH_TOKENS


@dataclass(frozen=True)
class EmbedConfig:
    """How items are encoded. Vectors are the same to rounding whatever is given here; `shard_rows` alone decides the files they lie in."""

    batch_size: int = option(64, "most items per batch", decides=False)
    batch_tokens: int | None = option(
        None,
        "most tokens per batch, those of pictures included, when its items are padded to the longest of them; an item with more is alone. "
        f"Fewer take less memory; null: {BATCH_TOKENS['cpu']} on a CPU, {BATCH_TOKENS['gpu']} on a GPU",
        decides=False,
    )
    workers: int = option(1, "actors, each with the encoder loaded", decides=False)
    threads: int = option(2, "CPU threads per actor", decides=False)
    shard_rows: int = option(2048, "items per file of vectors, which is what a kill can lose at most")
    use_gpu: bool = option(False, "give each actor a GPU", decides=False)
    reuse: bool = option(
        True, "take vectors of equal items from earlier results of the same encoder in the storage; false: encode all", decides=False
    )

    def __post_init__(self) -> None:
        for name in ("batch_size", "batch_tokens", "workers", "threads", "shard_rows"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise Refused(f"embed.{name} is {given}; give 1 or more")
