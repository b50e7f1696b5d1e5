"""Token ids of words from a corpus or a user, and bounds of their number.

The ids of the last texts are kept, as an item is measured first and then read.
"""

from collections import OrderedDict
from threading import Lock
from typing import Any

KEPT = 500_000
"""Most tokens that are kept: some 20 MB."""
GROWTH = 35
"""The bytes that normalisation makes of a character, beyond one, at most: 33 of U+FDFA, an Arabic phrase of 18 letters."""


def most_tokens(text: str) -> int:
    """A number of tokens that no tokenizer exceeds for a text, without tokenizing it.

    A token stands for a byte at least, of BPE, WordPiece and SentencePiece alike; one more is the blank that some put before a text. No
    normal form makes ASCII longer; every other character has bytes beyond its first, by which it is counted.
    """
    return 1 + len(text) + (0 if text.isascii() else GROWTH * (len(text.encode(errors="surrogatepass")) - len(text)))


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
