"""Bar charts of counts, as SVG."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

ROW, LABEL, BAR, MARGIN = 24, 330, 360, 16
MOST = 40  # bars; the other rows are only in the table


def count_tables(columns: Iterable[str]) -> tuple[str, str | None] | None:
    """The column of a table that holds counts, and the one with the counts before, if any; None for a table without counts."""
    there = set(columns)
    return ("after", "before") if {"after", "before"} <= there else ("count", None) if "count" in there else None


def bars(title: str, rows: Sequence[Mapping[str, Any]], count: str = "count", before: str | None = None) -> str:
    """An SVG with a bar for each row, the longest first, and the bar of the count before behind it; other columns label the row."""
    ranked = sorted(rows, key=lambda row: -float(row[count]))[:MOST]
    counts = [name for name in (before, count) if name is not None]
    longest = max((float(row[name]) for row in ranked for name in counts), default=0.0) or 1.0
    left_out = f" (the {MOST} largest of {len(rows)})" if len(rows) > MOST else ""
    width, height = LABEL + BAR + 140, ROW * (len(ranked) + 1) + 2 * MARGIN
    body = [f'<text x="{MARGIN}" y="{MARGIN + 12}" font-weight="600">{escape(title + left_out)}</text>']
    for place, row in enumerate(ranked, 1):
        name = " · ".join(str(cell) for column, cell in row.items() if column not in counts)
        top, lengths = MARGIN + ROW * place, [BAR * float(row[column]) / longest for column in counts]
        value = " → ".join(f"{float(row[column]):,.10g}" for column in counts)
        body.append(f'<text x="{LABEL}" y="{top + 16}" text-anchor="end">{escape(name[-48:])}</text>')
        for column, length in zip(counts, lengths, strict=True):
            height, fill = (ROW - 8, "#2f7d4f") if column == count else (ROW - 4, "#d5dadd")
            body.append(
                f'<rect x="{LABEL + 8}" y="{top + 12 - height / 2:g}" width="{length:.1f}" height="{height}" rx="2" fill="{fill}"/>'
            )
        body.append(f'<text x="{LABEL + 14 + max(lengths):.1f}" y="{top + 16}" fill="#69747c">{value}</text>')
    frame = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="system-ui, sans-serif" font-size="13">'
        f"{frame}{''.join(body)}</svg>\n"
    )
