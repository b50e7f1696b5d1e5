"""Which items a revised release has, and that nothing else of it changes: one of several rows an item, too."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.revision import merge, reencode, reindex, rerelease
from mirepoix.components.revision.revision_config import MergeConfig, ReencodeConfig, RevisedConfig
from mirepoix.models.encoder_config import DESCRIPTION
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, items_to_table, table_to_items
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.golden import Golden, read_golden
from mirepoix.serving.release import assemble, folder_digest, open_release
from mirepoix.serving.search.dense import build
from mirepoix.serving.search.index_config import IndexConfig
from mirepoix.serving.store import publish
from tests.components.embedding.recorder import Recorder, run_in_process, vector_of
from tests.components.fixtures import context, made, write_corpus

TEXTS = {f"d{n}": f"text {n}" for n in range(8)}


@pytest.fixture(params=["flat", "hnsw", "ivf"])
def kind(request):
    return request.param


def released(home, kind="flat"):
    """A release of eight texts, of one to three rows each, by an encoder that is never opened."""
    items = [Item(id, text, source="shop/produkte.csv", line=line) for line, (id, text) in enumerate(TEXTS.items(), 2)]
    (home / "encoder").mkdir(parents=True)
    (home / "encoder" / DESCRIPTION).write_text('{"architecture": "mire", "config": {}, "temperature": null, "widths": [4]}')
    rows = [vector_of(item, "document") for item in items]
    vectors = RaggedRows(np.concatenate(rows), np.append(0, np.cumsum([len(each) for each in rows])))
    identity, config = folder_digest(home / "encoder"), IndexConfig(kind=kind, lists=1, links=7)
    build(vectors, [*TEXTS], [1] * 8, config, identity).save(home / "index")
    (home / "corpus").mkdir()
    pq.write_table(items_to_table(items), home / "corpus" / "part-00000.parquet")
    golden = Golden.encode(Recorder(), items[:2])
    (home / "draft").mkdir()
    parts = (home / "encoder", home / "index", home / "corpus")
    assemble(home / "draft", "mine", *parts, golden, {"": "Find it."}, (4,))
    publish(home / "draft", home / "release", {})
    return home / "release"


def merged(home, release, rows, **settings):
    corpus = write_corpus(home / "new", corpus=rows) if rows is not None else None
    inputs = {} if corpus is None else {"curate": corpus}
    return made(home / "merge", merge.work, MergeConfig(str(release), **settings), **inputs)


def counts(outcome):
    return {name: outcome.metrics[name] for name in ("added", "replaced", "there already", "removed", "kept", "items")}


def test_items_are_compared_by_id_and_by_content(tmp_path):
    rows = [
        {"id": "d1", "text": "text 1"},
        {"id": "elsewhere", "text": "text 2"},
        {"id": "asked", "text": "text 3", "instruction": "Find it."},
        {"id": "new", "text": "new"},
    ]
    done = merged(tmp_path, released(tmp_path), rows)
    assert counts(done.outcome) == {"added": 2, "replaced": 0, "there already": 2, "removed": 0, "kept": 8, "items": 10}
    assert [item.id for item in table_to_items(read_part(done.folder, "corpus"))] == ["asked", "new"], "an instruction is read too"
    assert pq.read_table(done.folder / "merged" / "part-00000.parquet").to_pylist() == [
        {"id": "d1", "equal_to": "d1"},
        {"id": "elsewhere", "equal_to": "d2"},
    ]


def test_a_replaced_item_makes_no_other_one_equal_to_it(tmp_path):
    rows = [{"id": "d1", "text": "changed"}, {"id": "moved", "text": "text 1"}, {"id": "d2", "text": "text 3"}]
    release = released(tmp_path)
    done = merged(tmp_path, release, rows, replace=True)
    assert counts(done.outcome) == {"added": 1, "replaced": 2, "there already": 0, "removed": 0, "kept": 6, "items": 9}
    with pytest.raises(Refused, match=r"other items with the ids 'd1', 'd2'; give --prefix TEXT .*, or --replace"):
        merged(tmp_path / "again", release, rows)
    named = merged(tmp_path / "prefix", release, rows, prefix="new/")
    assert [item.id for item in table_to_items(read_part(named.folder, "corpus"))] == ["new/d1"], "the others are equal to d1 and d3"


def test_what_is_removed_is_gone_and_all_is_never_removed(tmp_path):
    release = released(tmp_path)
    done = merged(tmp_path, release, None, remove=("d0", "shop/produkte.csv:9", "d7"))
    assert counts(done.outcome) == {"added": 0, "replaced": 0, "there already": 0, "removed": 2, "kept": 6, "items": 6}
    assert merge.kept_positions(done.folder).tolist() == [1, 2, 3, 4, 5, 6] and done.outcome.rows.rejected == 2
    with pytest.raises(Refused, match="all 8 items"):
        merged(tmp_path / "all", release, None, remove=tuple(TEXTS))


def test_the_vectors_of_any_index_are_kept_row_by_row_and_only_new_items_are_encoded(kind, tmp_path, monkeypatch):
    run_in_process(monkeypatch)
    release, recorder = released(tmp_path, kind), Recorder()
    monkeypatch.setattr("mirepoix.serving.release.Release.open_encoder", lambda *_, **__: recorder)
    rows = [{"id": "a first", "text": "new", "source": "more/rows.jsonl", "line": 4}, {"id": "d1", "text": "changed", "source": "/tmp/x"}]
    done = merged(tmp_path, release, rows, replace=True)
    encoded = made(tmp_path / "embed", reencode.work, ReencodeConfig(str(release)), merge=done.folder)
    assert recorder.encoded == [("document", "a first"), ("document", "d1")], "of the golden items d0 is left"
    indexed = made(tmp_path / "reindex", reindex.work, RevisedConfig(), merge=done.folder, embed=encoded.folder, release=str(release))
    again = made(tmp_path / "revised", rerelease.work, RevisedConfig(), merge=done.folder, index=indexed.folder, release=str(release))
    revised, before = open_release(again.folder), open_release(release)
    index = revised.open_index()
    assert index.ids.to_pylist() == ["a first", *TEXTS] and index.description.kind == kind
    assert index.description.config == before.open_index().description.config
    texts = {**TEXTS, "d1": "changed", "a first": "new"}
    for id, rows_TD in zip(index.ids.to_pylist(), index.vectors(np.arange(9)), strict=True):
        assert np.allclose(rows_TD, vector_of(Item(id, texts[id]), "document"), atol=1e-6), id
    assert [revised.open_documents()[place].text for place in range(9)] == [texts[id] for id in ["a first", *TEXTS]]
    expected = ["more/rows.jsonl:4", "shop/produkte.csv:2", None, *(f"shop/produkte.csv:{line}" for line in range(4, 10))]
    assert [revised.open_documents()[place].source for place in range(9)] == expected
    assert [item.id for item in read_golden(revised.folder / "golden.json").items] == ["d0"]
    assert (revised.name, revised.instructions, revised.widths) == ("mine", {"": "Find it."}, (4, 8))
    assert revised.version != before.version


def test_an_item_of_a_modality_that_had_none_gets_golden_vectors(tmp_path, monkeypatch):
    run_in_process(monkeypatch)
    release, recorder = released(tmp_path), Recorder()
    monkeypatch.setattr("mirepoix.serving.release.Release.open_encoder", lambda *_, **__: recorder)
    done = merged(tmp_path, release, [{"id": "picture", "images": [b"x"]}])
    stage = context(tmp_path / "embed")
    outcome = reencode.work(stage, ReencodeConfig(str(release)), done.folder)
    assert recorder.encoded == [("document", "picture"), ("document", "picture"), ("query", "picture")]
    assert [item.id for item in read_golden(stage.folder / "golden.json").items] == ["d0", "d1", "picture"]
    assert outcome.metrics["encoded"] == 1
