"""Writers get a corpus one row at a time, however large it is."""

import pyarrow.parquet as pq
import pytest

from mirepoix.components.corpus.parts import PartWriter
from mirepoix.components.ingestion.formats import corpus_reader
from mirepoix.components.ingestion.formats.corpus_reader import CorpusReader, QueryOrigin
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, item_to_row

ITEMS = [Item(f"d{n}", f"text {n}", (bytes([n]) * 50,), source="s/f", line=n + 1) for n in range(10)]
QUERIES = [
    Item("q1", "one ?", source="s", line=1),
    Item("q2", images=(b"png",), source="s", line=2),
    Item("q3", "none ?", source="s", line=3),
]


def row(query, item, relevance=1, score=None):
    return {"query_id": query, "item_id": item, "relevance": relevance, "score": score, "source": "s/qrels", "line": 1}


@pytest.fixture
def corpus(tmp_path):
    """Ten candidates in files of four rows, judgements of two queries mixed, a triple and a prompt."""
    with PartWriter(tmp_path, "corpus", rows_per_file=4) as writer:
        writer.write([item_to_row(item) for item in ITEMS])
    asked = [{**item_to_row(item), "split": "train", "task": "t->it"} for item in QUERIES]
    with PartWriter(tmp_path, "queries", rows_per_file=2) as writer:
        writer.write([asked[0], asked[1] | {"dataset": "wiki", "pool": "a"}, asked[2] | {"answers": ["yes", "no"]}])
    with PartWriter(tmp_path, "qrels", rows_per_file=2) as writer:
        writer.write([row("q2", "d3", 1, 0.5), row("q1", "d9"), row("q2", "d1", 0), row("q1", "d2", 2)])
    with PartWriter(tmp_path, "triples") as writer:
        writer.write([{**item_to_row(ITEMS[1]), "split": "test", "answer": "yes", "evidence": ["d1", "d2"]}])
    with PartWriter(tmp_path, "prompts") as writer:
        writer.write([{"task": "t->it", "wording": "Find it.", "source": "s"}])
    return tmp_path


def test_candidates_come_in_their_order(corpus):
    assert list(CorpusReader(corpus).candidates()) == ITEMS
    assert list(CorpusReader(corpus).texts()) == [(item.id, item.text) for item in ITEMS]


def test_any_candidate_is_found_by_its_id(corpus):
    reader = CorpusReader(corpus)
    assert [reader.item(item.id) for item in reversed(ITEMS)] == ITEMS[::-1]
    assert "d3" in reader and "d33" not in reader


def test_an_id_that_is_not_there_is_refused_by_its_name(corpus):
    with pytest.raises(Refused, match="no candidate 'd33'"):
        CorpusReader(corpus).item("d33")


def test_queries_have_their_judgements_with_them_in_the_order_of_the_judgements(corpus):
    assert list(CorpusReader(corpus).queries()) == [
        (QUERIES[0], "train", "t->it", [row("q1", "d9"), row("q1", "d2", 2)]),
        (QUERIES[1], "train", "t->it", [row("q2", "d3", 1, 0.5), row("q2", "d1", 0)]),
        (QUERIES[2], "train", "t->it", []),
    ]


def test_triples_and_prompts_come_as_they_are(corpus):
    assert list(CorpusReader(corpus).triples()) == [(ITEMS[1], "test", "yes", ("d1", "d2"))]
    assert list(CorpusReader(corpus).prompts()) == [{"task": "t->it", "wording": "Find it.", "source": "s"}]


def test_queries_have_their_data_set_pool_and_answers_in_the_same_order(corpus):
    assert list(CorpusReader(corpus).origins()) == [
        QueryOrigin("", "", ()),
        QueryOrigin("wiki", "a", ()),
        QueryOrigin("", "", ("yes", "no")),
    ]


def test_a_candidate_knows_its_pools_by_their_names(corpus, monkeypatch):
    with PartWriter(corpus, "pools", rows_per_file=2) as writer:
        writer.write([{"pool": pool, "item_id": id} for pool, id in (("b", "d1"), ("a", "d1"), ("a", "d2"), ("b", "d1"))])
    assert CorpusReader(corpus).pools == ["b", "a"]
    assert [CorpusReader(corpus).pools_of(id) for id in ("d1", "d2", "d3")] == [["b", "a"], ["a"], []]
    monkeypatch.setattr(corpus_reader, "_hash", lambda id: 7)
    assert [CorpusReader(corpus).pools_of(id) for id in ("d1", "d2", "d3")] == [["b", "a"], ["a"], []]


def test_parts_that_are_missing_have_no_rows(tmp_path):
    with PartWriter(tmp_path, "queries") as writer:
        writer.write([{**item_to_row(QUERIES[0]), "split": "train", "task": "t->t"}])
    reader = CorpusReader(tmp_path)
    assert list(reader.candidates()) == list(reader.triples()) == list(reader.prompts()) == [] and "d1" not in reader
    assert list(reader.queries()) == [(QUERIES[0], "train", "t->t", [])]
    assert reader.pools == reader.pools_of("d1") == []


def test_ids_with_equal_hashes_are_distinguished(corpus, monkeypatch):
    monkeypatch.setattr(corpus_reader, "_hash", lambda id: 7)
    reader = CorpusReader(corpus)
    assert [reader.item(item.id) for item in ITEMS] == ITEMS
    assert [len(judgements) for _, _, _, judgements in reader.queries()] == [2, 2, 0]


@pytest.mark.parametrize(("held_bytes", "reads"), [(1, 10), (1 << 20, 3)])
def test_row_groups_are_held_as_far_as_the_bytes_allow(corpus, monkeypatch, held_bytes, reads):
    read, counted = pq.ParquetFile.read_row_group, []

    def counting(self, group, **columns):
        counted.append(group)
        return read(self, group, **columns)

    reader = CorpusReader(corpus, held_bytes)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counting)
    for id in ("d0", "d4", "d8", "d1", "d5", "d9", "d2", "d6", "d3", "d7"):
        reader.item(id)
    assert len(counted) == reads
