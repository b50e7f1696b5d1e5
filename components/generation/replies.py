"""The cache of a language model's replies, and the budget of a run.

A reply is stored under the hash of the messages, the model and the parameters, in a folder or URI that later runs use too. It is written
atomically, so that a killed process loses only the requests in flight. Each request that was sent is recorded in the stage's scratch with
its cost, answered or not, so that the budget of a restarted run continues from there.
"""

import hashlib
import json
import re
import secrets
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

from mirepoix.components.generation.writer_config import SpendingConfig
from mirepoix.serving import store

_PAID = re.compile(r"[0-9a-f]+-(\d+)")


@dataclass(frozen=True)
class Reply:
    """The answer of a model, or why there is none."""

    text: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    finish: str = "stop"  # stop, length, or refused if the endpoint reports a refusal
    failure: str = ""  # budget, declined or failed: there is no answer
    detail: str = ""
    cached: bool = False

    @property
    def cost(self) -> int:
        return self.prompt_tokens + self.tokens


class ReplyStore:
    """The cache and the budget of a run."""

    def __init__(self, config: SpendingConfig, scratch: str, identity: dict[str, Any]):
        self.cache = config.cache or str(store.cache_folder() / "replies")
        self.identity = identity  # of the model, with its parameters
        self.counts: Counter[str] = Counter()
        self._max_requests, self._max_tokens = config.max_requests, config.max_tokens
        self._paid = store.join(scratch, "paid")
        names = map(_PAID.fullmatch, store.list_names(self._paid))  # files that a killed process left half-written have other names
        paid = [int(name[1]) for name in names if name]
        self.requests, self.tokens, self._reserved, self._spent = len(paid), sum(paid), 0, False

    def key(self, messages: list[dict[str, Any]]) -> str:
        """The key that a reply is stored under."""
        return hashlib.sha256(json.dumps([self.identity, messages], sort_keys=True).encode()).hexdigest()

    def find(self, key: str) -> Reply | None:
        """The reply that is stored under the key; None if there is none, or it cannot be read."""
        content = store.read(self._place(key))
        if content is None:
            return None
        try:
            return replace(Reply(**json.loads(content)), cached=True)
        except (ValueError, TypeError):
            self.counts["damaged"] += 1
            return None

    def save(self, key: str, reply: Reply) -> None:
        """Stores a reply for this and later runs."""
        store.write(self._place(key), json.dumps(asdict(reply), ensure_ascii=False).encode())

    def _place(self, key: str) -> str:
        return store.join(self.cache, key[:2], f"{key}.json")

    def reserve(self, tokens: int) -> bool | None:
        """Reserves a request and at most so many tokens of the budget; False: it is exhausted; None: wait for requests in flight."""
        if self._max_tokens is not None and self.tokens + self._reserved + tokens > self._max_tokens and not self._spent:
            if self._reserved and self.tokens + tokens <= self._max_tokens:
                return None
            self._spent = True
        if self._spent or (self._max_requests is not None and self.requests >= self._max_requests):
            return False
        self.requests += 1
        self._reserved += tokens
        return True

    def settle(self, reserved: int, paid: int) -> None:
        """Replaces a reservation by the tokens that were paid."""
        self._reserved -= reserved
        self.tokens += paid

    def record(self, paid: int) -> None:
        """Records a request that was sent and its cost, for a restarted run."""
        store.write(store.join(self._paid, f"{secrets.token_hex(16)}-{paid}"), b"")
