"""Every layout gives the vectors of its own library, in mixed batches, for both roles, with its prompts, before and after our save."""

import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from mirepoix.models.adopted.adopted import Adopted
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.adopted.layout import read_layout
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from tests.models.adopted.written import amend, by_library
from tests.models.conftest import picture

TEXTS = [
    Item("red", text="a small red circle on snow"),
    Item("stars", text="Two large BLUE stars"),
    Item("address", text="https://example.org/cat.jpg"),
]
PICTURES = [Item("p", images=(picture(),)), Item("q", images=(picture("blue", 80, "JPEG"),))]
LAYOUTS = {
    "clip": "transformers",
    "chinese_clip": "transformers",
    "clip in a root": "transformers",
    "clip in 0_CLIPModel": "transformers",
    "chinese_clip in a root": "transformers",
    "clip with a dense layer": "sentence-transformers",
    "bert, mean": "sentence-transformers",
    "bert, mean without its prompt": "sentence-transformers",
    "bert, as it was saved in 2022": "sentence-transformers",
    "bert with a dense layer": "sentence-transformers",
    "bert, cut to 20": "sentence-transformers",
    "static": "sentence-transformers",
    "routed": "sentence-transformers",
}
READS_PICTURES = [name for name in LAYOUTS if "clip" in name]
WIDTHS = {"clip with a dense layer": 24, "bert with a dense layer": 16, "bert, cut to 20": 20, "static": 32}
KNOWN = {"bert, cut to 20": 20}
"""Widths that a folder of the library says; others are those of its modules."""
PASSAGES = "bert, as it was saved in 2022"


def adopt(folder, trust_remote_code=False, **settings) -> Adopted:
    return Adopted.build({"model": Checkpoint(folder, trust_remote_code=trust_remote_code)}, AdoptedConfig(**settings)).eval()


def items_of(name: str) -> list[Item]:
    """Items of a layout, texts and pictures in turn; the library reads an address as the picture that lies there."""
    if name in READS_PICTURES:
        return [TEXTS[0], PICTURES[0], TEXTS[1], PICTURES[1]]
    return TEXTS


def library(folder, items, role="document", name="", **given) -> torch.Tensor:
    """The library's vectors, with the prompt for passages where it names one, which `encode_document` does not take on its own."""
    if name == PASSAGES and role == "document" and not given:
        given = {"prompt_name": "passage"}
    return by_library(folder, items, role, **given)


@pytest.mark.parametrize("name", LAYOUTS)
def test_it_gives_the_vectors_of_its_library(name, layout, tmp_path):
    """For both roles, in a batch of texts and pictures, and again when it was saved and opened; and the library opens what was saved."""
    folder, items = layout(name), items_of(name)
    encoder = adopt(folder)
    encoder.save(tmp_path / "saved")
    again = load_encoder(tmp_path / "saved")
    assert read_layout(folder).opened_by == LAYOUTS[name]
    for role in ("query", "document"):
        expected = library(folder, items, role, name)
        for found in (encoder, again):
            torch.testing.assert_close(found.encode(items, role=role).rows_NTD[:, 0], expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(library(tmp_path / "saved", items, role, name), expected, atol=1e-5, rtol=0)
    assert encoder.dimension == again.dimension == expected.shape[1] == WIDTHS.get(name, 64)


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_it_reads_and_its_towers_are_known_from_the_folder_before_its_weights(name, layout):
    folder = layout(name)
    traits = AdoptedConfig().traits({"model": Checkpoint(folder)})
    encoder = adopt(folder)
    if name == "routed":  # what its modules read is in folders of their own
        assert traits.towers is None and traits.width is None
        return
    assert traits.reads == encoder.reads == (Modality.TEXT | Modality.IMAGE if name in READS_PICTURES else Modality.TEXT)
    assert traits.towers == tuple(encoder.towers)
    assert traits.width == (KNOWN.get(name) or (64 if LAYOUTS[name] == "transformers" else None))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_prompt_of_the_folder_changes_its_vectors_as_it_changes_the_librarys(name, own):
    folder, words = own(name), [item for item in items_of(name) if item.text]
    before = adopt(folder).encode(words, role="query").rows_NTD[:, 0]
    amend(folder / "config_sentence_transformers.json", prompts={"query": "green moon: ", "document": ""})
    after = adopt(folder).encode(words, role="query").rows_NTD[:, 0]
    if not (folder / "modules.json").is_file():
        assert torch.equal(after, before)  # not a folder of sentence-transformers, so nobody reads the file
        return
    torch.testing.assert_close(after, library(folder, words, "query"), atol=1e-5, rtol=0)
    if name != "bert, mean without its prompt":  # where the words alone are pooled, and see the prompt only through attention
        assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name.startswith("bert")])
@pytest.mark.parametrize("mode", ["lasttoken", "weightedmean"])
def test_the_pooling_of_the_folder_changes_its_vectors_as_it_changes_the_librarys(name, mode, own):
    folder = own(name)
    before = adopt(folder).encode(TEXTS).rows_NTD[:, 0]
    path = folder / "1_Pooling" / "config.json"
    settings = json.loads(path.read_text())
    included = settings.get("include_prompt", True)
    width = settings.get("embedding_dimension") or settings["word_embedding_dimension"]
    path.write_text(json.dumps({"embedding_dimension": width, "pooling_mode": mode, "include_prompt": included}))
    after = adopt(folder).encode(TEXTS).rows_NTD[:, 0]
    torch.testing.assert_close(after, library(folder, TEXTS, name=name), atol=1e-5, rtol=0)
    assert (after - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["clip in a root", "bert, mean"])
def test_a_width_of_the_folder_is_obeyed(name, own):
    folder = own(name)
    amend(folder / "config_sentence_transformers.json", truncate_dim=12)
    encoder = adopt(folder)
    assert encoder.dimension == 12
    torch.testing.assert_close(encoder.encode(items_of(name)).rows_NTD[:, 0], library(folder, items_of(name)), atol=1e-5, rtol=0)


def test_prompts_are_chosen_by_their_names(own):
    folder = own("bert, mean")
    amend(folder / "config_sentence_transformers.json", prompts={"query": "", "title": "Title: ", "corpus": "from the corpus "})
    for role, given, named in (
        ("query", {"query_prompt": "title"}, "title"),
        ("document", {"document_prompt": "title"}, "title"),
        ("document", {}, "corpus"),
    ):
        found = adopt(folder, **given).encode(TEXTS, role=role).rows_NTD[:, 0]
        torch.testing.assert_close(found, library(folder, TEXTS, role, prompt_name=named), atol=1e-5, rtol=0)
    with pytest.raises(Refused, match=r"query_prompt is 'titel', and the folder's prompts are query, title, corpus; give"):
        adopt(folder, query_prompt="titel")


def test_an_instruction_takes_the_place_of_the_folders_prompt(layout):
    asked = [Item(item.id, text=item.text, instruction="Find a passage.") for item in TEXTS]
    found = adopt(layout("bert, mean"), instructed="Instruct: {instruction}\nQuery: ").encode(asked, role="query").rows_NTD[:, 0]
    expected = library(layout("bert, mean"), TEXTS, "query", prompt="Instruct: Find a passage.\nQuery: ")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_a_text_is_cut_to_the_length_that_the_folder_or_the_config_says(layout):
    long, short = Item("l", text="a small red circle " * 40), Item("s", text="a small red circle " * 41)
    one, other = adopt(layout(PASSAGES)).encode([long, short]).rows_NTD[:, 0]
    assert torch.allclose(one, other, atol=1e-6)  # 24 tokens
    few = adopt(layout("bert, mean"), max_length=6).encode([Item("a", text="a small red circle"), Item("b", text="a small red moon")])
    whole = adopt(layout("bert, mean")).encode([Item("a", text="a small red circle"), Item("b", text="a small red moon")])
    assert not torch.equal(few.rows_NTD, whole.rows_NTD)


def test_a_length_that_a_model_does_not_have_is_refused(layout):
    for name, kind in (("static", "StaticEmbedding"), ("routed", "Router")):
        with pytest.raises(Refused, match=rf"max_length is 6, and .* begins with a {kind}, which has no length to set; give null$"):
            adopt(layout(name), max_length=6)


def test_vectors_are_cut_to_a_width_that_is_asked_for(layout):
    whole = adopt(layout("clip")).encode(items_of("clip")).rows_NTD[:, 0]
    narrow = adopt(layout("clip"), width=8)
    assert narrow.dimension == 8
    torch.testing.assert_close(narrow.encode(items_of("clip")).rows_NTD[:, 0], torch.nn.functional.normalize(whole[:, :8], dim=-1))
    with pytest.raises(Refused, match=r"^width is 65, and the vectors of .* are 64 wide; give no more than that$"):
        adopt(layout("clip"), width=65)


@pytest.mark.parametrize("name", ["clip", "clip with a dense layer"])
def test_an_item_of_both_is_refused_or_is_the_sum_of_its_parts(name, layout):
    both = Item("both", text=TEXTS[0].text, images=(PICTURES[0].images[0], PICTURES[1].images[0]), source="corpus", line=3)
    with pytest.raises(Refused, match=r"^item 'both' \(corpus:3\) has text and image, and .* reads one of them at a time; .*several=sum"):
        adopt(layout(name)).encode([both])
    encoder = adopt(layout(name), several="sum")
    with torch.inference_mode():
        raw = {
            call: encoder.parts["model"].vectors(call, {k.partition(".")[2]: v for k, v in encoder.collator((), of).items() if call in k})
            for call, of in (("text", [TEXTS[0]]), ("image", PICTURES))
        }
    expected = torch.nn.functional.normalize(raw["text"][0] + raw["image"].mean(0), dim=-1)
    found = encoder.encode([both, TEXTS[1], PICTURES[0]]).rows_NTD[:, 0]
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[1:], adopt(layout(name)).encode([TEXTS[1], PICTURES[0]]).rows_NTD[:, 0], atol=1e-6, rtol=0)


def test_what_a_model_does_not_read_is_refused_by_the_item(layout):
    with pytest.raises(Refused, match=r"^item 'p' \(:0\) has image, and .*bert-mean reads text alone; leave such items out"):
        adopt(layout("bert, mean")).encode(PICTURES)


def test_a_text_that_is_the_address_of_a_picture_is_a_text(layout):
    """The library would fetch what lies there."""
    encoder = adopt(layout("clip with a dense layer"))
    found = encoder.encode([TEXTS[2]]).rows_NTD[0, 0]
    assert not torch.allclose(found, encoder.encode([TEXTS[0]]).rows_NTD[0, 0], atol=1e-3)


def test_a_model_that_leaves_prompts_out_of_its_pooling_reads_those_of_each_prompt_at_once(layout):
    folder = layout("bert, mean without its prompt")
    encoder = adopt(folder)
    words = ["a small red circle", "two stars", "snow at night"]
    asked = [Item(str(n), text=text, instruction=("Find it.", "Find large blue stars.")[n % 2]) for n, text in enumerate(words)]
    found = encoder.encode(asked, role="query").rows_NTD[:, 0]
    for row, item in zip(found, asked, strict=True):
        plain = Item(item.id, text=item.text)
        torch.testing.assert_close(row, library(folder, [plain], "query", prompt=f"{item.instruction} ")[0], atol=1e-5, rtol=0)
    assert len(encoder.training_collator(asked[:1], TEXTS)) > 3
    with pytest.raises(
        Refused, match=r"have 2 prompts or instructions, and .* leaves the prompt out of its pooling, .*without_instruction=1"
    ):
        encoder.training_collator(asked, TEXTS)


@pytest.mark.parametrize("name", ["clip in 0_CLIPModel", "clip with a dense layer", "bert, mean", "routed"])
def test_adapters_are_merged_into_what_is_saved_and_its_library_opens_it(name, layout, tmp_path):
    encoder, items = adopt(layout(name)), items_of(name)
    plain = encoder.encode(items).rows_NTD[:, 0]
    encoder.tune(Tuning(towers=tuple(encoder.towers), lora=Lora(4, 8, 0.0))).eval()
    with torch.no_grad():
        for weight in encoder.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    expected = encoder.encode(items).rows_NTD[:, 0]
    encoder.save(tmp_path / "saved")
    assert (expected - plain).abs().max() > 1e-3
    torch.testing.assert_close(load_encoder(tmp_path / "saved").encode(items).rows_NTD[:, 0], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(library(tmp_path / "saved", items), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode(items).rows_NTD[:, 0], expected)  # saving changed nothing of it


@pytest.mark.parametrize("name", ["clip with a dense layer", "bert, mean"])
def test_a_model_without_some_of_its_weights_is_refused(name, own):
    folder = own(name)
    weights = load_file(folder / "model.safetensors")
    absent = [key for key in weights if "layers.1." in key or "layer.1." in key]
    save_file({key: weight for key, weight in weights.items() if key not in absent}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Refused, match=rf"^checkpoint {re.escape(str(folder))} lacks {len(absent)} weights .* would be random"):
        adopt(folder)


def test_vectors_that_may_be_compared_by_angle_are_opened_again_after_they_were_saved(layout, tmp_path):
    for number, name in enumerate(("bert with a dense layer", "clip in a root")):
        folder = shutil.copytree(layout(name), tmp_path / f"own{number}")
        amend(folder / "config_sentence_transformers.json", similarity_fn_name="manhattan")
        with pytest.raises(Refused, match=r"compares its vectors by manhattan .*backbone\.ignore=\[similarity_fn_name\]$"):
            adopt(folder)
        encoder = Adopted.build({"model": Checkpoint(folder, ignore=("similarity_fn_name",))}, AdoptedConfig()).eval()
        encoder.save(tmp_path / f"saved{number}")
        torch.testing.assert_close(load_encoder(tmp_path / f"saved{number}").encode(TEXTS).rows_NTD, encoder.encode(TEXTS).rows_NTD)


def test_the_temperature_is_that_of_the_models_scale(layout):
    for name in ("clip", "clip with a dense layer"):
        assert adopt(layout(name)).temperature == pytest.approx(0.07, rel=1e-3)  # CLIP's initial scale is 2.6592
    assert adopt(layout("bert, mean")).temperature is None
