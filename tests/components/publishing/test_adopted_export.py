"""Adopted models are exported in their own layout: their library gives the vectors of the release, with the instructions of its queries."""

import io
import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mirepoix.models.adopted.layout import PROMPTS
from mirepoix.models.backbones.tuning_config import Lora
from mirepoix.models.encoder import DESCRIPTION
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.publishing.test_export import INSTRUCTIONS, code_of, exported, released, rows, taught
from tests.models.adopted.test_adopted import PICTURES, TEXTS, adopt
from tests.models.adopted.written import normalize, transformer, write
from tests.models.conftest import picture

LAYOUTS = ["clip", "siglip", "siglip2", "clip in a root", "clip in 0_CLIPModel", "clip with a dense layer", "bert, mean", "routed"]
TASKS = ("", "t->i", "i->t")


@pytest.fixture
def release(request, layout, twin, tmp_path):
    def made(name, **settings):
        folder = twin(name)["model"].name if name.startswith("siglip") else layout(name)
        return released(tmp_path / "made", adopt(folder, **settings))

    return made


def library(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def same(found, expected):
    torch.testing.assert_close(F.normalize(found, dim=-1), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_sentence_transformers_gives_the_vectors_of_the_release_with_its_instructions(name, release, tmp_path):
    made = release(name)
    folder = exported(made, tmp_path / "exported", "sentence-transformers")
    model, encoder = library(folder), made.open_encoder()
    assert not (folder / DESCRIPTION).exists() and (folder / "README.md").is_file()
    texts = [item.text for item in TEXTS[:2]]
    same(model.encode_document(texts, convert_to_tensor=True), encoder.encode(TEXTS[:2]).rows_NTD[:, 0])
    asked = {task: Item(task, text=texts[0], instruction=words) for task, words in INSTRUCTIONS.items() if task in TASKS}
    found = [model.encode_query(texts[0], convert_to_tensor=True, **({"prompt_name": task} if task else {})) for task in asked]
    same(torch.stack(found), encoder.encode(list(asked.values()), role="query").rows_NTD[:, 0])
    if "image" in model.modalities:
        pictures = [Image.open(io.BytesIO(item.images[0])).convert("RGB") for item in PICTURES]
        same(model.encode(pictures, convert_to_tensor=True), encoder.encode(PICTURES).rows_NTD[:, 0])
        address = TEXTS[2]
        same(model.encode({"text": address.text}, convert_to_tensor=True), encoder.encode([address]).rows_NTD[0, 0])
    assert ('`{"text": TEXT}`' in (folder / "README.md").read_text()) == ("image" in model.modalities)


E5 = {"query": "query: ", "passage": "passage: "}
NAMED = {"query": "", "title": "snow ", "abstract": "two large blue "}
LONG = Item("long", text="a small red circle on snow " * 3)


@pytest.mark.parametrize(
    ("name", "prompts", "settings", "written"),
    [
        ("bert, as it was saved in 2022", E5, {}, {**E5, "document": "passage: "}),
        ("bert, mean", NAMED, {"query_prompt": "title"}, {**NAMED, "query": "snow ", "document": ""}),
        ("bert, mean", NAMED, {"document_prompt": "abstract"}, {**NAMED, "document": "two large blue "}),
        (
            "clip in a root",
            NAMED,
            {"query_prompt": "title", "document_prompt": "abstract"},
            {"query": "snow ", "document": "two large blue "},
        ),
        ("clip", None, {"max_length": 5}, {"query": "", "document": ""}),
        ("clip in a root", NAMED, {"max_length": 5}, {"query": "", "document": ""}),
        ("clip in 0_CLIPModel", None, {"max_length": 5}, {"query": "", "document": ""}),
        ("bert, as it was saved in 2022", E5, {"max_length": 5}, {"document": "passage: "}),
    ],
    ids=["e5", "query_prompt", "document_prompt", "both, two towers", "cut", "cut in a root", "cut in 0_CLIPModel", "cut, e5"],
)
def test_prompts_and_length_of_the_release_are_those_of_the_export(name, prompts, settings, written, own, tmp_path):
    folder = own(name)
    if prompts is not None:
        (folder / PROMPTS).write_text(json.dumps({"prompts": prompts}))
    made = released(tmp_path / "made", adopt(folder, **settings), instructions={})
    model, encoder = library(exported(made, tmp_path / "exported", "sentence-transformers")), made.open_encoder()
    assert model.prompts.items() >= written.items()
    items = [LONG, TEXTS[0]]
    plain = library(folder)
    for role, encode in (("query", model.encode_query), ("document", model.encode_document)):
        expected = encoder.encode(items, role=role).rows_NTD[:, 0]
        for item, row in zip(items, expected, strict=True):
            same(encode(item.text, convert_to_tensor=True), row)
    if settings:  # without the prompts and the length, the folder would give other vectors
        asked = "query" if "query_prompt" in settings else "document"
        found = F.normalize((plain.encode_query if asked == "query" else plain.encode_document)(LONG.text, convert_to_tensor=True), dim=-1)
        assert (found - encoder.encode([LONG], role=asked).rows_NTD[0, 0]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("clip", {"max_length": 5, "several": "sum"}),
        ("siglip", {"several": "sum"}),
        ("siglip2", {}),
        ("clip in 0_CLIPModel", {"instructed": "Instruct: {instruction}\nQuery: "}),
        ("clip in a root", {"query_prompt": "query", "several": "sum"}),
    ],
)
def test_the_cards_example_gives_the_same_vectors_with_transformers_alone(name, settings, release, tmp_path, monkeypatch):
    made = release(name, **settings)
    encoder = made.open_encoder()
    monkeypatch.chdir(exported(made, tmp_path / "exported", "hf"))
    namespace: dict = {}
    exec(code_of(tmp_path / "exported"), namespace)
    asked = Item("asked", text="two stars", instruction="Find a passage.")
    shown = [
        (LONG, "document", {}),
        (LONG, "query", {"role": "query"}),
        (asked, "query", {"instruction": asked.instruction, "role": "query"}),
    ]
    for item, role, given in shown:
        assert (namespace["encode"](item.text, **given) - encoder.encode([item], role=role).rows_NTD[0, 0]).abs().max() < 1e-5
    opened = Image.open(io.BytesIO(picture()))
    assert (namespace["encode"](pictures=[opened]) - encoder.encode([Item("p", images=(picture(),))]).rows_NTD[0, 0]).abs().max() < 1e-5
    if "several" in settings:
        both = encoder.encode([Item("both", text="two stars", images=(picture(),))]).rows_NTD[0, 0]
        assert (namespace["encode"]("two stars", [opened]) - both).abs().max() < 1e-5
    assert ("refuses an item of text and picture" in (tmp_path / "exported" / "README.md").read_text()) == ("several" not in settings)


@pytest.mark.parametrize("name", ["bert, mean", "clip in a root"])
def test_the_cards_example_runs_with_sentence_transformers(name, release, tmp_path, monkeypatch, capsys):
    folder = exported(release(name), tmp_path / "exported", "sentence-transformers")
    monkeypatch.chdir(folder)
    exec(code_of(folder), {})
    assert "tensor([[" in capsys.readouterr().out
    assert json.loads((folder / "config_sentence_transformers.json").read_text())["prompts"]["t->i"].endswith(" ")


def test_siglip_in_a_folder_of_the_library_is_exported_with_the_padding_that_the_release_reads_texts_with(twin, tmp_path):
    folder = write(tmp_path / "siglip", transformer(twin("siglip")["model"].name), normalize())
    made = released(tmp_path / "made", adopt(folder))
    model = library(exported(made, tmp_path / "exported", "sentence-transformers"))
    same(model.encode_document(TEXTS[0].text, convert_to_tensor=True), rows(made, TEXTS[:1])[0])


def test_vectors_that_modules_make_are_not_exported_for_transformers_alone(release, tmp_path):
    with pytest.raises(Refused, match=r"sentence-transformers modules make, .*--to sentence-transformers$"):
        exported(release("bert, mean"), tmp_path / "exported", "hf")
    assert not (tmp_path / "exported").exists()


def test_a_width_that_was_asked_for_is_that_of_the_export(release, tmp_path):
    made = release("clip", width=16)
    found = library(exported(made, tmp_path / "exported", "sentence-transformers")).encode_document([TEXTS[0].text], convert_to_tensor=True)
    torch.testing.assert_close(F.normalize(found, dim=-1), rows(made, TEXTS[:1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["clip", "clip in 0_CLIPModel", "siglip"])
def test_the_adapter_of_a_trained_two_tower_model_gives_its_vectors_over_the_base(name, layout, twin, tmp_path, monkeypatch):
    base = str(twin(name)["model"].name if name == "siglip" else layout(name))
    encoder = taught(adopt(base), Lora(rank=3, alpha=3), 0.05)
    made = released(tmp_path / "made", encoder)
    folder = exported(made, tmp_path / "exported", "peft", base=base)
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 3 and not (folder / "model.safetensors").exists()
    monkeypatch.chdir(folder)
    namespace: dict = {}
    exec(code_of(folder), namespace)
    opened, untrained = made.open_encoder(), adopt(base)
    expected = opened.encode([TEXTS[0], PICTURES[0]]).rows_NTD[:, 0]
    seen = Image.open(io.BytesIO(PICTURES[0].images[0])).convert("RGB")
    assert (torch.stack([namespace["encode"](TEXTS[0].text), namespace["encode"](pictures=[seen])]) - expected).abs().max() < 1e-4
    assert (untrained.encode(TEXTS[:1]).rows_NTD[0, 0] - expected[0]).abs().max() > 1e-2


def test_over_a_base_that_is_an_adapter_itself_the_adapter_is_the_sum_of_both_over_the_model_under_it(layout, tmp_path, monkeypatch):
    clip = str(layout("clip"))
    first = released(tmp_path / "first", taught(adopt(clip), Lora(rank=2, alpha=2), 0.05))
    adapter = exported(first, tmp_path / "adapter", "peft", base=clip)
    made = released(tmp_path / "made", taught(adopt(adapter), Lora(rank=3, alpha=3), 0.05))
    folder = exported(made, tmp_path / "exported", "peft", base=str(adapter))
    written = json.loads((folder / "adapter_config.json").read_text())
    assert (written["r"], written["base_model_name_or_path"]) == (5, clip)
    monkeypatch.chdir(folder)
    namespace: dict = {}
    exec(code_of(folder), namespace)
    assert (namespace["encode"](TEXTS[0].text) - rows(made, TEXTS[:1])[0]).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("bert, mean", r"sentence-transformers modules make, .*--to sentence-transformers$"),
        ("clip in 0_CLIPModel", r"^the model is in the folder 0_CLIPModel of some/model, and an adapter names a whole base and no folder"),
    ],
)
def test_an_adapter_is_refused_of_modules_and_of_a_model_in_a_folder_of_a_hub_id(name, words, release, tmp_path):
    with pytest.raises(Refused, match=words):
        exported(release(name), tmp_path / "exported", "peft", base="some/model")
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("clip", {}, "It reads text and image, one of them in an item; its vectors are 64 wide"),
        ("clip", {"several": "sum"}, "It reads text and image, alone or mixed; its vectors are 64 wide"),
        ("bert, mean", {}, "It reads text; its vectors are 64 wide"),
    ],
)
def test_the_card_says_whether_an_item_may_be_of_several_modalities(name, settings, words, release, tmp_path):
    assert words in (exported(release(name, **settings), tmp_path / "exported", "sentence-transformers") / "README.md").read_text()
