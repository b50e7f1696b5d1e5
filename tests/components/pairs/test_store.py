"""Pairs on disk: items, known answers, kin, and negatives drawn by seed."""

import math
import pickle
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirepoix.components.pairs.store import PairRow, PairStore, StoreWriter, write_pairs
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality, content_key
from tests.components.pairs.pair_folders import write


def test_pairs_come_back_as_they_were_written(tmp_path):
    items = [
        Item("q", text="a question", instruction="find it", source="f.json", line=3),
        Item("a", images=(b"png", b"gif")),
        Item("b", video=(b"1",)),
    ]
    write_pairs(tmp_path, items, [PairRow("first", 0, 1, [2, 1], "t->i"), PairRow("second", 1, 2)])
    store = PairStore(tmp_path)
    assert len(store) == 2
    second, first = store.pairs([1, 0])
    assert (second.id, second.query, second.positive, second.negatives) == ("second", items[1], items[2], ())
    assert (first.id, first.query, first.positive, first.negatives) == ("first", items[0], items[1], (items[2], items[1]))


def test_pairs_are_found_across_the_chunks_of_the_file(tmp_path):
    store = write(tmp_path, list(range(300)))
    rows = [299, 0, 64, 63, 128, 127]
    assert [pair.positive.text for pair in store.pairs(rows)] == [f"document {row}" for row in rows]


def test_a_pair_of_an_item_that_is_not_there_is_a_bug(tmp_path):
    with pytest.raises(AssertionError, match="pair p names rows"):
        write_pairs(tmp_path, [Item("q", text="q")], [PairRow("p", 0, 1)])


def test_a_store_may_be_empty(tmp_path):
    write_pairs(tmp_path, [], [])
    assert len(PairStore(tmp_path)) == 0


def test_a_folder_without_pairs_is_refused_by_name(tmp_path):
    with pytest.raises(Refused, match=r"items\.arrow is not on this machine"):
        PairStore(tmp_path)


def test_reading_a_pair_does_not_read_the_others(tmp_path):
    picture = bytes(400_000)
    write_pairs(tmp_path, (Item(f"i{n}", images=(picture,)) for n in range(200)), [PairRow(f"p{n}", n, n + 1) for n in range(199)])
    before = pa.total_allocated_bytes()
    store = PairStore(tmp_path)
    store.pairs([0, 100, 198])
    assert pa.total_allocated_bytes() - before < 2_000_000 < (tmp_path / "items.arrow").stat().st_size / 10


def test_the_key_is_that_of_the_content_alone():
    item = Item("a", text="words", images=(b"one", b"two"))
    assert content_key(item) == content_key(replace(item, id="b", source="elsewhere", line=9, instruction="find"))
    others = [
        replace(item, text="word"),
        replace(item, images=(b"onetwo",)),
        replace(item, images=(b"one",), video=(b"two",)),
        Item("a", text="words"),
    ]
    assert len({content_key(other) for other in [item, *others]}) == 5


def test_keys_go_with_the_documents_and_negatives_are_drawn_by_seed(tmp_path):
    store = write(tmp_path, [0, 1, 2, 3, 4, 5], negatives=[[(n + k) % 6 for k in (1, 2, 3, 4)] for n in range(6)])
    for pair, keys, _ in store.drawn(range(6), most=2, seed=(3, 1)):
        assert len(pair.negatives) == 2 and pair.positive not in pair.negatives
        assert keys == [content_key(pair.positive), *map(content_key, pair.negatives)]
    drawn = [[entry.pair.negatives for entry in store.drawn(range(6), 2, seed=(3, number))] for number in range(5)]
    assert drawn[1] == [entry.pair.negatives for entry in store.drawn(range(6), 2, seed=(3, 1))]
    assert any(other != drawn[0] for other in drawn)
    assert all(entry.pair.negatives == () for entry in store.drawn(range(6), 0, seed=(3, 1)))
    assert [len(entry.pair.negatives) for most in (None, 4, 9) for entry in store.drawn(range(6), most)] == [4] * 18


def test_a_teachers_scores_go_with_the_documents_that_are_drawn(tmp_path):
    hard = [[1, 2, 3], [2], [], [0, 1]]
    scores = [[0.9, 0.1, 0.2, 0.3], [math.nan, 0.5], [0.7], ()]
    store = write(tmp_path, [0, 1, 2, 3], negatives=hard, scores=scores, documents=9)
    first, second, third, fourth = store.drawn(range(4))
    assert first.scores == pytest.approx([0.9, 0.1, 0.2, 0.3]) and second.scores == pytest.approx([math.nan, 0.5], nan_ok=True)
    assert third.scores == pytest.approx([0.7]) and np.isnan(fourth.scores).tolist() == [True] * 3
    seen = set()
    for number in range(20):
        (entry,) = store.drawn([0], 2, seed=(number,))
        assert entry.scores == pytest.approx([0.9, *(int(item.id[1]) / 10 for item in entry.pair.negatives)])
        seen.add(tuple(entry.scores))
    assert len(seen) > 2
    (filled,) = store.drawn([2], least=1, seed=(0,))
    assert filled.scores == pytest.approx([0.7, math.nan], nan_ok=True), "no teacher has scored what is filled up with"


def test_scores_that_do_not_fit_their_documents_are_a_bug(tmp_path):
    with pytest.raises(AssertionError, match="pair p0 has 1 scores"):
        write(tmp_path, [0, 1], negatives=[[1], []], scores=[[0.5], ()])


@pytest.mark.parametrize(
    ("scores", "taught"),
    [
        ([(), (), ()], False),
        ([[0.5, math.nan], (), [0.5]], False),
        ([[math.nan, 0.5], (), [0.5]], False),
        ([(), [math.nan, 0.1, 0.2], [0.5]], False),
        ([(), [0.3, math.nan, 0.2], ()], True),
    ],
)
def test_a_store_has_a_teacher_if_the_positive_and_a_negative_of_a_pair_are_scored(tmp_path, scores, taught):
    assert write(tmp_path, [0, 1, 2], negatives=[[1], [2, 0], []], scores=scores).has_teacher is taught


def test_most_negatives_is_the_largest_number_of_any_pair(tmp_path):
    assert write(tmp_path / "some", [0, 1, 2], negatives=[[], [2, 0], [1]]).most_negatives == 2
    assert write(tmp_path / "none", [0, 1]).most_negatives == 0


def test_known_answers_are_those_of_all_pairs_of_the_query_group(tmp_path):
    store = write(tmp_path, [0, 1, 2, 3, 1], queries=[5, 5, 6, 5, 5], tasks=["t->t", "t->t", "t->t", "t->i", "t->t"])
    key = [content_key(Item("", text=f"document {n}")) for n in range(4)]
    asked_thrice = {key[0], key[1]}
    assert [set(row) for row in store.relevant(range(5)).tolist()] == [asked_thrice, asked_thrice, {key[2]}, {key[3]}, asked_thrice]
    assert store.relevant([2, 3]).shape == (2, 1), "rows are no wider than they must be"


@settings(deadline=None, max_examples=25)
@given(data=st.data(), count=st.integers(1, 30))
def test_relevant_are_the_positives_of_the_same_query_and_task(data, count):
    positives, queries, kinds = (data.draw(st.lists(st.integers(0, most), min_size=count, max_size=count)) for most in (8, 5, 1))
    tasks = [f"t->{kind}" for kind in kinds]
    with tempfile.TemporaryDirectory() as folder:
        store = write(Path(folder), positives, queries, tasks)
        for row, found in enumerate(store.relevant(range(count))):
            same = [n for n in range(count) if (queries[n], tasks[n]) == (queries[row], tasks[row])]
            assert set(found.tolist()) == {int(store.keys("positive")[n]) for n in same}


def document(number: int) -> int:
    return content_key(Item("", text=f"document {number}"))


def test_an_answer_that_is_in_no_pair_is_known_too(tmp_path):
    """Left out of the epoch by its weight, it may come with another query, and is no negative of this one."""
    store = write(tmp_path, [0, 1, 2], queries=[5, 6, 7], known=[(5, 2), (7, 1)])
    assert [set(row) for row in store.relevant(range(3)).tolist()] == [
        {document(0), document(2)},
        {document(1)},
        {document(2), document(1)},
    ]


def test_kin_of_the_answers_are_given_on_request_in_both_directions(tmp_path):
    store = write(tmp_path, [0, 1, 2, 3], queries=[5, 5, 6, 7], kin=[(0, 3), (2, 0)], documents=6)
    plain, with_kin = ([set(row) for row in store.relevant(range(4), kin).tolist()] for kin in (False, True))
    assert plain == [{document(0), document(1)}] * 2 + [{document(2)}, {document(3)}]
    asked = {document(0), document(1), document(3), document(2)}
    assert with_kin == [asked, asked, {document(2), document(0)}, {document(3), document(0)}]


def test_kin_that_a_source_judged_irrelevant_are_left_out(tmp_path):
    store = write(tmp_path, [0, 1], queries=[5, 6], negatives=[[2], []], kin=[(0, 2), (1, 2)], documents=3)
    assert [set(row) for row in store.relevant([0, 1], kin=True).tolist()] == [{document(0)}, {document(1), document(2)}]


def test_a_pair_with_fewer_negatives_is_filled_up_with_documents_that_are_no_known_answers(tmp_path):
    hard = [[3], [], [], [], [], []]
    store = write(tmp_path, [0, 1, 2, 3, 4, 5], queries=[0, 0, 1, 2, 3, 4], negatives=hard, kin=[(0, 2)], known=[(0, 4)])
    for number in range(20):
        (pair, keys, _), *others = store.drawn(range(6), 2, 2, (7, number))
        assert [item.id for item in pair.negatives] == ["d3", "d5"], "1 and 4 answer it, 2 is kin of its answer, 3 is there"
        assert keys == [content_key(pair.positive), *map(content_key, pair.negatives)]
        for other, keys, _ in others:
            assert len({content_key(other.positive), *map(content_key, other.negatives)}) == 3
            assert keys == [content_key(other.positive), *map(content_key, other.negatives)]
    drawn = [[entry.pair.negatives for entry in store.drawn(range(6), 2, 2, (7, number))] for number in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_too_few_documents_to_fill_up_with_are_refused(tmp_path):
    store = write(tmp_path, [0, 1])
    with pytest.raises(Refused, match="2 pairs have too few documents"):
        store.drawn([0], least=2, seed=(0,))


def test_families_are_tasks_sources_or_target_modalities(tmp_path):
    items = [
        Item("q", text="q"),
        Item("t", text="t"),
        Item("i", text=" \n", images=(b"i",)),
        Item("it", text="t", images=(b"i",)),
        Item("vt", text="t", video=(b"v",)),
    ]
    rows = [PairRow("p", 0, 1 + n, (), f"task {n % 2}", f"source {n // 2}") for n in range(4)]
    write_pairs(tmp_path, items, rows)
    store = PairStore(tmp_path)
    assert store.families("task").tolist() == [0, 1, 0, 1] and store.families("source").tolist() == [0, 0, 1, 1]
    both = Modality.IMAGE | Modality.TEXT
    assert store.families("target").tolist() == [Modality.TEXT, Modality.IMAGE, both, Modality.VIDEO | Modality.TEXT]


def test_items_are_copied_unchanged_from_one_folder_to_another(tmp_path):
    first = write(tmp_path / "first", list(range(100)))
    with StoreWriter(tmp_path / "second") as writer:
        for chunk in first.items.chunks:
            writer.copy(chunk)
        added = writer.add(Item("new", text="new"))
        writer.finish([PairRow("p", 0, 1, [added])])
    second = PairStore(tmp_path / "second")
    assert added == len(first.items.table) and second.items.table.slice(0, added).equals(first.items.table)
    assert [item.text for item in second.pairs([0])[0].negatives] == ["new"]


def test_rows_of_pairs_pickle():
    row = PairRow("p", 1, 2, [3], "t->t")
    assert pickle.loads(pickle.dumps(row)) == row
