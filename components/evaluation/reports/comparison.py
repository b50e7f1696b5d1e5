"""The section of a report that compares retrievers: a column for each arm."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from mirepoix.components.evaluation.evaluate_config import FLOORS, released
from mirepoix.components.evaluation.reports.wording import AMONG, averaged, called, measure_of, on, unanswered, verdict


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


def comparison_section(arms: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """A column per arm: first the headline's split with sizes and times, then the other splits, then the failed arms with the reason."""
    found = {name: _places(arm) for name, arm in arms.items() if "headline" in arm}
    if found:
        headline = next(arms[name]["headline"] for name in found)
        places = {place for of in found.values() for place in of}
        splits = sorted({split for _, _, split in places}, key=lambda split: (split != headline["split"], split))
        pools = sorted({pool for _, pool, _ in places}, key=lambda pool: (pool != headline["pool"], pool))
        for split in splits:
            rows = [row for pool in pools for row in _pool(found, list(arms), headline["measure"], pool, split)]
            if split == headline["split"]:
                rows += _facts(arms)
            if rows:
                yield f"<h2>{escape(measure_of(headline))} on {escape(on(split))}</h2>{_columns(arms, rows)}"
        for name in found:
            if said := verdict(arms[name]["headline"]):
                yield f"<p><b>{escape(name)}</b>: {escape(said)}.</p>"
        yield from dict.fromkeys(f"<p>{escape(said)}.</p>" for name in found if (said := unanswered(arms[name])))
        among = "; ".join(f"{pool} pool: {AMONG[pool]}" for pool in pools)
        yield (
            f"<p class=soft>{escape(among[:1].upper() + among[1:])}. Scores are {averaged(headline)}, with 95 % intervals. "
            "Of an arm without a training the encoder is measured as it came. Vectors: rows of an item on average x their width; "
            "training: seconds of all stages that train, where they were made.</p>"
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
        name: {system: entry for (system, *place), entry in places.items() if place == [pool, split] and measure in entry}
        for name, places in found.items()
    }
    main = {name: entries[released(entries)] for name, entries in by_system.items() if entries}
    untrained = {name: entries["untrained"] for name, entries in by_system.items() if "untrained" in entries}
    if not main:
        return
    yield f"<tr><td class=pool colspan={len(names) + 2}>{escape(pool)} pool"
    for task, queries in next(iter(main.values()))["queries"].items():
        values = {name: entry[measure]["tasks"][task] for name, entry in main.items() if task in entry[measure]["tasks"]}
        best = max(values.values(), default=0.0)
        cells = {name: f"<td{' class=best' if value == best else ''}>{value:.3f}" for name, value in values.items()}
        yield _line(task, f"{queries}", [cells.get(name, "<td>–") for name in names])
    averages = {name: entry[measure] for name, entry in main.items()}
    best = max(entry["average"] for entry in averages.values())
    cells = {name: _average(entry, entry["average"] == best) for name, entry in averages.items()}
    yield _line("average", f"{sum(next(iter(main.values()))['queries'].values())}", [cells.get(name, "<td>–") for name in names])
    for floor in FLOORS:
        values = {name: entries[floor][measure]["average"] for name, entries in by_system.items() if floor in entries}
        if values:
            yield _line(f"average, {called(floor)}", "", [f"<td>{values[name]:.3f}" if name in values else "<td>–" for name in names])
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
