"""Scores of a run, whoever made it, by the judgements of its queries."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from mirepoix.components.evaluation.files.runs import Ranking
from mirepoix.components.evaluation.scoring.measures import Measure
from mirepoix.components.evaluation.scoring.metrics import per_query

BATCH = 512  # queries at once


class RunScores(NamedTuple):
    """The scores of a run: by query, and their means over all queries of the judgements."""

    queries: dict[str, dict[str, float]]
    means: dict[str, float]
    missing: int  # queries of the judgements that are not in the run; they count as 0
    unjudged: int  # queries of the run without judgements; they do not count


def score(run: Iterable[Ranking], qrels: Mapping[str, Mapping[str, int]], measures: Sequence[Measure]) -> RunScores:
    """The scores of a run by each measure. A query of the judgements that is not in the run counts as 0, as with `trec_eval -c`."""
    scores: dict[str, dict[str, float]] = {}
    unjudged = 0
    for batch in _batches(run):
        judged = [ranking for ranking in batch if ranking.query in qrels]
        unjudged += len(batch) - len(judged)
        found = [[qrels[ranking.query].get(id, 0) for id in ranking.ids] for ranking in judged]
        values = per_query(measures, found, [[*qrels[ranking.query].values()] for ranking in judged])
        for place, ranking in enumerate(judged):
            scores[ranking.query] = {name: float(column[place]) for name, column in values.items()}
    missing = [query for query in qrels if query not in scores]
    scores |= {query: {each.name: 0.0 for each in measures} for query in missing}
    means = {each.name: sum(found[each.name] for found in scores.values()) / len(scores) for each in measures}
    return RunScores({query: scores[query] for query in qrels}, means, len(missing), unjudged)


def _batches(run: Iterable[Ranking]) -> Iterator[list[Ranking]]:
    rankings = iter(run)
    while batch := list(islice(rankings, BATCH)):
        yield batch
