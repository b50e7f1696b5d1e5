"""The results of a run, gathered from its stages: scores by task, sizes and times of each retriever; and their table for the terminal."""

import json
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mirepoix.components.curation.curate_config import MERGED
from mirepoix.components.evaluation.evaluate_config import FLOORS, not_reached, released
from mirepoix.components.evaluation.reports.comparison import facts
from mirepoix.components.evaluation.reports.wording import called, measure_of, systems_of, unanswered, verdict
from mirepoix.components.ingestion.sources_config import EQUAL
from mirepoix.serving import store
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.dag.stages import TRAININGS
from mirepoix.workflows.runner.execute import Report, StageReport
from mirepoix.workflows.runner.progress import LINE

LABEL, COLUMN = 27, 11
WIDTHS = {"untrained": 11}
NAMED = 3
"""Rejected rows that are named in a line."""


def gather(config: Any, report: Report) -> dict[str, Any]:
    """The results of a run: those of its retriever, or of a comparison those of each arm, under `arms`."""
    if not isinstance(config, Comparison):
        return {name: value for name, value in _results(report, lambda stages, step: stages.get(step)).items() if name != "failure"}
    executed_as = config.executed_as
    return {"arms": {arm: _results(report, _of_arm(arm, executed_as)) for arm in config.chosen}}


def galleries(config: Any, report: Report) -> dict[str, dict[str, Any]]:
    """The queries that evaluations show with what was found, by the arm; under an empty name where there is but one retriever."""
    arms = config.chosen if isinstance(config, Comparison) else {"": config}
    found = {}
    for arm in arms:
        step = config.executed_as.get(f"{arm}:evaluate", "evaluate") if isinstance(config, Comparison) else "evaluate"
        stage = report.stages.get(step)
        if stage is not None and stage.digest and "unmeasured" not in read(stage.target, "metrics.json"):
            found[arm] = read(stage.target, "gallery.json")
    return found


def _of_arm(arm: str, executed_as: Mapping[str, str]) -> Callable[[Mapping[str, StageReport], str], StageReport | None]:
    return lambda stages, step: stages.get(executed_as.get(f"{arm}:{step}", step))


def _results(report: Report, at: Callable[[Mapping[str, StageReport], str], StageReport | None]) -> dict[str, Any]:
    """Headline, results by split, pool and task, sizes and times, as far as stages finished; and the failure, if evaluation did not."""
    found: dict[str, Any] = {"facts": {}, "failure": ""}
    backbone, index, evaluation = (at(report.stages, step) for step in ("backbone", "index", "evaluate"))
    if evaluation and evaluation.digest:
        measured = read(evaluation.target, "metrics.json")
        found |= {
            name: measured[name] for name in ("headline", "results", "board", "unmeasured", "unanswered") if measured.get(name, 0) != 0
        }
    elif evaluation:
        found["failure"] = _failure(report, evaluation)
    if backbone and backbone.digest:
        found["facts"]["parameters"] = int(backbone.metrics["parameters"])
    trainings = [stage for step in TRAININGS if (stage := at(report.stages, step)) and stage.digest]
    if trainings:
        found["facts"]["training_seconds"] = sum(stage.took for stage in trainings)
    if index and index.digest:
        found["facts"] |= {"width": int(index.metrics["width"]), "rows_per_item": index.metrics["rows"] / max(1, index.metrics["items"])}
    return found


def _failure(report: Report, evaluation: StageReport) -> str:
    """Why a retriever was not evaluated: the first failure among the stages that its evaluation depends on."""
    lost = evaluation
    while lost.status == "not run" and lost.reason.startswith("no result of "):
        lost = report.stages[lost.reason.removeprefix("no result of ").split(", ")[0]]
    name = next(name for name, stage in report.stages.items() if stage is lost)
    return f"{name} failed: {lost.error}" if lost.status == "failed" else f"{name} was not run"


def read(target: str, name: str) -> dict[str, Any]:
    """A JSON file of a stage's result."""
    return json.loads(content(target, name))


def content(target: str, name: str) -> bytes:
    """A file of a stage's result."""
    manifest = store.read_manifest(target)
    home = target if store.is_local(target) or manifest is None else store.join(target, manifest.digest)
    found = store.read(store.join(home, name))
    assert found is not None, f"{target} has no {name}"
    return found


def figures(results: Mapping[str, Any]) -> dict[str, float]:
    """The headline score of every arm, by the name of the arm and the measure."""
    measured = {name: arm["headline"] for name, arm in results.get("arms", {}).items() if "headline" in arm}
    return {f"{name} {headline['measure']}": headline[released(headline)]["average"] for name, headline in measured.items()}


def scores(results: Mapping[str, Any]) -> dict[str, float]:
    """What is released, by task, in the measure and the pool of the headline, and the average; of arms, by ARM:TASK."""
    if "arms" in results:
        return {f"{arm}:{task}": score for arm, own in results["arms"].items() for task, score in scores(own).items()}
    if "headline" not in results:
        return {}
    headline, found = results["headline"], _by_pool_and_system(results)
    entry = found[headline["pool"], released(headline)][headline["measure"]]
    return {**entry["tasks"], "average": entry["average"]}


def results_table(results: Mapping[str, Any]) -> str:
    """The results as a table of text, or why nothing could be measured; empty where nothing was evaluated."""
    if "arms" in results:
        return "\n".join(_compared(results["arms"]))
    return "\n".join(_single(results)) if "headline" in results else results.get("unmeasured", "")


def searchable(stages: Mapping[str, StageReport]) -> list[str]:
    """How many items can be searched, and how many rows were left out on the way to them, in a line; none where nothing was indexed."""
    counts = (stage.metrics.get("documents") for name, stage in stages.items() if name.rpartition(":")[2] == "release" and stage.digest)
    items = next((count for count in counts if count is not None), None)
    if items is None or "merge" in stages:  # what became of the items of a revision is said by its own command
        return []
    gone = left_out(stages)
    rows = ", ".join(f"{count:,} {how}" for how, count in gone.items())
    return [f"{int(items):,} items can be searched" + (f"; of the rows that were read {rows}" if rows else "")]


def left_out(stages: Mapping[str, StageReport]) -> dict[str, int]:
    """The rows of the corpus that were merged as duplicates, and those that were rejected, each if there are any."""
    read = [stages[name].rows for name in ("sources", "curate") if name in stages and stages[name].rows]
    gone = {"merged as duplicates": sum(rows["merged"] for rows in read), "rejected": sum(rows["rejected"] for rows in read)}
    return {how: count for how, count in gone.items() if count}


def rejected_rows(stages: Mapping[str, StageReport]) -> str:
    """How many rows of the corpus were rejected, and the first of them with their reasons; empty where none was."""
    count = left_out(stages).get("rejected", 0)
    found = [row for name in ("sources", "curate") if name in stages for row in stages[name].tables.get("examples", ())]
    names = [f"{row['place'] or row['id']} ({row['reason']})" for row in found if row["reason"] not in (*MERGED, EQUAL)]
    shown = names[:NAMED]
    more = f" and {count - len(shown):,} more" if shown and count > len(shown) else ""
    return f"{count:,} rejected{': ' if shown else ''}{', '.join(shown)}{more}" if count else ""


def _by_pool_and_system(results: Mapping[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """The results on the split of the headline, by pool and system."""
    split = results["headline"]["split"]
    return {(entry["pool"], entry["system"]): entry for entry in results["results"] if entry["split"] == split}


@dataclass(frozen=True)
class _Line:
    """A line of one retriever's tables: the names of columns, or scores."""

    label: str
    queries: int | str
    columns: Sequence[str]
    scores: Mapping[str, float | None] | None = None  # None: the names of columns
    more: str = ""

    @property
    def least(self) -> int:
        """The letters that its label and its queries need."""
        return len(self.label) + (9 if self.queries != "" else 0)

    def text(self, width: int) -> str:
        """The line with so many letters for its label and its queries; what the released encoder is below is named at its end."""
        known = {} if self.scores is None else {name: score for name, score in self.scores.items() if score is not None}
        shown = {name: _short(name) if self.scores is None else f"{known[name]:.3f}" if name in known else "-" for name in self.columns}
        cells = "".join(f"{cell:>{WIDTHS.get(name, 9)}}" for name, cell in shown.items())
        floors = ", ".join(map(_short, not_reached(known).get(released(known), [])))
        label = f"{self.label:<{width - 9}}{self.queries:>9}" if self.queries != "" else f"{self.label:<{width}}"
        line = f"  {label}{cells}{f'   below {floors}' if floors else ''}"
        if not self.more:
            return line
        return f"{line}   {self.more}" if len(line) + len(self.more) + 3 <= LINE else f"{line}\n    {self.more}"


def _short(system: str) -> str:
    """The last word of what a system is called."""
    return called(system).rpartition(" ")[2]


def _single(results: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one retriever's tables: those of its board, or scores by task; of floors, untrained and trained."""
    headline, found = results["headline"], _by_pool_and_system(results)
    measure, main = headline["measure"], released(headline)
    columns = systems_of(headline)
    lines: list[_Line | str] = []
    if board := results.get("board"):
        for table in board["tables"]:
            lines += _board_lines(board, table)
    else:
        entries = {system: found[headline["pool"], system] for system in columns}
        lines += [f"{measure_of(headline)} on {headline['split']}, {headline['pool']} pool", _Line("task", "queries", columns)]
        for task, queries in entries[main]["queries"].items():
            lines.append(_Line(task, queries, columns, {system: entry[measure]["tasks"].get(task) for system, entry in entries.items()}))
    for pool in _pools(results):
        figures = {system: found[pool, system][measure] for system in columns if measure in found.get((pool, system), {})}
        if main in figures:
            spread = f"(95 % interval {figures[main]['low']:.3f} to {figures[main]['high']:.3f})"
            averages = {system: entry["average"] for system, entry in figures.items()}
            lines.append(_Line(f"average, {pool}", "", columns, averages, spread))
    width = max([LABEL, *(line.least for line in lines if isinstance(line, _Line))])
    yield from (line if isinstance(line, str) else line.text(width) for line in lines)
    for said in (verdict(headline), unanswered(results)):
        yield from textwrap.wrap(said, LINE, subsequent_indent="  ", break_on_hyphens=False)


def _board_lines(board: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[_Line | str]:
    """The lines of a table of a board: its data sets, or of a single one its measures; then its means."""
    columns, rows = systems_of(set(table["systems"])), [row for row in table["rows"] if row["values"]]
    yield f"{board['title']} on {table['split']}, {table['pool']} pool"
    if any(row["columns"] for row in rows):
        for row in rows:
            yield _Line(row["label"], "queries", columns)
            yield from (_Line(column["name"], row["queries"], columns, column["values"]) for column in row["columns"])
        return
    yield _Line("data set", "queries", columns)
    for row in rows:
        yield _Line(f"{row['label']} {row['called']}", row["queries"], columns, row["values"])
    for name in dict.fromkeys(mean["name"] for mean in table["means"]):
        own = [mean for mean in table["means"] if mean["name"] == name]
        label = name if own[0]["rows"] == own[0]["of"] else f"{name} ({own[0]['rows']} of {own[0]['of']})"
        yield _Line(f"mean {label}", "", columns, {mean["system"]: mean["value"] for mean in own})


def _pools(results: Mapping[str, Any]) -> list[str]:
    """The pools that were measured, that of the headline first."""
    pools = dict.fromkeys(entry["pool"] for entry in results["results"])
    return sorted(pools, key=lambda pool: (pool != results["headline"]["pool"], pool))


def _compared(arms: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """The lines of a comparison's table: tasks, averages, sizes and times, a column for each retriever."""
    widths = {name: max(COLUMN, len(name) + 2) for name in arms}

    def line(label: str, cells: Mapping[str, str], queries: str = "") -> str:
        return f"  {label:<{LABEL - 9}}{queries:>9}" + "".join(f"{cells.get(name, '-'):>{width}}" for name, width in widths.items())

    found = {name: _by_pool_and_system(arm) for name, arm in arms.items() if "headline" in arm}
    if found:
        headline = next(arms[name]["headline"] for name in found)
        measure, main = headline["measure"], {name: released(arms[name]["headline"]) for name in found}
        first = next(iter(found))
        yield f"{measure_of(headline)} on {headline['split']}, {headline['pool']} pool"
        yield line("task", {name: name for name in arms}, "queries")
        for task, queries in found[first][headline["pool"], main[first]]["queries"].items():
            tasks = {name: places[headline["pool"], main[name]][measure]["tasks"] for name, places in found.items()}
            yield line(task, {name: f"{own[task]:.3f}" for name, own in tasks.items() if task in own}, str(queries))
        for pool in _pools(arms[first]):
            figures = {name: places[pool, main[name]][measure] for name, places in found.items()}
            untrained = {name: places[pool, "untrained"][measure] for name, places in found.items() if main[name] == "trained"}
            yield line(f"average, {pool}", {name: f"{value['average']:.3f}" for name, value in figures.items()})
            yield line("  95 % from", {name: f"{value['low']:.3f}" for name, value in figures.items()})
            yield line("  to", {name: f"{value['high']:.3f}" for name, value in figures.items()})
            for floor in FLOORS:
                of = {name: places[pool, floor][measure]["average"] for name, places in found.items() if (pool, floor) in places}
                if of:
                    yield line(f"  {called(floor)}", {name: f"{value:.3f}" for name, value in of.items()})
            if untrained:
                yield line("  untrained", {name: f"{value['average']:.3f}" for name, value in untrained.items()})
    for label, cells in facts(arms).items():
        yield line(label, cells)
    yield from {said: None for arm in arms.values() if (said := unanswered(arm))}
    yield from (f"  {name}: {why}" for name, arm in arms.items() if (why := arm["failure"] or arm.get("unmeasured", "")))
