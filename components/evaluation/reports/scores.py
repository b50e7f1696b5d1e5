"""The sections of a report on how good a retriever is: the headline, the tables of a board, tables by task and by data set."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from mirepoix.components.evaluation.evaluate_config import FLOORS, not_reached, released
from mirepoix.components.evaluation.reports.wording import AMONG, averaged, below, called, on, systems_of

KEYS = {"trained": "key", "encoder": "key", "untrained": "key base"}


@dataclass(frozen=True)
class ScoreRow:
    """A row of a table of scores: a task, a data set, a mean."""

    label: str
    queries: int | None
    values: Mapping[str, float]
    note: str = ""
    mean: bool = False
    below: Sequence[str] = field(default=())  # floors that the main system is below


def headline_section(headline: Mapping[str, Any]) -> Iterator[str]:
    """The figures of the headline: encoders large, floors small."""
    figures = []
    for system in systems_of(headline):
        entry = headline[system]
        spread = f"95 % interval {entry['low']:.3f} to {entry['high']:.3f}"
        floor = system in FLOORS
        key = "" if floor else f'<span class="{KEYS[system]}"></span> '
        under = "" if floor else _under(headline["below"].get(system, []))
        caption = called(system) if system == "chance" else f"{called(system)}, {spread}"
        figures.append(
            f"<div{' class=floor' if floor else ''}><div class=figure>{entry['average']:.3f}</div>"
            f"<div class=soft>{key}{escape(caption)}{under}</div></div>"
        )
    what = f"{headline['called']} on {on(headline['split'])}, {AMONG[headline['pool']]}, {averaged(headline)}"
    yield f"<p>{escape(what)}</p><div class=headline>{''.join(reversed(figures))}</div>"


def board_section(board: Mapping[str, Any]) -> Iterator[str]:
    """The tables of a board, in its own order and words, one for each pool; where it prints several measures of a row, these."""
    yield f'<h2>{escape(board["title"])} <span class=soft>as <a href="{escape(board["source"])}">its authors</a> compute it</span></h2>'
    if board["note"]:
        yield f"<p class=soft>{escape(board['note'])}</p>"
    for table in board["tables"]:
        yield f"<h3>{escape(AMONG[table['pool']])} <span class=soft>({escape(table['pool'])} pool)</span></h3>"
        rows = [row for row in table["rows"] if row["values"]]
        if missing := [row["label"] for row in table["rows"] if not row["values"]]:
            yield f"<p class=soft>Not measured: {escape(', '.join(missing))}</p>"
        if any(row["columns"] for row in rows):
            for row in rows:
                yield _by_measure(row)
            continue
        found = [ScoreRow(row["label"], row["queries"], row["values"], row["called"], below=_main(row["below"])) for row in rows]
        for name in dict.fromkeys(mean["name"] for mean in table["means"]):
            own = [mean for mean in table["means"] if mean["name"] == name]
            values = {mean["system"]: mean["value"] for mean in own}
            note = f"mean of {own[0]['of']}" if own[0]["rows"] == own[0]["of"] else f"mean of {own[0]['rows']}, of {own[0]['of']}"
            found.append(ScoreRow(name, None, values, note, mean=True, below=_main(not_reached(values))))
        yield score_table("data set", found)


def _by_measure(row: Mapping[str, Any]) -> str:
    """A row of a board that prints several measures: a row for each system, a column for each measure."""
    names = [column["name"] for column in row["columns"]]
    lines = []
    for system in reversed(systems_of(row["values"])):
        own = {column["name"]: column["values"][system] for column in row["columns"] if system in column["values"]}
        cells = "".join(f'<td data-of="{escape(name)}">{own[name]:.4f}' if name in own else "<td>–" for name in names)
        lines.append(f"<tr><td>{escape(called(system))}{_under(row['below'].get(system, []))}{cells}")
    header = f"<tr><th>{escape(row['label'])}, {row['queries']:,} queries{''.join(f'<th>{escape(name)}' for name in names)}"
    return f"<div class=wide><table class=scores>{header}{''.join(lines)}</table></div>"


def task_sections(report: Mapping[str, Any]) -> Iterator[str]:
    """A table for each split and pool: the headline's measure by task, and by data set where there are several, of every system."""
    headline = report["headline"]
    measure = headline["measure"]
    found = {(entry["pool"], entry["split"], entry["system"]): entry for entry in report["results"] if measure in entry}
    places = {(pool, split) for pool, split, _ in found}
    for split in sorted({split for _, split in places}, key=lambda split: (split != headline["split"], split)):
        pools = sorted({pool for pool, of in places if of == split}, key=lambda pool: (pool != headline["pool"], pool))
        shown = "".join(part for pool in pools for part in _pool_tables(headline, pool, split, found))
        if split == headline["split"] and not report.get("board"):
            yield shown
        else:
            yield f"<details><summary>{escape(headline['called'])} on {escape(on(split))}, by task</summary>{shown}</details>"


def _pool_tables(
    headline: Mapping[str, Any], pool: str, split: str, found: Mapping[tuple[str, str, str], Mapping[str, Any]]
) -> Iterator[str]:
    measure = headline["measure"]
    entries = {system: entry for (*place, system), entry in found.items() if place == [pool, split]}
    first = entries[released(entries)]
    title = f"{headline['called']} on {on(split)}, {AMONG[pool]}"
    yield f"<h2>{escape(title)} <span class=soft>({escape(pool)} pool)</span></h2>"
    by_task = {name: entry[measure]["tasks"] for name, entry in entries.items()}
    rows = [
        _row(task, count, {name: own[task] for name, own in by_task.items() if task in own}) for task, count in first["queries"].items()
    ]
    averages = {name: entry[measure]["average"] for name, entry in entries.items()}
    yield score_table("task", [*rows, _row("average", sum(first["queries"].values()), averages, mean=True)])
    if len(first["datasets"]) > 1:
        yield score_table("data set and task", [*_dataset_rows(first, entries, measure)])


def _dataset_rows(first: Mapping[str, Any], entries: Mapping[str, Mapping[str, Any]], measure: str) -> Iterator[ScoreRow]:
    for name, tasks in first["datasets"].items():
        for task, count in tasks.items():
            of = {system: entry[measure]["datasets"].get(name, {}).get(task) for system, entry in entries.items()}
            yield _row(f"{name} {task}", count, {system: value for system, value in of.items() if value is not None})


def _row(label: str, queries: int, values: Mapping[str, float], mean: bool = False) -> ScoreRow:
    return ScoreRow(label, queries, values, mean=mean, below=_main(not_reached(values)))


def _main(below: Mapping[str, list[str]]) -> list[str]:
    """The floors that the released system is below."""
    return below.get("trained", below.get("encoder", [])) if "untrained" not in below or "trained" in below else []


def score_table(what: str, rows: Sequence[ScoreRow]) -> str:
    """A table with a column for each system, and bars of the encoders; a score below a floor says so."""
    systems = systems_of({system for row in rows for system in row.values})
    main, queries = released(systems), any(row.queries for row in rows)
    bars = [system for system in (main, "untrained") if system in systems]
    lines = []
    for row in rows:
        note = f"<span class=soft>{escape(row.note)}</span>" if row.note else ""
        cells = f"<td data-of=queries>{row.queries:,}" if row.queries else "<td>" if queries else ""
        for system in systems:
            value = row.values.get(system)
            mark = _under(list(row.below)) if system == main and value is not None else ""
            cells += f'<td data-of="{escape(called(system))}">{"–" if value is None else f"{value:.3f}"}{mark}'
        drawn = "".join(
            f'<div class=bar><i{" class=base" if system == "untrained" else ""} style="width:{row.values[system]:.1%}"></i></div>'
            for system in bars
            if system in row.values
        )
        lines.append(f"<tr{' class=mean' if row.mean else ''}><td>{escape(row.label)}{note}{cells}<td class=bars>{drawn}")
    columns = "".join(f"<th>{escape(called(system))}" for system in systems)
    header = f"<tr><th>{escape(what)}{'<th>queries' if queries else ''}{columns}<th>"
    return f"<div class=wide><table class=scores>{header}{''.join(lines)}</table></div>"


def _under(floors: list[str]) -> str:
    return f" <span class=under>{escape(below(floors))}</span>" if floors else ""
