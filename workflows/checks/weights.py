"""How many weights a checkpoint has, from the headers of its files: no weight is read."""

import json
import struct
from math import prod
from pathlib import Path

LARGEST_HEADER = 100 << 20
PICKLED_BYTES = 4
"""A pickle is counted as if its weights were of four bytes each: there are at least as many."""


def count_weights(folder: Path) -> int | None:
    """The number of weights in a checkpoint folder, of all modules in it; None where nothing says it."""
    files = sorted(folder.rglob("*.safetensors"))
    files = [file for file in files if file.name != "adapter_model.safetensors"] or files
    if files:
        counts = [count_in_header(file) for file in files]
        return None if None in counts else sum(count for count in counts if count is not None)
    pickles = list(folder.glob("pytorch_model*.bin"))
    return sum(file.stat().st_size for file in pickles) // PICKLED_BYTES if pickles else None


def count_in_header(file: Path) -> int | None:
    """The number of weights in a safetensors file, from its header; None where that cannot be read."""
    try:
        with file.open("rb") as opened:
            (size,) = struct.unpack("<Q", opened.read(8))
            if size > LARGEST_HEADER:
                return None
            header = json.loads(opened.read(size))
        return sum(prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
