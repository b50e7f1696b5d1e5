"""What becomes of rows: a number for each, and words only for those that go."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Array = npt.NDArray


class Verdicts:
    """Which rows go, for which reason, and what there is to say of it."""

    def __init__(self, count: int):
        self._codes = np.zeros(count, np.uint16)  # 0: the row stands
        self._reasons = [""]
        self._details: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._codes)

    def lose(self, rows: Array, reason: str, details: Iterable[str] = ()) -> None:
        """Lets rows go for a reason; with a detail for each, or without any."""
        if reason not in self._reasons:
            self._reasons.append(reason)
        self._codes[rows] = self._reasons.index(reason)
        self._details.update((row, detail) for row, detail in zip(rows.tolist(), details, strict=False) if detail)

    def explain(self, rows: Array, details: Iterable[str]) -> None:
        """Says something of rows that go."""
        self._details.update(zip(rows.tolist(), details, strict=True))

    def stand(self, rows: Array | slice = slice(None)) -> Array:
        """Which of the rows stand."""
        return self._codes[rows] == 0

    def reason(self, row: int) -> str:
        """Why a row goes; empty: it stands."""
        return self._reasons[self._codes[row]]

    def reasons(self, rows: Array) -> list[str]:
        return [self._reasons[code] for code in self._codes[rows].tolist()]

    def details(self, rows: Array) -> list[str]:
        return [self._details.get(row, "") for row in rows.tolist()]

    def counted(self, rows: Array) -> Counter[str]:
        """How many of the rows go for each reason."""
        codes, counts = np.unique(self._codes[rows], return_counts=True)
        return Counter({self._reasons[code]: count for code, count in zip(codes.tolist(), counts.tolist(), strict=True) if code})
