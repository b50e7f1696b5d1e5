"""The keep-or-reject reason of every row: a code for each, and details of the rejected ones only."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray


class Verdicts:
    """Rejected rows with their reasons and details."""

    def __init__(self, count: int):
        self._codes = np.zeros(count, np.uint16)  # 0: the row is accepted
        self._reasons = [""]
        self._details: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def reject(self, rows: Array, reason: str, details: Iterable[str] = ()) -> None:
        """Rejects rows for a reason, with a detail for each or without any; overwrites an earlier reason."""
        if reason not in self._reasons:
            self._reasons.append(reason)
        self._codes[rows] = self._reasons.index(reason)
        self._details.update((row, detail) for row, detail in zip(rows.tolist(), details, strict=False) if detail)

    def add_details(self, rows: Array, details: Iterable[str]) -> None:
        """Sets the details of rejected rows."""
        self._details.update(zip(rows.tolist(), details, strict=True))

    def accepted(self, rows: Array | slice = slice(None)) -> Array:
        """True for the rows that are accepted."""
        return self._codes[rows] == 0

    def reason(self, row: int) -> str:
        """The reason of a rejected row; empty if it is accepted."""
        return self._reasons[self._codes[row]]

    def reasons(self, rows: Array) -> list[str]:
        return [self._reasons[code] for code in self._codes[rows].tolist()]

    def details(self, rows: Array) -> list[str]:
        return [self._details.get(row, "") for row in rows.tolist()]

    def count_by_reason(self, rows: Array) -> Counter[str]:
        """The count of rejected ones among the rows, by reason."""
        codes, counts = np.unique(self._codes[rows], return_counts=True)
        return Counter({self._reasons[code]: count for code, count in zip(codes.tolist(), counts.tolist(), strict=True) if code})
