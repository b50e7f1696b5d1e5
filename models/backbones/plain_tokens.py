"""Token ids of words from a corpus or a user; those of the last texts are kept, as an item is measured first and then read."""

from collections import OrderedDict
from threading import Lock
from typing import Any

KEPT = 500_000
"""Most tokens that are kept: some 20 MB."""


class PlainTokens:
    """A tokenizer that adds no token and splits control tokens into letters, so that words never become structure.

    Safe to share between threads; a copy or a pickled one keeps no text.
    """

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self._kept: OrderedDict[str, list[int]] = OrderedDict()
        self._count = 0
        self._lock = Lock()

    def __reduce__(self) -> tuple[type, tuple[Any]]:
        return type(self), (self.tokenizer,)

    def __call__(self, text: str) -> list[int]:
        """The ids of a text, in a list that the caller must not change."""
        with self._lock:
            if (known := self._kept.get(text)) is not None:
                self._kept.move_to_end(text)
                return known
        ids: list[int] = self.tokenizer(text, split_special_tokens=True, add_special_tokens=False, verbose=False)["input_ids"]
        with self._lock:
            if text not in self._kept:
                self._kept[text] = ids
                self._count += len(ids)
            while self._count > KEPT:
                self._count -= len(self._kept.popitem(last=False)[1])
        return ids
