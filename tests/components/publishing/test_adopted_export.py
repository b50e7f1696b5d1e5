"""Adopted models are exported in their own layout: their library gives the vectors of the release, with the instructions of its queries."""

import io
import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mirepoix.models.encoder import DESCRIPTION
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.publishing.test_export import INSTRUCTIONS, code_of, exported, released, rows
from tests.models.adopted.test_adopted import PICTURES, TEXTS, adopt
from tests.models.conftest import picture

LAYOUTS = ["clip", "siglip", "siglip2", "clip in a root", "clip in 0_CLIPModel", "clip with a dense layer", "bert, mean", "routed"]


@pytest.fixture
def release(request, layout, twin, tmp_path):
    def made(name, **settings):
        folder = twin(name)["model"].name if name.startswith("siglip") else layout(name)
        return released(tmp_path / "made", adopt(folder, **settings))

    return made


def library(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


@pytest.mark.parametrize("name", LAYOUTS)
def test_sentence_transformers_gives_the_vectors_of_the_release_with_its_instructions(name, release, tmp_path):
    made = release(name)
    folder = exported(made, tmp_path / "exported", "sentence-transformers")
    model = library(folder)
    assert not (folder / DESCRIPTION).exists() and (folder / "README.md").is_file()
    found = torch.stack([F.normalize(model.encode_document([item.text], convert_to_tensor=True)[0], dim=-1) for item in TEXTS[:2]])
    torch.testing.assert_close(found, rows(made, TEXTS[:2]), atol=1e-5, rtol=0)
    for task, words in INSTRUCTIONS.items():
        asked = [Item(item.id, text=item.text, instruction=words) for item in TEXTS[:2]]
        expected = rows(made, asked, "query")
        given = {"prompt_name": task} if task else {}
        found = torch.stack([F.normalize(model.encode_query([item.text], convert_to_tensor=True, **given)[0], dim=-1) for item in asked])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    if "image" in model.modalities:
        pictures = [Image.open(io.BytesIO(item.images[0])).convert("RGB") for item in PICTURES]
        found = F.normalize(model.encode(pictures, convert_to_tensor=True), dim=-1)
        torch.testing.assert_close(found, rows(made, PICTURES), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "clip in 0_CLIPModel"])
def test_the_cards_example_gives_the_same_vectors_with_transformers_alone(name, release, tmp_path, monkeypatch):
    made = release(name, several="sum")
    monkeypatch.chdir(exported(made, tmp_path / "exported", "hf"))
    namespace: dict = {}
    exec(code_of(tmp_path / "exported"), namespace)
    opened = Image.open(io.BytesIO(picture())).convert("RGB")
    both = Item("both", text="two stars", images=(picture(),))
    for item, given in ((TEXTS[0], {"text": TEXTS[0].text}), (both, {"text": "two stars", "pictures": [opened]})):
        assert (namespace["encode"](**given) - rows(made, [item])[0]).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["bert, mean", "clip in a root"])
def test_the_cards_example_runs_with_sentence_transformers(name, release, tmp_path, monkeypatch, capsys):
    folder = exported(release(name), tmp_path / "exported", "sentence-transformers")
    monkeypatch.chdir(folder)
    exec(code_of(folder), {})
    assert "tensor([[" in capsys.readouterr().out
    assert json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]["t->i"].endswith(" ")


def test_vectors_that_modules_make_are_not_exported_for_transformers_alone(release, tmp_path):
    with pytest.raises(Refused, match=r"sentence-transformers modules make, .*--to sentence-transformers$"):
        exported(release("bert, mean"), tmp_path / "exported", "hf")
    assert not (tmp_path / "exported").exists()


def test_a_width_that_was_asked_for_is_that_of_the_export(release, tmp_path):
    made = release("clip", width=16)
    found = library(exported(made, tmp_path / "exported", "sentence-transformers")).encode_document([TEXTS[0].text], convert_to_tensor=True)
    torch.testing.assert_close(F.normalize(found, dim=-1), rows(made, TEXTS[:1]), atol=1e-5, rtol=0)
