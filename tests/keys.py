"""Keys of documents as the loss takes them."""

import torch


def filled(sets: list[set[int]]) -> torch.Tensor:
    """Sets of keys as rows of one width."""
    width = max(map(len, sets))
    return torch.tensor([sorted(keys) + [min(keys)] * (width - len(keys)) for keys in sets])
