"""The canonical corpus is read unchanged; missing columns are filled, bad rows rejected with their numbers."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components.corpus.parts import PARTS, PartWriter, read_part
from mirepoix.components.ingestion.formats import canonical
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Member, Prompt, Query, RejectedRow, Triple
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.fixtures import plain_corpus, write_plain
from tests.components.ingestion.formats.format_cases import corpus_of, meaning, picture, rejected_rows, rows_of

RED = picture(200)


def read(folder):
    return rows_of(canonical, folder, name="mine")


def test_the_least_that_a_corpus_may_be_is_filled(tmp_path):
    assert read(write_plain(tmp_path / "in", **plain_corpus())) == [
        Candidate(Item("d1", "a star", source="mine/corpus/mine.parquet", line=1)),
        Candidate(Item("d2", "a disc", source="mine/corpus/mine.parquet", line=2)),
        Query(Item("q1", "star ?", source="mine/queries/mine.parquet", line=1), "train", "t->t"),
        Judgement("q1", "d1", 1, None, "mine/qrels/mine.parquet", 1),
    ]


def test_every_column_is_read_and_given_provenance_is_kept(tmp_path):
    provenance = {"source": "book/page", "line": 7}
    rows = read(
        write_plain(
            tmp_path / "in",
            corpus=[{"id": "d1", "text": "a star", "images": [RED], "video": [RED, RED], "instruction": "", **provenance}],
            queries=[{"id": "q1", "images": [RED], "instruction": "Find it.", "split": "test", "task": "i->itv", **provenance}],
            qrels=[{"query_id": "q1", "item_id": "d1", "relevance": 0, "score": 0.25, **provenance}],
            triples=[
                {"id": "t1", "text": "what ?", "images": [RED], "split": "train", "answer": "a star", "evidence": ["d1"], **provenance}
            ],
            prompts=[{"task": "i->itv", "wording": "Find it.", "source": "book"}],
        )
    )
    assert rows == [
        Candidate(Item("d1", "a star", (RED,), (RED, RED), source="book/page", line=7)),
        Query(Item("q1", "", (RED,), (), "Find it.", "book/page", 7), "test", "i->itv"),
        Judgement("q1", "d1", 0, 0.25, "book/page", 7),
        Triple(Item("t1", "what ?", (RED,), source="book/page", line=7), "train", "a star", ("d1",)),
        Prompt("i->itv", "Find it.", "book"),
    ]


def test_what_benchmarks_ask_of_a_query_is_read_and_written_and_so_are_pools(tmp_path):
    asked = {"id": "q1", "text": "?", "split": "test", "task": "t->t"}
    queries = [asked | {"dataset": "okvqa", "pool": "wiki", "answers": ["a star", "", "stars"]}, asked | {"id": "q2"}]
    members = [{"pool": "wiki", "item_id": "d1"}, {"pool": "all", "item_id": "d1"}]
    judged = [{"query_id": name, "item_id": "d1"} for name in ("q1", "q2")]
    rows = read(write_plain(tmp_path / "in", **plain_corpus(queries=queries, qrels=judged), pools=members))
    found = [(row.dataset, row.pool, row.answers) for row in rows if isinstance(row, Query)]
    assert found == [("okvqa", "wiki", ("a star", "stars")), ("", "", ())]
    assert [row for row in rows if isinstance(row, Member)] == [Member("wiki", "d1"), Member("all", "d1")]
    canonical.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
    again = read(tmp_path / "out")
    assert meaning(again) == meaning(rows)
    assert [row.dataset for row in again if isinstance(row, Query)] == ["okvqa", ""]


def test_rows_that_cannot_be_used_are_rejected_with_their_number(tmp_path):
    corpus = [
        {"id": "d1", "text": "a star", "images": []},
        {"id": "d 2", "text": "a space", "images": []},
        {"id": None, "text": "no id", "images": []},
        {"id": "d4", "text": "", "images": []},
        {"id": "d5", "text": "an empty picture", "images": [b""]},
    ]
    queries = [
        {"id": "q1", "text": "?", "split": split, "task": task} for split, task in ((None, "t->t"), ("train", None), ("train", "qa"))
    ]
    qrels = [{"query_id": "q1", "item_id": "d1", "relevance": 1}, {"query_id": "q1", "item_id": None, "relevance": 1}]
    triples = [
        {"id": "t1", "text": "?", "images": images, "split": "train", "answer": answer} for images, answer in (([], "x"), ([RED], ""))
    ]
    rows = read(
        write_plain(
            tmp_path / "in",
            corpus=corpus,
            queries=queries,
            qrels=qrels,
            triples=triples,
            prompts=[{"task": "", "wording": "Find."}],
            pools=[{"pool": "p", "item_id": "d1"}, {"pool": "p", "item_id": None}, {"pool": "", "item_id": "d1"}],
        )
    )
    assert [(row.part, row.id, row.reason, row.line) for row in rows if isinstance(row, RejectedRow)] == [
        ("corpus", "d 2", "bad id", 2),
        ("corpus", "", "bad id", 3),
        ("corpus", "d4", "empty side", 4),
        ("corpus", "d5", "missing picture", 5),
        ("queries", "q1", "bad split", 1),
        ("queries", "q1", "bad task", 2),
        ("queries", "q1", "bad task", 3),
        ("qrels", "q1 None", "bad row", 2),
        ("triples", "t1", "empty side", 1),
        ("triples", "t1", "empty side", 2),
        ("prompts", "", "bad row", 1),
        ("pools", "", "bad row", 2),
        ("pools", "", "bad row", 3),
    ]
    assert {source for source, _, _ in rejected_rows(rows)} == {f"mine/{part}/mine.parquet" for part in canonical.NEEDED}


def test_rows_are_counted_on_through_row_groups_and_shards(tmp_path, monkeypatch):
    monkeypatch.setattr("mirepoix.components.ingestion.formats.source_files.SHARD_BYTES", 1)
    write_plain(tmp_path, **plain_corpus())
    table = pa.table({"id": [f"d{n}" for n in range(7)], "text": ["x"] * 7})
    pq.write_table(table, tmp_path / "corpus" / "mine.parquet", row_group_size=3)
    assert sum(shard.part == "corpus" for shard in canonical.shards(SourceFiles(str(tmp_path)))) == 3
    found = [(row.item.id, row.item.line) for row in read(tmp_path) if isinstance(row, Candidate)]
    assert found == [(f"d{n}", n + 1) for n in range(7)]


@pytest.mark.parametrize("part", ["corpus", "queries", "qrels"])
def test_a_part_that_is_missing_is_refused(tmp_path, part):
    parts = plain_corpus()
    del parts[part]
    with pytest.raises(Refused, match=f"has no {part}/"):
        read(write_plain(tmp_path / "in", **parts))
    assert canonical.detect(SourceFiles(str(tmp_path / "in")))


@pytest.mark.parametrize(
    ("part", "rows", "words"),
    [
        ("corpus", [{"name": "d1", "text": "x"}], "corpus/mine.parquet has no column id; it has name, text"),
        ("queries", [{"id": "q1", "text": "x"}], "has no column split, task; it has id, text"),
        ("qrels", [{"query": "q1", "item_id": "d1"}], "has no column query_id; it has query, item_id"),
        ("corpus", [{"id": "d1", "images": [{"bytes": b"png", "path": "x"}]}], "images large_list<item: large_binary>"),
        ("qrels", [{"query_id": "q1", "item_id": "d1", "relevance": 0.5}], "relevance int32"),
    ],
)
def test_columns_that_do_not_fit_are_refused_in_one_line_that_names_what_is_there(tmp_path, part, rows, words):
    with pytest.raises(Refused) as refused:
        read(write_plain(tmp_path / "in", **plain_corpus(**{part: rows})))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_no_parquet_is_refused_by_its_name(tmp_path):
    write_plain(tmp_path, **plain_corpus())
    (tmp_path / "corpus" / "notes.parquet").write_text("dear diary")
    with pytest.raises(Refused, match=r"corpus/notes.parquet cannot be read"):
        read(tmp_path)


def test_it_is_detected_by_its_parts_and_not_by_those_of_others(tmp_path):
    assert canonical.detect(SourceFiles(str(write_plain(tmp_path / "ours", **plain_corpus()))))
    foreign = plain_corpus(qrels=[{"query-id": "q1", "corpus-id": "d1", "score": 1}])
    assert not canonical.detect(SourceFiles(str(write_plain(tmp_path / "theirs", **foreign))))
    assert not canonical.detect(SourceFiles(str(write_plain(tmp_path / "some", corpus=[{"id": "d1"}]))))


def test_what_is_written_is_the_corpus_without_what_curation_noted(tmp_path):
    triple = {"id": "t1", "text": "what ?", "images": [RED], "split": "train", "answer": "a star", "evidence": ["d1"]}
    rows = read(write_plain(tmp_path / "in", **plain_corpus(triples=[triple], prompts=[{"task": "t->t", "wording": "Find it."}])))
    corpus = corpus_of(tmp_path / "corpus", rows)
    with PartWriter(corpus, "rejects") as writer:
        writer.write([])
    canonical.write(tmp_path / "out", corpus)
    assert rows_of(canonical, tmp_path / "out", name="else") == rows_of(canonical, corpus, name="else")
    assert meaning(read(tmp_path / "out")) == meaning(rows)
    assert not (tmp_path / "out" / "rejects").exists()
    for part in ("corpus", "queries", "qrels", "triples", "prompts"):
        assert read_part(tmp_path / "out", part).schema == PARTS[part]
