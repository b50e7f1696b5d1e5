"""The sections of a report on the corpus of its run: what was read, what was left out and why, notices, and the other counts of stages."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from mirepoix.components.curation.curate_config import MERGED
from mirepoix.components.ingestion.sources_config import EQUAL

PARTS = {"corpus": "candidates", "qrels": "judgements", "prompts": "instructions"}
"""Parts of a corpus in the words of a reader, where these differ."""
COLUMNS = {"stage": "training", "held_out": "held out"}
"""Columns of tables in the words of a reader, where these differ."""
TITLES = {
    ("curate", "mixture"): "Training pairs by source and task, before and after curation",
    ("curate", "leakage"): "Training queries that other settings against leakage would keep",
    ("pairs", "mixture"): "Training pairs by source and task, before and after weighting",
    ("pairs-verbalised", "mixture"): "Training pairs with verbalised captions by source and task, before and after weighting",
    ("mine", "dropped"): "Hard negatives that were dropped, and why",
    ("passages", "passages"): "Passages to train on that were written, and why others were not",
    ("verbalise", "verbalised"): "Captions that were verbalised, and why others were not",
    ("merge", "items"): "Items that were added, replaced, there already or removed",
}
"""Headings of the tables that stages return; "notices", "sources", "rejects" and "examples" are shown together, "headline" is on top."""
TOGETHER = ("notices", "warnings", "sources", "rejects", "examples", "headline")


def corpus_sections(report: Mapping[str, Any]) -> list[str]:
    """The sections as HTML; tables that have no heading of their own in TITLES are shown under the stage's name."""
    stages = report["stages"]
    return [*_read(stages), *_left_out(report), *_notices(stages), *_counted(stages)]


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table whose columns of words are aligned to the left, and of numbers to the right."""
    columns = "".join(f"<th{_words(value)}>{escape(name)}" for name, value in zip(header, rows[0], strict=True))
    return f"<div class=wide><table><tr>{columns}{''.join('<tr>' + ''.join(map(_cell, row)) for row in rows)}</table></div>"


def _of(stages: Iterable[Mapping[str, Any]], step: str) -> Mapping[str, Any]:
    """The stage of that name; empty where the run has none."""
    return next((stage for stage in stages if stage["name"] == step), {})


def _read(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """How many rows were read, and what became of them up to the curated corpus; then by source and part."""
    reading, curated = (_of(stages, step).get("rows") or {} for step in ("sources", "curate"))
    if not reading:
        return
    yield "<h2>What was read</h2>"
    parts = []
    for how in ("merged", "rejected"):
        counts = {"while files were read": reading.get(how, 0), "in curation": curated.get(how, 0)}
        of = ", ".join(f"{count:,} {when}" for when, count in counts.items() if count)
        parts.append(f"{sum(counts.values()):,} {how}{f' ({of})' if of else ''}")
    # A generated world counts its candidates and queries as read, and its curation the judgements and triples too.
    read = curated["read"] + reading.get("merged", 0) + reading.get("rejected", 0) if curated else reading["read"]
    kept = curated.get("written", reading["written"])
    yield f"<p>{read:,} rows: {', '.join(parts)}, {kept:,} kept. Merged rows are copies: their content stays, once.</p>"
    counted = [row for row in _of(stages, "sources").get("tables", {}).get("sources", ()) if row["what"] == "read"]
    if counted:
        yield _table(("source", "rows of", "rows"), [(row["source"], PARTS.get(row["part"], row["part"]), row["count"]) for row in counted])


def _left_out(report: Mapping[str, Any]) -> Iterator[str]:
    """The rows that were rejected or merged, by reason, with the first files of each, and the command that writes all into a file."""
    rows: Counter[tuple[str, str, str]] = Counter()
    first: dict[tuple[str, str, str], list[str]] = {}
    for step in ("sources", "curate"):
        tables = _of(report["stages"], step).get("tables", {})
        found = [(row["what"], row["part"], row["count"]) for row in tables.get("sources", ()) if row["what"] != "read"]
        found += [(row["reason"], row["part"], row["count"]) for row in tables.get("rejects", ())]
        for reason, part, count in found:
            rows["merged" if reason in (*MERGED, EQUAL) else "rejected", reason, part] += count
        for row in tables.get("examples", ()):
            how = "merged" if row["reason"] in (*MERGED, EQUAL) else "rejected"
            first.setdefault((how, row["reason"], row["part"]), []).append(row["place"] or row["id"])
    if not rows:
        return
    shown = sorted(rows.items(), key=lambda entry: (entry[0][0] != "rejected", -entry[1], entry[0]))
    lines = []
    for (how, reason, part), count in shown:
        names = list(dict.fromkeys(first.get((how, reason, part), ())))
        more = f" and {count - len(names):,} more" if names and count > len(names) else ""
        lines.append((f"{how}: {reason}", PARTS.get(part, part), count, f"{', '.join(names)}{more}"))
    yield "<h2>What was left out, and why</h2>"
    yield _table(("reason", "rows of", "rows", "read from"), lines)
    if every := report.get("commands", {}).get("rows"):
        yield f"<p class=soft>Each row is written into a file by <code>{escape(every)}</code></p>"


def _notices(stages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What was not read without being a row, and what else stages had to say of the data."""
    found = [
        (row.get("source") or (f"training {row['stage']}" if "stage" in row else f"stage {stage['name']}"), row["detail"])
        for stage in stages
        for title in ("notices", "warnings")
        for row in stage.get("tables", {}).get(title, ())
        if stage["name"].rpartition(":")[2] != "evaluate"
    ]
    if found:
        yield "<h2>Notices</h2>"
        yield _table(("of", "notice"), found)


def _counted(stages: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """The other tables that stages returned: the mixture of training pairs, negatives that were dropped, ..."""
    for stage in stages:
        arm, _, step = stage["name"].rpartition(":")
        for title, rows in stage.get("tables", {}).items():
            if rows and title not in TOGETHER:
                heading = TITLES.get((step, title), f"{title} of the stage {step}") + (f" ({arm})" if arm else "")
                table = _table([COLUMNS.get(column, column) for column in rows[0]], [list(row.values()) for row in rows])
                yield f"<h2>{escape(heading)}</h2>{table}"


def _cell(value: Any) -> str:
    shown = f"{value:,}" if isinstance(value, int | float) else str(value)
    return f"<td{_words(value)}>{escape(shown)}"


def _words(value: Any) -> str:
    """The class that aligns a cell of words to the left; numbers are aligned to the right."""
    return "" if isinstance(value, int | float) else " class=words"
