"""What the storage has vectors of is not encoded again, and what is reused is what would be computed."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.embedding import embed, reuse
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.embedding.vectors import read_vectors
from mirepoix.components.stage import Context
from mirepoix.models.errors import Refused
from mirepoix.models.item import table_to_items
from mirepoix.serving import store
from mirepoix.serving.golden import GOLDEN, Golden, read_golden
from tests.components.embedding.recorder import Recorder, run_in_process, vector_of
from tests.components.fixtures import write_corpus

CONFIG = EmbedConfig(batch_size=2, threads=1, shard_rows=4)
TEXTS = [{"id": f"t{n:02d}", "text": f"text {n}"} for n in range(9)]
PICTURES = [{"id": f"p{n:02d}", "images": [bytes([n, 1])]} for n in range(6)]
QUERIES = [{"id": f"q{n}", "text": f"text {n}", "split": "test", "task": "t->i"} for n in range(5)]
FIRST = [("document", each["id"]) for each in (*TEXTS, *PICTURES)] + [("query", each["id"]) for each in QUERIES]
GOLDEN_IDS = ["t00", "t01", "t02", "t03", "p00", "p01", "p02", "p03"]
GOLDEN_CALLS = [(role, id) for role in ("document", "query") for id in GOLDEN_IDS]


class Killed(Exception):
    """What ends a stage from outside."""


class Storage:
    """A storage whose embeddings are made by a recorder; each is published as the runner does it."""

    def __init__(self, home: Path, root: str | None = None, encoder: Path | None = None):
        self.home, self.root = home, root or str(home / "artefacts")
        self.encoder = encoder or home / "encoder"
        if not self.encoder.exists():
            (home / "draft-encoder").mkdir(parents=True)
            (home / "draft-encoder" / "weights").write_text("x")
            store.publish(home / "draft-encoder", self.encoder, {})

    def embed(self, name: str, corpus, queries, config=CONFIG, versions="v1", step="embed", kill_at=None, recorder=None, artefacts=None):
        """The outcome, the folder, and the calls of the encoder."""
        recorder = recorder or Recorder()
        folder = self.home / f"draft-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        inputs = self.home / f"corpus-{name}"
        if not inputs.exists():
            write_corpus(inputs, corpus=corpus, queries=queries)

        def report(progress: dict[str, float]) -> None:
            if kill_at is not None and progress["step"] >= kill_at:
                raise Killed

        context = Context(folder, str(self.home / f"scratch-{name}"), report, 0, self.root if artefacts is None else artefacts)
        outcome = embed.work(context, config, self.encoder, inputs, inputs, lambda device: recorder, versions)
        target = store.join(self.root, step, name)
        store.publish(folder, target, {})
        return outcome, store.fetch(target, self.home / "cache"), recorder.encoded


@pytest.fixture
def started(monkeypatch):
    return run_in_process(monkeypatch)


@pytest.fixture
def storage(tmp_path, started, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(embed, "WINDOW", 4)
    made = Storage(tmp_path)
    _, _, calls = made.embed("0", TEXTS + PICTURES, QUERIES)
    assert calls == FIRST + GOLDEN_CALLS
    started.clear()
    return made


def check_vectors(folder: Path, inputs: Path) -> None:
    """Every vector is what the encoder gives its item, in the order of the items."""
    for part, role in (("corpus", "document"), ("queries", "query")):
        items = table_to_items(read_part(inputs, part))
        ids, modalities, vectors = read_vectors(folder, part)
        assert (ids, modalities) == ([item.id for item in items], [int(item.modality) for item in items])
        for item, rows in zip(items, vectors, strict=True):
            assert np.allclose(rows, vector_of(item, role), atol=1e-6), item.id


def counts(outcome) -> list[float]:
    return [outcome.metrics[name] for name in ("encoded", "reused", "resumed")]


def test_exactly_the_items_without_a_vector_are_encoded_whatever_their_ids_and_places(storage):
    renamed = [{**TEXTS[5], "id": "another name"}]
    changed = [{**TEXTS[2], "text": "text 2, and more"}]
    added = [{"id": "t90", "text": "new"}, {"id": "p90", "images": [b"new"]}, {"id": "tp", "text": "text 1", "images": [bytes([1, 1])]}]
    corpus = [added[0], *PICTURES[3:], *renamed, *TEXTS[:2], *changed, added[1], *TEXTS[6:], added[2]]
    asked = [QUERIES[4], {**QUERIES[0], "id": "q9", "text": "what is new"}, *QUERIES[:2]]
    outcome, folder, calls = storage.embed("1", corpus, asked)
    new = [("document", "t90"), ("document", "t02"), ("document", "p90"), ("document", "tp"), ("query", "q9")]
    first = ["t90", "p03", "p04", "p05", "another name", "t00", "t01", "p90", "tp"]
    golden = [(role, id) for role in ("document", "query") for id in first]
    assert calls == GOLDEN_CALLS + new + golden, "the encoder is verified first, and new items come first, so others are golden"
    assert counts(outcome) == [5, 12, 0]
    check_vectors(folder, storage.home / "corpus-1")


def test_where_all_is_known_no_encoder_is_started_and_the_golden_vectors_stay(storage, started):
    outcome, folder, calls = storage.embed("1", [*PICTURES, *TEXTS], QUERIES[::-1], replace(CONFIG, batch_size=3, shard_rows=100))
    assert (calls, started, counts(outcome)) == ([], [], [0, 20, 0])
    check_vectors(folder, storage.home / "corpus-1")
    golden = read_golden(folder / GOLDEN)
    assert [item.id for item in golden.items] == ["p00", "p01", "p02", "p03", "t00", "t01", "t02", "t03"]
    assert golden.verify(Recorder(), "the test") > 0.999999


def test_golden_items_that_are_gone_are_replaced_by_those_that_have_golden_vectors_where_nothing_is_encoded(storage, started):
    _, folder, calls = storage.embed("1", TEXTS[2:] + PICTURES[1:], QUERIES)
    assert (calls, started) == ([], [])
    assert [item.id for item in read_golden(folder / GOLDEN).items] == ["t02", "t03", "p01", "p02", "p03"]
    _, folder, calls = storage.embed("2", TEXTS[2:] + PICTURES[4:], QUERIES)
    ids = ["t02", "t03", "t04", "t05", "p04", "p05"]
    assert calls[-12:] == [(role, id) for role in ("document", "query") for id in ids], "no picture has golden vectors any more"
    assert [item.id for item in read_golden(folder / GOLDEN).items] == ids


def test_a_query_is_no_document_and_an_instruction_is_read_too(storage):
    asked = [*QUERIES[:2], {**QUERIES[2], "text": "text 7"}, {**QUERIES[3], "instruction": "Find a picture."}]
    _, folder, calls = storage.embed("1", TEXTS + PICTURES, asked)
    assert [call for call in calls if call not in GOLDEN_CALLS] == [("query", "q2"), ("query", "q3")]
    check_vectors(folder, storage.home / "corpus-1")


@pytest.mark.parametrize(
    "change",
    [
        {"versions": "v2"},
        {"versions": ""},
        {"config": replace(CONFIG, reuse=False)},
        {"config": replace(CONFIG, use_gpu=True)},
        {"artefacts": ""},
    ],
    ids=str,
)
def test_vectors_of_other_versions_or_devices_are_not_reused_and_none_where_it_is_switched_off(change, storage):
    outcome, _, calls = storage.embed("1", TEXTS + PICTURES, QUERIES, **change)
    assert calls == FIRST + GOLDEN_CALLS and counts(outcome) == [20, 0, 0]


def test_vectors_of_another_encoder_or_of_a_stage_that_does_not_embed_are_not_reused(storage, tmp_path):
    (tmp_path / "draft-other").mkdir()
    (tmp_path / "draft-other" / "weights").write_text("y")
    store.publish(tmp_path / "draft-other", tmp_path / "other", {})
    other = Storage(tmp_path, encoder=tmp_path / "other")
    assert len(other.embed("1", TEXTS + PICTURES, QUERIES, step="index")[2]) == len(FIRST + GOLDEN_CALLS)
    assert len(other.embed("2", TEXTS + PICTURES, QUERIES, step="embed-untrained")[2]) == len(FIRST + GOLDEN_CALLS)
    assert other.embed("3", TEXTS + PICTURES, QUERIES)[2] == [], "every stage that embeds is looked into"


def test_the_vectors_of_several_results_are_put_together(storage):
    more = [{"id": f"m{n}", "text": f"more {n}"} for n in range(5)]
    storage.embed("1", [*TEXTS[:1], *PICTURES[:1], *more], QUERIES[:1])
    mixed = [row for three in zip(TEXTS, PICTURES, more, strict=False) for row in three]
    outcome, folder, calls = storage.embed("2", mixed, QUERIES)
    assert calls == [] and counts(outcome) == [0, 20, 0]
    check_vectors(folder, storage.home / "corpus-2")


@pytest.mark.parametrize("loss", ["removed before", "damaged", "removed while it is read"])
def test_a_result_that_is_lost_or_damaged_is_encoded_anew(loss, storage, monkeypatch):
    earlier = storage.home / "artefacts" / "embed" / "0"
    if loss == "removed before":
        listed = reuse.earlier_results
        monkeypatch.setattr(embed, "earlier_results", lambda *given: (listed(*given), shutil.rmtree(earlier, ignore_errors=True))[0])
    elif loss == "damaged":
        file = earlier / "corpus" / "part-00001.parquet"
        file.write_bytes(file.read_bytes()[:-9] + b"?" + file.read_bytes()[-8:])
    else:
        read = reuse._Vectors._read_file

        def read_and_remove(self, number):
            if number == 2:
                shutil.rmtree(earlier, ignore_errors=True)
            return read(self, number)

        monkeypatch.setattr(reuse._Vectors, "_read_file", read_and_remove)
    outcome, folder, calls = storage.embed("1", TEXTS + PICTURES, QUERIES)
    encoded = [call for call in calls if call not in GOLDEN_CALLS]
    assert encoded == [call for call in (FIRST[8:] if "while" in loss else FIRST) if call not in GOLDEN_CALLS]
    assert counts(outcome) == ([12, 0, 8] if "while" in loss else [20, 0, 0])
    check_vectors(folder, storage.home / "corpus-1")


@pytest.mark.parametrize("between", ["nothing", "the earlier result goes", "another comes"])
def test_shards_of_a_killed_attempt_are_kept_whatever_can_be_reused_by_the_next(between, storage):
    more = [{"id": f"m{n}", "text": f"more {n}"} for n in range(6)]
    corpus = [*more[:3], *TEXTS, *more[3:], *PICTURES]
    with pytest.raises(Killed):
        storage.embed("1", corpus, QUERIES, kill_at=8)
    if between == "the earlier result goes":
        store.delete(storage.home / "artefacts" / "embed" / "0")
    if between == "another comes":
        storage.embed("2", more, [])
    outcome, folder, calls = storage.embed("1", corpus, QUERIES)
    assert outcome.metrics["resumed"] == 8
    own = {id for role, id in calls if role == "document"} - {*GOLDEN_IDS, "m0", "m1", "m2"}
    gone = {"t05", "t06", "t07", "t08", "p04", "p05"}
    assert own == {"nothing": {"m3", "m4", "m5"}, "the earlier result goes": {"m3", "m4", "m5", *gone}, "another comes": set()}[between]
    check_vectors(folder, storage.home / "corpus-1")


def test_an_encoder_that_does_not_reproduce_what_would_be_reused_is_refused_and_encodes_all_where_it_is_asked_to(storage, monkeypatch):
    class Other(Recorder):
        def encode(self, items, batch_size=32, role="document", **_):
            return super().encode(items, batch_size, "query" if role == "document" else "document")

    corpus = [*TEXTS, *PICTURES, {"id": "new", "text": "new"}]
    with pytest.raises(Refused, match=r"the vectors that would be reused \(embed\.reuse=false encodes all items\): golden item 't00'"):
        storage.embed("1", corpus, QUERIES, recorder=Other())
    assert list((storage.home / "scratch-1").iterdir()), "shards were kept, of vectors of the earlier result"
    assert counts(storage.embed("1", corpus, QUERIES, replace(CONFIG, reuse=False), recorder=Other())[0]) == [21, 0, 0]


@pytest.mark.parametrize(
    ("changes", "resumed"), [({"workers": 2, "threads": 1, "batch_size": 3}, 8), ({"use_gpu": True}, 0), ({"reuse": False}, 0)]
)
def test_kept_shards_serve_any_number_of_workers_but_not_another_kind_of_device_and_not_who_wants_all_encoded(
    tmp_path, started, changes, resumed
):
    storage = Storage(tmp_path)
    with pytest.raises(Killed):
        storage.embed("0", TEXTS + PICTURES, QUERIES, kill_at=8)
    outcome, folder, _ = storage.embed("0", TEXTS + PICTURES, QUERIES, replace(CONFIG, **changes))
    assert counts(outcome) == [20 - resumed, 0, resumed]
    check_vectors(folder, storage.home / "corpus-0")


def test_equal_items_of_one_run_are_each_encoded_in_the_same_batches_as_ever(tmp_path, started):
    twice = [*TEXTS[:3], {**TEXTS[0], "id": "t00 again"}]
    _, _, calls = Storage(tmp_path).embed("0", twice, QUERIES[:1])
    assert calls[:5] == [("document", "t00"), ("document", "t01"), ("document", "t02"), ("document", "t00 again"), ("query", "q0")]


def test_results_on_an_object_store_are_reused_and_only_hashes_are_read_of_those_that_have_nothing(tmp_path, started, bucket, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    storage = Storage(tmp_path, bucket("artefacts"))
    storage.embed("0", TEXTS + PICTURES, QUERIES)
    storage.embed("1", [{"id": "x", "text": "something else"}], [])
    _, folder, calls = storage.embed("2", TEXTS[:4] + PICTURES, QUERIES)
    assert calls == []
    check_vectors(folder, tmp_path / "corpus-2")
    assert len(list((tmp_path / "home" / "mirepoix").iterdir())) == 1


def test_golden_vectors_of_equal_items_are_found_under_any_id(storage):
    renamed = [{**row, "id": f"new-{row['id']}"} for row in (*TEXTS, *PICTURES)]
    _, folder, calls = storage.embed("1", renamed, [])
    golden = read_golden(folder / GOLDEN)
    assert calls == [] and [item.id for item in golden.items] == [f"new-{id}" for id in GOLDEN_IDS]
    assert isinstance(golden, Golden) and golden.verify(Recorder(), "the test") > 0.999999
