"""What happens to texts that an encoder does not read whole: cut at the end, as every encoder does by itself, at the start, or refused.

`cut` runs where the tokenizer is, in the process that encodes, before items are given to the encoder.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.serving.search.scripts import spaceless

if TYPE_CHECKING:
    from mirepoix.models.encoder import Collator

Truncate: TypeAlias = Literal["start", "end", "none"]
SHORTEN = 'shorten it, or let it be cut: "truncate": "end" or "start"'
"""What the refusal of a text of too many tokens ends with."""
_WORD = re.compile(rf"[{spaceless()}]|[^\W{spaceless()}]{{1,32}}|[^\w\s]")
"""A place where a text may begin once it is cut: a word, a sign, a letter of a script without spaces; very long words in parts."""


class Cut(NamedTuple):
    """Items as they are to be encoded, and for each a note of which of its words are not read; empty of one that is read whole."""

    items: list[Item]
    notes: list[str]


def cut(collator: "Collator", items: Sequence[Item], role: Role, truncate: Truncate = "end") -> Cut:
    """The items within the encoder's limit of tokens; refused by name under "none" where one is not.

    Under "end" items stay as they are: the encoder cuts their words, and keeps instruction, prompt and pictures. Under "start" an item has
    as much of the end of its text as fits beside these.
    """
    kept: list[Item] = []
    notes: list[str] = []
    for item in items:
        over = collator.overlong(item, role)
        note = ""
        if over is not None:
            said = f"{item.id} has {over.tokens} tokens and {over.limit} are read"
            if truncate == "none":
                raise Refused(f"{said}; {SHORTEN}")
            short = _tail(item, lambda part: collator.overlong(part, role) is None) if truncate == "start" else None
            note = f"{said}; its {'end' if short is None else 'start'} was cut"
            item = short or item
        kept.append(item)
        notes.append(note)
    return Cut(kept, notes)


def _tail(item: Item, fits: Callable[[Item], bool]) -> Item | None:
    """The item with the longest end of its text, from the beginning of a word, with which it fits; None where no word does.

    It looks from the end, at parts of twice the length each time, so that what it tokenizes is about as long as what is read.
    """
    starts = [word.start() for word in _WORD.finditer(item.text)]

    def ending(words: int) -> Item:
        return replace(item, text=item.text[starts[len(starts) - words] :])

    fitting, over = 0, 16
    while over < len(starts) and fits(ending(over)):
        fitting, over = over, 2 * over
    over = min(over, len(starts))
    while over - fitting > 1:
        middle = (fitting + over) // 2
        fitting, over = (middle, over) if fits(ending(middle)) else (fitting, middle)
    return ending(fitting) if fitting else None
