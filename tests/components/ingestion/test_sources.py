"""Sources become the canonical corpus: missing columns are filled, bad rows rejected with their lines, unreadable files refused."""

import gzip
import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components import ray_tasks
from mirepoix.components.corpus.parts import PARTS, PartWriter, part_files, read_part
from mirepoix.components.ingestion import readers, sources
from mirepoix.components.ingestion.formats import source_files
from mirepoix.components.ingestion.sources import fingerprint, opened
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import ITEM_SCHEMA
from tests.components.fixtures import context, made, plain_corpus, write_corpus, write_plain


def bring(tmp_path, path):
    return made(tmp_path / "out", sources.work, SourcesConfig(path=(str(path),)))


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


def test_columns_that_are_missing_are_filled(tmp_path):
    found = bring(tmp_path, write_plain(tmp_path / "in", **plain_corpus()))
    (row, _) = read_part(found.folder, "corpus").to_pylist()
    assert row == {
        "id": "d1",
        "text": "a star",
        "images": [],
        "video": [],
        "instruction": "",
        "source": "in/corpus/mine.parquet",
        "line": 1,
    }
    (judgement,) = read_part(found.folder, "qrels").to_pylist()
    assert judgement == {"query_id": "q1", "item_id": "d1", "relevance": 1, "score": None, "source": "in/qrels/mine.parquet", "line": 1}


def test_every_part_has_the_canonical_types(tmp_path):
    found = bring(tmp_path, write_plain(tmp_path / "in", **plain_corpus(corpus=[{"id": 1, "text": "numbers as ids", "images": [b"png"]}])))
    for part, schema in PARTS.items():
        assert read_part(found.folder, part).schema.equals(schema), part
    assert read_part(found.folder, "corpus")["id"].to_pylist() == ["1"]


def test_given_provenance_is_kept_and_missing_provenance_is_filled(tmp_path):
    candidates = [{"id": "a", "text": "x", "source": "book", "line": 12}, {"id": "b", "text": "x", "source": None, "line": None}]
    found = bring(tmp_path, write_plain(tmp_path / "in", **plain_corpus(corpus=candidates)))
    places = [(row["source"], row["line"]) for row in read_part(found.folder, "corpus").to_pylist()]
    assert places == [("book", 12), ("in/corpus/mine.parquet", 2)]


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
    found = bring(tmp_path, write_plain(tmp_path / "in", corpus=corpus, queries=queries, qrels=qrels))
    at = {part: f"in/{part}/mine.parquet" for part in PARTS}
    assert sorted(rejects(found)) == [
        ("corpus", "", "bad id", at["corpus"], 5),
        ("corpus", "d\n3", "bad id", at["corpus"], 4),
        ("corpus", "d 2", "bad id", at["corpus"], 3),
        ("corpus", "d1", "duplicate id", at["corpus"], 2),
        ("corpus", "d4", "empty side", at["corpus"], 6),
        ("corpus", "d5", "missing picture", at["corpus"], 7),
        ("qrels", "q1 None", "bad row", at["qrels"], 2),
        ("queries", "q2", "bad split", at["queries"], 2),
        ("queries", "q3", "bad task", at["queries"], 3),
        ("queries", "q4", "bad task", at["queries"], 4),
    ]
    assert read_part(found.folder, "corpus")["id"].to_pylist() == ["d1", "d6"]
    assert (found.outcome.rows.read, found.outcome.rows.written, found.outcome.rows.rejected) == (14, 4, 10)
    assert found.outcome.metrics == {"corpus": 2, "queries": 1, "qrels": 1, "rejected": 10}


def test_the_same_id_may_name_a_query_and_a_candidate(tmp_path):
    found = bring(
        tmp_path, write_plain(tmp_path / "in", **plain_corpus(queries=[{"id": "d1", "text": "?", "split": "train", "task": "t->t"}]))
    )
    assert rejects(found) == [("qrels", "q1 d1", "unknown query", "in/qrels/mine.parquet", 1)]


@pytest.mark.parametrize("part", ["corpus", "queries", "qrels"])
def test_a_part_that_is_missing_is_refused_before_and_in_the_run(tmp_path, part):
    parts = plain_corpus()
    del parts[part]
    write_plain(tmp_path / "in", **parts)
    with pytest.raises(Refused, match=f"has no {part}/"):
        fingerprint(opened(SourcesConfig(path=(str(tmp_path / "in"),))))
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
        bring(tmp_path, write_plain(tmp_path / "in", **plain_corpus(**{part: rows})))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_no_parquet_is_refused_by_its_name(tmp_path):
    write_plain(tmp_path / "in", **plain_corpus())
    (tmp_path / "in" / "corpus" / "notes.parquet").write_text("dear diary")
    with pytest.raises(Refused, match=r"corpus/notes.parquet cannot be read"):
        bring(tmp_path, tmp_path / "in")


def test_a_corpus_without_a_usable_row_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"is empty: not one usable row in corpus/; 3 rows were rejected"):
        bring(tmp_path, write_plain(tmp_path / "in", **plain_corpus(corpus=[{"id": "", "text": "x"}, {"id": "d2", "text": ""}])))


@pytest.mark.parametrize("path", ["{}/nowhere", "gopher://hole/corpus", "s3:/no-bucket://x"])
def test_a_path_that_cannot_be_reached_is_refused_in_one_line(tmp_path, path):
    path = path.format(tmp_path)
    with pytest.raises(Refused) as refused:
        fingerprint(opened(SourcesConfig(path=(path,))))
    assert path in str(refused.value) and "\n" not in str(refused.value)


def test_a_uri_is_read_like_a_folder(tmp_path):
    corpus = write_plain(tmp_path / "in", **plain_corpus())
    assert fingerprint(opened(SourcesConfig(path=(f"file://{corpus}",)))) == fingerprint(opened(SourcesConfig(path=(str(corpus),))))
    assert read_part(bring(tmp_path, f"file://{corpus}").folder, "corpus").num_rows == 2


def test_the_fingerprint_changes_with_any_file_and_with_nothing_else(tmp_path):
    corpus = write_plain(tmp_path / "in", **plain_corpus())
    before = fingerprint(opened(SourcesConfig(path=(str(corpus),))))
    (corpus / "README").write_text("not part of it")
    assert fingerprint(opened(SourcesConfig(path=(str(corpus),)))) == before and str(tmp_path) not in before
    os.utime(corpus / "qrels" / "mine.parquet", ns=(1, 1))
    touched = fingerprint(opened(SourcesConfig(path=(str(corpus),))))
    pq.write_table(pa.table({"id": ["d3"], "text": ["more"]}), corpus / "corpus" / "more.parquet")
    assert len({before, touched, fingerprint(opened(SourcesConfig(path=(str(corpus),))))}) == 3


def test_a_large_part_is_read_in_batches_and_counted_on(tmp_path):
    files = {"a": 1500, "b": 1200}
    write_plain(tmp_path / "in", **plain_corpus())
    for name, count in files.items():
        ids = [f"{name}{n}" for n in range(count)]
        pq.write_table(pa.table({"id": ids, "text": ids}), tmp_path / "in" / "corpus" / f"{name}.parquet")
    steps = []
    stage_context = context(
        tmp_path / "out", report=lambda progress: steps.append({name: float(number) for name, number in progress.items()})
    )
    sources.work(stage_context, SourcesConfig(path=(str(tmp_path / "in"),)))
    rows = read_part(stage_context.folder, "corpus").to_pylist()
    assert [row["id"] for row in rows] == [*(f"a{n}" for n in range(1500)), *(f"b{n}" for n in range(1200)), "d1", "d2"]
    assert {(row["source"], row["line"]) for row in (rows[1499], rows[1500])} == {("in/corpus/a.parquet", 1500), ("in/corpus/b.parquet", 1)}
    assert [step["step"] for step in steps] == sorted({1000, 1500, 2500, 2700, 2702, 2703, 2704})


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


PAIRS = [{"query": "who ?", "pos": ["he"], "neg": ["it", "she"]}, {"query": "what ?", "pos": ["it"], "neg": []}]


def test_equal_documents_of_a_format_without_ids_are_one_candidate(tmp_path):
    found = bring(tmp_path, lines(tmp_path / "in" / "train.jsonl", PAIRS))
    corpus = {row["text"]: row for row in read_part(found.folder, "corpus").to_pylist()}
    assert sorted(corpus) == ["he", "it", "she"] and corpus["it"]["line"] == 1
    asked = {row["text"]: row for row in read_part(found.folder, "queries").to_pylist()}
    assert {row["task"] for row in asked.values()} == {"t->t"}, "derived from the answer's modality"
    judged = {(row["query_id"], row["item_id"], row["relevance"]) for row in read_part(found.folder, "qrels").to_pylist()}
    assert judged == {
        (asked["who ?"]["id"], corpus["he"]["id"], 1),
        (asked["who ?"]["id"], corpus["it"]["id"], 0),
        (asked["who ?"]["id"], corpus["she"]["id"], 0),
        (asked["what ?"]["id"], corpus["it"]["id"], 1),
    }
    assert found.outcome.rows.merged == 1 and found.outcome.rows.rejected == 0
    assert found.outcome.tables["sources"] == [
        {"source": "train.jsonl", "part": "corpus", "what": "equal to an earlier row", "count": 1},
        {"source": "train.jsonl", "part": "corpus", "what": "read", "count": 4},
        {"source": "train.jsonl", "part": "qrels", "what": "read", "count": 4},
        {"source": "train.jsonl", "part": "queries", "what": "read", "count": 2},
    ]
    (merged,) = found.outcome.tables["examples"]
    assert (merged["reason"], merged["part"], merged["place"]) == ("equal to an earlier row", "corpus", "train.jsonl:2")


def test_several_sources_are_one_corpus_whose_ids_and_rows_name_their_source(tmp_path):
    write_plain(tmp_path / "one", **plain_corpus())
    write_plain(tmp_path / "two", **plain_corpus(prompts=[{"task": "t->t", "wording": "Find it."}]))
    found = made(tmp_path / "out", sources.work, SourcesConfig(path=(f"a={tmp_path}/one", f"canonical+{tmp_path}/two")))
    assert read_part(found.folder, "corpus")["id"].to_pylist() == ["a/d1", "a/d2", "two/d1", "two/d2"]
    assert read_part(found.folder, "corpus")["source"].to_pylist()[::2] == ["a/corpus/mine.parquet", "two/corpus/mine.parquet"]
    judged = [(row["query_id"], row["item_id"]) for row in read_part(found.folder, "qrels").to_pylist()]
    assert judged == [("a/q1", "a/d1"), ("two/q1", "two/d1")]
    assert read_part(found.folder, "prompts")["source"].to_pylist() == ["two/"]
    table = {(row["source"], row["part"]): row["count"] for row in found.outcome.tables["sources"]}
    assert table["a", "corpus"] == table["two", "corpus"] == 2


def test_two_sources_of_one_name_are_asked_for_names(tmp_path):
    for folder in ("x/coco", "y/coco"):
        write_plain(tmp_path / folder, **plain_corpus())
    with pytest.raises(Refused, match="two sources are called 'coco'; leave one out, or give them names"):
        fingerprint(opened(SourcesConfig(path=(f"{tmp_path}/x/coco", f"{tmp_path}/y/coco"))))


def test_one_source_that_is_named_twice_is_refused(tmp_path):
    path = str(write_plain(tmp_path / "coco", **plain_corpus()))
    with pytest.raises(Refused, match="two sources are called 'coco'; leave one out"):
        fingerprint(opened(SourcesConfig(path=(path, path))))


def test_splits_are_renamed_as_configured(tmp_path):
    path = lines(tmp_path / "dev.jsonl", PAIRS)
    found = made(tmp_path / "out", sources.work, SourcesConfig(path=(str(path),), splits=("validation=train",)))
    assert set(read_part(found.folder, "queries")["split"].to_pylist()) == {"train"}
    with pytest.raises(Refused, match="old=new"):
        SourcesConfig(splits=("dev",))


def test_a_judgement_of_an_unknown_id_is_rejected_with_its_line(tmp_path):
    qrels = [{"query_id": "q1", "item_id": "d1"}, {"query_id": "q1", "item_id": "d9"}, {"query_id": "q9", "item_id": "d1"}]
    found = bring(tmp_path, write_plain(tmp_path / "in", **plain_corpus(qrels=qrels)))
    assert rejects(found) == [
        ("qrels", "q1 d9", "unknown item", "in/qrels/mine.parquet", 2),
        ("qrels", "q9 d1", "unknown query", "in/qrels/mine.parquet", 3),
    ]
    assert [(row["reason"], row["place"], row["id"]) for row in found.outcome.tables["examples"]] == [
        ("unknown item", "in/qrels/mine.parquet:2", "q1 d9"),
        ("unknown query", "in/qrels/mine.parquet:3", "q9 d1"),
    ]
    assert {row["what"]: row["count"] for row in found.outcome.tables["sources"] if row["part"] == "qrels"} == {
        "read": 3,
        "unknown item": 1,
        "unknown query": 1,
    }


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path):
    (tmp_path / "notes.txt").write_text("dear diary")
    with pytest.raises(Refused, match=r"looks like none of the known formats; name one as FORMAT[+]PATH, of canonical, beir"):
        fingerprint(opened(SourcesConfig(path=(str(tmp_path),))))
    with pytest.raises(Refused, match=r"format 'bier' of .* is unknown; give one of canonical, beir"):
        fingerprint(opened(SourcesConfig(path=(f"bier+{tmp_path}",))))
    with pytest.raises(Refused, match=r"sources\.format is 'bier'"):
        SourcesConfig(format="bier")


def test_pieces_are_read_by_ray_to_the_same_rows_in_the_same_order(tmp_path, ray_cluster, monkeypatch):
    """Whatever the number of workers; a small source is read without any."""
    rows = [{"query": f"who is {number} ?", "pos": [f"number {number}"], "neg": [f"number {number + 1}"]} for number in range(3000)]
    path = lines(tmp_path / "in" / "train.jsonl", rows)
    here = bring(tmp_path / "here", path)
    monkeypatch.setattr(ray_tasks, "SMALL_BYTES", 0)
    monkeypatch.setattr(source_files, "SHARD_BYTES", 40_000)
    (source,) = readers.open_sources((str(path),))
    assert len(source.shards) > 4
    for workers in (1, 3):
        config = SourcesConfig(path=(str(path),), workers=workers)
        there = made(tmp_path / f"there-{workers}", sources.work, config)
        for part in ("corpus", "queries", "qrels"):
            assert read_part(there.folder, part) == read_part(here.folder, part), part
        assert there.outcome.rows == here.outcome.rows


def legacy(query, name, text):
    return {"query_id": query, "query": f"what of {query} ?", "positive_passages": [{"docid": name, "text": text}], "negative_passages": []}


def test_a_second_text_under_one_id_is_rejected_with_its_judgements(tmp_path):
    lines(tmp_path / "in" / "train-0.jsonl", [legacy("q1", "d1", "boil water first"), legacy("q2", "d2", "the same")])
    others = [legacy("q3", "d2", "the same"), legacy("q4", "d1", "a painter of Delft"), legacy("q5", "d1", "a painter of Delft")]
    lines(tmp_path / "in" / "train-1.jsonl", others)
    found = bring(tmp_path, tmp_path / "in")
    judged = [(row["query_id"], row["item_id"]) for row in read_part(found.folder, "qrels").to_pylist()]
    assert judged == [("q1", "d1"), ("q2", "d2"), ("q3", "d2")] and found.outcome.rows.merged == 1
    lost = [("corpus", "d1", 2), ("qrels", "q4 d1", 2), ("qrels", "q5 d1", 3), ("queries", "q4", 2), ("queries", "q5", 3)]
    reasons = {"corpus": "duplicate id", "qrels": "duplicate id", "queries": "no answer"}
    assert rejects(found) == [(part, name, reasons[part], "in/train-1.jsonl", line) for part, name, line in lost]


def test_an_id_of_a_second_pool_with_another_text_is_rejected(tmp_path):
    for name, text in (("a", "one"), ("b", "two")):
        lines(tmp_path / "in" / "cand_pool" / "global" / f"{name}.jsonl", [{"did": "9:1", "txt": text, "modality": "text"}])
    lines(tmp_path / "in" / "query" / "train" / "t.jsonl", [mbeir_query(1, ["9:1"], None)])
    found = bring(tmp_path, tmp_path / "in")
    assert rejects(found) == [("corpus", "9:1", "duplicate id", "in/cand_pool/global/b.jsonl", 1)]
    assert [row["text"] for row in read_part(found.folder, "corpus").to_pylist()] == ["one"]


def mbeir_query(number, answers, task):
    return {"qid": f"9:{number}", "query_txt": f"asked {number}", "query_modality": "text", "pos_cand_list": answers, "task_id": task}


def test_answers_are_rejected_where_none_has_the_target_modality_of_the_task(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"png")
    pool = [{"did": "9:1", "txt": "a text", "modality": "text"}, {"did": "9:2", "img_path": "a.png", "modality": "image"}]
    lines(tmp_path / "in" / "cand_pool" / "local" / "c.jsonl", pool)
    asked = [(1, ["9:1"], 0), (2, ["9:1", "9:2"], 0), (3, ["9:2", "9:1"], None)]  # 0 is t->i
    asked = [mbeir_query(*fields) for fields in asked] + [mbeir_query(4, ["9:2"], 0) | {"neg_cand_list": ["9:1"]}]
    lines(tmp_path / "in" / "query" / "train" / "t.jsonl", asked)
    found = bring(tmp_path, tmp_path / "in")
    judged = {(row["query_id"], row["item_id"], row["relevance"]) for row in read_part(found.folder, "qrels").to_pylist()}
    both = {(f"9:{query}", item, 1) for query in (2, 3) for item in ("9:1", "9:2")}
    assert judged == both | {("9:4", "9:2", 1), ("9:4", "9:1", 0)}
    (reject,) = read_part(found.folder, "rejects").to_pylist()
    assert (reject["part"], reject["id"], reject["reason"], reject["line"]) == ("qrels", "9:1 9:1", "bad task", 1)
    assert reject["detail"] == "the query's task asks for i, which none of its answers is; this one is t"


def test_readable_files_are_joined_though_a_file_of_another_source_is_unreadable(tmp_path):
    whole = write_plain(tmp_path / "a", **plain_corpus(qrels=[{"query_id": "q1", "item_id": name} for name in ("d1", "d9")]))
    torn = lines(tmp_path / "b" / "corpus.jsonl", [{"_id": "d1", "text": "a star"}]).parent
    (torn / "queries.jsonl.gz").write_bytes(gzip.compress(b'{"_id": "q2", "text": "a late one"}\n' * 99)[:-9])
    lines(torn / "queries.jsonl", [{"_id": "q1", "text": "which ?"}])
    (torn / "qrels").mkdir()
    (torn / "qrels" / "train.tsv").write_text("q1\td1\t1\nq9\td1\t1\n")
    stage_context = context(tmp_path / "out")
    outcome, refusal = sources.read_sources(stage_context, SourcesConfig(path=(str(whole), str(torn))))
    assert refusal.startswith("b/queries.jsonl.gz cannot be unpacked") and part_files(stage_context.folder, "queries")
    judged = [(row["query_id"], row["item_id"]) for row in read_part(stage_context.folder, "qrels").to_pylist()]
    assert judged == [("a/q1", "a/d1"), ("b/q1", "b/d1")]
    rejected = [(row["reason"], row["id"]) for row in read_part(stage_context.folder, "rejects").to_pylist()]
    assert rejected == [("unreadable", "queries.jsonl.gz"), ("unknown item", "a/q1 a/d9")], "b/q9 may be in the part that is cut off"
    assert outcome.rows.read == outcome.rows.written + outcome.rows.rejected


def test_members_of_pools_are_written_once_and_those_of_no_candidate_are_left_out_with_a_notice(tmp_path):
    named = [("wiki", "d1"), ("wiki", "d2"), ("wiki", "d1"), ("news", "d1"), ("news", "d8"), ("news", "d9")]
    members = [{"pool": pool, "item_id": item} for pool, item in named]
    found = bring(tmp_path, write_plain(tmp_path / "in", **plain_corpus(), pools=members))
    assert [tuple(row.values()) for row in read_part(found.folder, "pools").to_pylist()] == [*named[:2], named[3]]
    rows = found.outcome.rows
    assert (rows.read, rows.written, rows.rejected, rows.merged) == (10, 7, 2, 1)
    assert (found.outcome.metrics["pools"], found.outcome.metrics["rejected"], rejects(found)) == (3, 0, [])
    assert found.outcome.tables["notices"] == [
        {"source": "in", "detail": "2 members of the pool news are no candidates of the corpus, and left out"}
    ]
    assert [tuple(row.values()) for row in found.outcome.tables["sources"] if row["part"] == "pools"] == [
        ("in", "pools", "equal to an earlier row", 1),
        ("in", "pools", "read", 6),
        ("in", "pools", "unknown item", 2),
    ]


def test_pools_of_several_sources_have_their_names_before_them_and_data_sets_have_not(tmp_path):
    asked = {"id": "q1", "text": "?", "split": "test", "task": "t->t", "dataset": "okvqa", "pool": "wiki"}
    for name in ("a", "b"):
        members = [{"pool": "wiki", "item_id": item} for item in ("d1", "d9")]
        write_plain(tmp_path / name, **plain_corpus(queries=[asked]), pools=members)
    found = made(tmp_path / "out", sources.work, SourcesConfig(path=(f"{tmp_path}/a", f"{tmp_path}/b")))
    assert [tuple(row.values()) for row in read_part(found.folder, "pools").to_pylist()] == [("a/wiki", "a/d1"), ("b/wiki", "b/d1")]
    queries = read_part(found.folder, "queries").to_pylist()
    assert [(row["dataset"], row["pool"], row["answers"]) for row in queries] == [("okvqa", "a/wiki", None), ("okvqa", "b/wiki", None)]
    assert [row["source"] for row in found.outcome.tables["notices"]] == ["a", "b"]


def test_a_query_with_answers_as_texts_needs_no_judgement(tmp_path):
    asked = {"id": "q1", "text": "?", "split": "test", "task": "t->t", "answers": ["a star", "stars"]}
    found = bring(tmp_path, write_plain(tmp_path / "in", **plain_corpus(queries=[asked], qrels=[{"query_id": "q1", "item_id": "d9"}])))
    (query,) = read_part(found.folder, "queries").to_pylist()
    assert query["answers"] == ["a star", "stars"] and rejects(found) == [("qrels", "q1 d9", "unknown item", "in/qrels/mine.parquet", 1)]


def three_splits(folder):
    """A corpus with a query and a triple in each of three splits, the judgements of two, and one of no query."""
    splits = ("train", "validation", "test")
    queries = [{"id": f"q-{split}", "text": "?", "split": split, "task": "t->t"} for split in splits]
    judged = [{"query_id": f"q-{split}", "item_id": item} for split in splits[:2] for item in ("d1", "d9")]
    triples = [{"id": f"t-{split}", "text": "?", "images": [b"png"], "split": split, "answer": "a star"} for split in splits]
    return write_plain(folder, **plain_corpus(queries=queries, qrels=[*judged, {"query_id": "q-none", "item_id": "d1"}]), triples=triples)


def test_of_splits_that_are_not_to_be_read_no_query_triple_or_judgement_is_there_or_counted(tmp_path):
    config = SourcesConfig(path=(str(three_splits(tmp_path / "in")),), splits=("validation=mine",), only_splits=("mine", "test"))
    found = made(tmp_path / "out", sources.work, config)
    assert read_part(found.folder, "queries")["id"].to_pylist() == ["q-validation", "q-test"]
    assert read_part(found.folder, "triples")["id"].to_pylist() == ["t-validation", "t-test"]
    assert read_part(found.folder, "qrels")["query_id"].to_pylist() == ["q-validation"]
    assert [(name, reason) for _, name, reason, *_ in rejects(found)] == [
        ("q-validation d9", "unknown item"),
        ("q-none d1", "unknown query"),
    ]
    rows = found.outcome.rows
    assert (rows.read, rows.written, rows.rejected, rows.merged) == (9, 7, 2, 0)
    read = {row["part"]: row["count"] for row in found.outcome.tables["sources"] if row["what"] == "read"}
    assert read == {"corpus": 2, "queries": 2, "triples": 2, "qrels": 3}
    assert [row["detail"] for row in found.outcome.tables["notices"]] == [
        "1 queries of the split train are not read: sources.only_splits names others",
        "1 triples of the split train are not read: sources.only_splits names others",
    ]


def test_a_split_that_is_to_be_read_and_has_no_query_is_refused_with_those_that_have(tmp_path):
    config = SourcesConfig(path=(str(three_splits(tmp_path / "in")),), splits=("validation=mine",), only_splits=("test", "validation"))
    with pytest.raises(
        Refused, match=r"only_splits names 'validation', and no query is of it; there are queries of mine, test, train, after"
    ):
        made(tmp_path / "out", sources.work, config)


@pytest.mark.parametrize("settings", [{"only_splits": ("test",)}, {"only_datasets": ("a",)}, {"uniir_texts": True}])
def test_the_world_has_neither_splits_nor_data_sets_to_choose_nor_texts_to_format(tmp_path, settings):
    with pytest.raises(Refused, match=r"sources.only_splits, only_datasets and uniir_texts are for corpora, and sources.path names none"):
        made(tmp_path / "out", sources.work, SourcesConfig(**settings))


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


def test_a_writer_that_fails_deletes_its_unfinished_file(tmp_path):
    with pytest.raises(KeyError), PartWriter(tmp_path, "corpus") as writer:
        writer.write([row(1)])
        raise KeyError
    assert part_files(tmp_path, "corpus") == []


def test_without_a_path_it_is_the_world(ingested):
    assert (ingested.folder / "world.json").is_file()
    assert {row["task"] for row in read_part(ingested.folder, "queries", ["task"]).to_pylist()} >= {"t->t", "it->it"}
    assert ingested.outcome.rows.rejected == 0
