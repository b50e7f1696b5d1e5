"""The word index finds what shares words with the query, in any script, and is searched, saved and opened as every index is."""

import hashlib
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.search.bm25 import SparseIndex, bm25_terms, build_sparse
from mirepoix.serving.search.bm25_config import SparseConfig
from mirepoix.serving.search.hits import Hit
from mirepoix.serving.search.open import open_index

TEXT, IMAGE = Modality.TEXT, Modality.IMAGE


def index_of(texts: dict[str, str], config: SparseConfig | None = None) -> SparseIndex:
    return build_sparse(texts.values(), list(texts), [TEXT] * len(texts), config)


def bm25(texts: dict[str, str], query: str, config: SparseConfig) -> dict[str, float]:
    """The formula, as Lucene has it."""
    counts = {id: Counter(bm25_terms(text)) for id, text in texts.items()}
    mean = sum(count.total() for count in counts.values()) / len(counts) or 1
    scores = dict.fromkeys(texts, 0.0)
    for word in bm25_terms(query):
        having = sum(word in count for count in counts.values())
        weight = math.log(1 + (len(texts) - having + 0.5) / (having + 0.5))
        for id, count in counts.items():
            scores[id] += weight * count[word] / (count[word] + config.k1 * (1 - config.b + config.b * count.total() / mean))
    return {id: score for id, score in scores.items() if score}


TEXTS = {
    "b": "the red fox runs",
    "a": "a red fox and a red hen",
    "d": "nothing of the kind",
    "c": "the hen sleeps while the fox runs and runs",
}


@given(st.lists(st.text("abc ", max_size=12), min_size=1, max_size=12), st.text("abcd ", max_size=8), st.integers(1, 6))
def test_hits_are_those_of_the_formula_best_first_and_ties_by_id(made, query, k):
    texts = {f"{(n * 7919) % 997:03d}": " ".join(text) for n, text in enumerate(made)}
    expected = bm25(texts, " ".join(query), SparseConfig())
    (found,) = index_of(texts).search([" ".join(query)], k)
    assert [hit.score for hit in found] == sorted((hit.score for hit in found), reverse=True)
    assert len(found) == min(k, len(expected))
    for hit in found:
        assert hit.score == pytest.approx(expected[hit.id], rel=1e-5)
        ahead = [id for id, score in expected.items() if score > expected[hit.id] * (1 + 1e-5)]
        assert len(ahead) < k
    assert [hit.id for hit in found] == [hit.id for hit in sorted(found, key=lambda hit: (-hit.score, hit.id))]


def test_equal_texts_come_in_the_order_of_their_ids_and_the_last_place_goes_to_the_first():
    index = index_of({f"{n}": "same words" for n in (5, 3, 9, 1)})
    (found,) = index.search(["words"], 2)
    assert [hit.id for hit in found] == ["1", "3"] and isinstance(found[0], Hit)


def test_what_shares_no_word_is_no_hit():
    assert index_of(TEXTS).search(["zebra", "", "...", "kind"], 5)[:3] == [[], [], []]


def test_weights_are_those_that_are_asked_for():
    config = SparseConfig(k1=0.5, b=0.2)
    (found,) = index_of(TEXTS, config).search(["fox runs"], 5)
    assert {hit.id: hit.score for hit in found} == pytest.approx(bm25(TEXTS, "fox runs", config), rel=1e-5)


def test_items_may_be_filtered_by_modality_and_left_out_by_id():
    index = build_sparse(TEXTS.values(), list(TEXTS), [TEXT, IMAGE, TEXT, TEXT])
    assert {hit.id for hit in index.search(["fox"], 5)[0]} == {"a", "b", "c"}
    assert {hit.id for hit in index.search(["fox"], 5, {TEXT})[0]} == {"b", "c"}
    assert {hit.id for hit in index.search(["fox"], 5, {TEXT}, [["c", "not here"]])[0]} == {"b"}


def test_positions_follow_the_ids():
    index = index_of(TEXTS)
    assert [index.position(id) for id in ("a", "b", "c", "d", "e")] == [0, 1, 2, 3, None] and len(index) == 4


def test_a_saved_index_is_opened_by_the_one_door_and_finds_the_same(tmp_path):
    index = index_of(TEXTS)
    index.save(tmp_path / "index")
    opened = open_index(tmp_path / "index")
    assert isinstance(opened, SparseIndex) and opened.description == index.description
    assert opened.search(["fox runs", "hen"], 3) == index.search(["fox runs", "hen"], 3)


def digests(folder: Path) -> dict[str, str]:
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in folder.rglob("*") if f.is_file()}


def test_the_order_in_which_texts_come_leaves_no_trace_in_the_bytes(tmp_path):
    index_of(TEXTS).save(tmp_path / "one")
    shuffled = random.Random(1).sample(list(TEXTS.items()), len(TEXTS))
    index_of(dict(shuffled)).save(tmp_path / "other")
    assert digests(tmp_path / "one") == digests(tmp_path / "other")


def test_nothing_is_pickled(tmp_path):
    index_of(TEXTS).save(tmp_path / "index")
    assert {path.suffix for path in (tmp_path / "index").rglob("*") if path.is_file()} == {".npy", ".json", ".parquet"}


def test_a_folder_whose_parts_disagree_is_refused(tmp_path):
    index_of(TEXTS).save(tmp_path / "index")
    index_of({"x": "one"}).save(tmp_path / "other")
    (tmp_path / "other" / "items.parquet").rename(tmp_path / "index" / "items.parquet")
    with pytest.raises(Refused, match=r"says items 4 and items\.parquet holds 1; build the index again"):
        open_index(tmp_path / "index")


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Don't STOP, caf\u00e9!", ["don't", "stop", "caf\u00e9"]),
        ("don\u2019t", ["don't"]),
        ("\uff26\uff55\uff4c\uff4c \ufb01sh x_y 3.5", ["full", "fish", "x", "y", "3", "5"]),
        (
            "\u732b\u304c\u597d\u304d\u3002 Yes",
            ["\u732b", "\u304c", "\u597d", "\u304d", "\u732b\u304c", "\u304c\u597d", "\u597d\u304d", "yes"],
        ),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e",
            ["\u0939\u093f\u0928\u094d\u0926\u0940", "\u092d\u093e\u0937\u093e"],
        ),
        ("e\u0301te\u0301 STRASSE stra\u00dfe", ["\u00e9t\u00e9", "strasse", "strasse"]),
        ("", []),
    ],
)
def test_words_are_found_in_every_script(text, expected):
    assert bm25_terms(text) == expected


def test_one_character_finds_a_text_without_spaces_and_two_in_a_row_find_it_better():
    index = index_of({"far": "\u732b\u3068\u72ac\u3068\u9ce5", "near": "\u9ce5\u732b\u72ac\u3068\u3068", "other": "\u6728"})
    assert {hit.id for hit in index.search(["\u732b"], 5)[0]} == {"far", "near"}
    assert index.search(["\u732b\u72ac"], 5)[0][0].id == "near"


def test_texts_without_any_word_can_be_indexed():
    assert index_of({"a": "", "b": "..."}).search(["a"], 3) == [[]]


def test_vectors_are_refused_with_what_to_give():
    vectors = RaggedRows.single(np.ones((1, 1), np.float32))
    for given_instead in (vectors, "a bare text"):
        with pytest.raises(Refused, match=r"searches words.*give a list of texts"):
            index_of(TEXTS).search(given_instead, 3)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: index_of(TEXTS).search(["fox"], 0), "ask for at least one result"),
        (lambda: index_of(TEXTS).search(["fox"], 1, exclude=[[], []]), "2 entries for 1 queries"),
        (lambda: build_sparse(["a"], ["x", "y"], [TEXT]), "1 texts, 2 ids and 1 modalities"),
        (lambda: build_sparse(["a", "b"], ["x", "x"], [TEXT] * 2), "'x' is given to two items"),
        (lambda: build_sparse([], [], []), "no text to index"),
        (lambda: SparseConfig(b=1.5), "b from 0 to 1"),
    ],
)
def test_what_cannot_be_right_is_refused(call, message):
    with pytest.raises(Refused, match=message):
        call()
