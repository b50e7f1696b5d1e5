"""Requests are encoded together, and one that is refused does not fail the others."""

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
from mirepoix.serving.engine.work import BatchEncoder, EncodeRequest
from mirepoix.serving.in_process.searcher import Searcher
from mirepoix.serving.release import folder_digest, open_release
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


def counting(encoder, monkeypatch) -> list[int]:
    """The items of each batch that an encoder encodes from now on."""
    sizes, encode = [], encoder.encode

    def counted(items, **how):
        sizes.append(len(items))
        return encode(items, **how)

    monkeypatch.setattr(encoder, "encode", counted)
    return sizes


def test_requests_are_encoded_together_and_each_gets_its_own(release_folder, monkeypatch):
    encode = BatchEncoder(open_release(release_folder).open_encoder())
    sizes = counting(encode.encoder, monkeypatch)
    texts = [Item(f"{n}", f"number {n}") for n in range(6)]
    expected = open_release(release_folder).open_encoder().encode(texts).rows_NTD[:, 0].numpy()
    found = encode([EncodeRequest(texts[:1], "query"), EncodeRequest(texts[1:4], "query"), EncodeRequest(texts[4:], "query")])
    assert [len(one) for one in found] == [1, 3, 2]
    assert np.abs(np.concatenate([encoded.rows_TD for one in found for encoded in one]) - expected).max() < 1e-5
    assert sizes == [6]
    assert all(encoded.tokens > 5 for one in found for encoded in one)


def test_a_refused_item_fails_its_own_request_and_no_other(short_release):
    encode = BatchEncoder(open_release(short_release).open_encoder())
    items = Item("a", "a disc"), PICTURE, Item("b", "a bar")
    first, refused, last = encode([EncodeRequest([item], "document") for item in items])
    assert isinstance(refused, str) and "max_length" in refused
    assert first[0].rows_TD.shape == last[0].rows_TD.shape == (1, 32)


def test_a_release_of_an_adopted_model_encodes_texts_and_pictures_of_one_batch_and_is_searched(adopted_release, clip_folder):
    """Its vectors are those of transformers' own CLIP; an item of both, which the model does not read, fails its own request alone."""
    text, picture = Item("", "A bar painted in colour number 17."), Item("", images=(drawing("bar", 0.1),))
    both = Item("", text.text, picture.images)
    encode = BatchEncoder(open_release(adopted_release).open_encoder())
    requests = [[text], [picture], [picture, text, picture], [both]]
    *found, refused = encode([EncodeRequest(items, "query") for items in requests])
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

    searcher = Searcher(open_release(adopted_release))
    (hit,) = searcher.search(found[0][0].rows_TD, 1, Modality.TEXT)
    assert (hit.id, hit.modality) == ("text-17", "t") and hit.score == pytest.approx(1, abs=1e-4)
    (hit,) = searcher.search(found[1][0].rows_TD, 1, Modality.IMAGE)
    assert (hit.id, hit.modality, hit.pictured) == ("picture-02", "i", True) and hit.score == pytest.approx(1, abs=1e-4)


def test_a_request_whose_text_may_not_be_cut_is_refused_alone_and_others_get_their_notes(short_release, monkeypatch):
    encode = BatchEncoder(open_release(short_release).open_encoder())
    sizes = counting(encode.encoder, monkeypatch)
    long, short = Item("input[0]", "disc " * 50 + "square " * 50), Item("input[1]", "word")
    requests = [EncodeRequest([long, short], "document", truncate) for truncate in ("none", "end", "start")]
    refused, end, start = encode(requests)
    assert refused.startswith("input[0] has ") and "120 are read" in refused
    assert [one.note.rpartition("; ")[2] for one in (*end, *start)] == ["its end was cut", "", "its start was cut", ""]
    assert sizes == [4]
    (alone,) = encode([EncodeRequest([long, short], "document")])
    assert all(np.allclose(one.rows_TD, other.rows_TD, atol=1e-5) for one, other in zip(end, alone, strict=True))
    assert not np.allclose(start[0].rows_TD, end[0].rows_TD, atol=1e-3) and np.allclose(start[1].rows_TD, end[1].rows_TD, atol=1e-5)
