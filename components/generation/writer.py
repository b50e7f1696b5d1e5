"""The interface of writers, the language models that write texts, and how one is opened from its config.

A writer has a name, an identity (its model and parameters, which are part of the key of a reply), and `write(requests, store)`, which
returns the replies in the order of the requests. It may read the requests several times. It takes replies from the store where they are
cached, and saves new ones there.
"""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from mirepoix.components.generation.prompts import Request
from mirepoix.components.generation.replies import Reply, ReplyStore
from mirepoix.components.generation.writer_config import EndpointConfig, LocalConfig, WriterConfig


class Writer(Protocol):
    """A language model that answers requests."""

    name: str
    identity: dict[str, Any]

    def write(self, requests: Callable[[], Iterator[Request]], store: ReplyStore) -> Iterator[Reply]:
        """The replies, in the order of the requests."""


def open_writer(config: WriterConfig, seed: int) -> Writer:
    """The writer of a config; refused where its model is not named or missing. Only the libraries of that writer are imported."""
    match config:
        case EndpointConfig():
            from mirepoix.components.generation.endpoint import Endpoint

            return Endpoint(config, seed)
        case LocalConfig():
            from mirepoix.components.generation.local import Local

            return Local(config, seed)
    from mirepoix.components.generation.vllm import Engine

    return Engine(config, seed)
