"""What only sentence-transformers opens: what it needs, what it would run, and how it is refused."""

import copy
import json
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from mirepoix.models.adopted.adopted import Adopted
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.adopted.collate import Part
from mirepoix.models.adopted.layout import read_layout
from mirepoix.models.adopted.library import open_library, weightless
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.encoder import DESCRIPTION, load_encoder, load_own_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from tests.models.adopted.layouts import WIDTH
from tests.models.adopted.test_adopted import PICTURES, TEXTS, adopt
from tests.models.adopted.written import amend, by_library, pooling, transformer, write
from tests.vision import with_torchvision

ROOT = Path(__file__).parents[3]
MODEL = """
from pathlib import Path

from transformers import BertModel


class Custom(BertModel):
    def forward(self, *args, **kwargs):
        Path({marker!r}).touch()
        out = super().forward(*args, **kwargs)
        out.last_hidden_state = -2 * out.last_hidden_state[:, :, [1, 0, *range(2, out.last_hidden_state.shape[2])]]
        return out
"""


@pytest.fixture
def custom(own, tmp_path):
    """A text model whose class is in its own folder; it leaves a file behind where it runs."""
    folder = own("bert, mean")
    (folder / "custom.py").write_text(MODEL.format(marker=str(tmp_path / "ran")))
    amend(folder / "config.json", auto_map={"AutoModel": "custom.Custom"})
    return folder, tmp_path / "ran"


def test_code_of_a_folder_runs_where_it_is_trusted_and_travels_with_what_is_saved(custom, layout, tmp_path):
    folder, ran = custom
    encoder = adopt(folder, trust_remote_code=True)
    found = encoder.encode(TEXTS).rows_NTD
    assert ran.exists() and not torch.allclose(found, adopt(layout("bert, mean")).encode(TEXTS).rows_NTD, atol=1e-2)
    encoder.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / DESCRIPTION).read_text())["custom_code"] is True
    ran.unlink()
    with pytest.raises(Refused, match=r"runs code that its checkpoint brought; read it, then say that it may: trust_remote_code$"):
        load_encoder(tmp_path / "saved")
    assert not ran.exists()
    again = load_encoder(tmp_path / "saved", trust_remote_code=True)
    torch.testing.assert_close(again.encode(TEXTS).rows_NTD, found, atol=1e-6, rtol=0)
    again.save(tmp_path / "again")
    assert load_encoder(tmp_path / "again", trust_remote_code=True).runs_custom_code


def test_a_model_without_code_of_its_own_says_nothing_of_it(layout, tmp_path):
    adopt(layout("bert, mean"), trust_remote_code=True).save(tmp_path / "saved")
    assert "custom_code" not in json.loads((tmp_path / "saved" / DESCRIPTION).read_text())


def test_a_description_without_the_mark_does_not_let_code_run(custom, tmp_path):
    folder, ran = custom
    adopt(folder, trust_remote_code=True).save(tmp_path / "saved")
    described = json.loads((tmp_path / "saved" / DESCRIPTION).read_text())
    del described["custom_code"]
    (tmp_path / "saved" / DESCRIPTION).write_text(json.dumps(described))
    with pytest.raises(Refused, match="needs code of its own"):
        load_encoder(tmp_path / "saved")
    assert not ran.exists()


def test_a_class_of_transformers_runs_nothing_of_its_folder_whoever_opens_what_was_saved(own, tmp_path):
    """A checkpoint of a known family may name a class of its own too, which nobody asked to run."""
    folder = own("clip")
    ran = tmp_path / "ran"
    (folder / "custom.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    amend(folder / "config.json", auto_map={"AutoModel": "custom.Model", "AutoConfig": "custom.Config"})
    encoder = adopt(folder)
    encoder.save(tmp_path / "saved")
    assert "auto_map" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    assert load_own_encoder(tmp_path / "saved").encode(TEXTS).rows_NTD.equal(encoder.encode(TEXTS).rows_NTD)
    # Who writes the code into a saved folder, and no mark, gets nothing run either.
    amend(tmp_path / "saved" / "config.json", auto_map={"AutoModel": "custom.Model", "AutoConfig": "custom.Config"})
    shutil.copy(folder / "custom.py", tmp_path / "saved")
    load_own_encoder(tmp_path / "saved")
    assert not ran.exists()


def test_an_adapter_with_modules_of_its_own_is_opened_by_the_library_over_its_base(layout, bert, tmp_path):
    model = get_peft_model(AutoModel.from_pretrained(bert), LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    folder = tmp_path / "adapter"
    shutil.copytree(layout("bert with a dense layer"), folder, ignore=shutil.ignore_patterns("model.safetensors", "config.json"))
    for place in ("1_Pooling", "2_Dense"):
        shutil.copytree(layout("bert with a dense layer") / place, folder / place, dirs_exist_ok=True)
    model.save_pretrained(folder)
    amend(folder / "config_sentence_transformers.json", prompts={"query": "ADAPTED: "})
    encoder = adopt(folder)
    assert encoder.dimension == 16 and not any("lora" in name for name in encoder.state_dict())
    half = tmp_path / "half"  # the usual case: an adapter of float32 over a model of bfloat16
    shutil.copytree(bert, half)
    AutoModel.from_pretrained(bert, dtype=torch.bfloat16).save_pretrained(half)
    shutil.copytree(folder, tmp_path / "over half")
    amend(tmp_path / "over half" / "adapter_config.json", base_model_name_or_path=str(half))
    assert (adopt(tmp_path / "over half").encode(TEXTS).rows_NTD - encoder.encode(TEXTS).rows_NTD).abs().max() < 0.02
    for role in ("query", "document"):
        torch.testing.assert_close(encoder.encode(TEXTS, role=role).rows_NTD[:, 0], by_library(folder, TEXTS, role), atol=1e-5, rtol=0)
    encoder.save(tmp_path / "saved")
    torch.testing.assert_close(load_encoder(tmp_path / "saved").encode(TEXTS).rows_NTD, encoder.encode(TEXTS).rows_NTD, atol=1e-6, rtol=0)
    with pytest.raises(Refused, match=r"an adapter with modules of its own, .* leave backbone\.base out"):
        Adopted.build({"model": Checkpoint(folder, base=str(bert))}, AdoptedConfig())


def test_a_pooler_that_is_read_has_to_be_there(own):
    folder = own("bert, mean")
    way = {"method": "forward", "method_output_name": "pooler_output"}
    amend(folder / "sentence_bert_config.json", modality_config={"text": way}, module_output_name="sentence_embedding")
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([listed[0]]))
    encoder = adopt(folder)
    assert any("pooler" in name for name, _ in encoder.towers["text"].named_parameters())
    weights = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in weights.items() if "pooler" not in key}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(Refused, match=r"lacks 2 weights \(pooler\.dense\.bias, pooler\.dense\.weight\), which would be random"):
        adopt(folder)


def test_a_tokenizer_without_its_vocabulary_is_refused(own, layout, tmp_path):
    folder = own("bert, mean")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(Refused, match=r"has a tokenizer without a vocabulary \(.*tokenizer\.json\); give a whole model folder$"):
        adopt(folder)
    routed = shutil.copytree(layout("routed"), tmp_path / "routed")  # whose other module has a file of that name
    next(routed.glob("document_0_*/tokenizer.json")).unlink()
    with pytest.raises(Refused, match="has a tokenizer without a vocabulary"):
        adopt(routed)


@pytest.mark.parametrize("name", ["clip", "bert, mean"])
def test_damaged_weights_are_refused_in_one_line(name, own):
    folder = own(name)
    whole = (folder / "model.safetensors").read_bytes()
    for damaged in (whole[: len(whole) // 2], b"no weights at all"):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(Refused, match=rf"{re.escape(str(folder))} cannot be (read|opened): [^\n]*$"):
            adopt(folder)


def test_an_adapter_over_it_is_merged(layout, bert, tmp_path):
    model = get_peft_model(AutoModel.from_pretrained(bert), LoraConfig(r=4, lora_alpha=8, target_modules=["query", "value"]))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    model.save_pretrained(tmp_path / "adapter")
    merged = model.merge_and_unload()
    folder = shutil.copytree(layout("bert, mean"), tmp_path / "merged")
    merged.save_pretrained(folder)
    adapter = Checkpoint(tmp_path / "adapter", base=str(layout("bert, mean")))
    found = Adopted.build({"model": adapter}, AdoptedConfig()).eval().encode(TEXTS).rows_NTD[:, 0]
    torch.testing.assert_close(found, by_library(folder, TEXTS), atol=1e-5, rtol=0)
    assert AdoptedConfig().traits({"model": adapter}).towers == ("text",)


def test_position_biases_of_an_adopted_t5_do_not_decay(twin, tmp_path):
    encoder = adopt(write(tmp_path / "t5", transformer(twin("t5_clip")["text"].name), pooling(WIDTH, "mean")))
    matrices = [name for name, weight in encoder.named_parameters() if weight.ndim > 1]
    named = [name for name in matrices if name.endswith(encoder.UNDECAYED)]
    assert len(matrices) > 10 and [name.split(".block.")[1] for name in named] == [
        "0.layer.0.SelfAttention.relative_attention_bias.weight",
    ]


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


@pytest.mark.parametrize("name", ["clip", "bert, mean"])
def test_pickled_weights_are_read_as_tensors_alone_and_run_nothing(name, own, layout, tmp_path):
    folder = own(name)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    torch.testing.assert_close(adopt(folder).encode(TEXTS).rows_NTD, adopt(layout(name)).encode(TEXTS).rows_NTD)
    torch.save({**weights, "more": Hostile(tmp_path / "ran")}, folder / "pytorch_model.bin", pickle_module=pickle)
    with pytest.raises(Refused, match=rf"{re.escape(str(folder))} cannot be (read|opened): .*; give a whole "):
        adopt(folder)
    assert not (tmp_path / "ran").exists()


def test_a_folder_does_not_turn_off_what_keeps_a_pickle_from_running(own, tmp_path):
    folder = own("bert, mean")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "more": Hostile(tmp_path / "ran")}, folder / "pytorch_model.bin", pickle_module=pickle)
    amend(folder / "config.json", dtype=None)
    amend(folder / "sentence_bert_config.json", model_args={"weights_only": False, "dtype": "auto"})
    for given in (False, True):
        with pytest.raises(Refused, match=r"sets how weights are loaded \(model_args: weights_only\)"):
            adopt(folder, trust_remote_code=given)
    with pytest.raises(Refused, match="cannot be opened: "):  # nor where nobody looked at its settings
        open_library(folder, read_layout(own_copy(folder, tmp_path)), Checkpoint(folder), None)
    assert not (tmp_path / "ran").exists()


def own_copy(folder, tmp_path):
    """The folder without the settings that are refused."""
    copy = shutil.copytree(folder, tmp_path / "copy")
    amend(copy / "sentence_bert_config.json", model_args={})
    return copy


def test_weights_of_another_shape_are_refused(own):
    folder = own("bert, mean")
    amend(folder / "config.json", intermediate_size=100)
    with pytest.raises(Refused, match=rf"^(checkpoint )?{re.escape(str(folder))} (cannot be opened|lacks)"):
        adopt(folder)


def test_a_model_that_reads_clips_needs_torchvision_and_says_so(twin, tmp_path):
    from tests.models.adopted.test_layout import LISTED

    folder = shutil.copytree(twin("qwen2_vl")["model"].name, tmp_path / "chat")
    (folder / "modules.json").write_text(json.dumps(LISTED))
    way = {"method": "forward", "method_output_name": "last_hidden_state"}
    amend(
        folder / "sentence_bert_config.json",
        modality_config={"text": way, "image": way, "message": {**way, "format": "structured"}},
        module_output_name="token_embeddings",
    )
    amend(folder / "1_Pooling" / "config.json", word_embedding_dimension=64, pooling_mode_lasttoken=True)
    with pytest.raises(Refused, match=rf"^{re.escape(str(folder))} cannot be opened: \w+ of it needs torchvision, which is not installed"):
        adopt(folder)


CONVERSATIONS = """
import io, sys, torch
from pathlib import Path
from PIL import Image
from sentence_transformers import SentenceTransformer
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from tests.models.adopted.test_adopted import PICTURES, TEXTS, adopt

torch.manual_seed(0)
folder, saved = map(Path, sys.argv[1:])
encoder, library = adopt(folder), SentenceTransformer(str(folder), device="cpu")
both = Item("both", text="two stars", images=PICTURES[1].images)
items = [TEXTS[0], PICTURES[0], both, TEXTS[1]]
opened = lambda item: Image.open(io.BytesIO(item.images[0])).convert("RGB")
given = [TEXTS[0].text, {"image": opened(PICTURES[0])}, {"image": opened(both), "text": both.text}, TEXTS[1].text]
encoder.save(saved)
for role, encode in (("query", library.encode_query), ("document", library.encode_document)):
    expected = torch.nn.functional.normalize(torch.stack([encode([each], convert_to_tensor=True)[0] for each in given]), dim=-1)
    for found in (encoder, load_encoder(saved)):
        print(role, float((found.encode(items, role=role).rows_NTD[:, 0] - expected).abs().max()))
queries = library.encode_query(given, convert_to_tensor=True)
print("apart", float((library.encode_document(given, convert_to_tensor=True) - queries).abs().max()))
short = adopt(folder, max_length=90)
for item in (Item("w", text="star " * 200), Item("b", text="star " * 200, images=PICTURES[0].images), Item("s", text="star")):
    print("over", *(short.collator.overlong(item, "query") or ("whole",)))
texts = encoder.training_collator(TEXTS[:1], TEXTS[1:2])
print("blank", "message.pixel_values" in texts, texts["message.places"].tolist(), sorted(encoder.towers))
"""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\\n{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><|image_pad|>"
    "<|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\\n{% endfor %}<|im_start|>assistant\\n"
)


def test_a_model_that_reads_conversations_gives_the_librarys_vectors_in_mixed_batches(twin, tmp_path):
    """Where torchvision is: a prompt is the turn of the system, a picture with a text is one item, and a batch is one call."""
    from tests.models.adopted.test_layout import LISTED

    folder = shutil.copytree(twin("qwen2_vl")["model"].name, tmp_path / "chat")
    (folder / "modules.json").write_text(json.dumps(LISTED))
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    way = {"method": "forward", "method_output_name": "last_hidden_state"}
    amend(
        folder / "sentence_bert_config.json",
        modality_config={"text": way, "image": way, "image+text": way, "message": {**way, "format": "structured"}},
        module_output_name="token_embeddings",
    )
    amend(folder / "1_Pooling" / "config.json", word_embedding_dimension=64, pooling_mode_lasttoken=True)
    amend(folder / "config_sentence_transformers.json", prompts={"query": "Find what is meant."})
    done = with_torchvision(CONVERSATIONS, folder, tmp_path / "saved")
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [
        line.split(" ", 1) for line in done.stdout.splitlines() if line.split(" ")[0] in ("query", "document", "apart", "over", "blank")
    ]
    said = [(name, float(value)) for name, value in lines if name not in ("over", "blank")]
    assert [name for name, _ in said] == ["query", "query", "document", "document", "apart"]
    assert all(value < 1e-5 for name, value in said if name != "apart") and dict(said)["apart"] > 1e-3
    assert lines[-1][1] == "True [0, 1, -1] ['text', 'vision']"
    words, both, short = (value.split() for name, value in lines if name == "over")
    assert words[1] == both[1] == "90" and 200 < int(words[0]) < int(both[0]) and short == ["whole"]


@pytest.mark.parametrize(
    ("items", "images", "frames"),
    [(TEXTS[:1], 1, 2), (PICTURES[:1], 0, 2), ([Item("c", video=PICTURES[0].images * 2)], 1, 0)],
    ids=["texts", "pictures", "clips"],
)
def test_in_training_a_model_of_conversations_reads_a_blank_picture_and_clip_where_a_batch_lacks_them(items, images, frames, layout):
    reader = copy.deepcopy(adopt(layout("static")).training_collator.reader)
    reader.message, reader.reads = True, Modality.TEXT | Modality.IMAGE | Modality.VIDEO
    blank = reader.blank("message", [Part(item, "document") for item in items])
    assert (len(blank.item.images), len(blank.item.video), blank.item.text) == (images, frames, "")


def test_where_the_library_is_not_installed_the_extra_is_named(layout):
    code = (
        "import sys; sys.modules['sentence_transformers'] = None\n"
        "from mirepoix.models.adopted.adopted import Adopted\n"
        "from mirepoix.models.adopted.adopted_config import AdoptedConfig\n"
        "from mirepoix.models.backbones.checkpoint_config import Checkpoint\n"
        "for folder in sys.argv[1:]:\n"
        "    try: print('opened', Adopted.build({'model': Checkpoint(folder)}, AdoptedConfig()).dimension)\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    command = [sys.executable, "-c", code, str(layout("clip in a root")), str(layout("bert, mean"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    first, second = [line for line in done.stdout.splitlines() if line]
    assert first == "opened 64"
    assert re.match(r"Refused .*bert-mean is a sentence-transformers folder, and that library is not installed .*extra sentence-tr", second)


def test_the_reader_of_a_model_has_no_weights(layout):
    encoder = adopt(layout("clip with a dense layer"))
    reader = encoder.collator.reader
    weights = [*reader.model.parameters(), *reader.model.buffers()]
    assert weights and all(weight.device.type == "meta" for weight in weights)
    assert all(weight.device.type == "cpu" for weight in encoder.parameters())
    assert weightless(encoder.model).state_dict().keys() == encoder.model.state_dict().keys()
