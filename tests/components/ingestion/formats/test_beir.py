"""BEIR: documents with titles, splits by qrels, prefixes, and bad rows rejected with their numbers."""

import pytest

from mirepoix.components.ingestion.formats import beir
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Member, Notice, Prompt, Query, Triple
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, counted, picture, rejected_rows, rows_of, write_files
from tests.components.ingestion.formats.samples import beir as sample

HEADER = "query-id\tcorpus-id\tscore\n"


def test_rows_are_read_as_beir_joins_them(tmp_path):
    assert rows_of(beir, sample(tmp_path / "soups")) == [
        Candidate(Item("d1", "Soup How to cook it.", source="soups/corpus.jsonl", line=1)),
        Candidate(Item("d2", "  Kept as it is. ", source="soups/corpus.jsonl", line=2)),
        Candidate(Item("d3", "Only a title", source="soups/corpus.jsonl", line=3)),
        Query(Item("q1", "cook soup", source="soups/queries.jsonl", line=1), "test"),
        Query(Item("q2", "a title", source="soups/queries.jsonl", line=2), "validation"),
        Notice("soups/queries.jsonl", "queries that no qrels name: 1, the first in line 3; they are dropped"),
        Judgement("q2", "d3", 1, None, "soups/qrels/dev.tsv", 2),
        Judgement("q1", "d1", 2, None, "soups/qrels/test.tsv", 2),
        Judgement("q1", "d2", 0, None, "soups/qrels/test.tsv", 3),
    ]


def test_a_prefix_goes_with_its_own_qrels(tmp_path):
    files = {
        "corpus.jsonl": [{"_id": "d", "text": "d"}],
        "queries.jsonl": [{"_id": "q", "text": "q"}, {"_id": "g", "text": "not generated"}],
        "gen-queries.jsonl": [{"_id": "g", "text": "g"}, {"_id": "q", "text": "judged only without a prefix"}],
        "qrels/test.tsv": HEADER + "q\td\t1\n",
        "gen-qrels/train.tsv": HEADER + "g\td\t1\n",
    }
    found = [(row.item.text, row.split) for row in rows_of(beir, write_files(tmp_path, files)) if isinstance(row, Query)]
    assert sorted(found) == [("g", "train"), ("q", "test")]


def test_a_query_of_several_splits_belongs_to_the_one_that_is_tested_on(tmp_path):
    files = {
        "corpus.jsonl": [{"_id": "d", "text": "d"}],
        "queries.jsonl": [{"_id": "q", "text": "q"}, {"_id": "r", "text": "r"}],
        "qrels/train.tsv": HEADER + "q\td\t1\nr\td\t1\n",
        "qrels/dev.tsv": HEADER + "r\td\t1\n",
        "qrels/test.tsv": HEADER + "q\td\t1\n",
        "qrels/seen.tsv": HEADER + "q\td\t1\n",
    }
    rows = rows_of(beir, write_files(tmp_path / "s", files))
    assert {row.item.id: row.split for row in rows if isinstance(row, Query)} == {"q": "test", "r": "validation"}
    assert {(row.query_id, row.source) for row in rows if isinstance(row, Judgement)} == {
        ("q", "s/qrels/test.tsv"),
        ("r", "s/qrels/dev.tsv"),
    }
    assert rejected_rows(rows) == [
        ("s/qrels/seen.tsv", 2, "duplicate id"),
        ("s/qrels/train.tsv", 2, "duplicate id"),
        ("s/qrels/train.tsv", 3, "duplicate id"),
    ]


def test_qrels_without_a_header_lose_no_line(tmp_path):
    files = {"corpus.jsonl": [{"_id": 1, "text": "d"}], "queries.jsonl": [{"_id": 2, "text": "q"}], "qrels/test.tsv": "2\t1\t1\n"}
    assert rows_of(beir, write_files(tmp_path / "s", files))[-1] == Judgement("2", "1", 1, None, "s/qrels/test.tsv", 1)


def test_a_whole_score_may_have_a_point(tmp_path):
    files = {"corpus.jsonl": [{"_id": 1, "text": "d"}], "queries.jsonl": [{"_id": 2, "text": "q"}]}
    with_header = write_files(tmp_path / "s", files | {"qrels/test.tsv": HEADER + "2\t1\t1.0\n2\t1\t0.0\n"})
    assert [row.relevance for row in rows_of(beir, with_header) if isinstance(row, Judgement)] == [1, 0]
    without = write_files(tmp_path / "t", files | {"qrels/test.tsv": "2\t1\t2.0\n"})
    assert rows_of(beir, without)[-1] == Judgement("2", "1", 2, None, "t/qrels/test.tsv", 1)


@pytest.mark.parametrize("score", ["1.5", "nan", "inf", "1e12"])
def test_a_first_line_with_a_number_that_is_no_score_is_rejected_and_no_header(tmp_path, score):
    files = {"corpus.jsonl": [{"_id": 1, "text": "d"}], "queries.jsonl": [{"_id": 2, "text": "q"}]}
    rows = rows_of(beir, write_files(tmp_path / "s", files | {"qrels/test.tsv": f"2\t1\t{score}\n2\t1\t1\n"}))
    assert rejected_rows(rows) == [("s/qrels/test.tsv", 1, "bad row")] and isinstance(rows[-1], Judgement)


def test_qrels_are_read_once_for_all_pieces_and_again_when_they_change(tmp_path, monkeypatch):
    files = {"corpus.jsonl": [{"_id": 1, "text": "d"}], "queries.jsonl": [{"_id": n, "text": "q"} for n in range(8)]}
    folder = write_files(tmp_path / "s", files | {"qrels/test.tsv": HEADER + "".join(f"{n}\t1\t1\n" for n in range(8))})
    monkeypatch.setattr("mirepoix.components.ingestion.formats.source_files.SHARD_BYTES", 60)
    opened = counted(monkeypatch, "lines")
    pieces = [shard for shard in beir.shards(SourceFiles(str(folder))) if shard.part == "queries"]
    assert len(pieces) > 2 and sum(isinstance(row, Query) for shard in pieces for row in beir.read(SourceFiles(str(folder)), shard)) == 8
    assert opened["qrels/test.tsv"] == 1
    write_files(folder, {"qrels/test.tsv": HEADER + "3\t1\t1\n"})
    assert sum(isinstance(row, Query) for shard in pieces for row in beir.read(SourceFiles(str(folder)), shard)) == 1


def test_each_bad_row_is_rejected_with_its_line(tmp_path):
    corpus = '{"_id": "d1", "text": "t"}\n{"_id": "d 2", "text": "t"}\n\n{"_id": "d3", "text": " ", "title": ""}\n[1]\n{"text": "t"}\n'
    corpus += '{"_id": "d4", "text": 4}\n{"_id": "d5", "text": "t", "url": "http://x"}\n{"_id": "d6"\n'
    queries = '{"_id": "q1", "text": ""}\n{"_id": "q2", "text": "t"}\n'
    qrels = HEADER + "q1\td1\t1\nq2\td1\nq2\td1\tx\nq2 \td1\t1\n"
    rows = rows_of(beir, write_files(tmp_path / "s", {"corpus.jsonl": corpus, "queries.jsonl": queries, "qrels/test.tsv": qrels}))
    assert rejected_rows(rows) == [
        ("s/corpus.jsonl", 2, "bad id"),
        ("s/corpus.jsonl", 4, "empty side"),
        ("s/corpus.jsonl", 5, "bad JSON"),
        ("s/corpus.jsonl", 6, "bad row"),
        ("s/corpus.jsonl", 7, "bad row"),
        ("s/corpus.jsonl", 8, "unread column"),
        ("s/corpus.jsonl", 9, "bad JSON"),
        ("s/queries.jsonl", 1, "empty side"),
        ("s/qrels/test.tsv", 3, "bad row"),
        ("s/qrels/test.tsv", 4, "bad row"),
        ("s/qrels/test.tsv", 5, "bad id"),
    ]


@pytest.mark.parametrize(
    ("item", "split", "message"),
    [
        (Item("d", images=(picture(1),)), "test", "holds no pictures"),
        (Item("d", video=(picture(1),)), "test", "holds no clips"),
        (Item("d", "d"), "dev", "split 'dev'"),
        (Item("d", "d"), "a/b", "split 'a/b'"),
    ],
)
def test_what_beir_cannot_hold_is_refused(tmp_path, item, split, message):
    rows = [Candidate(item), Query(Item("q", "q"), split), Judgement("q", "d")]
    with pytest.raises(Refused, match=message):
        beir.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))


def test_what_is_written_is_beir_to_the_letter(tmp_path):
    rows = [Candidate(Item("d", "dé")), Query(Item("q", "q"), "validation"), Judgement("q", "d", 2, 0.5)]
    rows += [Prompt("t->t", "Find it."), Triple(Item("t", "what ?", (picture(1),)), "train", "it")]
    left = {"scores of a teacher": 1, "prompts": 1, "triples": 1}
    assert beir.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows)) == left
    assert (tmp_path / "out/corpus.jsonl").read_text() == '{"_id": "d", "title": "", "text": "dé"}\n'
    assert (tmp_path / "out/queries.jsonl").read_text() == '{"_id": "q", "text": "q", "metadata": {}}\n'
    assert (tmp_path / "out/qrels/dev.tsv").read_text() == HEADER + "q\td\t2\n"


def test_queries_that_no_qrels_name_are_counted_in_each_piece(tmp_path, monkeypatch):
    queries = [{"_id": n, "text": "q"} for n in range(8)]
    files = {"corpus.jsonl": [{"_id": 1, "text": "d"}], "queries.jsonl": queries, "qrels/test.tsv": HEADER + "0\t1\t1\n7\t1\t1\n"}
    monkeypatch.setattr("mirepoix.components.ingestion.formats.source_files.SHARD_BYTES", 104)
    notices = [row.detail for row in rows_of(beir, write_files(tmp_path, files)) if isinstance(row, Notice)]
    assert notices == [
        "queries that no qrels name: 3, the first in line 2; they are dropped",
        "queries that no qrels name: 3, the first in line 5; they are dropped",
    ]


def test_of_splits_that_are_not_read_no_qrels_are_opened(tmp_path, monkeypatch):
    files = {
        "corpus.jsonl": [{"_id": "d", "text": "d"}],
        "queries.jsonl": [{"_id": name, "text": "q"} for name in ("q", "r", "s")],
        "qrels/train.tsv": HEADER + "q\td\t1\nr\td\t1\n",
        "qrels/dev.tsv": HEADER + "q\td\t2\n",
    }
    opened = counted(monkeypatch, "lines")
    tree = SourceFiles(str(write_files(tmp_path, files)))
    tree.splits, tree.only_splits = {"validation": "test"}, ("test",)
    rows = [row for shard in beir.shards(tree) for row in beir.read(tree, shard)]
    assert [(row.item.id, row.split) for row in rows if isinstance(row, Query)] == [("q", "validation")]
    assert [(row.query_id, row.relevance) for row in rows if isinstance(row, Judgement)] == [("q", 2)]
    assert "qrels/train.tsv" not in opened and not rejected_rows(rows)
    assert not any(isinstance(row, Notice) for row in rows), "a query of another split is not one that no qrels name"


def test_members_of_pools_and_answers_as_texts_are_counted(tmp_path):
    rows = [Candidate(Item("d", "d")), Query(Item("q", "q"), "test", answers=("a", "b")), Judgement("q", "d"), Member("p", "d")]
    assert beir.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows)) == {"members of pools": 1, "answers as texts": 1}
