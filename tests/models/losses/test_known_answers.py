"""The list of known answers, tile by tile."""

import torch

from mirepoix.models.losses.known_answers import KnownAnswers

KEYS = torch.tensor([[70, 7], [80, 80], [7, 90], [60, 60], [80, 60]])  # of five documents
POSITIVES = torch.tensor([0, 1, 3])  # of three queries


def known(*relevant: list[int]) -> KnownAnswers | None:
    return KnownAnswers.of(torch.tensor(relevant), KEYS, POSITIVES)


def test_every_document_with_a_key_of_an_answer_is_known_in_the_tile_that_it_is_in():
    answers = known([70, 7, 7], [80, 5, 5], [99, 60, 90])
    starts = answers.ranges([0, 2, 3])
    tiles = {}
    for first, last, rows in ((starts[0], starts[1], slice(0, 2)), (starts[1], starts[2], slice(2, 3))):
        for columns in (slice(0, 3), slice(3, 5)):
            found = answers.tile(slice(first, last), rows, columns)
            tiles[rows.start, columns.start] = None if found is None else found.tolist()
    assert tiles == {
        (0, 0): [[True, False, True], [False, True, False]],
        (0, 3): [[False, False], [False, True]],
        (2, 0): [[False, False, True]],
        (2, 3): [[True, True]],
    }


def test_a_tile_without_known_answers_has_none():
    answers = known([1, 1], [80, 80], [2, 2])
    starts = answers.ranges([0, 1, 2, 3])
    assert answers.tile(slice(*starts[0:2]), slice(0, 1), slice(0, 5)) is None
    assert answers.tile(slice(*starts[1:3]), slice(1, 2), slice(2, 4)) is None
    assert answers.tile(slice(*starts[2:4]), slice(2, 3), slice(0, 5)) is None


def test_a_key_that_the_querys_own_positive_alone_has_is_no_entry():
    assert known([70, 70], [4, 4], [5, 5]) is None
    assert known([70, 70], [70, 70], [5, 5]).query_A.unique().tolist() == [1], "for the second query it is another's positive"
