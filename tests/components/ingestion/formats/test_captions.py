"""A picture with captions is a candidate and pairs of both directions; anything else is refused by name."""

from collections import Counter

import pytest

from mirepoix.components.ingestion.formats.captions import Captioned, blank_columns, captioned, known_suffix, safe_name, texts_of
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, RowError, unnamed_candidate
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.fixtures import write_corpus
from tests.components.ingestion.formats.format_cases import corpus_of, picture

RED, BLUE = picture(200), picture(10, "JPEG")


def rows(example, split="train"):
    return [example.candidate("s/f", 3), *example.pairs(split, "s/f", 3)]


def test_a_caption_makes_pairs_of_both_directions():
    text = unnamed_candidate("a star", source="s/f", line=3)
    assert rows(Captioned("k", RED, ("a star",))) == [
        Candidate(Item("k.image", images=(RED,), source="s/f", line=3)),
        Query(Item("k.i2t", images=(RED,), source="s/f", line=3), "train", "i->t", named=False),
        text,
        Judgement("k.i2t", text.item.id, 1, None, "s/f", 3),
        Query(Item("k.t2i-91aeee11", "a star", source="s/f", line=3), "train", "t->i", named=False),
        Judgement("k.t2i-91aeee11", "k.image", 1, None, "s/f", 3),
    ]


def test_captions_together_with_their_picture_are_one_candidate_and_labels_where_there_are_none():
    both = Item("k.image", "a star\na disc", (RED,), source="s/f", line=3)
    assert list(Captioned("k", RED, ("a star", "a disc", "a star"), ("red",)).rows("together", "train", "s/f", 3)) == [Candidate(both)]
    assert next(Captioned("k", RED, (), ("red",)).rows("together", "train", "s/f", 3)).item.text == "red"
    assert list(Captioned("k", RED, ("a star",)).rows("apart", "test", "s/f", 3)) == rows(Captioned("k", RED, ("a star",)), "test")


def test_several_captions_answer_one_query_and_ask_each_for_itself():
    made = rows(Captioned("k", RED, ("one", "two", "one")))
    assert [row.task for row in made if isinstance(row, Query)] == ["i->t", "t->i", "t->i"]
    assert len([row for row in made if isinstance(row, Judgement)]) == 4


def test_a_label_answers_and_does_not_ask():
    made = rows(Captioned("k", RED, labels=("star",)))
    assert [row.task for row in made if isinstance(row, Query)] == ["i->t"]


def test_a_bare_picture_is_a_candidate_alone_and_an_empty_one_is_none():
    assert len(rows(Captioned("k", RED))) == 1
    with pytest.raises(RowError, match="missing picture"):
        rows(Captioned("k", b"", ("a star",)))


def test_cells_hold_one_text_or_several_or_none():
    assert [texts_of(cell) for cell in (None, "", "a", ["a", None, "b"])] == [(), (), ("a",), ("a", "b")]
    with pytest.raises(RowError, match="bad row"):
        texts_of(["a", 3])


def test_what_was_read_is_found_again_in_the_corpus(tmp_path):
    examples = [
        ("train", Captioned("a", RED, ("one", "two"))),
        ("test", Captioned("b", BLUE, ("one",))),
        ("validation", Captioned("c", picture(1), labels=("star", "disc"))),
        ("", Captioned("d", RED)),  # the picture of a, bare
    ]
    corpus = corpus_of(tmp_path, [row for split, example in examples for row in rows(example, split)])
    assert list(captioned(corpus, "x", Counter())) == examples


def test_captions_of_a_corpus_from_elsewhere_are_found_in_either_direction(tmp_path):
    corpus = write_corpus(
        tmp_path,
        corpus=[{"id": "p1", "images": [RED]}, {"id": "p2", "images": [BLUE]}, {"id": "t", "text": "a disc"}],
        queries=[
            {"id": "q1", "text": "a star", "split": "test", "task": "t->i"},
            {"id": "q2", "images": [BLUE], "split": "train", "task": "i->t"},
        ],
        qrels=[{"query_id": "q1", "item_id": "p1"}, {"query_id": "q2", "item_id": "t"}],
    )
    assert list(captioned(corpus, "x", Counter())) == [
        ("test", Captioned("p1", RED, ("a star",))),
        ("train", Captioned("p2", BLUE, (), ("a disc",))),
    ]


PICTURE, TEXT = {"id": "p", "images": [RED]}, {"id": "t", "text": "a star"}
ASKED = {"id": "q", "text": "a star", "split": "train", "task": "t->i"}
FOUND = {"query_id": "q", "item_id": "p"}


@pytest.mark.parametrize(
    ("corpus", "queries", "qrels", "words"),
    [
        ([TEXT], [], [], "text without a picture, as candidate 't'"),
        ([{**PICTURE, "text": "x"}], [], [], "not one picture, as candidate 'p'"),
        ([{**PICTURE, "images": [RED, RED]}], [], [], "not one picture"),
        ([{"id": "p", "video": [RED]}], [], [], "not one picture"),
        ([PICTURE], [{**ASKED, "split": "mine"}], [FOUND], "split 'mine', as query 'q'"),
        ([PICTURE], [{**ASKED, "instruction": "Find."}], [FOUND], "an instruction, as query 'q'"),
        ([{**PICTURE, "instruction": "x"}], [], [], "an instruction, as candidate 'p' has"),
        (
            [PICTURE],
            [ASKED, {**ASKED, "id": "q2", "split": "test"}],
            [FOUND, {**FOUND, "query_id": "q2"}],
            "one picture in the splits train and test, as query 'q2' has it",
        ),
        ([PICTURE], [{**ASKED, "images": [RED]}], [FOUND], "query 'q', which is neither one picture nor the caption"),
        ([PICTURE, {**PICTURE, "id": "p2"}], [ASKED], [FOUND, {**FOUND, "item_id": "p2"}], "query 'q', which is neither"),
        ([PICTURE, TEXT], [ASKED], [{**FOUND, "item_id": "t"}], "text without a picture"),
        (
            [PICTURE, TEXT],
            [{**ASKED, "text": "", "images": [BLUE]}],
            [{**FOUND, "item_id": "t"}],
            "query 'q', whose picture is no candidate",
        ),
        ([PICTURE], [{**ASKED, "text": "", "images": [RED]}], [FOUND], "query 'q', which a picture answers"),
    ],
)
def test_what_is_no_picture_with_captions_is_refused_by_name(tmp_path, corpus, queries, qrels, words):
    with pytest.raises(Refused) as refused:
        list(captioned(write_corpus(tmp_path, corpus=corpus, queries=queries, qrels=qrels), "webdataset", Counter()))
    assert words in str(refused.value) and "webdataset cannot hold" in str(refused.value) and "\n" not in str(refused.value)


def test_one_picture_in_two_splits_is_refused(tmp_path):
    made = [*rows(Captioned("k", RED, ("one",)), "train"), *rows(Captioned("k", RED, ("two",)), "test")[4:]]
    made = [row for row in made if not (isinstance(row, Query) and row.task == "t->i" and row.split == "train")]
    with pytest.raises(Refused, match=r"different splits .* candidate 'k.image'"):
        list(captioned(corpus_of(tmp_path, made), "x", Counter()))


def test_files_are_named_by_what_is_in_them():
    kinds = {"PNG": "png", "JPEG": "jpg", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}
    assert {kind: known_suffix(picture(1, kind), "p") for kind in kinds} == kinds
    with pytest.raises(Refused, match="candidate 'p' is no JPEG"):
        known_suffix(b"%PDF", "p")


def test_a_key_is_a_name_only_if_it_is_safe():
    assert all(map(safe_name, ("a.jpg", "x/y-1_2.PNG")))
    assert not any(
        map(
            safe_name,
            ("a", "a.txt", "/a.jpg", "../a.jpg", "x/../a.jpg", "./a.jpg", "x/.a.jpg", "a b.jpg", "c:a.jpg", "a\n.jpg", "x//a.jpg"),
        )
    )


def test_what_has_no_place_beside_pictures_and_captions_is_counted(tmp_path):
    other = {**ASKED, "id": "q2", "text": "a disc"}
    judged = [{**FOUND, "relevance": 2}, {**FOUND, "query_id": "q2", "relevance": 0, "score": 0.5}]
    left = Counter()
    corpus = write_corpus(tmp_path, corpus=[PICTURE], queries=[ASKED, other], qrels=judged)
    assert [example.captions for _, example in captioned(corpus, "x", left)] == [("a star",)]
    assert +left == {"grades of relevance": 1, "negatives": 1, "scores of a teacher": 1, "queries without an answer": 1}


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({"text": ""}, ["text"]),
        ({"text": " \n", "label": ""}, ["text", "label"]),
        ({"captions": ["", " "]}, ["captions"]),
        ({"captions": ["", "one"]}, []),
        ({"text": None, "captions": [], "label": 3, "labels": [3]}, []),
        ({"file": ""}, []),
    ],
)
def test_a_caption_of_white_space_is_blank(row, columns):
    assert blank_columns(row) == columns
