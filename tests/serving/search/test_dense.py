"""The index: exact order among the rows that were scored, exact filters, recall of the approximate kinds, folders that round-trip."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.ragged import RaggedRows
from mirepoix.models.vectors import Vectors, maxsim
from mirepoix.serving.search.dense import Index, build
from mirepoix.serving.search.hits import Hit
from mirepoix.serving.search.index_config import IndexConfig
from mirepoix.serving.search.open import open_index

TEXT, IMAGE, BOTH = Modality.TEXT, Modality.IMAGE, Modality.TEXT | Modality.IMAGE
KINDS = ("flat", "hnsw", "ivf")
APPROXIMATE = replace(IndexConfig(), exact_rows=0)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def clustered(items: int, width: int = 32, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.standard_normal((max(1, items // 20), width))
    return unit(centres[random.integers(0, len(centres), items)] + 0.4 * random.standard_normal((items, width)))


def several(items: int, most: int, width: int = 16, seed: int = 0) -> RaggedRows:
    random = np.random.default_rng(seed)
    mask_NT = np.arange(most)[None] < random.integers(1, most + 1, items)[:, None]
    rows_NTD = unit(random.standard_normal((items, most, width)))
    return RaggedRows(rows_NTD[mask_NT], np.append(0, np.cumsum(mask_NT.sum(1))))


def names(count: int) -> list[str]:
    return [f"item-{n:05d}" for n in range(count)]


def single(rows: np.ndarray) -> RaggedRows:
    return RaggedRows.single(rows)


def padded(rows: RaggedRows) -> Vectors:
    """The rows as the encoder gives them, in float64."""
    mask_NT = np.arange(rows.counts_N.max())[None] < rows.counts_N[:, None]
    rows_NTD = np.zeros((*mask_NT.shape, rows.width))
    rows_NTD[mask_NT] = rows.rows_RD
    return Vectors(torch.from_numpy(rows_NTD), torch.from_numpy(mask_NT))


def brute(queries: RaggedRows, items: RaggedRows, ids: list[str], k: int, allowed: list[bool] | None = None) -> list[list[Hit]]:
    scores_QN = maxsim(padded(queries), padded(items)).numpy().astype(np.float32)
    kept = [n for n in range(len(ids)) if allowed is None or allowed[n]]
    return [[Hit(ids[n], float(row[n])) for n in sorted(kept, key=lambda n: (-row[n], ids[n]))[:k]] for row in scores_QN]


def same(found: list[list[Hit]], expected: list[list[Hit]]) -> bool:
    return all(
        [hit.id for hit in a] == [hit.id for hit in b] and np.allclose([hit.score for hit in a], [hit.score for hit in b], atol=1e-6)
        for a, b in zip(found, expected, strict=True)
    )


@pytest.fixture(scope="module")
def large() -> dict[str, Index]:
    rows = clustered(6000)
    modalities = [(TEXT, IMAGE, BOTH)[n % 3] for n in range(6000)]
    return {kind: build(rows, names(6000), modalities, replace(APPROXIMATE, kind=kind)) for kind in KINDS}


def test_a_flat_index_returns_what_brute_force_returns():
    rows, queries = clustered(500), clustered(20, seed=1)
    index = build(rows, names(500), [TEXT] * 500)
    assert index.description.kind == "flat"
    assert same(index.search(single(queries), 10), brute(single(queries), single(rows), names(500), 10))


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_approximate_index_finds_nineteen_of_twenty(large, kind):
    queries = single(clustered(200, seed=0)[:200])
    exact = [{hit.id for hit in hits} for hits in large["flat"].search(queries, 10)]
    found = [{hit.id for hit in hits} for hits in large[kind].search(queries, 10)]
    assert np.mean([len(a & b) / 10 for a, b in zip(exact, found, strict=True)]) >= 0.95


@pytest.mark.parametrize("kind", KINDS)
def test_the_scores_of_every_kind_are_the_exact_ones(large, kind):
    query = clustered(1, seed=3)
    rows = dict(zip(names(6000), clustered(6000), strict=True))
    for hit in large[kind].search(single(query), 5)[0]:
        assert hit.score == pytest.approx(float(rows[hit.id] @ query[0]), abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_items_are_scored_as_a_search_scores_them_in_any_order_and_twice(kind):
    items, queries = several(300, 4), several(6, 3, seed=1)
    index = build(items, names(300), [TEXT] * 300, replace(IndexConfig(), kind=kind))
    found = [{hit.id: hit.score for hit in hits} for hits in index.search(queries, 300)]
    asked = [[names(300)[n] for n in (7 + query, 299, 0, 7 + query, 9)] for query in range(5)] + [[]]
    assert index.score(queries, asked) == [[hits[id] for id in own] for hits, own in zip(found, asked, strict=True)]
    with pytest.raises(Refused, match=r"the index has no item 'other'"):
        index.score(queries, [["item-00000", "other"]] + [[]] * 5)


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_an_item_are_scored_by_maxsim(kind):
    items, queries = several(400, 5), several(15, 4, seed=1)
    index = build(items, names(400), [TEXT] * 400, replace(IndexConfig(), kind=kind))
    assert same(index.search(queries, 10), brute(queries, items, names(400), 10))


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_candidates_from_faiss_hold_nearly_all_of_the_best_by_maxsim(kind):
    items, queries = several(3000, 4), several(40, 3, seed=1)
    index = build(items, names(3000), [TEXT] * 3000, replace(APPROXIMATE, kind=kind))
    exact = brute(queries, items, names(3000), 10)
    found = index.search(queries, 10)
    shared = [len({h.id for h in a} & {h.id for h in b}) / 10 for a, b in zip(exact, found, strict=True)]
    assert np.mean(shared) >= 0.9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.5, 0.1, 0.01, 0.001])
@pytest.mark.parametrize("exact_rows", [0, 50_000])
def test_a_filter_is_exact_and_leaves_nothing_out(kind, share, exact_rows):
    count = 3000
    rows, queries = clustered(count), clustered(8, seed=2)
    chosen = [n % round(1 / share) == 0 for n in range(count)]
    modalities = [IMAGE if yes else TEXT for yes in chosen]
    index = build(rows, names(count), modalities, replace(IndexConfig(), kind=kind, exact_rows=exact_rows))
    found = index.search(single(queries), 50, {IMAGE})
    ids = {name for name, yes in zip(names(count), chosen, strict=True) if yes}
    assert all(len(hits) == min(50, len(ids)) and {hit.id for hit in hits} <= ids for hits in found)
    exact = brute(single(queries), single(rows), names(count), 50, chosen)
    if kind == "flat" or exact_rows:
        assert same(found, exact)
    else:
        assert np.mean([len({h.id for h in a} & {h.id for h in b}) / len(b) for a, b in zip(found, exact, strict=True)]) >= 0.95


def test_a_filter_means_the_exact_code_and_not_a_part_of_it(large):
    query = single(clustered(1, seed=4))
    wanted = {0: TEXT, 1: IMAGE, 2: BOTH}
    for rest, code in wanted.items():
        assert {int(hit.id[-5:]) % 3 for hit in large["flat"].search(query, 30, {code})[0]} == {rest}
    assert {int(hit.id[-5:]) % 3 for hit in large["flat"].search(query, 200, {TEXT, BOTH})[0]} == {0, 2}


def test_a_modality_that_nobody_has_finds_nothing(large):
    assert large["hnsw"].search(single(clustered(2)), 5, {Modality.VIDEO}) == [[], []]
    assert large["flat"].search(single(clustered(1)), 5, set()) == [[]]


@pytest.mark.parametrize("kind", KINDS)
def test_excluded_items_are_replaced_by_the_next_best(large, kind):
    query = single(clustered(2, seed=5))
    first = large[kind].search(query, 20)
    barred = [{first[0][0].id, first[0][3].id, "nobody"}, set()]
    again = large[kind].search(query, 10, exclude=barred)
    assert [hit.id for hit in again[0]] == [hit.id for hit in first[0] if hit.id not in barred[0]][:10]
    assert [hit.id for hit in again[1]] == [hit.id for hit in first[1]][:10]


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_come_in_the_order_of_ids(kind):
    rows = np.repeat(clustered(40), 25, axis=0)
    shuffled = np.random.default_rng(0).permutation(1000)
    ids = [f"{n:04d}" for n in range(1000)]
    index = build(rows[shuffled], [ids[n] for n in shuffled], [TEXT] * 1000, replace(IndexConfig(), kind=kind))
    for query, hits in enumerate(index.search(single(rows[::25]), 10)):
        assert [hit.id for hit in hits] == ids[query * 25 : query * 25 + 10]
        assert len({hit.score for hit in hits}) == 1


def test_a_query_scores_the_same_alone_and_in_company(large):
    queries = clustered(30, seed=6)
    together = large["flat"].search(single(queries), 10)
    assert together == [large["flat"].search(single(queries[n : n + 1]), 10)[0] for n in range(30)]


def test_more_than_there_is_may_be_asked_for():
    for kind in KINDS:
        index = build(clustered(45), names(45), [TEXT] * 45, replace(APPROXIMATE, kind=kind))
        assert sorted(hit.id for hit in index.search(single(clustered(1, seed=1)), 1000)[0]) == names(45)


def test_one_item_is_an_index():
    for kind in KINDS:
        index = build(clustered(1), ["only"], [IMAGE], replace(IndexConfig(), kind=kind))
        assert [hit.id for hit in index.search(single(clustered(1)), 3)[0]] == ["only"]


@pytest.mark.parametrize(("rows", "kind"), [(50, "flat"), (51, "hnsw"), (99, "hnsw"), (100, "ivf")])
def test_auto_goes_by_the_number_of_rows(rows, kind):
    config = replace(IndexConfig(), exact_rows=50, graph_rows=100)
    assert build(clustered(rows), names(rows), [TEXT] * rows, config).description.kind == kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_index_opens_to_the_same_search(tmp_path: Path, kind):
    items, queries = several(300, 3), several(5, 2, seed=1)
    index = build(items, names(300), [(TEXT, BOTH)[n % 2] for n in range(300)], replace(APPROXIMATE, kind=kind), encoder="abc")
    index.save(tmp_path)
    opened = open_index(tmp_path)
    assert opened.description == index.description and opened.description.encoder == "abc"
    assert opened.search(queries, 7, {BOTH}) == index.search(queries, 7, {BOTH})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index.faiss", "index.json", "items.parquet"]


def folder_hash(folder: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_vectors_in_any_order_give_the_same_bytes(tmp_path: Path, kind):
    rows, ids = clustered(2000), names(2000)
    shuffled = np.random.default_rng(1).permutation(2000)
    build(rows, ids, [TEXT] * 2000, replace(IndexConfig(), kind=kind)).save(tmp_path / "a")
    build(rows[shuffled], [ids[n] for n in shuffled], [TEXT] * 2000, replace(IndexConfig(), kind=kind)).save(tmp_path / "b")
    assert folder_hash(tmp_path / "a") == folder_hash(tmp_path / "b")


def test_an_item_is_found_by_its_id():
    index = build(clustered(50), [f"é{n}" for n in range(50)], [TEXT] * 50)
    for place in range(50):
        assert index.position(index.ids[place].as_py()) == place
    assert index.position("nobody") is None and index.position("") is None and index.position("zzz") is None


@pytest.mark.parametrize("field", ["width", "items", "rows"])
def test_a_description_that_does_not_fit_its_rows_is_refused(tmp_path: Path, field):
    build(clustered(60), names(60), [TEXT] * 60).save(tmp_path)
    description = json.loads((tmp_path / "index.json").read_text())
    description[field] += 1
    (tmp_path / "index.json").write_text(json.dumps(description))
    with pytest.raises(Refused, match=f"says {field}"):
        open_index(tmp_path)


def test_a_folder_without_an_index_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match=r"index\.json"):
        open_index(tmp_path)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda rows: rows[:0], "at least one"),
        (lambda rows: np.where(np.arange(len(rows))[:, None] == 3, np.nan, rows), "item 3 has norm nan"),
        (lambda rows: np.where(np.arange(len(rows))[:, None] == 4, 0, rows), "item 4 has norm 0"),
        (lambda rows: rows * 2, "unit norm"),
        (lambda rows: np.where(np.arange(len(rows))[:, None] == 1, np.inf, rows), "item 1 has norm inf"),
    ],
)
def test_rows_that_are_not_of_unit_norm_are_refused(spoil, words):
    rows = spoil(clustered(10)).astype(np.float32)
    with pytest.raises(Refused, match=words):
        build(rows, names(len(rows)), [TEXT] * len(rows))


def test_an_item_without_rows_is_refused():
    vectors = RaggedRows(clustered(6), np.array([0, 1, 3, 3, 5, 6]))
    with pytest.raises(Refused, match="item 2 has no row"):
        build(vectors, names(5), [TEXT] * 5)


def test_one_id_for_two_items_is_refused():
    with pytest.raises(Refused, match="'twin'"):
        build(clustered(3), ["twin", "a", "twin"], [TEXT] * 3)


def test_counts_that_differ_are_refused():
    with pytest.raises(Refused, match="3 vectors, 2 ids"):
        build(clustered(3), names(2), [TEXT] * 3)


def test_a_query_of_another_width_is_refused(large):
    with pytest.raises(Refused, match="16 wide, the index 32"):
        large["flat"].search(single(clustered(1, width=16)), 5)


def test_a_query_that_is_no_number_is_refused(large):
    with pytest.raises(Refused, match="query 0"):
        large["flat"].search(single(np.full((1, 32), np.nan, np.float32)), 5)


def test_no_results_cannot_be_asked_for(large):
    with pytest.raises(Refused, match="k is 0"):
        large["flat"].search(single(clustered(1)), 0)


def test_exclusions_come_one_a_query(large):
    with pytest.raises(Refused, match="2 entries for 1"):
        large["flat"].search(single(clustered(1)), 5, exclude=[set(), set()])


@pytest.mark.parametrize("wrong", [{"kind": "annoy"}, {"links": 0}, {"lists": -1}, {"oversample": 0}])
def test_a_config_that_cannot_be_is_refused(wrong):
    with pytest.raises(Refused):
        IndexConfig(**wrong)


@settings(max_examples=40, deadline=None)
@given(
    items=st.integers(1, 120),
    most=st.integers(1, 4),
    asked=st.integers(1, 3),
    k=st.integers(1, 150),
    kind=st.sampled_from(KINDS),
    codes=st.sets(st.sampled_from([TEXT, IMAGE, BOTH])),
    copies=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_whatever_the_shape_the_search_is_brute_force(items, most, asked, k, kind, codes, copies, seed):
    vectors, queries = several(items, most, width=8, seed=seed), several(3, asked, width=8, seed=seed + 1)
    if copies:
        vectors = RaggedRows.cat([vectors[: max(1, items // 2)]] * 2)[:items]
    modalities = [(TEXT, IMAGE, BOTH)[n % 3] for n in range(len(vectors))]
    ids = [f"{(n * 7919) % 9973}" for n in range(len(vectors))]
    index = build(vectors, ids, modalities, replace(IndexConfig(), kind=kind))
    assert same(index.search(queries, k, codes), brute(queries, vectors, ids, k, [code in codes for code in modalities]))
