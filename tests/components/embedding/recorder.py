"""An encoder without weights that keeps a list of what it encoded, and actors that run in the process of the test."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np

from mirepoix.components.embedding import embed
from mirepoix.models.item import Item, encoded_hash
from mirepoix.models.ragged import RaggedRows


class Recorder:
    """Gives each item one to three unit rows that depend on what is read of it and on its role alone."""

    def __init__(self) -> None:
        self.encoded: list[tuple[str, str]] = []  # role and id

    def encode(self, items: Sequence[Item], batch_size: int = 32, role: str = "document", **_: Any) -> Any:
        self.encoded += [(role, item.id) for item in items]
        rows = [vector_of(item, role) for item in items]
        vectors = RaggedRows(np.concatenate(rows), np.append(0, np.cumsum([len(each) for each in rows])))
        return SimpleNamespace(ragged=lambda: vectors)


def vector_of(item: Item, role: str) -> np.ndarray:
    digest = hashlib.sha256(encoded_hash(item) + role.encode()).digest()
    rows = np.random.default_rng([*digest]).standard_normal((1 + digest[0] % 3, 8))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def run_in_process(monkeypatch: Any) -> list[Any]:
    """Actors are objects of this process from now on; returns the list of those that were started."""
    started: list[Any] = []

    def create(*arguments: Any) -> Any:
        actor = embed.EncoderActor(*arguments)
        started.append(actor)
        return SimpleNamespace(
            ready=SimpleNamespace(remote=actor.ready),
            encode=SimpleNamespace(remote=actor.encode),
            golden=SimpleNamespace(remote=actor.golden),
        )

    @contextmanager
    def pool(actors: Any) -> Any:
        yield list(actors)

    def map_in_order(actors: Any, inputs: Any, call: Callable, ready: Callable) -> Any:
        for actor in actors:
            ready(actor)
        for each in inputs:
            yield call(actors[0], each)

    monkeypatch.setattr(embed, "ray", SimpleNamespace(remote=lambda _: SimpleNamespace(options=lambda **_: SimpleNamespace(remote=create))))
    monkeypatch.setattr(embed, "actor_pool", pool)
    monkeypatch.setattr(embed, "map_in_order", map_in_order)
    return started
