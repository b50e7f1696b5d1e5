"""Edits are applied to the right rows, whatever the sizes of the tables."""

import pyarrow as pa
import pytest

from mirepoix.components.corpus.parts import PARTS
from mirepoix.components.curation.edits import EDITS_SCHEMA, Edits
from mirepoix.models.item import Item, item_to_row

ITEMS = [Item(f"i{n}", f"text {n}", (bytes([n]),)) for n in range(200)]
NEW = {3: {"text": "new 3"}, 4: {"images": [b"new", b"two"]}, 60: {"text": "new 60", "images": [b"x"]}, 199: {"instruction": "now"}}


def noted(folder, cut):
    edits = Edits(folder)
    for first in range(0, 200, cut):
        rows = [NEW.get(n, {}) for n in range(first, min(first + cut, 200))]
        edits.add(first, pa.Table.from_pylist(rows, schema=EDITS_SCHEMA))
    edits.finish()
    return edits


@pytest.mark.parametrize(("written", "read"), [(1, 200), (50, 7), (200, 1), (64, 64), (7, 61)])
def test_each_row_gets_its_own_changes(tmp_path, written, read):
    edits = noted(tmp_path, written)
    table = pa.Table.from_pylist([item_to_row(item) for item in ITEMS], schema=PARTS["corpus"])
    tables = (table.slice(first, read) for first in range(0, 200, read))
    rows = [row for made in edits.applied(0, tables) for row in made.to_pylist()]
    assert rows == [{**item_to_row(item), **NEW.get(n, {})} for n, item in enumerate(ITEMS)]


def test_the_first_table_may_start_after_row_zero(tmp_path):
    edits = noted(tmp_path, 100)
    table = pa.Table.from_pylist([item_to_row(item) for item in ITEMS[50:]], schema=PARTS["corpus"])
    rows = [row for made in edits.applied(50, iter([table])) for row in made.to_pylist()]
    assert rows == [{**item_to_row(item), **NEW.get(n, {})} for n, item in enumerate(ITEMS[50:], 50)]


def test_without_changes_the_tables_are_the_same(tmp_path):
    edits = Edits(tmp_path)
    edits.finish()
    table = pa.Table.from_pylist([item_to_row(item) for item in ITEMS], schema=PARTS["corpus"])
    assert list(edits.applied(0, iter([table]))) == [table]
