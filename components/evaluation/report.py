"""The report of a run as one self-contained HTML page: what came of it, its release, results by task, what was read and left out, stages.

The order is that of a reader's questions: did the training help, how is the result served, how good is it, what was read, what was not and
why; then what a maintainer asks (report_corpus.py has what was read).
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from mirepoix.components.evaluation.evaluate_config import POOLS, SYSTEMS, released
from mirepoix.components.evaluation.report_corpus import corpus_sections

AMONG = {"universal": "among all candidates", "target": "among the candidates of the modality that is asked for"}
"""What each pool holds."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d2327; --soft: #69747c; --line: #d9dee2; --paper: #fff; --good: #2f7d4f; --base: #b4bcc2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7ebee; --soft: #9aa5ad; --line: #39424a; --paper: #171b1f; --good: #5dbb84; --base: #59636b; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
body { max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; }
p { margin: .3rem 0; }
.soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, .words { text-align: left; }
td.words { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; }
td:first-child.words { min-width: 4rem; }
.verdict { font-size: 1.1rem; font-weight: 600; margin: 1.2rem 0; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .3rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--soft); }
.headline { display: flex; gap: 3rem; margin: 1.4rem 0; flex-wrap: wrap; }
.key { display: inline-block; width: .7rem; height: .7rem; border-radius: 2px; background: var(--good); }
.key.base { background: var(--base); }
.figure { font-size: 2.4rem; font-weight: 650; line-height: 1.1; }
.bar { position: relative; height: .55rem; background: color-mix(in srgb, var(--line) 60%, transparent); }
.bar { border-radius: 3px; min-width: 14rem; }
.bar i { position: absolute; inset: 0 auto 0 0; border-radius: 3px; background: var(--good); }
.bar i.base { background: var(--base); }
td.best { font-weight: 650; }
td.pool { color: var(--soft); font-weight: 600; padding-top: 1rem; }
td .soft { display: block; font-size: .8rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .85rem; border: 1px solid var(--line); }
pre { padding: .8rem; border-radius: 6px; }
code { font-size: .85rem; overflow-wrap: anywhere; }
summary { cursor: pointer; }
details { margin: .6rem 0; }
h2 .soft { font-weight: 400; }
@media (max-width: 40rem) {
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: .5rem; }
  .headline { gap: 1rem 3rem; }
  .scores, .scores tbody { display: block; }
  .scores tr { display: flex; flex-wrap: wrap; border-bottom: 1px solid var(--line); padding: .3rem 0; }
  .scores th, .scores td { flex: 0 0 4.6rem; border: 0; padding: .1rem .2rem; box-sizing: border-box; }
  th, td { padding: .3rem .2rem; }
  td.words, td:first-child.words { min-width: 5.5rem; }
  .scores th:first-child, .scores td:first-child { flex: 1 1 4rem; overflow: hidden; text-overflow: ellipsis; }
  .scores td:last-child { flex: 1 0 100%; }
  .scores th:last-child { display: none; }
}
"""


def render(report: dict[str, Any]) -> str:
    """The page of a report; it loads nothing from elsewhere."""
    title = f"{report['recipe']}: {report['run']}"
    body = [f"<h1>{escape(report['recipe'])}</h1>", f"<p class=soft>run {escape(report['run'])} · {escape(report['created'])}</p>"]
    if report.get("headline"):
        if said := verdict(report["headline"]):
            body.append(f"<p class=verdict>{escape(_sentence(said))}</p>")
        body += [_headline(report["headline"])]
    body += _release(report)
    if report.get("headline"):
        body += _tables(report)
    if report.get("unmeasured"):
        body.append(f"<p>{escape(_sentence(report['unmeasured']))}</p>")
    if report.get("arms"):
        body += _comparison(report["arms"])
    body += corpus_sections(report)
    body += ["<h2>Stages</h2>", _stages(report["stages"])]
    settings = json.dumps(report["settings"], indent=2, sort_keys=True)
    body += ["<h2>Settings</h2>", f"<details><summary>every field of the run</summary><pre>{escape(settings)}</pre></details>"]
    if digest := report["data"]["digest"]:
        body.append(f"<details><summary>digest of the curated corpus</summary><p><code>{escape(digest)}</code></p></details>")
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html>\n<html lang=en><head>{head}</head><body>\n" + "\n".join(body) + "\n</body></html>\n"


def verdict(headline: Mapping[str, Any]) -> str:
    """Whether the training helped, in a line, with both averages and whether their intervals overlap; empty without a training.

    Overlapping intervals do not show that there is no difference; that both systems were asked the same queries is not used here.
    """
    if not {"trained", "untrained"} <= headline.keys():
        return ""
    before, after = headline["untrained"], headline["trained"]
    figures = f"{headline['measure']} {before['average']:.3f} before, {after['average']:.3f} after"
    overlap = before["low"] <= after["high"] and after["low"] <= before["high"]
    if after["average"] > before["average"]:
        if overlap:
            return f"the training may have helped: {figures}; the 95 % intervals overlap, so this is not settled"
        return f"the training helped: {figures}, and the 95 % intervals do not overlap"
    if overlap:
        return f"the training did not help: {figures}; the 95 % intervals overlap"
    return f"the training did harm: {figures}, and the 95 % intervals do not overlap"


def helped(headline: Mapping[str, Any]) -> bool:
    """Whether the trained encoder has the better average, or there is no untrained one beside it."""
    return not verdict(headline) or bool(headline["trained"]["average"] > headline["untrained"]["average"])


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


def _on(split: str) -> str:
    """The queries of a split, in words."""
    return "the held-out queries" if split == "held_out" else f"the queries of {split}"


def _headline(headline: dict[str, Any]) -> str:
    keys = {"trained": "key", "encoder": "key", "untrained": "key base"}
    figures = [
        f"<div><div class=figure>{headline[system]['average']:.3f}</div>"
        f'<div class=soft><span class="{keys[system]}"></span> {system}, {_spread(headline[system])}</div></div>'
        for system in SYSTEMS
        if system in headline
    ]
    what = f"{headline['measure']} on {_on(headline['split'])}, {AMONG[headline['pool']]}, averaged over the tasks"
    return f"<p>{escape(what)}</p><div class=headline>{''.join(figures)}</div>"


def _spread(entry: dict[str, Any]) -> str:
    return f"95 % interval {entry['low']:.3f} to {entry['high']:.3f}"


def _tables(report: dict[str, Any]) -> Iterable[str]:
    """A table per split and pool: the headline's measure of every task, untrained and trained, or of the one encoder as it came."""
    measure = report["headline"]["measure"]
    main = released(report["headline"])
    columns = "<th>untrained<th>trained" if main == "trained" else f"<th>{main}"
    found = {(entry["system"], entry["pool"], entry["split"]): entry for entry in report["results"]}
    for pool, split in sorted(
        {(pool, split) for _, pool, split in found}, key=lambda place: (place[0] != report["headline"]["pool"], place)
    ):
        shown, before = found[main, pool, split], found.get(("untrained", pool, split))
        base = before[measure] if before else None
        rows = [
            _row(task, count, shown[measure]["tasks"][task], base["tasks"][task] if base else None)
            for task, count in shown["queries"].items()
        ]
        rows.append(_row("average", sum(shown["queries"].values()), shown[measure]["average"], base["average"] if base else None))
        header = f"<tr><th>task<th>queries{columns}<th>{escape(measure)}"
        title = f"{escape(f'{measure} on {_on(split)}, {AMONG[pool]}')} <span class=soft>({escape(pool)} pool)</span>"
        yield f"<h2>{title}</h2><div class=wide><table class=scores>{header}{''.join(rows)}</table></div>"


def facts(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """Sizes and training times, as far as they are known: label -> arm -> value."""
    rows: dict[str, dict[str, str]] = {"parameters": {}, "rows x width": {}, "training": {}}
    for name, arm in arms.items():
        known = arm["facts"]
        if "parameters" in known:
            rows["parameters"][name] = f"{known['parameters']:,}"
        if "width" in known:
            rows["rows x width"][name] = f"{known['rows_per_item']:.3g} x {known['width']}"
        if "training_seconds" in known:
            rows["training"][name] = f"{known['training_seconds']:,.0f} s"
    return {what: cells for what, cells in rows.items() if cells}


def _comparison(arms: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """A column per arm: first the headline's split with sizes and times, then the other splits, then the failed arms with the reason."""
    found = {name: _places(arm) for name, arm in arms.items() if "headline" in arm}
    if found:
        headline = next(arms[name]["headline"] for name in found)
        measured = {split for places in found.values() for _, _, split in places}
        splits = sorted(measured, key=lambda split: (split != headline["split"], split))
        pools = sorted(POOLS, key=lambda pool: pool != headline["pool"])
        for split in splits:
            rows = [row for pool in pools for row in _pool(found, list(arms), headline["measure"], pool, split)]
            if split == headline["split"]:
                rows += _facts(arms)
            yield f"<h2>{escape(headline['measure'])} on {escape(_on(split))}</h2>{_columns(arms, rows)}"
        for name in found:
            if said := verdict(arms[name]["headline"]):
                yield f"<p><b>{escape(name)}</b>: {escape(said)}.</p>"
        yield (
            "<p class=soft>In the target pool are the candidates of the modality that a task asks for, in the universal pool are all. "
            "Averages are over the tasks, with 95 % intervals. Of an arm without a training the encoder is measured as it came. Vectors: "
            "rows of an item on average x their width; training: seconds of all stages that train, where they were made.</p>"
        )
    else:
        yield _columns(arms, _facts(arms))
    for name, arm in arms.items():
        if why := arm["failure"] or arm.get("unmeasured"):
            yield f"<p><b>{escape(name)}</b> is not in the table: {escape(why)}</p>"


def _places(arm: Mapping[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The results of an arm, by system, pool and split."""
    return {(entry["system"], entry["pool"], entry["split"]): entry for entry in arm["results"]}


def _pool(found: Mapping[str, dict], names: Sequence[str], measure: str, pool: str, split: str) -> Iterable[str]:
    """The rows of a pool: its tasks, the average, and the average of the untrained encoder, where an arm has a training."""
    by_system = {
        name: {system: entry for (system, *place), entry in places.items() if place == [pool, split]} for name, places in found.items()
    }
    main = {name: entries[released(entries)] for name, entries in by_system.items() if entries}
    untrained = {name: entries["untrained"] for name, entries in by_system.items() if "untrained" in entries}
    if not main:
        return
    yield f"<tr><td class=pool colspan={len(names) + 2}>{escape(pool)} pool"
    for task, queries in next(iter(main.values()))["queries"].items():
        values = {name: entry[measure]["tasks"][task] for name, entry in main.items() if task in entry["queries"]}
        best = max(values.values())
        cells = {name: f"<td{' class=best' if value == best else ''}>{value:.3f}" for name, value in values.items()}
        yield _line(task, f"{queries}", [cells.get(name, "<td>–") for name in names])
    averages = {name: entry[measure] for name, entry in main.items()}
    best = max(entry["average"] for entry in averages.values())
    cells = {name: _average(entry, entry["average"] == best) for name, entry in averages.items()}
    yield _line("average", f"{sum(next(iter(main.values()))['queries'].values())}", [cells.get(name, "<td>–") for name in names])
    if before := {name: f"<td>{entry[measure]['average']:.3f}" for name, entry in untrained.items()}:
        yield _line("average, untrained", "", [before.get(name, "<td>–") for name in names])


def _average(entry: Mapping[str, float], best: bool) -> str:
    spread = f"<span class=soft>{entry['low']:.3f} to {entry['high']:.3f}</span>"
    return f"<td{' class=best' if best else ''}>{entry['average']:.3f}{spread}"


def _facts(arms: Mapping[str, Mapping[str, Any]]) -> list[str]:
    known = facts(arms)
    head = [f"<tr><td class=pool colspan={len(arms) + 2}>sizes and times"] if known else []
    return head + [_line(what, "", [f"<td>{escape(cells.get(name, '–'))}" for name in arms]) for what, cells in known.items()]


def _line(label: str, queries: str, cells: Sequence[str]) -> str:
    return f"<tr><td>{escape(label)}<td>{queries}{''.join(cells)}"


def _columns(arms: Iterable[str], rows: Sequence[str]) -> str:
    header = "".join(f"<th>{escape(name)}" for name in arms)
    return f"<div class=wide><table><tr><th>task<th>queries{header}{''.join(rows)}</table></div>"


def _row(task: str, queries: int, value: float, untrained: float | None) -> str:
    bars, before = f'<div class=bar><i style="width:{value:.1%}"></i></div>', ""
    if untrained is not None:
        bars, before = f'{bars}<div class=bar><i class=base style="width:{untrained:.1%}"></i></div>', f"<td>{untrained:.3f}"
    return f"<tr><td>{escape(task)}<td>{queries}{before}<td>{value:.3f}<td>{bars}"


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
