"""Boards of one data set each: questions that passages, snippets or pictures answer.

OK-VQA, E-VQA and InfoSeek judge a passage by whether an answer is in it, so scores do not compare with those over gold ids. A query with no
such passage counts as zero. OK-VQA looks for whole words, the other two for any string (yeongjoonJu/MIRe, dataset/vqa_ret.py and
dataset/base.py; LinWeizheDragon/FLMR, examples/example_use_preflmr.py). WebQA is measured as MARVEL and UniVL-DR do (OpenMatch/MARVEL).
"""

from dataclasses import replace

from mirepoix.components.corpus.captions_config import RATES, at_rate
from mirepoix.components.evaluation.boards.board import Board, BoardRow

MIRE, FLMR = "https://github.com/yeongjoonJu/MIRe", "https://github.com/LinWeizheDragon/FLMR"
FIRST_FIVE = ("RR@5", "P@5", "Success@5")
PSEUDO = {"Success@5": "PRRecall@5"}
OKVQA = Board(
    "okvqa",
    "OK-VQA",
    MIRE,
    (BoardRow("OKVQA-GS", "Google Search", "RR@5"), BoardRow("OKVQA-WK11M", "Wikipedia, 11M passages", "RR@5")),
    pools=("dataset",),  # a folder has one of the two corpora, and both may be given
    columns=FIRST_FIVE,
    printed=PSEUDO,
    whole_words=True,
)
REMUQ = Board(
    "remuq",
    "ReMuQ",
    MIRE,
    (BoardRow("ReMuQ", "ReMuQ", "RR@5"),),
    pools=("universal",),
    columns=FIRST_FIVE,
    printed={"Success@5": "R@5"},
)
EVQA = Board(
    "evqa",
    "E-VQA (M2KR)",
    FLMR,
    (BoardRow("E-VQA", "E-VQA", "Success@5"),),
    pools=("universal",),
    columns=FIRST_FIVE,
    printed=PSEUDO,
)
INFOSEEK = Board(
    "infoseek",
    "InfoSeek (M2KR)",
    FLMR,
    (BoardRow("InfoSeek", "InfoSeek", "Success@5"),),
    pools=("universal",),
    columns=FIRST_FIVE,
    printed=PSEUDO,
)
WEBQA = Board(
    "webqa",
    "WebQA",
    "https://github.com/OpenMatch/MARVEL",
    (BoardRow("webqa", "WebQA", "RR@10"),),
    pools=("universal", "target"),
    columns=("RR@10", "nDCG@10", "RR@20", "nDCG@20", "R@20", "R@100"),
    printed={"R@20": "Rec@20", "R@100": "Rec@100"},
)


def _at_rates(name: str, title: str, of: Board) -> Board:
    """A board with a row for each share of captions that is missing."""
    (row,) = of.rows
    rows = tuple(replace(row, dataset=at_rate(row.dataset, rate), label=f"{rate:.0%} without caption", pool="dataset") for rate in RATES)
    note = "constructed here: the paper that has it gives neither its files nor its rates"
    return replace(of, name=name, title=title, rows=rows, pools=("dataset",), columns=(), also=of.columns, overall="Mean", note=note)


WEBQA_PLUS = _at_rates("webqa_plus", "WebQA+", WEBQA)
EVQA_PLUS = _at_rates("evqa_plus", "EVQA+", EVQA)
