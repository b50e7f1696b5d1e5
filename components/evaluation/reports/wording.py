"""What results are called in reports: systems, pools, splits, and whether a training helped, in a line."""

from collections.abc import Mapping
from typing import Any

from mirepoix.components.evaluation.evaluate_config import SYSTEMS, released

CALLED = {"bm25": "BM25", "pixels": "nearest pixels", "chance": "chance"}
"""Systems in the words of a reader, where these differ."""
ORDER = ("chance", "pixels", "bm25", "untrained", "trained", "encoder")
"""Systems from left to right."""
AMONG = {
    "universal": "among all candidates",
    "target": "among the candidates of the modality that is asked for",
    "dataset": "among the candidates of the query's data set",
    "listed": "among the candidates that are listed for the query",
    "board": "among the candidates that the board has for each data set",
}
"""What each pool holds."""


def called(system: str) -> str:
    """A system in the words of a reader."""
    return CALLED.get(system, system)


def systems_of(names: Mapping[str, Any] | set[str]) -> list[str]:
    """The systems among some names, in their order."""
    return [system for system in ORDER if system in names]


def on(split: str) -> str:
    """The queries of a split, in words."""
    return "the held-out queries" if split == "held_out" else f"the queries of {split}"


def measure_of(headline: Mapping[str, Any]) -> str:
    """What the measure of a headline is called; results of earlier versions have its name alone."""
    return str(headline.get("called", headline["measure"]))


def averaged(headline: Mapping[str, Any]) -> str:
    """What the averages of a headline are over."""
    return f"averaged over the {'data sets' if headline.get('mean') == 'datasets' else headline.get('mean', 'tasks')}"


def below(floors: list[str]) -> str:
    """That a system is below floors; empty where there are none."""
    return f"below {' and '.join(map(called, floors))}" if floors else ""


def verdict(headline: Mapping[str, Any]) -> str:
    """Whether the training helped, in a line, with both averages and whether their intervals overlap, and which floors the result is below.

    Without a training only the floors are named; empty where there is nothing to say. Overlapping intervals do not show that there is no
    difference; that both systems were asked the same queries is used by `mirepoix compare` alone.
    """
    parts = [_helped(headline)] if {"trained", "untrained"} <= headline.keys() else []
    system = released(headline)
    if floors := [floor for floor in headline.get("below", {}).get(system, ()) if floor not in SYSTEMS]:
        name = "the model" if parts else "the encoder as it came"
        values = " and ".join(f"{called(floor)} ({headline[floor]['average']:.3f})" for floor in floors)
        parts.append(f"{name} is below {values}, which need{'s' if len(floors) == 1 else ''} no encoder")
    return "; ".join(parts)


def unanswered(results: Mapping[str, Any]) -> str:
    """How many queries nothing in the corpus answers; empty where each has an answer."""
    count = results.get("unanswered", 0)
    subject = "1 query has" if count == 1 else f"{count:,} queries have"
    return f"{subject} no answer in the corpus, and count{'s' if count == 1 else ''} as zero" if count else ""


def _helped(headline: Mapping[str, Any]) -> str:
    before, after = headline["untrained"], headline["trained"]
    figures = f"{measure_of(headline)} {before['average']:.3f} before, {after['average']:.3f} after"
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
    if not {"trained", "untrained"} <= headline.keys():
        return True
    return bool(headline["trained"]["average"] > headline["untrained"]["average"])
