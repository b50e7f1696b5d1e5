"""The vectors of the corpus become the index that finds them."""

import json

import pytest

from mirepoix.components.embedding import index
from mirepoix.components.embedding.vectors import read_vectors
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.serving.golden import GOLDEN
from mirepoix.serving.search.index_config import IndexConfig
from mirepoix.serving.search.open import open_index
from mirepoix.serving.store import read_manifest
from tests.components.fixtures import made, write_vectors


def test_every_candidate_is_in_the_index_and_finds_itself(indexed, embedded):
    ids, modalities, vectors = read_vectors(embedded.folder, "corpus")
    opened = open_index(indexed.folder)
    assert opened.ids.to_pylist() == sorted(ids)
    assert [opened.modalities_N[opened.position(item)] for item in ids] == modalities
    for item, hits in zip(ids, opened.search(vectors, 3), strict=True):
        assert hits[0].score == pytest.approx(1, abs=1e-4)
        assert item in [hit.id for hit in hits if hit.score > hits[0].score - 1e-5]


def test_rows_add_up_and_the_size_of_the_index_is_in_the_metrics(indexed, embedded):
    ids, _, vectors = read_vectors(embedded.folder, "corpus")
    rows = indexed.outcome.rows
    assert rows.read == rows.written == len(ids)
    assert indexed.outcome.metrics == {"items": len(ids), "rows": len(vectors.rows_RD), "width": vectors.width}


def test_it_carries_the_digest_of_the_encoder_that_filled_it(indexed, untrained):
    assert json.loads((indexed.folder / "index.json").read_text())["encoder"] == read_manifest(untrained.folder).digest


def test_it_has_the_golden_vectors_of_the_embedding(indexed, embedded):
    assert (indexed.folder / GOLDEN).read_bytes() == (embedded.folder / GOLDEN).read_bytes()


def test_queries_are_not_in_it(indexed, embedded):
    queries, _, _ = read_vectors(embedded.folder, "queries")
    assert not any(open_index(indexed.folder).position(query) is not None for query in queries)


def test_its_kind_is_the_configs(tmp_path):
    vectors = write_vectors(tmp_path / "in", corpus={f"d{n}": (int(Modality.TEXT), [1.0, n]) for n in range(20)})
    found = made(tmp_path / "out", index.work, IndexConfig(kind="hnsw"), embed=vectors)
    assert open_index(found.folder).description.kind == "hnsw"


def test_an_id_of_two_items_is_refused(tmp_path):
    vectors = write_vectors(tmp_path / "in", corpus={"d1": (1, [1.0, 0.0])})
    (vectors / "corpus" / "part-00001.parquet").write_bytes((vectors / "corpus" / "part-00000.parquet").read_bytes())
    with pytest.raises(Refused, match="'d1' is given to two items"):
        made(tmp_path / "out", index.work, IndexConfig(), embed=vectors)


def test_a_vector_that_is_no_number_is_refused(tmp_path):
    vectors = write_vectors(tmp_path / "in", corpus={"d1": (1, [1.0, 0.0]), "d2": (1, [float("nan"), 0.0])})
    with pytest.raises(Refused, match="norm nan"):
        made(tmp_path / "out", index.work, IndexConfig(), embed=vectors)
