"""The boards by name."""

from mirepoix.components.evaluation.boards import answers
from mirepoix.components.evaluation.boards.board import Board
from mirepoix.components.evaluation.boards.mbeir import MBEIR
from mirepoix.components.evaluation.boards.mmeb import MMEB, MMEB_V2
from mirepoix.components.evaluation.boards.vidore import VIDORE

BOARDS: dict[str, Board] = {
    board.name: board
    for board in (
        MBEIR,
        MMEB,
        MMEB_V2,
        answers.WEBQA,
        answers.WEBQA_PLUS,
        answers.OKVQA,
        answers.REMUQ,
        answers.EVQA,
        answers.EVQA_PLUS,
        answers.INFOSEEK,
        VIDORE,
    )
}
