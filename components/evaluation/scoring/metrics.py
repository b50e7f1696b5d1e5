"""The values of measures for rankings whose items have grades, by pytrec_eval, the Python form of NIST's trec_eval.

It is given ranks in the place of ids: what it computes depends on the grades in their order and on those that were not found, and a ranking
of a thousand items then costs no dictionary of its own.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pytrec_eval

from mirepoix.components.evaluation.scoring.measures import Measure
from mirepoix.models.errors import Refused

_TREC = {"nDCG": "ndcg_cut", "R": "recall", "P": "P", "Success": "success", "AP": "map_cut"}
_LARGEST = 1 << 20
"""The largest gain: trec_eval has a counter for each relevance up to the largest, so that one of a thousand million takes 8 GB."""
Ranked = Sequence[int] | npt.NDArray[np.integer]


def per_query(wanted: Iterable[Measure], found: Sequence[Ranked], ideal: Sequence[Ranked]) -> dict[str, npt.NDArray[np.float64]]:
    """Each measure's values by its name, one a query.

    `found` are the grades of each query's ranking, best first and 0 for what is not relevant; `ideal` those of all its relevant items.
    A query that nothing answers, or for which nothing was found, has 0 in each.
    """
    wanted = tuple(wanted)
    by_gain = {exponential: [each for each in wanted if each.exponential == exponential] for exponential in (False, True)}
    values: dict[str, npt.NDArray[np.float64]] = {}
    for exponential, group in by_gain.items():
        if group:
            values |= _by_trec_eval(group, found, ideal, exponential)
    return {each.name: values[each.name] for each in wanted}


def _by_trec_eval(group: Sequence[Measure], found: Sequence[Ranked], ideal: Sequence[Ranked], exponential: bool) -> dict[str, np.ndarray]:
    names = {each: f"{_TREC[each.kind]}_{each.depth}" for each in group if each.kind != "RR"}
    asked = {f"{_TREC[each.kind]}.{each.depth}" for each in names} | {"recip_rank"}
    graded = any(each.kind == "nDCG" for each in group)  # for all others an item is relevant or not
    judged, runs = {}, {}
    for number, (grades, best) in enumerate(zip(found, ideal, strict=True)):
        relevant = {_rank(place): int(grades[place]) for place in np.flatnonzero(np.asarray(grades) > 0).tolist()}
        missed = Counter(int(grade) for grade in best if grade > 0)
        missed.subtract(relevant.values())
        assert min(missed.values(), default=0) >= 0, "a ranking has more relevant items than there are"
        relevant |= {f"missed {place}": grade for place, grade in enumerate(missed.elements())}
        if relevant and len(grades):
            judged[str(number)] = {item: _gain(grade, exponential) if graded else 1 for item, grade in relevant.items()}
            runs[str(number)] = _run(len(grades))
    values = {each.name: np.zeros(len(found)) for each in group}
    if judged:
        for query, scores in pytrec_eval.RelevanceEvaluator(judged, asked).evaluate(runs).items():
            first = scores["recip_rank"]
            for each in group:
                value = scores[names[each]] if each in names else first * (first * each.depth > 1 - 1e-9)
                values[each.name][int(query)] = value
    return values


def _gain(grade: int, exponential: bool) -> int:
    gain = 2 ** min(grade, 64) - 1 if exponential else grade
    if gain > _LARGEST:
        most = f"{_LARGEST.bit_length() - 1} where the gain is 2^g - 1" if exponential else f"{_LARGEST:,}"
        raise Refused(
            f"a judgement has the grade {grade}, and for nDCG grades go up to {most}; give smaller ones, or measures without nDCG"
        )
    return gain


@lru_cache(maxsize=64)
def _run(length: int) -> dict[str, float]:
    """A run of so many items, which are named by their ranks."""
    return {_rank(place): float(length - place) for place in range(length)}


@lru_cache(maxsize=100_000)
def _rank(place: int) -> str:
    return f"{place}"
