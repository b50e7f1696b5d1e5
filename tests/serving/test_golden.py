"""Golden vectors: written and read without a loss, and an encoder that does not reproduce them is refused."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.golden import Golden, read_golden
from tests.serving.fixtures import drawing

ITEMS = [
    Item("d1", "A disc.", (drawing("disc", 0.1), drawing("bar", 0.3)), instruction="Find it.", source="world/a.jsonl", line=7),
    Item("d2", "Two \u2028 words"),
    Item("d3", video=(drawing("square", 0.5), drawing("square", 0.6))),
]


@pytest.fixture(scope="module")
def encoder(encoder_folder):
    return load_encoder(encoder_folder)


@pytest.fixture(scope="module")
def golden(encoder) -> Golden:
    return Golden.encode(encoder, ITEMS)


def equal(found, expected) -> bool:
    return len(found) == len(expected) and all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_items_without_their_sources_and_vectors_round_trip_to_the_bit(golden, tmp_path):
    golden.write(tmp_path / "golden.json")
    read = read_golden(tmp_path / "golden.json")
    assert ITEMS[0].source and read.items == [replace(item, source="", line=0) for item in ITEMS]
    assert equal(read.vectors, golden.vectors) and equal(read.queries, golden.queries)
    read.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "golden.json").read_bytes()


class ByRole:
    """An encoder whose rows are the number of the item, and as a query of the opposite sign."""

    def encode(self, items, batch_size=32, role="document"):
        rows_ND = np.arange(1, len(items) + 1, dtype=np.float32)[:, None] * (1 if role == "document" else -1)
        return SimpleNamespace(ragged=lambda: RaggedRows.single(rows_ND))


def test_each_item_has_its_vectors_as_a_document_and_as_a_query():
    golden = Golden.encode(ByRole(), ITEMS)
    assert [rows_TD.item() for rows_TD in golden.vectors] == [1, 2, 3]
    assert [rows_TD.item() for rows_TD in golden.queries] == [-1, -2, -3]
    assert golden.verify(ByRole(), "release tiny") == 1
    with pytest.raises(Refused, match=r"golden item 'd1' comes out at cosine -1\.0000"):
        Golden(golden.items, golden.queries, golden.vectors).verify(ByRole(), "release tiny")


def test_their_width_is_that_of_the_encoder(golden, encoder):
    assert golden.width == encoder.dimension


def test_the_same_encoder_reproduces_them(golden, encoder):
    assert golden.verify(encoder, "release tiny") > 0.9999


@pytest.mark.parametrize("role", ["vectors", "queries"])
def test_a_single_vector_that_differs_is_refused_with_its_item_and_owner(golden, encoder, role):
    other = [*getattr(golden, role)[:2], -getattr(golden, role)[2]]
    with pytest.raises(Refused, match=r"^release tiny 0123: golden item 'd3' comes out at cosine -1.0000 .* and 0.999 is needed"):
        replace(golden, **{role: other}).verify(encoder, "release tiny 0123")


def test_vectors_of_another_shape_are_refused(golden, encoder):
    wide = [np.concatenate([rows_TD, rows_TD], axis=1) for rows_TD in golden.vectors]
    with pytest.raises(Refused, match="golden item 'd1' comes out at cosine nan"):
        replace(golden, vectors=wide).verify(encoder, "release tiny")
