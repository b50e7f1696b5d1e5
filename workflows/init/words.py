"""Numbers in words: sizes, times, how many of something, and how many more than are named."""

from collections.abc import Sequence


def plural(noun: str, count: int) -> str:
    """The noun for so many of it."""
    return noun if count == 1 else noun[:-1] + "ies" if noun.endswith("y") else f"{noun}s"


def counted(count: int, noun: str) -> str:
    """So many of something."""
    return f"{count:,} {plural(noun, count)}"


def gigabytes(count: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size / (10 if unit == "GB" else 1):
            return f"{count / size:.1f} GB" if unit == "GB" else f"{count / size:.0f} MB"
    return f"{count / 1e3:.0f} kB" if count >= 1e3 else counted(round(count), "byte")


def duration(seconds: float) -> str:
    if seconds < 90:
        return counted(max(1, round(seconds)), "second")
    return counted(round(seconds / 60), "minute") if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def first_names(names: Sequence[str], most: int = 3) -> str:
    """The first of several names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
