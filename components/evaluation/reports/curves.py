"""Recall and hit rate over the depth of rankings, a line for each system, drawn as SVG."""

import math
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from mirepoix.components.evaluation.reports.wording import AMONG, called, on, systems_of

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 360, 220, 34, 26, 8, 10
COLOURS = {
    "trained": "var(--good)",
    "encoder": "var(--good)",
    "untrained": "var(--base)",
    "bm25": "var(--words)",
    "pixels": "var(--pixels)",
    "chance": "var(--soft)",
}
DASHED = ("chance",)
NAMES = {"Success": "share of queries with an answer among the first k", "R": "share of the answers among the first k"}


def curve_section(report: Mapping[str, Any]) -> Iterator[str]:
    """The curves of the headline's split and pool."""
    headline = report["headline"]
    entries = {
        entry["system"]: entry["curve"]
        for entry in report["results"]
        if (entry["pool"], entry["split"]) == (headline["pool"], headline["split"])
    }
    systems = systems_of(entries)
    of = {kind: {system: entries[system][kind] for system in systems if kind in entries[system]} for kind in NAMES}
    drawn = [_figure(kind, name, of[kind]) for kind, name in NAMES.items()]
    if not any(drawn):
        return
    legend = "".join(
        f'<span><i style="border-color:{COLOURS[system]}{";border-top-style:dashed" if system in DASHED else ""}"></i>'
        f"{escape(called(system))}</span>"
        for system in systems
    )
    yield f"<h2>Over depth <span class=soft>{escape(on(headline['split']))}, {escape(AMONG[headline['pool']])}</span></h2>"
    yield f"<div class=legend>{legend}</div><div class=curves>{''.join(drawn)}</div>"


def _figure(kind: str, name: str, curves: Mapping[str, Mapping[str, float]]) -> str:
    """One figure: depth on a scale of logarithms, shares from 0 to 1; empty where no system has a curve."""
    depths = sorted({int(depth) for points in curves.values() for depth in points})
    if len(depths) < 2:
        return ""
    low, high = math.log(depths[0]), math.log(depths[-1])

    def x(depth: int) -> float:
        return LEFT + (math.log(depth) - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(share: float) -> float:
        return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)

    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class=axis x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(share) + 4:.1f}" text-anchor="end">{share:g}</text>')
    last = -math.inf
    for depth in depths:
        if x(depth) - last >= 22:
            last = x(depth)
            parts.append(f'<text x="{last:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{depth}</text>')
    for system, points_of in curves.items():
        points = dict(sorted((int(depth), share) for depth, share in points_of.items()))  # JSON has the depths as text
        line = " ".join(f"{x(depth):.1f},{y(share):.1f}" for depth, share in points.items())
        dashes = ' stroke-dasharray="4 4"' if system in DASHED else ""
        values = ", ".join(f"{share:.3f} at {depth}" for depth, share in points.items())
        title = f"<title>{escape(called(system))}: {values}</title>"
        parts.append(f'<polyline points="{line}" stroke="{COLOURS[system]}"{dashes}>{title}</polyline>')
    label = escape(f"{kind}@k: {name}")
    drawn = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{label}">{"".join(parts)}</svg>'
    return f"<figure>{drawn}<figcaption class=soft>{label}</figcaption></figure>"
