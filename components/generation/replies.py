"""What a language model has answered already, and what may still be spent on asking it.

A reply is kept under the hash of what was asked, of the model and of the parameters, in a folder or URI that outlives the run: it is
written whole or not at all, so that a kill at any moment loses what is in flight and no more. Each request that was sent is noted in the
stage's scratch with what it cost, whether it was answered or not, so that the budget of a killed run goes on where it was.
"""

import hashlib
import json
import os
import re
import secrets
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.serving import store

_PAID = re.compile(r"[0-9a-f]+-(\d+)")


@dataclass(frozen=True)
class SpendingConfig:
    """What is kept of the answers, and what they may cost."""

    cache: str | None = option(None, "folder or URI where replies are kept for every run to come; null: with the user's cache")
    max_requests: int | None = option(None, "requests that a run may send, those sent again included; null: any number")
    max_tokens: int | None = option(None, "tokens of prompts and answers that a run may pay for; null: any number")
    max_failed: float = option(0.2, "share of failed rows above which the stage fails: then the endpoint is at fault, not a row")

    def __post_init__(self) -> None:
        store.refuse_credentials(self.cache or "")
        if min(self.max_requests or 0, self.max_tokens or 0) < 0:
            raise Refused("spending.max_requests and max_tokens must each be at least 0, or null")
        if not 0 <= self.max_failed <= 1:
            raise Refused(f"spending.max_failed is {self.max_failed}; give a share from 0 to 1")


@dataclass(frozen=True)
class Reply:
    """What a model answered, or why there is no answer."""

    text: str = ""
    prompt_tokens: int = 0
    tokens: int = 0
    finish: str = "stop"  # stop, length, or refused where the endpoint says so itself
    failure: str = ""  # budget, declined or failed: nothing was answered
    detail: str = ""
    cached: bool = False

    @property
    def cost(self) -> int:
        return self.prompt_tokens + self.tokens


class ReplyStore:
    """The cache and the budget of a run."""

    def __init__(self, config: SpendingConfig, scratch: str, identity: dict[str, Any]):
        self.cache = config.cache or str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mirepoix" / "replies")
        self.identity = identity  # of the model, with its parameters
        self.counts: Counter[str] = Counter()
        self._max_requests, self._max_tokens = config.max_requests, config.max_tokens
        self._paid = store.join(scratch, "paid")
        told = map(_PAID.fullmatch, store.list_names(self._paid))  # what a kill left half-written has another name
        paid = [int(name[1]) for name in told if name]
        self.requests, self.tokens, self._reserved, self._spent = len(paid), sum(paid), 0, False

    def key(self, messages: list[dict[str, Any]]) -> str:
        """What a reply is kept under."""
        return hashlib.sha256(json.dumps([self.identity, messages], sort_keys=True).encode()).hexdigest()

    def known(self, key: str) -> Reply | None:
        """The reply that was kept under the key; one that cannot be read is as none."""
        kept = store.read(self._place(key))
        if kept is None:
            return None
        try:
            return replace(Reply(**json.loads(kept)), cached=True)
        except (ValueError, TypeError):
            self.counts["damaged"] += 1
            return None

    def keep(self, key: str, reply: Reply) -> None:
        """Keeps a reply for every run to come."""
        store.write(self._place(key), json.dumps(asdict(reply), ensure_ascii=False).encode())

    def _place(self, key: str) -> str:
        return store.join(self.cache, key[:2], f"{key}.json")

    def reserve(self, tokens: int) -> bool | None:
        """Takes a request and at most so many tokens from the budget; False: it is spent, for good; None: wait for what is in flight."""
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
        """Gives back what was reserved, and takes what was paid."""
        self._reserved -= reserved
        self.tokens += paid

    def note(self, paid: int) -> None:
        """Notes a request that was sent and what it cost, for the run that goes on after a kill."""
        store.write(store.join(self._paid, f"{secrets.token_hex(16)}-{paid}"), b"")
