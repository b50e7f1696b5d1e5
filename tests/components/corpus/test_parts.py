"""Rows by their ids: those that are wanted, in their order, and row groups without any are not read; the held-out candidates."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.components.corpus import parts
from mirepoix.components.corpus.parts import ROWS, held_out, joined, rows_with_ids
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, items_to_table
from tests.components.fixtures import write_corpus, write_held_out_corpus


def ids_of(folder, wanted):
    return [id for table in rows_with_ids(folder, "corpus", wanted) for id in table["id"].to_pylist()]


@given(wanted=st.sets(st.integers(0, 320)), cut=st.integers(1, 299))
def test_the_rows_that_are_wanted_come_in_the_order_of_the_part(tmp_path_factory, wanted, cut):
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "corpus").mkdir()
    table = items_to_table(Item(f"d{n}", text=f"text {n}") for n in range(300))
    for number, part in enumerate((table.slice(0, cut), table.slice(cut))):
        pq.write_table(part, folder / f"corpus/part-{number}.parquet", row_group_size=100)
    assert ids_of(folder, {f"d{n}" for n in wanted}) == [f"d{n}" for n in range(300) if n in wanted]
    assert all(part.num_rows <= ROWS for part in rows_with_ids(folder, "corpus", {f"d{n}" for n in wanted}))


def test_the_content_of_a_row_group_without_any_is_not_read(tmp_path):
    (tmp_path / "corpus").mkdir()
    file = tmp_path / "corpus/part-0.parquet"
    pq.write_table(items_to_table(Item(f"d{n}", text=f"{n}" * 1000) for n in range(20)), file, row_group_size=10, compression="none")
    first = pq.read_metadata(file).row_group(0)
    column = next(first.column(n) for n in range(first.num_columns) if first.column(n).path_in_schema == "text")
    damaged = bytearray(file.read_bytes())
    damaged[column.data_page_offset : column.data_page_offset + 40] = bytes(40)
    file.write_bytes(damaged)
    assert ids_of(tmp_path, {"d15"}) == ["d15"]


def test_a_part_that_is_not_there_has_no_rows(tmp_path):
    assert ids_of(tmp_path, {"d1"}) == []


@given(st.lists(st.integers(0, 4)), st.integers(1, 6))
def test_small_tables_are_joined_in_order_to_tables_of_as_many_rows_or_a_little_more(sizes, least):
    numbers = iter(range(sum(sizes)))
    tables = [pa.table({"n": pa.array([next(numbers) for _ in range(size)], pa.int64())}) for size in sizes]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "JOINED", least)
        found = [table["n"].to_pylist() for table in joined(iter(tables))]
    assert [number for table in found for number in table] == [*range(sum(sizes))]
    assert all(least <= len(table) < least + 4 for table in found[:-1])


def test_held_out_is_what_curation_lists(tmp_path):
    assert held_out(write_held_out_corpus(tmp_path / "some")) == {"validated", "tested", "other", "kin-behind", "kin-before", "like-tested"}
    assert held_out(write_corpus(tmp_path / "none")) == set()


def test_a_corpus_that_is_not_curated_does_not_say_what_is_held_out(tmp_path):
    with pytest.raises(Refused, match="in which curation lists the held-out candidates; give a curated corpus"):
        held_out(tmp_path)
