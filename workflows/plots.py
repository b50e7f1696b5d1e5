"""Counts as bars, in a picture that any page shows."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

ROW, LABEL, BAR, MARGIN = 24, 330, 360, 16
MOST = 40  # bars; a table shows the others


def bars(title: str, rows: Sequence[Mapping[str, Any]], count: str = "count") -> str:
    """An SVG with a bar for each row, the longest first; a row is named by its other columns."""
    ranked = sorted(rows, key=lambda row: -float(row[count]))[:MOST]
    longest = max((float(row[count]) for row in ranked), default=0.0) or 1.0
    left_out = f" (the {MOST} largest of {len(rows)})" if len(rows) > MOST else ""
    width, height = LABEL + BAR + 90, ROW * (len(ranked) + 1) + 2 * MARGIN
    body = [f'<text x="{MARGIN}" y="{MARGIN + 12}" font-weight="600">{escape(title + left_out)}</text>']
    for place, row in enumerate(ranked, 1):
        name = " · ".join(str(value) for column, value in row.items() if column != count)
        top, length = MARGIN + ROW * place, BAR * float(row[count]) / longest
        body.append(f'<text x="{LABEL}" y="{top + 16}" text-anchor="end">{escape(name[-48:])}</text>')
        body.append(f'<rect x="{LABEL + 8}" y="{top + 4}" width="{length:.1f}" height="{ROW - 8}" rx="2" fill="#2f7d4f"/>')
        body.append(f'<text x="{LABEL + 14 + length:.1f}" y="{top + 16}" fill="#69747c">{float(row[count]):,.10g}</text>')
    frame = f'<rect width="{width}" height="{height}" fill="#fff"/>'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="system-ui, sans-serif" font-size="13">'
        f"{frame}{''.join(body)}</svg>\n"
    )
