"""How fast items are encoded, as measured, and what a request will take by that.

An item has a number of units: of a text by its length, of a picture a fixed number, as encoders scale pictures to about one size. The
seconds that a unit takes are learnt from the batches, for texts and for pictures apart.
"""

from collections.abc import Iterable

from mirepoix.models.item import Item

KINDS = ("text", "picture")
LEARNING = 0.3
"""Weight of the newest batch in the moving average; ten batches later the first one weighs under 3 %."""
AVERAGING = 0.05
"""Weight of the newest request in the moving average of the units of interactive requests."""
FIRST_SECONDS = {"text": 1e-4, "picture": 1e-4}
"""Seconds a unit before the first batch; low, so that nothing is refused before anything was measured."""
ITEM_UNITS, LETTERS_PER_UNIT, PICTURE_UNITS = 16, 4, 256
"""Roughly tokens: of an item beside its words, letters of one, of a picture; the seconds of a unit are learnt, so the scale is free."""

Units = tuple[float, float]
"""Units of texts and of pictures."""


def units(items: Iterable[Item]) -> Units:
    """The units of some items."""
    text = picture = 0.0
    for item in items:
        text += ITEM_UNITS + len(item.text) / LETTERS_PER_UNIT
        picture += PICTURE_UNITS * len(item.images)
    return text, picture


def total(many: Iterable[Units]) -> Units:
    """The sum of units."""
    text = picture = 0.0
    for one in many:
        text += one[0]
        picture += one[1]
    return text, picture


class Rate:
    """Seconds a unit of each kind, learnt from the batches that were encoded."""

    def __init__(self) -> None:
        self._seconds = dict(FIRST_SECONDS)
        self._interactive: Units = (0.0, 0.0)  # of an interactive request, on average
        self.batches = 0
        self._has_pictures = False

    def begin_as(self, other: "Rate") -> None:
        """Takes over what was learnt of another release as a first guess, which the first batches of this one correct."""
        self._seconds, self._interactive, self.batches = dict(other._seconds), other._interactive, other.batches

    @property
    def interactive_s(self) -> float:
        """What an interactive request takes one encoder, on average; 0 before the first one."""
        return self.seconds(self._interactive)

    def is_guessed(self, given: Units) -> bool:
        """Whether there are pictures, which may take seconds each, and no batch of this release has had any."""
        return given[1] > 0 and not self._has_pictures

    def observe_interactive(self, given: Units) -> None:
        """Counts an interactive request of so many units in the average."""
        weight = AVERAGING if any(self._interactive) else 1.0
        text, picture = self._interactive
        self._interactive = text + weight * (given[0] - text), picture + weight * (given[1] - picture)

    def seconds(self, given: Units) -> float:
        """What units take one encoder."""
        return given[0] * self._seconds["text"] + given[1] * self._seconds["picture"]

    def observe(self, given: Units, seconds: float) -> None:
        """Learns from a batch of so many units that took so many seconds."""
        expected = self.seconds(given)
        if expected <= 0 or seconds <= 0:
            return
        learning = LEARNING if self.batches else 1.0
        self.batches += 1
        self._has_pictures |= given[1] > 0
        ratio = seconds / expected
        for kind, amount in zip(KINDS, given, strict=True):
            share = amount * self._seconds[kind] / expected
            self._seconds[kind] *= ratio ** (learning * share)
