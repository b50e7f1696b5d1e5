"""Vectors on disk are those of the encoder, in the order of the items, and what was finished before a kill is not done again."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.components.corpus.parts import PartWriter, part_files, read_part
from mirepoix.components.embedding import embed
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.embedding.golden_choice import FirstItems
from mirepoix.components.embedding.vectors import arrow_to_rows, read_vectors, recorded_encoder_digest, rows_to_arrow
from mirepoix.components.stage import Context
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, items_to_table, table_to_items
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.golden import GOLDEN, read_golden
from mirepoix.serving.store import read_manifest
from tests.components.fixtures import context

SMALL = EmbedConfig(batch_size=2, workers=2, threads=1, shard_rows=30)


class Killed(Exception):
    """What ends a run from outside."""


@pytest.fixture(scope="module")
def expected(untrained, curated, paired):
    """Items of each part and their vectors, straight from the encoder."""
    encoder = load_encoder(untrained.folder)
    parts = {"corpus": read_part(curated.folder, "corpus"), "queries": read_part(paired.folder, "queries")}
    return {part: (items, encoder.encode(items).ragged()) for part, table in parts.items() if (items := table_to_items(table))}


def cut(folder: Path, part: str, target: Path) -> Path:
    """The part in files of 25 rows."""
    with PartWriter(target, part, rows_per_file=25) as writer:
        writer.write(read_part(folder, part))
    return target


@pytest.fixture(scope="module")
def resumed(untrained, curated, paired, tmp_path_factory):
    """A run from many files in shards of 30, killed after its second, which is then marked by turning its vectors round."""
    home = tmp_path_factory.mktemp("resumed")
    inputs = {
        "encoder": untrained.folder,
        "curate": cut(curated.folder, "corpus", home / "z-corpus"),
        "pairs": cut(paired.folder, "queries", home / "a-queries"),
    }

    def kill(progress: dict[str, float]) -> None:
        if progress["step"] == 60:
            raise Killed

    killed = context(home, report=kill)
    with pytest.raises(Killed):
        embed.work(killed, replace(SMALL, workers=1), **inputs)
    kept = sorted(path.name for path in Path(killed.scratch).iterdir())
    second = Path(killed.scratch) / "corpus-00001.parquet"
    table = pq.read_table(second)
    vectors = arrow_to_rows(table["rows"])
    turned = rows_to_arrow(RaggedRows(-vectors.rows_RD, vectors.bounds))
    pq.write_table(table.set_column(3, "rows", turned), second)
    steps: list[dict[str, float]] = []
    again = Context(home / "again", killed.scratch, steps.append, killed.seed)
    again.folder.mkdir()
    outcome = embed.work(again, SMALL, **inputs)
    return again.folder, outcome, kept, steps


def test_vectors_are_those_of_the_encoder_in_the_order_of_the_items(embedded, expected):
    for part, (items, vectors) in expected.items():
        ids, modalities, found = read_vectors(embedded.folder, part)
        assert ids == [item.id for item in items]
        assert modalities == [int(item.modality) for item in items]
        assert np.array_equal(found.bounds, vectors.bounds)
        assert np.allclose(found.rows_RD, vectors.rows_RD, atol=1e-5)


def test_finished_shards_outlive_a_kill_and_are_not_encoded_again(resumed, expected):
    folder, _, kept, _ = resumed
    assert kept == ["corpus-00000.parquet", "corpus-00001.parquet"]
    _, vectors = expected["corpus"]
    _, _, found = read_vectors(folder, "corpus")
    assert np.allclose(found[30:60].rows_RD, -vectors[30:60].rows_RD, atol=1e-5)


def test_files_shards_workers_and_kills_change_no_bit(resumed, embedded, expected):
    folder, _, _, _ = resumed
    for part in expected:
        ids, modalities, found = read_vectors(folder, part)
        unbroken_ids, unbroken_modalities, unbroken = read_vectors(embedded.folder, part)
        encoded_now = [n for n in range(len(ids)) if part != "corpus" or not 30 <= n < 60]
        assert (ids, modalities) == (unbroken_ids, unbroken_modalities)
        assert np.array_equal(found[encoded_now].rows_RD, unbroken[encoded_now].rows_RD)


def tables_of(sizes: list[int], cuts: list[int]) -> list[pa.Table]:
    """Items with texts of these sizes, in tables that are cut at these rows."""
    whole = items_to_table(Item(f"d{n}", text="x" * size) for n, size in enumerate(sizes))
    bounds = sorted({0, len(sizes), *(cut for cut in cuts if cut < len(sizes))})
    return [whole.slice(first, last - first) for first, last in pairwise(bounds)]


@given(
    st.lists(st.integers(1, 5000), min_size=1, max_size=40), st.lists(st.integers(1, 40)), st.lists(st.integers(1, 40)), st.integers(1, 9)
)
def test_where_items_are_cut_into_batches_depends_on_the_items_alone(sizes, cuts, other_cuts, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed, "GROUP_BYTES", 6000)
        found, again = (list(embed._cut(tables_of(sizes, given_cuts), rows)) for given_cuts in (cuts, other_cuts))
    assert [table["id"].to_pylist() for table in found] == [table["id"].to_pylist() for table in again]
    assert pa.concat_tables(found).equals(pa.concat_tables(tables_of(sizes, [])))
    assert all(table.num_rows <= rows for table in found)
    assert all(table.num_rows == 1 or sum(map(len, table["text"].to_pylist()[:-1])) < 6000 for table in found)


def test_shards_have_the_size_asked_for_and_belong_to_one_part(resumed, expected):
    folder, _, _, _ = resumed
    for part, (items, _) in expected.items():
        sizes = [pq.read_metadata(file).num_rows for file in part_files(folder, part)]
        assert sizes == [30] * (len(items) // 30) + [len(items) % 30] * bool(len(items) % 30)


def test_progress_counts_kept_shards_and_ends_at_the_total(resumed, expected):
    _, _, _, steps = resumed
    total = sum(len(items) for items, _ in expected.values())
    assert {step["total"] for step in steps} == {total}
    assert [step["step"] for step in steps][:2] == [30, 60] and steps[-1]["step"] == total


def test_rows_are_accounted_for(embedded, resumed, expected):
    total = sum(len(items) for items, _ in expected.values())
    for outcome in (embedded.outcome, resumed[1]):
        assert outcome.rows.read == outcome.rows.written == total
        assert 0 < outcome.metrics["padding"] < 0.3
        assert {name: outcome.metrics[name] for name in ("items", "width")} == {"items": total, "width": expected["corpus"][1].width}
    assert {name: embedded.outcome.metrics[name] for name in ("encoded", "reused", "resumed")} == {
        "encoded": total,
        "reused": 0,
        "resumed": 0,
    }
    assert {name: resumed[1].metrics[name] for name in ("encoded", "reused", "resumed")} == {
        "encoded": total - 60,
        "reused": 0,
        "resumed": 60,
    }


def test_the_encoder_is_named_by_its_published_digest(embedded, untrained):
    assert recorded_encoder_digest(embedded.folder) == read_manifest(untrained.folder).digest
    assert json.loads((embedded.folder / "vectors.json").read_text())["width"] == load_encoder(untrained.folder).dimension


def test_files_are_read_by_plain_parquet_and_numpy(embedded):
    (file,) = part_files(embedded.folder, "corpus")
    table = pq.ParquetFile(file).read()
    assert table.schema.names == ["id", "modality", "content", "rows"]
    assert table.schema.field("content").type == pa.binary(32)
    assert table.schema.field("rows").type.value_type == pa.list_(pa.float32(), 32)


def test_golden_items_are_the_first_of_each_modality_in_the_order_of_the_corpus(embedded, resumed, expected):
    items, _ = expected["corpus"]
    first = [item for n, item in enumerate(items) if sum(other.modality == item.modality for other in items[:n]) < 4]
    assert len(first) == 12 < len(items)
    first = [replace(item, source="", line=0) for item in first]  # no vector depends on where an item was read
    for folder in (embedded.folder, resumed[0]):
        assert read_golden(folder / GOLDEN).items == first


def test_golden_vectors_are_those_of_the_encoder_in_both_roles(embedded, resumed, untrained):
    for folder in (embedded.folder, resumed[0]):
        assert read_golden(folder / GOLDEN).verify(load_encoder(untrained.folder), "the embedding") > 0.99999


def test_a_modality_with_few_items_gives_all_of_them(expected):
    items, _ = expected["corpus"]
    chosen = FirstItems(10_000)
    for table in (items_to_table(items[:7]), items_to_table(items[7:])):
        chosen.add(table)
    (table,) = chosen.tables()
    assert table_to_items(table) == items


@pytest.mark.parametrize("field", ["batch_size", "batch_tokens", "workers", "threads", "shard_rows"])
def test_less_than_one_is_refused(field):
    with pytest.raises(Refused, match=f"embed.{field} is 0; give 1 or more"):
        EmbedConfig(**{field: 0})


def vectors_of(counts: list[int], width: int) -> RaggedRows:
    rows_RD = np.random.default_rng(0).standard_normal((sum(counts), width), np.float32)
    return RaggedRows(rows_RD, np.append(0, np.cumsum(counts)))


def equal(found: RaggedRows, expected: RaggedRows) -> bool:
    return np.array_equal(found.bounds, expected.bounds) and np.array_equal(found.rows_RD, expected.rows_RD)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8), st.integers(1, 7))
def test_any_number_of_rows_an_item_round_trips(counts, width):
    vectors = vectors_of(counts, width)
    assert equal(arrow_to_rows(pa.chunked_array([rows_to_arrow(vectors)])), vectors)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=8), st.data())
def test_a_slice_of_rows_in_chunks_round_trips(counts, data):
    vectors = vectors_of(counts, 3)
    start = data.draw(st.integers(0, len(counts) - 1))
    stop = data.draw(st.integers(start + 1, len(counts)))
    whole = rows_to_arrow(vectors)
    middle = data.draw(st.integers(start, stop))
    chunks = pa.chunked_array([whole.slice(start, middle - start), whole.slice(middle, stop - middle)])
    assert equal(arrow_to_rows(chunks), vectors[start:stop])
