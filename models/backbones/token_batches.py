"""Items put into batches by their tokens, so that a batch has items of similar length and little padding."""

from collections.abc import Sequence


def fill(lengths: Sequence[int], budget: int, most: int | None = None) -> list[list[int]]:
    """The positions of all items in batches of at most `budget` tokens with padding, and of at most `most` items, the longest first.

    An item that is longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        last = batches[-1] if batches else []
        if last and (len(last) + 1) * lengths[last[0]] <= budget and (most is None or len(last) < most):
            last.append(place)
        else:
            batches.append([place])
    return batches
