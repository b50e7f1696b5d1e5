"""Curation keeps or rejects with a reason, and every row is accounted for."""

import io
from dataclasses import replace

import pyarrow as pa
import pytest
from PIL import Image

from mirepoix.components import curate
from mirepoix.components.corpus import PartWriter, read_part
from mirepoix.components.curate import CurateConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, item_to_row
from mirepoix.serving.store import Context


def png(colour, side=8, mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


CORPUS = [
    Item("good", text="a circle", images=(png("red"),), source="s", line=1),
    Item("broken", text="a circle", images=(png("red")[:40],), source="s", line=2),
    Item("garbage", images=(b"no picture",), source="s", line=3),
    Item("again", text="a circle", images=(png("red"),), source="s", line=4),
    Item("words", text="a circle", source="s", line=5),
    Item("palette", images=(png(3, mode="P"),), source="s", line=6),
]
QUERIES = [
    Item("q-good", text="find the circle"),
    Item("q-broken", text="find the broken one"),
    Item("q-damaged", images=(png("blue")[:40],), source="q", line=3),
]
QRELS = [("q-good", "good"), ("q-good", "again"), ("q-good", "words"), ("q-good", "broken"), ("q-broken", "broken"), ("q-damaged", "words")]


def write_corpus(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS, rows_per_file=2):
    with PartWriter(folder, "corpus", rows_per_file) as part:
        part.write([item_to_row(item) for item in corpus])
    with PartWriter(folder, "queries", rows_per_file) as part:
        part.write([{**item_to_row(item), "split": "train", "task": "t->it"} for item in queries])
    with PartWriter(folder, "qrels", rows_per_file) as part:
        part.write([{"query_id": query, "item_id": item, "relevance": 1} for query, item in qrels])
    return folder


def context(folder):
    folder.mkdir()
    return Context(folder, str(folder.parent / "scratch"), lambda progress: None, seed=0)


@pytest.fixture(scope="module")
def curated(ray_cluster, tmp_path_factory):
    home = tmp_path_factory.mktemp("curate")
    outcome = curate.work(context(home / "out"), CurateConfig(max_rejected=0.5), write_corpus(home / "in"))
    return home / "out", outcome


def test_what_cannot_be_decoded_is_rejected_with_a_reason_and_its_place(curated):
    folder, _ = curated
    rejects = [row for row in read_part(folder, "rejects").to_pylist() if row["part"] == "corpus"]
    assert [(row["id"], row["reason"], row["source"], row["line"]) for row in rejects] == [
        ("broken", "damaged", "s", 2),
        ("garbage", "unknown format", "s", 3),
    ]


def test_the_first_of_exact_duplicates_is_kept_and_answers_for_the_others(curated):
    folder, outcome = curated
    assert read_part(folder, "corpus")["id"].to_pylist() == ["good", "words", "palette"]
    assert {tuple(row.values()) for row in read_part(folder, "qrels").to_pylist()} == {("q-good", "good", 1), ("q-good", "words", 1)}
    assert outcome.metrics["exact_duplicates"] == 1


def test_queries_without_an_answer_or_with_a_damaged_picture_go(curated):
    folder, _ = curated
    queries = read_part(folder, "queries")
    assert queries["id"].to_pylist() == ["q-good"]
    assert queries["task"].to_pylist() == ["t->it"]
    rejects = {row["id"]: row["reason"] for row in read_part(folder, "rejects").to_pylist() if row["part"] != "corpus"}
    assert rejects == {
        "q-broken": "no answer is left",
        "q-damaged": "damaged",
        "q-good broken": "answer was rejected",
        "q-broken broken": "answer was rejected",
        "q-damaged words": "query was rejected",
    }


def test_every_row_is_accounted_for(curated):
    folder, outcome = curated
    written = sum(read_part(folder, part).num_rows for part in ("corpus", "queries", "qrels"))
    assert outcome.rows.read == len(CORPUS) + len(QUERIES) + len(QRELS)
    assert outcome.rows.written == written
    assert outcome.rows.rejected == read_part(folder, "rejects").num_rows
    assert outcome.rows.merged == 2


def test_pictures_come_out_upright_and_plain(curated):
    folder, _ = curated
    rows = {row["id"]: row for row in read_part(folder, "corpus").to_pylist()}
    assert Image.open(io.BytesIO(rows["palette"]["images"][0])).mode == "RGB"
    assert rows["good"]["images"][0] == CORPUS[0].images[0]


def test_too_many_rejects_stop_the_run_and_say_why(ray_cluster, tmp_path):
    with pytest.raises(Refused, match=r"2 of the 6 candidates were rejected \(damaged: 1, unknown format: 1\).*max_rejected=0.1"):
        curate.work(context(tmp_path / "out"), CurateConfig(max_rejected=0.1), write_corpus(tmp_path / "in"))


def test_a_corpus_of_nothing_usable_is_refused(ray_cluster, tmp_path):
    bad = [replace(item, images=(b"x",)) for item in CORPUS]
    with pytest.raises(Refused, match="empty after curation: all 6 candidates"):
        curate.work(context(tmp_path / "out"), CurateConfig(max_rejected=1.0), write_corpus(tmp_path / "in", bad))


def test_the_result_does_not_depend_on_how_the_rows_are_cut(curated, ray_cluster, tmp_path):
    folder, _ = curated
    curate.work(context(tmp_path / "out"), CurateConfig(max_rejected=0.5, batch_size=1), write_corpus(tmp_path / "in", rows_per_file=4))
    for part in ("corpus", "queries", "qrels", "rejects"):
        assert read_part(tmp_path / "out", part).to_pylist() == read_part(folder, part).to_pylist()


def test_order_and_parts_stay_apart_when_a_part_is_many_blocks(ray_cluster, tmp_path):
    """A union of datasets would take blocks from corpus and queries in turn."""
    import ray

    data = ray.data.DataContext.get_current()
    before = data.target_max_block_size
    corpus = [Item(f"d{n}", text=f"{n} " * 2000) for n in range(60)]
    queries = [Item(f"q{n}", text=f"? {n} " * 2000) for n in range(60)]
    try:
        data.target_max_block_size = 50_000
        source = write_corpus(tmp_path / "in", corpus, queries, [(f"q{n}", f"d{n}") for n in range(60)], rows_per_file=20)
        curate.work(context(tmp_path / "out"), CurateConfig(batch_size=10), source)
    finally:
        data.target_max_block_size = before
    assert read_part(tmp_path / "out", "corpus")["id"].to_pylist() == [item.id for item in corpus]
    assert read_part(tmp_path / "out", "queries")["id"].to_pylist() == [item.id for item in queries]


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_of_0_to_1_is_refused(share):
    with pytest.raises(Refused, match="from 0 to 1"):
        CurateConfig(max_rejected=share)


def test_tables_keep_their_types(curated):
    folder, _ = curated
    assert read_part(folder, "corpus").schema.field("images").type == pa.large_list(pa.large_binary())
