"""The replicas of Ray Serve, here without it: requests are encoded together, and one that is refused does not fail the others."""

import asyncio
import logging
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from mirepoix.models.adopted.adopted import Adopted
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item, Modality, items_to_table
from mirepoix.models.retrievers.unite import Unite
from mirepoix.models.retrievers.unite_config import UniteConfig
from mirepoix.serving.heartbeat import SERVED, living
from mirepoix.serving.release import folder_digest, open_release
from mirepoix.serving.replicas import EncodeRequest, EncoderReplica, IndexReplica
from mirepoix.serving.search.dense import build
from tests.serving.fixtures import corpus, drawing, golden_of, published

PICTURE = Item("p", images=(drawing("disc", 0.2),) * 16)


@pytest.fixture(scope="module")
def short_release(encoder_folder, tmp_path_factory) -> Path:
    """A release whose encoder has no room for sixteen pictures."""
    home = tmp_path_factory.mktemp("short")
    Unite.open(encoder_folder, UniteConfig(max_length=120)).save(home / "encoder")
    return release_of(home, corpus()[:5])


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory) -> Path:
    words = [item.text for item in corpus() if item.text]
    sizes = Tiny(vocabulary=300, hidden_size=32, layers=1, heads=2, intermediate_size=64, vision_depth=1, vision_width=32, vision_heads=2)
    return Path(make_twin(tmp_path_factory.mktemp("clip"), "clip", words, sizes, seed=0)["model"].name)


@pytest.fixture(scope="module")
def adopted_release(clip_folder, tmp_path_factory) -> Path:
    """A release of a published CLIP, over texts and pictures."""
    home = tmp_path_factory.mktemp("adopted")
    Adopted.build({"model": Checkpoint(clip_folder)}, AdoptedConfig()).save(home / "encoder")
    return release_of(home, corpus()[15:25])


def release_of(home: Path, items: list[Item]) -> Path:
    """A release of the encoder in home/encoder over items, with the first of them as its golden one."""
    vectors = load_encoder(home / "encoder").encode(items).ragged()
    identity = folder_digest(home / "encoder")
    build(vectors, [item.id for item in items], [item.modality for item in items], encoder=identity).save(home / "index")
    (home / "corpus").mkdir()
    pq.write_table(items_to_table(items), home / "corpus" / "part-00000.parquet")
    folders = {"encoder_folder": home / "encoder", "index_folder": home / "index", "corpus_folder": home / "corpus"}
    return published(home, folders, golden=golden_of(folders, items[:1]))


def test_requests_are_encoded_together_and_each_gets_its_own(release_folder):
    replica = EncoderReplica(str(release_folder), batch_size=8, batch_wait_s=0)
    texts = [Item(f"{n}", f"number {n}") for n in range(6)]
    expected = open_release(release_folder).open_encoder().encode(texts).rows_NTD[:, 0].numpy()
    found = replica.encode_together(
        [EncodeRequest(texts[:1], "query"), EncodeRequest(texts[1:4], "query"), EncodeRequest(texts[4:], "query")]
    )
    assert [len(one) for one in found] == [1, 3, 2]
    assert np.abs(np.concatenate([encoded.rows_TD for one in found for encoded in one]) - expected).max() < 1e-5
    assert {encoded.batch for one in found for encoded in one} == {6}
    assert all(encoded.tokens > 5 for one in found for encoded in one)


def test_a_refused_item_fails_its_own_request_and_no_other(short_release):
    replica = EncoderReplica(str(short_release), batch_size=8, batch_wait_s=0)
    items = Item("a", "a disc"), PICTURE, Item("b", "a bar")
    first, refused, last = replica.encode_together([EncodeRequest([item], "document") for item in items])
    assert isinstance(refused, str) and "max_length" in refused
    assert first[0].rows_TD.shape == last[0].rows_TD.shape == (1, 32)


def test_an_index_replica_records_in_the_storage_of_its_release_that_it_is_served(release_folder, tmp_path):
    stored = tmp_path / "artefacts" / "release" / "0123456789abcdef"
    stored.parent.mkdir(parents=True)
    stored.symlink_to(release_folder)
    replica = IndexReplica(str(stored), (str(stored), "http://127.0.0.1:8000"))
    assert [record["url"] for record in living(str(tmp_path), SERVED)] == ["http://127.0.0.1:8000"]
    replica.__del__()
    assert living(str(tmp_path), SERVED) == []


def test_a_release_in_a_storage_that_may_not_be_written_is_served_without_a_record_and_told_once(release_folder, tmp_path, caplog):
    stored = tmp_path / "artefacts" / "release" / "0123456789abcdef"
    stored.parent.mkdir(parents=True)
    stored.symlink_to(release_folder)
    (tmp_path / "leases").touch()  # no folder can be made here, whoever tries
    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    try:
        replica = IndexReplica(str(stored), (str(stored), "http://127.0.0.1:8000"))
    finally:
        logger.removeHandler(caplog.handler)
    (said,) = {record.getMessage() for record in caplog.records}
    assert "`mirepoix gc` does not see it" in said and str(stored) in said
    assert replica.searcher.documents is not None
    replica.__del__()


def test_a_search_brings_documents_with_their_scores(release_folder):
    replica = IndexReplica(str(release_folder))
    item = corpus()[45]
    rows_TD = open_release(release_folder).open_encoder().encode([item]).rows_NTD[0].numpy()
    found = asyncio.run(replica.search(rows_TD, 3, Modality.TEXT | Modality.IMAGE))
    assert (found[0].id, found[0].text, found[0].modality, found[0].pictured) == (item.id, item.text, "it", True)
    assert found[0].score == pytest.approx(1, abs=1e-4) and len(found) == 3


def test_a_thumbnail_is_found_by_id_or_not_at_all(release_folder):
    replica = IndexReplica(str(release_folder))
    assert asyncio.run(replica.thumbnail("picture-03")).startswith(b"\x89PNG")
    assert asyncio.run(replica.thumbnail("text-03")) is None and asyncio.run(replica.thumbnail("nobody")) is None


def test_a_release_of_an_adopted_model_encodes_texts_and_pictures_of_one_batch_and_is_searched(adopted_release, clip_folder):
    """Its vectors are those of transformers' own CLIP; an item of both, which the model does not read, fails its own request alone."""
    text, picture = Item("", "A bar painted in colour number 17."), Item("", images=(drawing("bar", 0.1),))
    both = Item("", text.text, picture.images)
    replica = EncoderReplica(str(adopted_release), batch_size=8, batch_wait_s=0)
    requests = [[text], [picture], [picture, text, picture], [both]]
    *found, refused = replica.encode_together([EncodeRequest(items, "query") for items in requests])
    assert isinstance(refused, str) and "has text and image" in refused and "several=sum" in refused

    model, tokenizer = AutoModel.from_pretrained(clip_folder).eval(), AutoTokenizer.from_pretrained(clip_folder)
    images = AutoImageProcessor.from_pretrained(clip_folder, backend="pil")
    words = tokenizer(text.text, return_tensors="pt")
    with torch.inference_mode():
        pixels = images(images=Image.open(BytesIO(picture.images[0])).convert("RGB"), return_tensors="pt")
        rows = [model.get_text_features(**words).pooler_output, model.get_image_features(**pixels).pooler_output]
    expected = {item: F.normalize(row, dim=-1)[0].numpy() for item, row in zip((text, picture), rows, strict=True)}
    tokens = {text: words.input_ids.shape[1], picture: 0}
    for items, encoded in zip(requests, found, strict=False):
        assert [each.tokens for each in encoded] == [tokens[item] for item in items]
        for item, each in zip(items, encoded, strict=True):
            assert np.abs(each.rows_TD[0] - expected[item]).max() < 1e-5

    index = IndexReplica(str(adopted_release))
    (hit,) = asyncio.run(index.search(found[0][0].rows_TD, 1, Modality.TEXT))
    assert (hit.id, hit.modality) == ("text-17", "t") and hit.score == pytest.approx(1, abs=1e-4)
    (hit,) = asyncio.run(index.search(found[1][0].rows_TD, 1, Modality.IMAGE))
    assert (hit.id, hit.modality, hit.pictured) == ("picture-02", "i", True) and hit.score == pytest.approx(1, abs=1e-4)
