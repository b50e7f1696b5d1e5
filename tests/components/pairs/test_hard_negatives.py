"""Selection of hard negatives: each rule drops the hits it names and no others; the rest are picked by the strategy."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.components.pairs.hard_negatives import Answers, Found, Mark, filter_hits, mark, pick_negatives
from mirepoix.components.pairs.mine_config import MineConfig
from mirepoix.models.item import Item
from mirepoix.serving.search.hits import Hit

ANY = MineConfig(margin=None)
HITS = [Hit(f"d{n}", 1 - n / 10) for n in range(10)]
MARKS = {f"d{n}": Mark(100 + n, 0) for n in range(10)}


def sift(config=ANY, answers=None, own=(), held_out=(), positive=0.9, marks=MARKS, hits=HITS):
    kept, dropped = filter_hits(hits, config, answers or Answers(set()), marks.get, own, held_out, positive)
    return [(found.id, found.rank) for found in kept], dropped


def test_hits_that_no_rule_drops_are_kept_with_their_rank():
    assert sift() == ([(f"d{n}", n + 1) for n in range(10)], Counter())


def test_known_answers_are_dropped_and_have_no_rank():
    kept, dropped = sift(answers=Answers({"d0", "d2", "other"}))
    assert kept[:3] == [("d1", 1), ("d3", 2), ("d4", 3)] and dropped == {"known answer": 2}


def test_the_window_is_of_ranks_and_later_hits_are_not_examined():
    kept, dropped = sift(replace(ANY, first=3, last=5), Answers({"d0"}))
    assert kept == [("d3", 3), ("d4", 4), ("d5", 5)] and dropped == {"known answer": 1, "before the first rank": 2}


def test_the_margin_is_a_share_of_the_score_of_the_pairs_own_positive():
    kept, dropped = sift(replace(ANY, margin=0.5), positive=0.9)
    assert [id for id, _ in kept] == ["d6", "d7", "d8", "d9"] and dropped == {"score above the margin": 6}
    assert [id for id, _ in sift(replace(ANY, margin=0.5), positive=0.5)[0]] == ["d8", "d9"]


def test_the_margin_lies_below_a_score_below_zero_too():
    hits = [Hit("d0", -0.1), Hit("d1", -0.205), Hit("d2", -0.3)]
    assert [id for id, _ in sift(replace(ANY, margin=0.9), positive=-0.2, hits=hits)[0]] == ["d2"]


def test_no_negative_scores_above_max_score():
    kept, dropped = sift(replace(ANY, max_score=0.65))
    assert kept[0] == ("d4", 5) and dropped == {"score above max_score": 4}


def test_copies_kin_texts_and_pictures_of_an_answer_are_dropped_each_with_its_reason():
    marks = {
        "copy": Mark(1, 2),
        "kin": Mark(7, 8),
        "text": Mark(1, 9),
        "pictures": Mark(6, 2),
        "bare text": Mark(1, 0),
        "other": Mark(5, 5),
        "bare": Mark(5, 0),
    }
    hits = [Hit(id, 0.5) for id in marks]
    answers = Answers({"a"}, {"kin"}, {Mark(1, 2), Mark(0, 3), Mark(4, 0)})
    kept, dropped = sift(answers=answers, marks=marks, hits=hits)
    assert [id for id, _ in kept] == ["other", "bare"]
    assert dropped == {"copy of an answer": 1, "kin of an answer": 1, "text of an answer": 2, "pictures of an answer": 1}
    kept, dropped = sift(replace(ANY, drop_likely_answers=False), answers, marks=marks, hits=hits)
    assert len(kept) == 6 and dropped == {"copy of an answer": 1}, "a copy is the answer itself"


def test_own_negatives_and_items_outside_the_corpus_are_not_mined():
    kept, dropped = sift(own=("d1",), marks={id: found for id, found in MARKS.items() if id != "d0"})
    assert kept[0] == ("d2", 3) and dropped == {"not in the corpus": 1, "own negative of the pair": 1}


def test_answers_of_held_out_queries_are_not_negatives():
    kept, dropped = sift(held_out={"d0", "d3"}, own=("d3",), answers=Answers({"d1"}))
    assert [id for id, _ in kept] == ["d2", *(f"d{n}" for n in range(4, 10))]
    assert dropped == {"known answer": 1, "answers a held-out query": 2}


def test_marks_are_of_text_and_of_pictures():
    item = Item("a", text="words", images=(b"one", b"two"))
    assert mark(item) == mark(replace(item, id="b", instruction="find", source="s", line=3))
    assert mark(item).text == mark(Item("c", text="words")).text and mark(Item("c", text="words")).pictures == 0
    pictures = [
        mark(Item("d", images=images, video=video)).pictures
        for images, video in (((b"one", b"two"), ()), ((b"onetwo",), ()), ((), (b"one", b"two")))
    ]
    assert pictures[0] == mark(item).pictures and len(set(pictures)) == 3 and all(pictures)


FOUND = [Found(f"{'it'[n < 7]}{n}", n + 1, 1 - n / 10) for n in range(10)]  # seven texts, then three pictures


def choose(seed=0, own=(), found=FOUND, **config):
    picks = pick_negatives(found, replace(ANY, **config), lambda id: id[0] == "i", own, np.random.default_rng(seed))
    return [pick.id for pick in picks]


def test_the_best_are_taken_after_the_pairs_own():
    assert choose(negatives=3) == ["t0", "t1", "t2"]
    assert choose(negatives=3, own=("x", "y")) == ["t0"] and choose(negatives=2, own=("x", "y", "z")) == []
    assert choose(negatives=20) == [found.id for found in FOUND]


def test_draws_depend_on_the_seed():
    drawn = [choose(seed, negatives=4, strategy="random") for seed in range(30)]
    assert drawn == [choose(seed, negatives=4, strategy="random") for seed in range(30)]
    assert {id for ids in drawn for id in ids} == {found.id for found in FOUND} and all(len(set(ids)) == 4 for ids in drawn)


def test_balanced_takes_texts_and_pictures_in_turn_and_fills_up_with_the_other():
    assert choose(negatives=2, balanced=True) == ["t0", "i7"]
    assert choose(negatives=3, balanced=True) == ["t0", "i7", "t1"]
    assert choose(negatives=2, balanced=True, own=("t9",)) == ["i7"], "the pair's own count"
    assert choose(negatives=2, balanced=True, found=FOUND[:7]) == ["t0", "t1"]
    assert choose(negatives=8, balanced=True) == ["t0", "i7", "t1", "i8", "t2", "i9", "t3", "t4"]


@given(st.integers(1, 9), st.integers(0, 9), st.sampled_from(["top", "random"]), st.integers(0, 20))
def test_balanced_is_as_even_as_what_was_found_allows(negatives, texts, strategy, seed):
    found = [*FOUND[:texts], *FOUND[7:]] if texts < 7 else FOUND
    picks = choose(seed, negatives=negatives, balanced=True, strategy=strategy, found=found)
    here = Counter(entry.id[0] for entry in found)
    taken = Counter(id[0] for id in picks)
    assert len(picks) == min(negatives, len(found)) == len(set(picks))
    for side, other in (("t", "i"), ("i", "t")):
        assert taken[side] <= taken[other] + 1 or taken[other] == here[other]
