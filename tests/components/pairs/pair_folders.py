"""Small folders of pairs, written from numbers."""

from collections.abc import Sequence
from pathlib import Path

from mirepoix.components.pairs.store import Known, PairRow, PairStore, write_pairs
from mirepoix.models.item import Item


def write(
    folder: Path,
    positives: Sequence[int],
    queries: Sequence[int] | None = None,
    tasks: Sequence[str] | None = None,
    negatives: Sequence[Sequence[int]] | None = None,
    sources: Sequence[str] | None = None,
    known: Sequence[tuple[int, int]] = (),
    kin: Sequence[tuple[int, int]] = (),
    documents: int = 0,
    scores: Sequence[Sequence[float]] | None = None,
) -> PairStore:
    """A store whose pair n finds document `positives[n]` with query `queries[n]`; equal numbers are equal items.

    `known` are further answers as (query, document), `kin` are documents; there are at least `documents` of them.
    """
    queries = list(range(len(positives))) if queries is None else queries
    items = [Item(f"d{n}", text=f"document {n}") for n in range(max(documents, max(positives, default=0) + 1))]
    first = len(items)
    items += [Item(f"q{n}", text=f"query {n}") for n in range(max(queries, default=0) + 1)]
    rows = [
        PairRow(
            f"p{n}",
            first + queries[n],
            positives[n],
            negatives[n] if negatives else (),
            tasks[n] if tasks else "t->t",
            sources[n] if sources else "",
            scores[n] if scores else (),
        )
        for n in range(len(positives))
    ]
    further = [Known(first + query, document, "t->t") for query, document in known]
    assert write_pairs(folder, iter(items), iter(rows), further, kin) == len(rows)
    return PairStore(folder)
