"""M-BEIR, as UniIR evaluates it (arXiv 2311.17136; TIGER-AI-Lab/UniIR, src/common/mbeir_retriever.py and its retrieval.yaml).

What it calls recall is a hit rate: 1 if any positive is among the first k, with k of 5, and of 10 for the two fashion data sets.
"""

from mirepoix.components.evaluation.boards.board import Board, BoardRow

ROWS = (
    BoardRow("visualnews", "VisualNews t->i", "Success@5", (), "t->i"),
    BoardRow("mscoco", "MSCOCO t->i", "Success@5", (), "t->i"),
    BoardRow("fashion200k", "Fashion200K t->i", "Success@10", (), "t->i"),
    BoardRow("webqa", "WebQA t->t", "Success@5", (), "t->t"),
    BoardRow("edis", "EDIS t->it", "Success@5", (), "t->it"),
    BoardRow("webqa", "WebQA t->it", "Success@5", (), "t->it"),
    BoardRow("visualnews", "VisualNews i->t", "Success@5", (), "i->t"),
    BoardRow("mscoco", "MSCOCO i->t", "Success@5", (), "i->t"),
    BoardRow("fashion200k", "Fashion200K i->t", "Success@10", (), "i->t"),
    BoardRow("nights", "NIGHTS i->i", "Success@5", (), "i->i"),
    BoardRow("oven", "OVEN it->t", "Success@5", (), "it->t"),
    BoardRow("infoseek", "InfoSeek it->t", "Success@5", (), "it->t"),
    BoardRow("fashioniq", "FashionIQ it->i", "Success@10", (), "it->i"),
    BoardRow("cirr", "CIRR it->i", "Success@5", (), "it->i"),
    BoardRow("oven", "OVEN it->it", "Success@5", (), "it->it"),
    BoardRow("infoseek", "InfoSeek it->it", "Success@5", (), "it->it"),
)
MBEIR = Board(
    "mbeir",
    "M-BEIR",
    "https://github.com/TIGER-AI-Lab/UniIR",
    ROWS,
    pools=("dataset", "universal"),
    overall="Average",
    also=tuple(f"Success@{depth}" for depth in (1, 5, 10, 20, 50)),
    printed={f"Success@{depth}": f"R@{depth}" for depth in (1, 5, 10, 20, 50)},
)
