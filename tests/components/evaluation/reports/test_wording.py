"""Results are called in the words of a reader, and whether they are any good is said in a line."""

import pytest

from mirepoix.components.evaluation.boards.board import POOLS
from mirepoix.components.evaluation.evaluate_config import FLOORS, SYSTEMS
from mirepoix.components.evaluation.reports.wording import (
    AMONG,
    ORDER,
    averaged,
    below,
    called,
    helped,
    measure_of,
    on,
    systems_of,
    unanswered,
    verdict,
)


def figures(average: float, spread: float = 0.01) -> dict[str, float]:
    return {"average": average, "low": average - spread, "high": average + spread}


def headline(below: dict[str, list[str]] | None = None, **systems: float) -> dict:
    found = {"split": "test", "measure": "R@5", "called": "R@5", "pool": "target", "mean": "tasks", "below": below or {}}
    return found | {system: figures(average) for system, average in systems.items()}


def test_every_pool_has_words_and_every_system_a_place():
    assert set(AMONG) == set(POOLS) and {*SYSTEMS, *FLOORS} == {*ORDER} and len(ORDER) == len(SYSTEMS) + len(FLOORS)
    assert systems_of({"trained", "bm25", "chance", "untrained", "split"}) == ["chance", "bm25", "untrained", "trained"]
    assert [called(system) for system in ORDER] == ["chance", "nearest pixels", "BM25", "untrained", "trained", "encoder"]


def test_how_many_queries_have_no_answer_is_said_where_there_are_any():
    assert unanswered({"unanswered": 2400}) == "2,400 queries have no answer in the corpus, and count as zero"
    assert unanswered({"unanswered": 1}) == "1 query has no answer in the corpus, and counts as zero"
    assert unanswered({}) == ""


def test_splits_and_means_are_put_into_words():
    assert (on("held_out"), on("test_entity")) == ("the held-out queries", "the queries of test_entity")
    assert [averaged({"mean": mean}) for mean in ("tasks", "datasets", "queries")] == [
        "averaged over the tasks",
        "averaged over the data sets",
        "averaged over the queries",
    ]
    assert averaged({}) == "averaged over the tasks", "as in reports of earlier versions"


def test_the_measure_of_a_board_is_called_as_the_board_calls_it():
    assert measure_of({"measure": "main", "called": "R@5 or R@10"}) == "R@5 or R@10"
    assert measure_of({"measure": "recall@5"}) == "recall@5", "a report of an earlier version"


def test_floors_that_an_encoder_is_below_are_named():
    assert below([]) == "" and below(["bm25"]) == "below BM25"
    assert below(["bm25", "pixels", "untrained"]) == "below BM25 and nearest pixels and untrained"


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (headline(encoder=0.5, bm25=0.4), ""),
        (
            headline({"encoder": ["bm25"]}, encoder=0.3, bm25=0.4),
            "the encoder as it came is below BM25 (0.400), which needs no encoder",
        ),
        (
            headline({"encoder": ["bm25", "chance"]}, encoder=0.1, bm25=0.4, chance=0.2),
            "the encoder as it came is below BM25 (0.400) and chance (0.200), which need no encoder",
        ),
        (
            headline({"trained": ["pixels"], "untrained": ["pixels"]}, trained=0.3, untrained=0.2, pixels=0.4),
            "the training helped: R@5 0.200 before, 0.300 after, and the 95 % intervals do not overlap; "
            "the model is below nearest pixels (0.400), which needs no encoder",
        ),
        (
            headline({"trained": ["untrained"]}, trained=0.3, untrained=0.4),
            "the training did harm: R@5 0.400 before, 0.300 after, and the 95 % intervals do not overlap",
        ),
        (
            headline({"untrained": ["bm25"]}, trained=0.5, untrained=0.3, bm25=0.4),
            "the training helped: R@5 0.300 before, 0.500 after, and the 95 % intervals do not overlap",
        ),
    ],
)
def test_the_verdict_names_the_floors_that_the_released_encoder_is_below(head, said):
    assert verdict(head) == said


def test_an_encoder_without_a_training_needs_no_help():
    assert helped({}) and helped(headline(encoder=0.1)) and helped(headline(trained=0.2, untrained=0.1))
    assert not helped(headline(trained=0.1, untrained=0.1))
