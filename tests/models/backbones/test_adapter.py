"""An adapter is merged into the model under it, whole or not at all, whichever release of transformers named its layers."""

import json
import pickle
import re
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from mirepoix.models.adopted.adopted import Adopted
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import open_checkpoint
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.retrievers.unite import Unite
from mirepoix.models.retrievers.unite_config import UniteConfig
from tests.models.conftest import picture

CONFIG = "adapter_config.json"
WORDS = torch.tensor([[3, 20, 21, 22, 4]])


def made(base, folder, layers: str, **settings):
    """An adapter as PEFT saves it, and the model with it merged."""
    model = get_peft_model(AutoModel.from_pretrained(base), LoraConfig(r=4, lora_alpha=8, target_modules=layers, **settings))
    torch.manual_seed(7)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.05)
    model.save_pretrained(folder)
    return model.merge_and_unload().eval()


@pytest.fixture
def clip(twin, tmp_path):
    base = twin("clip")["model"].name
    return base, tmp_path / "adapter", made(base, tmp_path / "adapter", r".*(q_proj|fc1|visual_projection)")


def test_a_model_with_its_adapter_merged_is_saved_and_opened_as_one_without(clip, tmp_path):
    _, adapter, merged = clip
    encoder = Adopted.build({"model": Checkpoint(adapter)}, AdoptedConfig()).eval()
    encoder.save(tmp_path / "saved")
    whole = AutoModel.from_pretrained(tmp_path / "saved").state_dict()
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(whole[name], weight, atol=1e-6, rtol=0)
    items = [Item("t", text="a small red circle"), Item("p", images=(picture(),))]
    torch.testing.assert_close(load_encoder(tmp_path / "saved").encode(items).rows_NTD, encoder.encode(items).rows_NTD)


def edit(folder, **fields):
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_the_weights_are_those_that_peft_merges(clip):
    base, adapter, merged = clip
    opened = open_checkpoint(Checkpoint(adapter), "multimodal")
    assert opened.model.state_dict().keys() == AutoModel.from_pretrained(base).state_dict().keys()
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(opened.model.state_dict()[name], weight, atol=1e-6, rtol=0)
    assert opened.tokenizer is not None and opened.image_processor is not None
    assert all(weight.requires_grad for weight in opened.model.parameters())


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"use_rslora": True}])
def test_other_kinds_of_low_rank_changes_are_merged_too(settings, twin, tmp_path):
    merged = made(twin("clip")["model"].name, tmp_path / "adapter", r".*(q_proj|fc1)", **settings)
    opened = open_checkpoint(Checkpoint(tmp_path / "adapter"), "multimodal").model
    torch.testing.assert_close(
        opened.get_text_features(WORDS).pooler_output, merged.get_text_features(WORDS).pooler_output, atol=1e-5, rtol=0
    )


def test_an_adapter_of_an_older_transformers_is_renamed_and_not_left_empty(twin, tmp_path):
    """Qwen2-VL had its layers at `model.layers` then; PEFT itself finds none of them."""
    base, adapter = twin("qwen2_vl")["model"].name, tmp_path / "adapter"
    merged = made(base, adapter, r".*language_model.*(q_proj|down_proj)")
    weights = load_file(adapter / "adapter_model.safetensors")
    renamed = {name.replace("base_model.model.language_model.", "base_model.model.model."): weight for name, weight in weights.items()}
    assert len(renamed) == 8 and not renamed.keys() & weights.keys()
    save_file(renamed, adapter / "adapter_model.safetensors", {"format": "pt"})
    edit(adapter, target_modules=["q_proj", "down_proj"])
    opened = open_checkpoint(Checkpoint(adapter), "multimodal").model
    for name, weight in merged.state_dict().items():
        torch.testing.assert_close(opened.state_dict()[name], weight, atol=1e-6, rtol=0)


def test_retrievers_and_adopted_models_are_built_over_an_adapter(clip, twin, tmp_path):
    base, adapter, merged = clip
    merged.save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(base / name, tmp_path / "merged")
    items = [Item("a", text="a small red circle"), Item("b", images=(picture(),))]
    of_adapter, of_merged = (
        Adopted.build({"model": Checkpoint(folder)}, AdoptedConfig()).eval().encode(items).rows_NTD
        for folder in (adapter, tmp_path / "merged")
    )
    torch.testing.assert_close(of_adapter, of_merged, atol=1e-5, rtol=0)
    made(twin("qwen2_vl")["model"].name, tmp_path / "unite", r".*language_model.*q_proj")
    for number, (kind, config, folder) in enumerate(((Adopted, AdoptedConfig(), adapter), (Unite, UniteConfig(), tmp_path / "unite"))):
        encoder = kind.build({"model": Checkpoint(folder)}, config).eval()
        encoder.save(tmp_path / f"saved{number}")
        torch.testing.assert_close(
            load_encoder(tmp_path / f"saved{number}").encode(items).rows_NTD, encoder.encode(items).rows_NTD, atol=1e-6, rtol=0
        )


def test_the_model_under_it_can_be_named(clip, tmp_path):
    base, adapter, _ = clip
    edit(adapter, base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(Refused, match=r"gone is neither a folder|gone cannot be opened|gone' is neither"):
        open_checkpoint(Checkpoint(adapter), "multimodal")
    assert open_checkpoint(Checkpoint(adapter, base=str(base)), "multimodal").model


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"base_model_name_or_path": None}, r"is an adapter and names no model under it; give backbone\.base=FOLDER_OR_ID$"),
        ({"peft_type": "IA3"}, r"is an adapter of the kind IA3, and only low-rank ones \(LORA\) can be merged"),
        ({"modules_to_save": ["visual_projection"]}, r"replaces whole modules \(visual_projection\) besides its low-rank changes"),
    ],
)
def test_an_adapter_that_cannot_be_merged_is_refused(fields, why, clip):
    edit(clip[1], **fields)
    with pytest.raises(Refused, match=why):
        open_checkpoint(Checkpoint(clip[1]), "multimodal")


def test_an_adapter_of_another_model_is_refused_with_how_much_of_it_fits(clip, twin):
    adapter = clip[1]
    with pytest.raises(Refused, match=rf"^adapter {re.escape(str(adapter))} (has \d+ tensors and \d+ fit|does not fit) \w+.*"):
        open_checkpoint(Checkpoint(adapter, base=str(twin("qwen2_vl")["model"].name)), "multimodal")


def test_an_adapter_that_lacks_tensors_is_refused(clip):
    path = clip[1] / "adapter_model.safetensors"
    weights = load_file(path)
    save_file(dict(list(weights.items())[2:]), path, {"format": "pt"})
    with pytest.raises(Refused, match=rf"has {len(weights) - 2} tensors and {len(weights) - 2} fit CLIPModel .*backbone\.base"):
        open_checkpoint(Checkpoint(clip[1]), "multimodal")


def test_an_adapter_without_weights_is_refused(clip):
    (clip[1] / "adapter_model.safetensors").unlink()
    with pytest.raises(Refused, match=r"has an adapter_config\.json and no weights \(adapter_model\.safetensors or adapter_model\.bin\)"):
        open_checkpoint(Checkpoint(clip[1]), "multimodal")


def test_a_model_beside_its_adapter_is_refused_as_it_may_hold_it_already(clip):
    base, adapter, _ = clip
    shutil.copy(base / "config.json", adapter)
    with pytest.raises(Refused, match=r"holds a model and an adapter .* and does not say whether"):
        open_checkpoint(Checkpoint(adapter), "multimodal")


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (open, (str(self.marker), "w"))


def test_a_pickled_adapter_is_read_as_tensors_alone_and_runs_nothing(clip, tmp_path):
    adapter = clip[1]
    weights = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(weights, adapter / "adapter_model.bin")
    merged = open_checkpoint(Checkpoint(adapter), "multimodal").model
    torch.testing.assert_close(merged.get_text_features(WORDS).pooler_output, clip[2].get_text_features(WORDS).pooler_output)
    torch.save({**weights, "more": Hostile(tmp_path / "ran")}, adapter / "adapter_model.bin", pickle_module=pickle)
    with pytest.raises(Refused, match=r"adapter_model\.bin cannot be read as weights: .*; give an adapter as safetensors$"):
        open_checkpoint(Checkpoint(adapter), "multimodal")
    assert not (tmp_path / "ran").exists()
