"""The first few rows of each reason for which rows were rejected or merged, as a small table that a report shows."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from mirepoix.serving.documents import shown_source

EXAMPLES = 3
"""Rows that are kept of each reason in each part."""


class Examples:
    """Collects the first rows of each part and reason, with the place that each was read from, as a search shows it."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._count: Counter[tuple[str, str]] = Counter()

    def add(self, parts: str | Sequence[str], table: pa.Table, reasons: Sequence[str | None], details: Sequence[str] = ()) -> None:
        """Adds rows with their reasons; those without a reason are passed over. `table` has their ids, sources and lines."""
        named = [parts] * len(reasons) if isinstance(parts, str) else parts
        for number, (part, reason) in enumerate(zip(named, reasons, strict=True)):
            if not reason or self._count[part, reason] >= EXAMPLES:
                continue
            self._count[part, reason] += 1
            id, source, line = (table[name][number].as_py() for name in ("id", "source", "line"))
            place = shown_source(source or "", line or 0) or (f"{source}:{line}" if source and line else source or "")
            detail = (details[number] if details else "") or ""
            self.rows.append({"reason": reason, "part": part, "place": place, "id": id or "", "detail": detail})
