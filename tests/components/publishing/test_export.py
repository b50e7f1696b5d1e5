"""Exports open in other libraries and give the same vectors there; impossible ones are refused in a line and leave no files."""

import html
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import ftfy
import jinja2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mirepoix.components.pairs.instructions import Wordings
from mirepoix.components.publishing.export import LAYOUTS, export
from mirepoix.models.backbones.tuning_config import Lora, Tuning
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, item_to_row
from mirepoix.models.retrievers.jfe import Jfe
from mirepoix.models.retrievers.jfe_config import JfeConfig
from mirepoix.models.retrievers.marvel import Marvel
from mirepoix.models.retrievers.marvel_config import MarvelConfig
from mirepoix.models.retrievers.mire import Mire
from mirepoix.models.retrievers.mire_config import MireConfig
from mirepoix.models.retrievers.unite import Unite
from mirepoix.models.retrievers.unite_config import UniteConfig
from mirepoix.models.retrievers.univldr import UniVLDR
from mirepoix.models.retrievers.univldr_config import UniVLDRConfig
from mirepoix.serving.engine.current import About
from mirepoix.serving.engine.work import Encoded
from mirepoix.serving.http.api import build_app
from mirepoix.serving.http.limits_config import Limits
from mirepoix.serving.release import Release, open_release
from mirepoix.serving.store import publish
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.recipes.quickstarts import quickstart
from tests.models.conftest import SIZES, WORDS, picture
from tests.serving.fixtures import OneRelease
from tests.serving.http.test_api import Caller
from tests.vision import with_pylate, with_torchvision

CLOSE = 1e-4
INSTRUCTIONS = Wordings().served()
TEXT = "a small red circle"
BUILT = {
    "unite": (Unite, UniteConfig(positions="mrope"), "qwen2_vl"),
    "unite, 1d": (Unite, UniteConfig(positions="1d"), "qwen2_vl"),
    "unite, 1d qwen3": (Unite, UniteConfig(positions="1d"), "qwen3_vl"),
    "quickstart": (Unite, quickstart().backbone.encoder, "qwen2_vl"),
    "unite, raw": (Unite, UniteConfig(positions="mrope", prompt="raw"), "qwen2_vl"),
    "unite, short": (Unite, UniteConfig(positions="mrope", max_length=60), "qwen2_vl"),
    "unite, twice": (
        Unite,
        UniteConfig(positions="mrope", resized_twice=True, newline_after_pictures=False, min_frame_pixels=56 * 56),
        "qwen2_vl",
    ),
    "unite, qwen2.5": (Unite, UniteConfig(positions="mrope"), "qwen2_5_vl"),
    "unite, qwen3": (Unite, UniteConfig(positions="mrope"), "qwen3_vl"),
    "jfe": (Jfe, JfeConfig(), "qwen2_vl"),
    "jfe, 1d": (Jfe, JfeConfig(positions="1d"), "qwen2_vl"),
    "jfe, mean": (Jfe, JfeConfig(attention="bidirectional", pooling="mean"), "qwen2_vl"),
    "jfe, late": (Jfe, JfeConfig(fusion="late", positions="1d"), "qwen2_vl"),
    "univldr": (UniVLDR, UniVLDRConfig(max_length=12), "clip"),
    "mire": (Mire, MireConfig(width=32, heads=2, global_tokens=2, global_hidden=32, patch_hidden=32, query_length=20), "bert_clip"),
    "mire, unpunctuated": (Mire, MireConfig(width=32, heads=2, query_length=20, punctuation_rows=False), "bert_clip"),
    "marvel": (Marvel, MarvelConfig(), "t5_clip"),
}


def released(folder: Path, encoder, **more) -> Release:
    """A release as `open_release` opens it, of the parts that an export reads."""
    draft = folder / "draft"
    encoder.save(draft / "encoder")
    fields = {"name": "tiny", "version": "0123", "encoder": "e", "index": "i", "documents": "d", "golden": "g"}
    fields |= {"widths": [32, encoder.dimension], "instructions": INSTRUCTIONS, **more}
    (draft / "release.json").write_text(json.dumps(fields))
    golden = Item("golden", text="two red stars")
    vectors = [[row.tolist() for row in encoder.encode([golden], role=role).ragged()] for role in ("document", "query")]
    (draft / "golden.json").write_text(json.dumps({"items": [item_to_row(golden)], "vectors": vectors[0], "queries": vectors[1]}))
    publish(draft, folder / "release", {})
    return open_release(folder / "release")


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """The twins of all families that are exported."""
    home = tmp_path_factory.mktemp("twins")
    families = {family for _, _, family in BUILT.values()}
    return {family: make_twin(home / family, family, [*WORDS * 20, *INSTRUCTIONS.values()], SIZES, seed=0) for family in families}


@pytest.fixture(scope="module")
def releases(twins, tmp_path_factory):
    home = tmp_path_factory.mktemp("releases")
    made = {}
    for name, (retriever, config, family) in BUILT.items():
        torch.manual_seed(0)
        made[name] = released(home / name, retriever.build(twins[family], config))
    return made


def exported(release, folder, to, **more):
    return export(release, folder, to, report=lambda line: None, **more)


def code_of(folder: Path) -> str:
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def noise(width: int, height: int) -> bytes:
    """A picture of noise: every other way of scaling gives other pixels."""
    return png(Image.fromarray(np.random.default_rng(0).integers(256, size=(height, width, 3), dtype=np.uint8)))


def rows(release, items, role="document"):
    return release.open_encoder().encode(items, role=role).rows_NTD[:, 0]


def one(encoder, item, role):
    vectors = encoder.encode([item], role=role)
    return vectors.rows_NTD[0][vectors.mask_NT[0]]


def searched(release, encoder, body):
    """The vectors that the release's endpoint computes for a search."""
    rows = []

    class Backend(OneRelease):
        about = About(release.name, release.version, release.widths, release.instructions)

        async def encode(self, items, role, truncate="end"):
            rows.append(one(encoder, items[0], role))
            return [Encoded(rows[0].numpy(), 0)]

        async def search(self, *wanted):
            return []

    assert Caller(build_app(Backend(), Limits())).post("/v1/search", body).status_code == 200
    return rows[0]


def refused(*parts, at):
    """The one line of a refusal, which holds the parts; nothing is left where it was to be written."""
    with pytest.raises(Refused) as caught:
        at()
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in parts), message


# Plain transformers


QWENS = [
    "unite",
    "unite, 1d",
    "quickstart",
    "unite, raw",
    "unite, twice",
    "unite, qwen2.5",
    "unite, qwen3",
    "jfe",
    "jfe, mean",
    "jfe, late",
]


@pytest.mark.parametrize("name", [*QWENS, "univldr"])
def test_the_cards_example_gives_the_same_vectors_with_transformers_alone(name, releases, tmp_path, monkeypatch):
    folder = exported(releases[name], tmp_path / "out", "hf")
    monkeypatch.chdir(folder)
    namespace = {}
    exec(code_of(folder), namespace)
    red = png(namespace["picture"])
    shown = [Item("text", text=TEXT), Item("picture", images=(red,)), Item("both", text=TEXT, images=(red,))]
    assert (namespace["vectors"] - rows(releases[name], shown)).abs().max() < CLOSE
    more = Item("more", text=f"  {TEXT}\n", images=(picture("blue", 80), picture("green")), instruction="Find a passage.")
    seen = [Image.open(io.BytesIO(image)) for image in more.images]
    assert (namespace["encode"](more.text, seen, more.instruction) - rows(releases[name], [more])[0]).abs().max() < CLOSE
    odd = Item("odd", images=(noise(100, 80), noise(40, 30)))
    seen = [Image.open(io.BytesIO(image)) for image in odd.images]
    assert (namespace["encode"](pictures=seen) - rows(releases[name], [odd])[0]).abs().max() < CLOSE


def test_the_example_passes_positions_that_count_tokens(releases, tmp_path, monkeypatch):
    """Without them, the vectors of pictures alone differ, as the card says; the card of a release with the positions of a grid does not."""
    folder = exported(releases["unite, 1d"], tmp_path / "out", "hf")
    assert "pictures the positions of their grid" in (folder / "README.md").read_text()
    monkeypatch.chdir(folder)
    namespace = {}
    exec(re.sub(r", position_ids=.*?-1\)", "", code_of(folder)), namespace)
    shown = [Item("text", text=TEXT), Item("picture", images=(png(namespace["picture"]),))]
    text, seen = (namespace["vectors"][:2] - rows(releases["unite, 1d"], shown)).abs().amax(1)
    assert text < CLOSE < seen / 10
    assert "position_ids" not in (exported(releases["unite"], tmp_path / "grid", "hf") / "README.md").read_text()


def test_the_card_says_that_its_example_truncates_no_text_and_reads_no_clip(releases, tmp_path, monkeypatch):
    """A text over max_length is read to its end by it and by the encoder cut; UniVL-DR's cuts alike, and knows no clips."""
    folder = exported(releases["unite, short"], tmp_path / "out", "hf")
    card = (folder / "README.md").read_text()
    assert "Texts are not truncated here; in training they were, to 60 tokens of the whole prompt. The example reads no clips." in card
    monkeypatch.chdir(folder)
    namespace = {}
    exec(code_of(folder), namespace)
    assert (namespace["encode"](LONG) - rows(releases["unite, short"], [Item("long", text=LONG)])[0]).abs().max() > CLOSE
    folder = exported(releases["univldr"], tmp_path / "cut", "hf")
    assert "Texts are not truncated here" not in (folder / "README.md").read_text()
    monkeypatch.chdir(folder)
    exec(code_of(folder), namespace)
    assert (namespace["encode"](LONG) - rows(releases["univldr"], [Item("long", text=LONG)])[0]).abs().max() < CLOSE


@pytest.mark.parametrize("name", ["marvel", "mire"])
def test_retrievers_of_several_towers_are_exported_as_checkpoints_and_as_an_encoder(name, releases, tmp_path, monkeypatch):
    from transformers import AutoModel

    folder = exported(releases[name], tmp_path / "out", "hf")
    encoder = load_encoder(folder)
    for part in encoder.config.CHECKPOINTS:
        AutoModel.from_pretrained(folder / part)
    monkeypatch.chdir(folder)
    namespace = {}
    exec(code_of(folder), namespace)
    expected = releases[name].open_encoder().encode(namespace["items"])
    assert torch.equal(namespace["vectors"].rows_NTD, expected.rows_NTD)
    card = (folder / "README.md").read_text()
    assert "pip install -e CHECKOUT\n" in card and "on no registry" in card and "pip install mirepoix" not in card


def test_an_exported_encoder_can_be_loaded_again(releases, tmp_path):
    folder = exported(releases["unite"], tmp_path / "out", "hf")
    assert torch.equal(load_encoder(folder).encode([Item("a", text=TEXT)]).rows_NTD[:, 0], rows(releases["unite"], [Item("a", text=TEXT)]))


def test_the_trained_widths_are_in_the_file_that_servers_read(releases, twins, tmp_path):
    folder = exported(releases["unite"], tmp_path / "out", "hf")
    assert json.loads((folder / "config.json").read_text())["matryoshka_dimensions"] == [32, 64]
    one = released(tmp_path / "one", releases["unite"].open_encoder(), widths=[64])
    assert "matryoshka_dimensions" not in json.loads((exported(one, tmp_path / "single", "hf") / "config.json").read_text())


# sentence-transformers

WORKER = """
import io, json, os, re, sys
from pathlib import Path
from PIL import Image
out, tasks = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text())
opened, vectors = {}, {}
for task in tasks:
    folder = task["folder"]
    if folder not in opened:
        os.chdir(folder)
        namespace = {}
        exec(re.search(r"```python\\n(.*?)```", Path("README.md").read_text(), re.DOTALL)[1], namespace)
        opened[folder] = namespace
        namespace["model"].eval()
    namespace = opened[folder]
    pictures = {name: Image.open(path).convert("RGB") for name, path in task["pictures"].items()}
    for name, code in task["asked"].items():
        vectors[f"{task['name']}: {name}"] = torch.as_tensor(eval(code, {**namespace, **pictures, "torch": torch}))
torch.save(vectors, out)
"""
LONG = " ".join(["two large blue stars at night"] * 12)
QUERIES = {  # as a search of the endpoint
    "query": (f"model.encode_query({TEXT!r})", {"text": TEXT}),
    "query for pictures": (f"model.encode_query({TEXT!r}, prompt_name='t->i')", {"text": TEXT, "target": "i"}),
}
CHAT = {
    "text": (f"model.encode({TEXT!r})", Item("", text=TEXT)),
    "words around spaces": (f"model.encode('  {TEXT} ')", Item("", text=f"  {TEXT} ")),
    "picture": ("model.encode(red)", Item("", images=(picture(),))),
    "picture that is scaled down": ("model.encode(large)", Item("", images=(noise(640, 480),))),
    "picture that is scaled up": ("model.encode(small)", Item("", images=(noise(40, 30),))),
    "both, scaled": (f"model.encode({{'text': {TEXT!r}, 'image': large}})", Item("", text=TEXT, images=(noise(640, 480),))),
    "both": (f"model.encode({{'text': {TEXT!r}, 'image': red}})", Item("", text=TEXT, images=(picture(),))),
    "both the other way": (f"model.encode({{'image': red, 'text': {TEXT!r}}})", Item("", text=TEXT, images=(picture(),))),
    "two pictures": ("model.encode({'image': [red, blue], 'text': 'x'})", Item("", text="x", images=(picture(), picture("blue", 112)))),
    "clip": (
        "model.encode({'text': 'x', 'video': {'array': [red, red2, red], 'video_metadata': "
        "{'fps': 1.0, 'total_num_frames': 3, 'frames_indices': [0, 1, 2]}}})",
        Item("", text="x", video=(picture(), picture("green"), picture())),
    ),
    **QUERIES,
    "document": (f"model.encode_document({TEXT!r})", Item("", text=TEXT)),
    "asked with a picture": (
        "model.encode_query(red, prompt_name='i->t')",
        Item("", images=(picture(),), instruction=INSTRUCTIONS["i->t"]),
    ),
    "in a batch": (f"model.encode(['a', red, {{'text': {LONG!r}, 'image': blue}}, {TEXT!r}])[3]", Item("", text=TEXT)),
    "long, in a batch": (
        f"model.encode(['a', red, {{'text': {LONG!r}, 'image': blue}}])[2]",
        Item("", text=LONG, images=(picture("blue", 112),)),
    ),
}
RAW = {name: CHAT[name] for name in ("text", "picture", "both", *QUERIES)}
SHORT = {"cut": (f"(setattr(model, 'max_seq_length', 60), model.encode({LONG!r}))[1]", Item("", text=LONG))}
CLIP = {
    "text": (f"model.encode({TEXT!r})", Item("", text=TEXT)),
    "picture": ("model.encode(red)", Item("", images=(picture(),))),
    "scaled picture": ("model.encode(large)", Item("", images=(noise(640, 480),))),
    "both": (f"together({TEXT!r}, red)", Item("", text=TEXT, images=(picture(),))),
    "too long": (f"model.encode({LONG!r})", Item("", text=LONG)),
    **QUERIES,
    "in a batch": (f"model.encode(['a', {TEXT!r}, {LONG!r}])[1]", Item("", text=TEXT)),
}
LATE = {
    "document": (f"model.encode_document({TEXT + '. (!)'!r})", Item("", text=f"{TEXT}. (!)")),
    "query": QUERIES["query"],
    "query for pictures": (f"model.encode_query(model.prompts['t->i'] + {TEXT!r})", {"text": TEXT, "target": "i"}),
    "signs in a query": (f"model.encode_query({TEXT + '. (!)'!r})", {"text": f"{TEXT}. (!)"}),
    "long query": (f"model.encode_query({LONG!r})", {"text": LONG}),
    "long query for texts": (f"model.encode_query(model.prompts['t->t'] + {LONG!r})", {"text": LONG, "target": "t"}),
    "in a batch": (f"model.encode_document([{LONG!r}, {TEXT!r}])[1]", Item("", text=TEXT)),
}
TWICE = {
    "picture": ("model.encode(whole(small))", Item("", images=(noise(40, 30),))),
    "both": (f"model.encode({{'text': {TEXT!r}, 'image': whole(large)}})", Item("", text=TEXT, images=(noise(640, 480),))),
    **QUERIES,
}
STILL = {name: asked for name, asked in CHAT.items() if name != "clip"}
ASKED = {
    "unite": CHAT,
    "quickstart": CHAT,
    "unite, 1d qwen3": STILL,
    "unite, qwen2.5": CHAT,
    "unite, qwen3": STILL,
    "jfe": CHAT,
    "jfe, 1d": RAW,
    "jfe, mean": CHAT,
    "unite, raw": RAW,
    "unite, short": SHORT,
    "unite, twice": TWICE,
    "univldr": CLIP,
    "mire": LATE,
}


@pytest.fixture(scope="module")
def sentences(releases, tmp_path_factory):
    """The vectors of all tasks from sentence-transformers, in one process with torchvision and without our code."""
    home = tmp_path_factory.mktemp("sentences")
    pictures = {"red": picture(), "red2": picture("green"), "blue": picture("blue", 112)}
    pictures |= {"large": noise(640, 480), "small": noise(40, 30)}
    for name, data in pictures.items():
        (home / f"{name}.png").write_bytes(data)
    tasks = []
    for name, asked in ASKED.items():
        folder = exported(releases[name], home / name, "sentence-transformers")
        codes = {each: code for each, (code, _) in asked.items()}
        places = {picture: str(home / f"{picture}.png") for picture in pictures}
        tasks.append({"name": name, "folder": str(folder), "asked": codes, "pictures": places})
    (home / "tasks.json").write_text(json.dumps(tasks))
    ran = with_torchvision(WORKER, home / "vectors.pt", home / "tasks.json")
    assert ran.returncode == 0, ran.stderr
    return torch.load(home / "vectors.pt")


@pytest.mark.parametrize("name", ASKED)
def test_sentence_transformers_gives_the_same_vectors_without_our_code(name, sentences, releases):
    encoder, far = releases[name].open_encoder(), {}
    for asked, (_, given) in ASKED[name].items():
        found = sentences[f"{name}: {asked}"]
        expected = one(encoder, given, "document") if isinstance(given, Item) else searched(releases[name], encoder, given)
        assert found.shape == (expected if name == "mire" else expected[0]).shape, asked
        far[asked] = (found - expected).abs().max().item()
    assert max(far.values()) < CLOSE, far


def test_clips_whose_frames_would_be_scaled_differently_are_refused(releases, tmp_path):
    folder = exported(releases["unite, qwen3"], tmp_path / "out", "sentence-transformers")
    ways = json.loads((folder / "sentence_bert_config.json").read_text())["modality_config"]
    assert "image+text" in ways and not any("video" in way for way in ways)
    tokenizer = releases["unite, qwen3"].open_encoder().tokenizer
    clip = [{"role": "user", "content": [{"type": "video"}]}]
    with pytest.raises(jinja2.TemplateError, match="clips would not be read as in training"):
        tokenizer.apply_chat_template(clip, chat_template=(folder / "chat_template.jinja").read_text())


@pytest.mark.parametrize("layout", ["hf", "sentence-transformers"])
def test_the_card_of_a_clip_says_how_texts_were_repaired(layout, releases, tmp_path, monkeypatch):
    folder = exported(releases["univldr"], tmp_path / "out", layout)
    assert "`html.unescape(html.unescape(ftfy.fix_text(text))).lower()` before" in (folder / "README.md").read_text()
    if layout == "hf":
        monkeypatch.chdir(folder)
        namespace = {}
        exec(code_of(folder), namespace)
        text = "two \u201cstars\u201d &amp; a circle"
        ours = rows(releases["univldr"], [Item("", text=text)])[0]
        assert (namespace["encode"](html.unescape(html.unescape(ftfy.fix_text(text))).lower()) - ours).abs().max() < CLOSE
        assert (namespace["encode"](text) - ours).abs().max() > CLOSE


def test_a_folder_whose_pictures_and_frames_are_resized_twice_says_so_and_refuses_clips(releases, tmp_path):
    folder = exported(releases["unite, twice"], tmp_path / "out", "sentence-transformers")
    words = (folder / "README.md").read_text()
    assert "A picture is resized twice" in words and "Clips are refused: the processor here resizes a frame once" in words
    assert "clips would not be read as in training" in (folder / "chat_template.jinja").read_text()


def test_the_files_are_those_that_servers_parse(releases, tmp_path):
    folder = exported(releases["unite"], tmp_path / "out", "sentence-transformers")
    kinds = [module["type"].rpartition(".")[2] for module in json.loads((folder / "modules.json").read_text())]
    assert kinds == ["Transformer", "Pooling", "Normalize"]
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    assert [way for way, used in pooling.items() if used is True] == ["pooling_mode_lasttoken", "include_prompt"]
    assert pooling["pooling_mode_cls_token"] is pooling["pooling_mode_mean_tokens"] is False
    assert json.loads((folder / "sentence_bert_config.json").read_text())["max_seq_length"] == 32768
    fields = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert fields["prompts"] == {"query": "", "document": "", **INSTRUCTIONS}
    assert not (folder / "mirepoix.json").exists()
    assert f"in training at most {UniteConfig().max_frames} were, evenly spaced" in (folder / "README.md").read_text()


@pytest.mark.parametrize(("name", "skipped"), [("mire", set()), ("mire, unpunctuated", {".", "!"})])
def test_late_interaction_has_the_layout_of_pylate(releases, name, skipped, tmp_path):
    folder = exported(releases[name], tmp_path / "out", "sentence-transformers")
    fields = json.loads((folder / "config_sentence_transformers.json").read_text())
    config = BUILT[name][1]
    assert (fields["model_type"], fields["query_prefix"], fields["document_prefix"]) == ("ColBERT", "[unused0]", "[unused1]")
    assert (fields["query_length"], fields["document_length"]) == (config.query_length, config.document_length)
    assert fields["prompts"] == {"query": "", "document": "", **{task: f"{words} " for task, words in INSTRUCTIONS.items()}}
    assert fields["do_query_expansion"] is False and skipped == {".", "!"} & set(fields["skiplist_words"])
    assert [module["path"] for module in json.loads((folder / "modules.json").read_text())] == ["", "1_Dense"]
    assert list(load_file(folder / "1_Dense/model.safetensors")) == ["linear.weight"]
    assert "linear.weight" not in load_file(folder / "model.safetensors")


PYLATE = f"""
import sys, torch
from pylate.models import ColBERT
model, text, long = ColBERT(sys.argv[1], device="cpu"), {TEXT!r}, {LONG!r}
def encode(texts, is_query, **more):
    return model.encode(texts, is_query=is_query, convert_to_tensor=True, show_progress_bar=False, **more)[-1]
torch.save({{
    "document": encode([text + ". (!)"], False),
    "in a batch": encode([long, text], False),
    "query": encode([text + ". (!)"], True),
    "query for pictures": encode([text], True, prompt_name="t->i"),
    "long query": encode([long], True),
    "long query for texts": encode([long], True, prompt_name="t->t"),
}}, sys.argv[2])
"""


@pytest.mark.parametrize("name", ["mire", "mire, unpunctuated"])
def test_pylate_gives_the_same_vectors_of_texts(releases, name, tmp_path):
    release = releases[name]
    ran = with_pylate(PYLATE, exported(release, tmp_path / "out", "sentence-transformers"), tmp_path / "vectors.pt")
    assert ran.returncode == 0, ran.stderr
    found, encoder = torch.load(tmp_path / "vectors.pt"), release.open_encoder()
    expected = {
        "document": one(encoder, Item("", text=f"{TEXT}. (!)"), "document"),
        "in a batch": one(encoder, Item("", text=TEXT), "document"),
        "query": searched(release, encoder, {"text": f"{TEXT}. (!)"}),
        "query for pictures": searched(release, encoder, {"text": TEXT, "target": "i"}),
        "long query": searched(release, encoder, {"text": LONG}),
        "long query for texts": searched(release, encoder, {"text": LONG, "target": "t"}),
    }
    assert {asked: rows.shape for asked, rows in found.items()} == {asked: rows.shape for asked, rows in expected.items()}
    assert max((found[asked] - rows).abs().max() for asked, rows in expected.items()) < CLOSE


# PEFT

ADAPTED = ("unite", "unite, 1d", "jfe, mean", "jfe, late", "univldr")


def taught(encoder, lora, scale):
    """The encoder after a stage of training with adapters: their weights and the temperature have changed."""
    encoder.temperature = 0.03
    encoder.tune(Tuning(towers=encoder.config.TOWERS[:1], lora=lora))
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=scale)
    return encoder


@pytest.fixture(scope="module")
def adapted(twins, tmp_path_factory):
    """Releases of two stages of adapters each."""
    home = tmp_path_factory.mktemp("adapted")
    made = {}
    for name in ADAPTED:
        retriever, config, family = BUILT[name]
        torch.manual_seed(1)
        taught(retriever.build(twins[family], config), Lora(rank=2, alpha=8), 0.02).save(home / name / "first")
        made[name] = released(home / name, taught(load_encoder(home / name / "first"), Lora(rank=3, alpha=3), 0.01))
    return made


@pytest.mark.parametrize("name", ADAPTED)
def test_the_adapter_over_the_base_gives_the_weights_after_two_stages(name, adapted, twins, tmp_path, monkeypatch):
    base = twins[BUILT[name][2]]["model"].name
    folder = exported(adapted[name], tmp_path / "out", "peft", base=str(base))
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 5
    assert not (folder / "model.safetensors").exists()
    assert ("The example reads no clips." in (folder / "README.md").read_text()) == (name != "univldr")
    monkeypatch.chdir(folder)
    namespace = {}
    exec(code_of(folder), namespace)
    red = png(namespace["picture"])
    shown = [Item("text", text=TEXT), Item("picture", images=(red,)), Item("both", text=TEXT, images=(red,))]
    expected = rows(adapted[name], shown)
    assert (namespace["vectors"] - expected).abs().max() < CLOSE
    untrained = BUILT[name][0].build(twins[BUILT[name][2]], BUILT[name][1]).encode(shown).rows_NTD[:, 0]
    assert (untrained - expected).abs().max() > 100 * CLOSE
    merged = namespace["model"].merge_and_unload().state_dict()
    whole = adapted[name].open_encoder().model.state_dict()
    assert merged.keys() == whole.keys()
    # CLIP's scale is its temperature: no vector depends on it, and no adapter contains it.
    assert all(torch.allclose(merged[key], whole[key], atol=1e-6) for key in whole if key != "logit_scale")


def test_the_base_is_the_checkpoint_that_the_run_started_from(adapted, twins, tmp_path):
    base = twins["qwen2_vl"]["model"].name
    run = {"settings": {"backbone": {"name": "tiny"}}, "stages": [{"name": "backbone", "digest": "d", "target": str(base)}]}
    run |= {"recipe": "mine", "run": "now", "data": {"digest": "", "rows": {}}}
    folder = exported(adapted["unite"], tmp_path / "out", "peft", run=run)
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)
    refused("--base", at=lambda: exported(adapted["unite"], tmp_path / "other", "peft"))


def test_a_fully_trained_release_is_not_exported_as_an_adapter(releases, twins, tmp_path):
    encoder, base = releases["unite"].open_encoder(), str(twins["qwen2_vl"]["model"].name)
    refused("added nothing", "--to hf", at=lambda: exported(releases["unite"], tmp_path / "out", "peft", base=base))
    with torch.no_grad():
        encoder.model.language_model.layers[0].mlp.up_proj.weight.add_(0.01 * torch.randn(128, 64))
    full = released(tmp_path / "full", encoder)
    refused("not of low rank", "up_proj", "--to hf", at=lambda: exported(full, tmp_path / "out", "peft", base=base))
    refused("only in its base", at=lambda: exported(full, tmp_path / "out", "peft", base=str(twins["clip"]["model"].name)))
    encoder = releases["unite"].open_encoder()
    with torch.no_grad():
        encoder.model.language_model.norm.weight.add_(0.1)
    norm = released(tmp_path / "norm", encoder)
    refused("not of low rank", "norm.weight", at=lambda: exported(norm, tmp_path / "out", "peft", base=base))
    assert not (tmp_path / "out").exists()


# Refusals


def test_a_layout_that_a_library_cannot_express_is_refused_with_a_possible_one(releases, tmp_path):
    refused("marvel", "--to hf", at=lambda: exported(releases["marvel"], tmp_path / "out", "sentence-transformers"))
    refused("mire", "--to hf", at=lambda: exported(releases["mire"], tmp_path / "out", "peft", base="x"))
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_empty_is_not_changed(releases, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("kept")
    refused("is not empty", at=lambda: exported(releases["unite"], tmp_path / "out", "hf"))
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "mine"]
    (tmp_path / "out/mine").unlink()
    assert (exported(releases["unite"], tmp_path / "out", "hf") / "config.json").is_file()


def test_an_export_that_fails_half_way_leaves_nothing(releases, tmp_path, monkeypatch):
    def broken(order, draft):
        (draft / "half").write_text("")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(LAYOUTS, "hf", broken)
    refused("No space left", at=lambda: exported(releases["unite"], tmp_path / "out", "hf"))
    assert not list(tmp_path.iterdir())


def test_unknown_layouts_and_needless_bases_are_refused(releases, tmp_path):
    refused("'onnx'", *LAYOUTS, at=lambda: exported(releases["unite"], tmp_path / "out", "onnx"))
    refused("--to peft", at=lambda: exported(releases["unite"], tmp_path / "out", "hf", base="x"))


def test_a_release_that_lacks_a_weight_is_refused(releases, tmp_path):
    folder = shutil.copytree(releases["unite"].folder, tmp_path / "release")
    weights = load_file(folder / "encoder/model.safetensors")
    weights.pop("visual.merger.ln_q.weight")
    save_file(weights, folder / "encoder/model.safetensors", {"format": "pt"})
    lacking = replace(releases["unite"], folder=folder)
    refused("lacks 1 weights", "ln_q", at=lambda: exported(lacking, tmp_path / "out", "hf"))


# The command


def test_the_command_prints_its_files_and_how_to_open_them(releases, tmp_path, capsys):
    folder = tmp_path / "out"
    assert main(["export", str(releases["univldr"].folder), str(folder), "--to", "sentence-transformers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {line.split("  ")[0] for line in lines[:-2]} == files
    assert lines[-2].endswith(f"{folder}; README.md has the full example of this:")
    assert lines[-1].strip() == f'SentenceTransformer("{folder}")'


def test_the_command_refuses_in_one_line(releases, tmp_path, capsys):
    assert main(["export", str(releases["jfe, late"].folder), str(tmp_path / "out"), "--to", "sentence-transformers"]) == 2
    assert capsys.readouterr().err.startswith("mirepoix: the release was trained with fusion=late")
    assert main(["export", str(tmp_path), str(tmp_path / "out"), "--to", "hf"]) == 2
    assert "is neither a release nor the folder of a run" in capsys.readouterr().err
