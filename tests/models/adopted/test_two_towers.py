"""Two-tower models straight through transformers: their vectors, how their texts are padded, and their temperature."""

import io
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from mirepoix.models.adopted.adopted import Adopted
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.backbones import pictures
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.models.adopted.test_adopted import PICTURES, TEXTS
from tests.models.adopted.written import by_library, transformer, write

ITEMS = [TEXTS[0], PICTURES[0], TEXTS[1], PICTURES[1]]
PADDED = {"clip": True, "siglip": "max_length", "siglip2": "max_length", "chinese_clip": True}


def adopt(folder, **settings) -> Adopted:
    return Adopted.build({"model": Checkpoint(folder)}, AdoptedConfig(**settings)).eval()


@torch.inference_mode()
def by_transformers(folder, items, padding) -> torch.Tensor:
    """The unit vectors of items as transformers' own model gives them for what its own readers make of them."""
    model = AutoModel.from_pretrained(folder).eval()
    tokenizer, images = AutoTokenizer.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder, backend="pil")
    rows = []
    for item in items:
        if item.images:
            picture = Image.open(io.BytesIO(item.images[0])).convert("RGB")
            rows.append(model.get_image_features(**images(images=picture, return_tensors="pt")).pooler_output[0])
        else:
            length = {"max_length": 64} if padding == "max_length" else {}
            rows.append(model.get_text_features(**tokenizer([item.text], padding=padding, return_tensors="pt", **length)).pooler_output[0])
    return F.normalize(torch.stack(rows), dim=-1)


@pytest.mark.parametrize("family", PADDED)
def test_it_gives_the_vectors_of_transformers_before_and_after_it_is_saved(family, twin, tmp_path):
    folder = twin(family)["model"].name
    expected = by_transformers(folder, ITEMS, PADDED[family])
    encoder = adopt(folder)
    encoder.save(tmp_path / "saved")
    for found in (encoder, load_encoder(tmp_path / "saved")):
        for role in ("query", "document"):
            torch.testing.assert_close(found.encode(ITEMS, role=role).rows_NTD[:, 0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(by_transformers(tmp_path / "saved", ITEMS, PADDED[family]), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_texts_of_siglip_have_64_tokens_also_in_a_folder_that_does_not_say_so(family, twin, tmp_path):
    """The library pads to the longest, where the folder says nothing, and the last position, which is pooled, is another one then."""
    plain = twin(family)["model"].name
    folder = write(tmp_path / "written", transformer(plain))
    encoder = adopt(folder)
    assert encoder.collator((), [TEXTS[0], PICTURES[0]])["text.input_ids"].shape == (1, 64)
    found = encoder.encode(ITEMS).rows_NTD[:, 0]
    torch.testing.assert_close(found, by_transformers(plain, ITEMS, "max_length"), atol=1e-5, rtol=0)
    apart = (found - by_library(folder, ITEMS)).abs().amax(1)
    assert apart[[0, 2]].min() > 0.01 and apart[[1, 3]].max() < 1e-5


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_siglip_reads_no_shorter_texts(family, twin):
    with pytest.raises(Refused, match=rf"^max_length is 16, and {family} reads texts of exactly 64 tokens; give that, or null$"):
        adopt(twin(family)["model"].name, max_length=16)


def test_the_temperature_is_that_of_the_models_scale_and_is_saved_as_it(twin, tmp_path):
    encoder = adopt(twin("clip")["model"].name)
    assert encoder.temperature == pytest.approx(math.exp(-2.6592))  # CLIP's initial scale
    encoder.temperature = 0.02
    encoder.save(tmp_path / "saved")
    assert AutoModel.from_pretrained(tmp_path / "saved").logit_scale.item() == pytest.approx(math.log(50), abs=1e-6)
    assert load_encoder(tmp_path / "saved").temperature == 0.02


def test_the_temperature_of_a_scale_above_100_is_read_as_it_is(twin, tmp_path):
    model = AutoModel.from_pretrained(twin("clip")["model"].name)
    model.logit_scale.data.fill_(math.log(117))
    folder = shutil.copytree(twin("clip")["model"].name, tmp_path / "own")
    model.save_pretrained(folder)
    encoder = adopt(folder)
    encoder.save(tmp_path / "saved")
    for found in (encoder, load_encoder(tmp_path / "saved")):
        assert found.temperature == pytest.approx(0.0085470, rel=1e-5)
    assert AutoModel.from_pretrained(tmp_path / "saved").logit_scale.item() == pytest.approx(4.7621739)


def test_no_parameter_is_without_a_dimension(twin):
    """Engines that shard parameters take none."""
    for family in PADDED:
        assert all(weight.ndim for weight in adopt(twin(family)["model"].name).parameters())


def test_of_several_pictures_of_an_item_the_mean_counts(twin):
    encoder = adopt(twin("clip")["model"].name)
    two = Item("two", images=(PICTURES[0].images[0], PICTURES[1].images[0]))
    pixels = encoder.collator((), PICTURES)["image.pixel_values"]
    with torch.inference_mode():
        mean = encoder.model.get_image_features(pixels).pooler_output.mean(0)
    torch.testing.assert_close(encoder.encode([two]).rows_NTD[0, 0], F.normalize(mean, dim=0), atol=1e-6, rtol=0)


def test_no_more_pictures_are_decoded_at_a_time_than_there_is_memory_for(twin, monkeypatch):
    encoder = adopt(twin("clip")["model"].name)
    whole = encoder.collator((), PICTURES)["image.pixel_values"]
    processor, counts = encoder.collator.reader.image_processor, []

    def counting(images, **more):
        counts.append(len(images))
        return processor(images=images, **more)

    monkeypatch.setattr(pictures, "DECODED", 0)
    monkeypatch.setattr(encoder.collator.reader, "image_processor", counting)
    assert torch.equal(encoder.collator((), PICTURES)["image.pixel_values"], whole) and counts == [1] * len(PICTURES)
