"""A corpus is brought in whole: what is missing is filled, what is wrong is rejected with its place, what cannot be read is refused."""

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components import sources
from mirepoix.components.corpus import PARTS, PartWriter, part_files, read_part
from mirepoix.components.sources import SourcesConfig, fingerprint
from mirepoix.models.errors import Refused
from mirepoix.models.item import ITEM_SCHEMA
from tests.components.larder import context, made, write_corpus


def write(folder, **parts):
    """A corpus of plain Parquet as a user might have it: the columns are those of the first row, the types what pyarrow guesses."""
    for part, rows in parts.items():
        (folder / part).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / part / "mine.parquet")
    return folder


def plain(**parts):
    whole = {
        "corpus": [{"id": "d1", "text": "a star"}, {"id": "d2", "text": "a disc"}],
        "queries": [{"id": "q1", "text": "star ?", "split": "train", "task": "t->t"}],
        "qrels": [{"query_id": "q1", "item_id": "d1"}],
    }
    return {**whole, **parts}


def bring(tmp_path, path):
    return made(tmp_path / "out", sources.work, SourcesConfig(path=str(path)))


def rejects(found):
    return [(row["part"], row["id"], row["reason"], row["source"], row["line"]) for row in read_part(found.folder, "rejects").to_pylist()]


def test_a_canonical_corpus_comes_through_as_it_is(tmp_path):
    corpus = write_corpus(
        tmp_path / "in",
        corpus=[{"id": "d1", "text": "a star", "images": [b"png", b"jpeg"]}, {"id": "d2", "video": [b"1", b"2"], "source": "f", "line": 7}],
        queries=[{"id": "q1", "text": "which ?", "instruction": "Find it.", "split": "train", "task": "t->it"}],
        qrels=[{"query_id": "q1", "item_id": "d1", "relevance": 2}],
    )
    found = bring(tmp_path, corpus)
    for part in ("corpus", "queries", "qrels"):
        assert read_part(found.folder, part) == read_part(corpus, part)
    assert rejects(found) == []


def test_a_path_with_a_key_in_it_is_refused_when_the_config_is_made():
    with pytest.raises(Refused, match="AWS_ACCESS_KEY_ID") as refusal:
        SourcesConfig(path="s3://name:hidden@bucket/corpus")
    assert "hidden" not in str(refusal.value)


def test_columns_that_are_missing_are_filled(tmp_path):
    found = bring(tmp_path, write(tmp_path / "in", **plain()))
    (row, _) = read_part(found.folder, "corpus").to_pylist()
    assert row == {"id": "d1", "text": "a star", "images": [], "video": [], "instruction": "", "source": "corpus/mine.parquet", "line": 1}
    assert read_part(found.folder, "qrels").to_pylist() == [{"query_id": "q1", "item_id": "d1", "relevance": 1}]


def test_every_part_has_the_canonical_types(tmp_path):
    found = bring(tmp_path, write(tmp_path / "in", **plain(corpus=[{"id": 1, "text": "numbers as ids", "images": [b"png"]}])))
    for part, schema in PARTS.items():
        assert read_part(found.folder, part).schema.equals(schema), part
    assert read_part(found.folder, "corpus")["id"].to_pylist() == ["1"]


def test_provenance_is_kept_where_it_is_told_and_made_where_it_is_not(tmp_path):
    told = [{"id": "a", "text": "x", "source": "book", "line": 12}, {"id": "b", "text": "x", "source": None, "line": None}]
    found = bring(tmp_path, write(tmp_path / "in", **plain(corpus=told)))
    places = [(row["source"], row["line"]) for row in read_part(found.folder, "corpus").to_pylist()]
    assert places == [("book", 12), ("corpus/mine.parquet", 2)]


def test_rows_that_cannot_be_used_are_rejected_with_a_reason_and_their_place(tmp_path):
    corpus = [
        {"id": "d1", "text": "a star", "images": []},
        {"id": "d1", "text": "again", "images": []},
        {"id": "d 2", "text": "a space", "images": []},
        {"id": "d\n3", "text": "a new line", "images": []},
        {"id": None, "text": "no id", "images": []},
        {"id": "d4", "text": "", "images": []},
        {"id": "d5", "text": "an empty picture", "images": [b""]},
        {"id": "d6", "text": "", "images": [b"png"]},
    ]
    queries = [
        {"id": "q1", "text": "star ?", "split": "train", "task": "t->t"},
        {"id": "q2", "text": "star ?", "split": None, "task": "t->t"},
        {"id": "q3", "text": "star ?", "split": "train", "task": None},
        {"id": "q4", "text": "star ?", "split": "train", "task": "qa"},
    ]
    qrels = [{"query_id": "q1", "item_id": "d1"}, {"query_id": "q1", "item_id": None}]
    found = bring(tmp_path, write(tmp_path / "in", corpus=corpus, queries=queries, qrels=qrels))
    at = {part: f"{part}/mine.parquet" for part in PARTS}
    assert rejects(found) == [
        ("corpus", "d1", "id stands twice", at["corpus"], 2),
        ("corpus", "d 2", "id is empty or has white space", at["corpus"], 3),
        ("corpus", "d\n3", "id is empty or has white space", at["corpus"], 4),
        ("corpus", "", "id is empty or has white space", at["corpus"], 5),
        ("corpus", "d4", "neither text nor picture nor video", at["corpus"], 6),
        ("corpus", "d5", "a picture is empty", at["corpus"], 7),
        ("queries", "q2", "split is empty", at["queries"], 2),
        ("queries", "q3", "task is not of the form it->t", at["queries"], 3),
        ("queries", "q4", "task is not of the form it->t", at["queries"], 4),
        ("qrels", "q1 None", "query_id, item_id or relevance is empty", at["qrels"], 2),
    ]
    assert read_part(found.folder, "corpus")["id"].to_pylist() == ["d1", "d6"]
    assert (found.outcome.rows.read, found.outcome.rows.written, found.outcome.rows.rejected) == (14, 4, 10)
    assert found.outcome.metrics == {"corpus": 2, "queries": 1, "qrels": 1, "rejected": 10}


def test_the_same_id_may_name_a_query_and_a_candidate(tmp_path):
    found = bring(tmp_path, write(tmp_path / "in", **plain(queries=[{"id": "d1", "text": "?", "split": "train", "task": "t->t"}])))
    assert rejects(found) == []


@pytest.mark.parametrize("part", ["corpus", "queries", "qrels"])
def test_a_part_that_is_missing_is_refused_before_and_in_the_run(tmp_path, part):
    parts = plain()
    del parts[part]
    write(tmp_path / "in", **parts)
    with pytest.raises(Refused, match=f"has no {part}/"):
        fingerprint(str(tmp_path / "in"))
    with pytest.raises(Refused, match=f"has no {part}/"):
        bring(tmp_path, tmp_path / "in")


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
        bring(tmp_path, write(tmp_path / "in", **plain(**{part: rows})))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_no_parquet_is_refused_by_its_name(tmp_path):
    write(tmp_path / "in", **plain())
    (tmp_path / "in" / "corpus" / "notes.parquet").write_text("dear diary")
    with pytest.raises(Refused, match=r"corpus/notes.parquet cannot be read"):
        bring(tmp_path, tmp_path / "in")


def test_a_corpus_without_a_usable_row_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"is empty: not one usable row in corpus/; 2 rows were rejected"):
        bring(tmp_path, write(tmp_path / "in", **plain(corpus=[{"id": "", "text": "x"}, {"id": "d2", "text": ""}])))


@pytest.mark.parametrize("path", ["{}/nowhere", "gopher://hole/corpus", "s3:/no-bucket://x"])
def test_a_path_that_cannot_be_reached_is_refused_in_one_line(tmp_path, path):
    path = path.format(tmp_path)
    with pytest.raises(Refused) as refused:
        fingerprint(path)
    assert path in str(refused.value) and "\n" not in str(refused.value)


def test_a_uri_is_read_like_a_folder(tmp_path):
    corpus = write(tmp_path / "in", **plain())
    assert fingerprint(f"file://{corpus}") == fingerprint(str(corpus))
    assert read_part(bring(tmp_path, f"file://{corpus}").folder, "corpus").num_rows == 2


def test_the_fingerprint_changes_with_any_file_and_with_nothing_else(tmp_path):
    corpus = write(tmp_path / "in", **plain())
    before = fingerprint(str(corpus))
    (corpus / "README").write_text("not part of it")
    assert fingerprint(str(corpus)) == before and str(tmp_path) not in before
    os.utime(corpus / "qrels" / "mine.parquet", ns=(1, 1))
    touched = fingerprint(str(corpus))
    pq.write_table(pa.table({"id": ["d3"], "text": ["more"]}), corpus / "corpus" / "more.parquet")
    assert len({before, touched, fingerprint(str(corpus))}) == 3


def test_a_large_part_is_read_in_batches_and_counted_on(tmp_path):
    files = {"a": 1500, "b": 1200}
    write(tmp_path / "in", **plain())
    for name, count in files.items():
        ids = [f"{name}{n}" for n in range(count)]
        pq.write_table(pa.table({"id": ids, "text": ids}), tmp_path / "in" / "corpus" / f"{name}.parquet")
    steps = []
    lent = context(tmp_path / "out", report=lambda progress: steps.append({name: float(number) for name, number in progress.items()}))
    sources.work(lent, SourcesConfig(path=str(tmp_path / "in")))
    rows = read_part(lent.folder, "corpus").to_pylist()
    assert [row["id"] for row in rows] == [*(f"a{n}" for n in range(1500)), *(f"b{n}" for n in range(1200)), "d1", "d2"]
    assert {(row["source"], row["line"]) for row in (rows[1499], rows[1500])} == {("corpus/a.parquet", 1500), ("corpus/b.parquet", 1)}
    assert [step["step"] for step in steps] == sorted({1000, 1500, 2500, 2700, 2702, 2703, 2704})


def row(number, size=0):
    return {"id": f"d{number}", "text": "x", "images": [bytes(size)], "video": [], "instruction": "", "source": "s", "line": number + 1}


@pytest.mark.parametrize("cut", [1, 3, 10])
def test_files_hold_so_many_rows_however_they_come(tmp_path, cut):
    rows = [row(number) for number in range(10)]
    with PartWriter(tmp_path, "corpus", rows_per_file=4) as writer:
        for start in range(0, 10, cut):
            writer.write(rows[start : start + cut])
    assert [pq.read_metadata(file).num_rows for file in part_files(tmp_path, "corpus")] == [4, 4, 2]
    assert read_part(tmp_path, "corpus").to_pylist() == rows and writer.written == 10


def test_files_are_bounded_in_bytes_too(tmp_path):
    with PartWriter(tmp_path, "corpus", bytes_per_file=10_000) as writer:
        for number in range(10):
            writer.write([row(number, size=4000)])
    assert [pq.read_metadata(file).num_rows for file in part_files(tmp_path, "corpus")] == [3, 3, 3, 1]


def test_a_part_without_rows_is_an_empty_file(tmp_path):
    with PartWriter(tmp_path, "corpus") as writer:
        writer.write([])
    assert read_part(tmp_path, "corpus").schema == ITEM_SCHEMA and len(part_files(tmp_path, "corpus")) == 1


def test_a_writer_that_fails_leaves_what_it_held_unwritten(tmp_path):
    with pytest.raises(KeyError), PartWriter(tmp_path, "corpus") as writer:
        writer.write([row(1)])
        raise KeyError
    assert part_files(tmp_path, "corpus") == []


def test_without_a_path_it_is_the_world(brought):
    assert (brought.folder / "world.json").is_file()
    assert {row["task"] for row in read_part(brought.folder, "queries", ["task"]).to_pylist()} >= {"t->t", "it->it"}
    assert brought.outcome.rows.rejected == 0
