"""The report of a run as one self-contained HTML page: what came of it, its release, results, examples, the corpus, stages.

The order is that of a reader's questions: did the training help, how is the result served, how good is it and beside what, what does it
find, what was read, what was not and why; then what a maintainer asks.
"""

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from mirepoix.components.evaluation.reports.comparison import comparison_section
from mirepoix.components.evaluation.reports.corpus import corpus_sections
from mirepoix.components.evaluation.reports.curves import curve_section
from mirepoix.components.evaluation.reports.examples import example_section
from mirepoix.components.evaluation.reports.scores import board_section, headline_section, task_sections
from mirepoix.components.evaluation.reports.style import STYLE
from mirepoix.components.evaluation.reports.wording import unanswered, verdict


def render(report: dict[str, Any], galleries: Mapping[str, Mapping[str, Any]] | None = None) -> str:
    """The page of a report, with the queries of galleries, each by its arm; it loads nothing from elsewhere."""
    title = f"{report['recipe']}: {report['run']}"
    body = [f"<h1>{escape(report['recipe'])}</h1>", f"<p class=soft>run {escape(report['run'])} · {escape(report['created'])}</p>"]
    if report.get("headline"):
        if said := verdict(report["headline"]):
            body.append(f"<p class=verdict>{escape(_sentence(said))}</p>")
        body += headline_section(report["headline"])
        if said := unanswered(report):
            body.append(f"<p class=soft>{escape(_sentence(said))}</p>")
    body += _release(report)
    if report.get("headline"):
        if board := report.get("board"):
            body += board_section(board)
        body += task_sections(report)
        body += curve_section(report)
    if report.get("unmeasured"):
        body.append(f"<p>{escape(_sentence(report['unmeasured']))}</p>")
    if report.get("arms"):
        body += comparison_section(report["arms"])
    for arm, gallery in (galleries or {}).items():
        body += example_section(gallery, arm)
    body += corpus_sections(report)
    body += ["<h2>Stages</h2>", _stages(report["stages"])]
    settings = json.dumps(report["settings"], indent=2, sort_keys=True)
    body += ["<h2>Settings</h2>", f"<details><summary>every field of the run</summary><pre>{escape(settings)}</pre></details>"]
    if digest := report["data"]["digest"]:
        body.append(f"<details><summary>digest of the curated corpus</summary><p><code>{escape(digest)}</code></p></details>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html>\n<html lang=en><head>{head}</head><body>\n" + "\n".join(body) + "\n</body></html>\n"


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:]}."


def _release(report: Mapping[str, Any]) -> Iterator[str]:
    """Which releases were made, and the commands of the run: to serve it, and to have the model as it was before a training."""
    rows = []
    for made in report.get("releases", ()):
        name = " ".join(filter(None, [made["arm"], made["version"]]))
        rows.append(("release", f"<strong>{escape(name)}</strong> in <code>{escape(made['target'])}</code>"))
        if serve := made.get("serve"):
            rows.append(("serve it", f"<code>{escape(serve)}</code>"))
    if untrained := report.get("commands", {}).get("untrained"):
        rows.append(("the model as it was before the training", f"<code>{escape(untrained)}</code>"))
    if rows:
        yield f"<dl>{''.join(f'<dt>{label}<dd>{value}' for label, value in rows)}</dl>"


def _stages(stages: list[dict[str, Any]]) -> str:
    rows = [
        f"<tr><td>{escape(stage['name'])}<td>{escape(stage['status'])}<td>{stage['seconds']:.1f}<td>{_whole(stage)}<td>{_gone(stage)}"
        f"<td><code>{escape(stage['digest'][:12])}</code>"
        for stage in stages
    ]
    header = "<tr><th>stage<th>status<th>seconds<th>rows read → written<th>of these left out<th>digest"
    return f"<div class=wide><table>{header}{''.join(rows)}</table></div>"


def _whole(stage: Mapping[str, Any]) -> str:
    rows = stage.get("rows")
    return f"{rows['read']:,} → {rows['written']:,}" if rows else ""


def _gone(stage: Mapping[str, Any]) -> str:
    """Why a stage wrote fewer rows than it read."""
    rows = stage.get("rows") or {}
    return ", ".join(f"{rows[how]:,} {how}" for how in ("merged", "rejected") if rows.get(how))
