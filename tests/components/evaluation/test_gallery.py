"""The gallery shows the queries with the largest differences to the best floor, what was found for them, and what is right of it."""

import base64
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from mirepoix.components.evaluation.boards.registry import BOARDS
from mirepoix.components.evaluation.files.runs import write_run
from mirepoix.components.evaluation.gallery import ANSWERS, EACH, FILE, FOUND, LETTERS, SIDE, write_gallery
from mirepoix.components.evaluation.scoring.judgements import read_judged
from mirepoix.models.item import Modality
from tests.components.curation.corpora import png
from tests.components.fixtures import write_corpus

ITEMS = [f"d{n}" for n in range(8)]
CORPUS = [{"id": id, "text": f"text of {id}"} for id in ITEMS]
HEAD = {"split": "test", "measure": "R@5", "called": "R@5", "pool": "universal"}


def query(id: str, task: str = "t->t", **fields: Any) -> dict[str, Any]:
    return {"id": id, "text": f"what is {id}?", "split": "test", "task": task, **fields}


def gallery(
    home: Path,
    values: dict[str, dict[str, float]],
    runs: dict[str, list[str]] | None = None,
    queries: list[dict[str, Any]] | None = None,
    corpus: list[dict[str, Any]] = CORPUS,
    qrels: list[dict[str, Any]] | None = None,
    board: str | None = None,
) -> dict[str, Any]:
    """The gallery of systems with these values by query; `runs` is what each system found, the same for every query."""
    names = list(next(iter(values.values())))
    asked = queries or [query(name) for name in names]
    curate = write_corpus(
        home / "curate", corpus=corpus, queries=asked, qrels=qrels or [{"query_id": name, "item_id": "d0"} for name in names]
    )
    ids = pa.array(sorted(row["id"] for row in corpus))
    modalities = np.full(len(ids), int(Modality.TEXT))
    judged = read_judged(curate, ids, modalities, lambda *_: True, board=BOARDS[board] if board else None)
    rows = [
        {"system": system, "pool": pool, "split": split, "query": name, "R@5": value if right else 1 - value}
        for system, of in values.items()
        for name, value in of.items()
        for pool, split, right in (("universal", "test", True), ("target", "test", False), ("universal", "dev", False))
    ]
    folder, floors = home / "evaluate", home / "floors"
    for place in (folder, floors):
        place.mkdir()
    for system, found in (runs or {}).items():
        place = floors if system in ("bm25", "pixels") else folder
        write_run(place / f"{system}-universal.trec", [(name, found, [-float(n) for n in range(len(found))]) for name in sorted(names)])
    head = HEAD | {system: {"average": sum(of.values()) / len(of)} for system, of in values.items()}
    write_gallery(folder, pa.Table.from_pylist(rows), judged, head, curate, floors)
    return json.loads((folder / FILE).read_text())


def shown(cards: list[dict[str, Any]]) -> list[str]:
    return [card["query"]["id"] for card in cards]


def test_wins_are_those_with_the_largest_gain_over_the_best_floor_of_each_task_in_turn(tmp_path):
    own = {f"t{n}": 1 - n / 10 for n in range(8)} | {"i0": 0.3, "i1": 0.2}
    queries = [query(name, "i->t" if name[0] == "i" else "t->t") for name in own]
    found = gallery(tmp_path, {"trained": own, "bm25": dict.fromkeys(own, 0.1), "chance": dict.fromkeys(own, 0.9)}, queries=queries)
    assert (found["system"], found["beside"], found["measure"], found["pool"], found["split"]) == (
        "trained",
        "bm25",
        "R@5",
        "universal",
        "test",
    )
    assert shown(found["wins"]) == ["t0", "i0", "t1", "i1", "t2", "t3"] and len(found["wins"]) == EACH
    assert [(card["value"], card["beside"], card["task"], card["dataset"]) for card in found["wins"][:2]] == [
        (1.0, 0.1, "t->t", "made"),
        (0.3, 0.1, "i->t", "made"),
    ]
    assert found["losses"] == []


def test_losses_are_those_below_the_floor_and_then_those_that_found_nothing(tmp_path):
    own = {"worse": 0.5, "worst": 0.0, "none": 0.0, "same": 0.5, "better": 1.0}
    floor = {"worse": 0.75, "worst": 1.0, "none": 0.0, "same": 0.5, "better": 0.5}
    found = gallery(tmp_path, {"encoder": own, "pixels": floor})
    assert shown(found["losses"]) == ["worst", "worse", "none"] and shown(found["wins"]) == ["better"]


@pytest.mark.parametrize(
    ("averages", "beside"),
    [
        ({"trained": 0.5, "bm25": 0.2, "pixels": 0.3, "untrained": 0.1}, "pixels"),
        ({"trained": 0.5, "bm25": 0.2, "untrained": 0.4}, "untrained"),
        ({"trained": 0.5, "untrained": 0.1, "chance": 0.9}, "untrained"),
        ({"encoder": 0.5, "chance": 0.9}, ""),
        ({"encoder": 0.5, "bm25": 0.9}, "bm25"),
    ],
)
def test_what_stands_beside_the_encoder_is_the_best_that_has_a_ranking(averages, beside, tmp_path):
    found = gallery(tmp_path, {system: {"q": value} for system, value in averages.items()})
    assert found["beside"] == beside and found["system"] in ("trained", "encoder")


def test_without_anything_beside_it_wins_have_an_answer_and_losses_have_none(tmp_path):
    found = gallery(tmp_path, {"encoder": {"a": 0.5, "b": 0.0, "c": 1.0}}, {"encoder": ["d1", "d0"]})
    assert shown(found["wins"]) == ["c", "a"] and shown(found["losses"]) == ["b"]
    assert {(card["beside"], tuple(card["found_beside"])) for card in found["wins"]} == {(0.0, ())}


def test_a_card_has_the_query_its_best_answers_and_what_each_ranking_found_first(tmp_path):
    qrels = [{"query_id": "q", "item_id": f"d{n}", "relevance": grade} for n, grade in enumerate((1, 3, 0, 2, 1))]
    runs = {"trained": ["d2", "d1", "d7", "d0", "d3"], "bm25": ["d5", "d4"]}
    (card,) = gallery(tmp_path, {"trained": {"q": 1.0}, "bm25": {"q": 0.5}}, runs, qrels=qrels)["wins"]
    assert card["query"] == {"id": "q", "text": "what is q?", "picture": ""}
    assert [answer["id"] for answer in card["answers"]] == ["d1", "d3"] and len(card["answers"]) == ANSWERS, "those of the highest grades"
    assert [(item["id"], item["relevant"]) for item in card["found"]] == [("d2", False), ("d1", True), ("d7", False), ("d0", True)]
    assert len(card["found"]) == FOUND and card["found"][0]["text"] == "text of d2"
    assert [(item["id"], item["relevant"]) for item in card["found_beside"]] == [("d5", False), ("d4", True)]


def test_where_answers_are_strings_they_are_shown_and_right_is_a_passage_that_has_one(tmp_path):
    corpus = [{"id": "d0", "text": "a CAT."}, {"id": "d1", "text": "the category"}, {"id": "d2", "text": "a dog"}]
    queries = [query("q", "it->t", answers=["cat", "kitten", "tabby"], dataset="OK-VQA")]
    runs = {"encoder": ["d0", "d1", "d2"]}
    for board, right in ((None, [True, True, False]), ("okvqa", [True, False, False])):
        found = gallery(tmp_path / f"{board}", {"encoder": {"q": 1.0}}, runs, queries, corpus, board=board)
        (card,) = found["wins"]
        assert [item["relevant"] for item in card["found"]] == right, board
        assert card["dataset"] == "OK-VQA"
    assert card["answers"][0]["id"] == "d0", "judgements go before strings"
    unjudged = [{"query_id": "other", "item_id": "d0"}]
    (card,) = gallery(tmp_path / "unjudged", {"encoder": {"q": 1.0}}, runs, queries, corpus, unjudged)["wins"]
    assert card["answers"] == [{"text": "cat"}, {"text": "kitten"}]


def test_an_answer_is_looked_for_in_the_whole_passage_not_in_what_is_shown_of_it(tmp_path):
    corpus = [{"id": "d0", "text": "x " * LETTERS + "cat"}, {"id": "d1", "text": "x " * LETTERS}]
    queries = [query("q", "it->t", answers=["cat"])]
    (card,) = gallery(tmp_path, {"encoder": {"q": 1.0}}, {"encoder": ["d0", "d1"]}, queries, corpus)["wins"]
    assert [(item["relevant"], len(item["text"])) for item in card["found"]] == [(True, LETTERS), (False, LETTERS)]


def opened(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(BytesIO(base64.b64decode(content)))


def test_texts_are_cut_and_pictures_are_small_of_a_clip_the_middle_frame(tmp_path):
    corpus = [
        {"id": "d0", "text": "x" * 1000},
        {"id": "d1", "images": [png("red", side=500), png("blue")]},
        {"id": "d2", "video": [png("red"), png("lime", side=40), png("blue")]},
        {"id": "d3", "text": "y" * LETTERS, "images": [png((0, 0, 255, 128), mode="RGBA")]},
    ]
    (card,) = gallery(tmp_path, {"encoder": {"q": 1.0}}, {"encoder": ["d0", "d1", "d2", "d3"]}, corpus=corpus)["wins"]
    text, picture, clip, both = card["found"]
    assert text["text"] == "x" * (LETTERS - 1) + "…" and text["picture"] == "" and both["text"] == "y" * LETTERS
    assert opened(picture["picture"]).size == (SIDE, SIDE) and opened(picture["picture"]).getpixel((5, 5))[0] > 240
    assert opened(clip["picture"]).size == (40, 40) and opened(clip["picture"]).getpixel((5, 5))[1] > 240
    assert opened(both["picture"]).mode == "RGB"


def test_ids_with_quotation_marks_and_rankings_of_nothing_are_read(tmp_path):
    odd = ['d"0', "d'1,", "d2"]
    corpus = [{"id": id, "text": id} for id in odd]
    qrels = [{"query_id": "q", "item_id": 'd"0'}]
    found = gallery(tmp_path, {"encoder": {"q": 0.0}, "bm25": {"q": 1.0}}, {"encoder": odd, "bm25": []}, corpus=corpus, qrels=qrels)
    (card,) = found["losses"]
    assert [item["id"] for item in card["found"]] == odd and card["found"][0]["relevant"] and card["found_beside"] == []


def test_a_query_without_a_value_is_not_shown(tmp_path):
    """Recall is not known where answers are strings."""
    own = {"known": 1.0, "unknown": None}
    queries = [query("known"), query("unknown")]
    judged_ids = [{"query_id": "known", "item_id": "d0"}]
    curate = write_corpus(tmp_path / "curate", corpus=CORPUS, queries=queries, qrels=judged_ids)
    judged = read_judged(curate, pa.array(ITEMS), np.full(len(ITEMS), int(Modality.TEXT)), lambda *_: True)
    rows = [{"system": "encoder", "pool": "universal", "split": "test", "query": name, "R@5": value} for name, value in own.items()]
    write_gallery(tmp_path, pa.Table.from_pylist(rows), judged, HEAD | {"encoder": {"average": 1.0}}, curate, None)
    found = json.loads((tmp_path / FILE).read_text())
    assert shown(found["wins"]) == ["known"] and found["losses"] == []
