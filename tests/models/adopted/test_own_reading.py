"""A checkpoint that says how it is read is refused by a retriever that reads in a way of its own; a base model says nothing."""

import json
import shutil

import pytest

from mirepoix.components.training.backbone_config import BackboneConfig, fingerprint
from mirepoix.models.adopted.own_reading import own_reading
from mirepoix.models.errors import Refused
from mirepoix.models.retrievers.jfe_config import JfeConfig
from mirepoix.models.retrievers.unite_config import UniteConfig
from mirepoix.models.retrievers.univldr_config import UniVLDRConfig
from tests.models.adopted.written import amend

CHAT = "{% for message in messages %}{{ message.content }}{% endfor %}"


@pytest.fixture
def qwen3_embedding(twin, tmp_path):
    """The layout of Qwen3-VL-Embedding: the modules, prompts and chat template of sentence-transformers beside a Qwen3-VL."""
    folder = shutil.copytree(twin("qwen3_vl")["model"].name, tmp_path / "embedding")
    kinds = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "chat_template.jinja").write_text(CHAT)
    amend(folder / "1_Pooling" / "config.json", word_embedding_dimension=64, pooling_mode_lasttoken=True)
    amend(folder / "config_sentence_transformers.json", prompts={"query": "Represent the user's input."})
    return folder


@pytest.fixture
def gme(twin, tmp_path):
    """The layout of an early GME: a Qwen2-VL with a script that encodes with it."""
    folder = shutil.copytree(twin("qwen2_vl")["model"].name, tmp_path / "gme")
    (folder / "gme_inference.py").write_text("raise RuntimeError('never run')\n")
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT}))
    return folder


@pytest.mark.parametrize("encoder", [UniteConfig(), JfeConfig()])
def test_an_embedding_model_is_refused_by_its_name_before_the_first_stage(encoder, qwen3_embedding, gme):
    for folder, kind, said in (
        (qwen3_embedding, "Qwen3-VL-Embedding", "modules,prompts,chat_template"),
        (gme, "GME", "script,chat_template"),
    ):
        with pytest.raises(Refused, match=rf"has the layout of {kind}, and {encoder.ARCHITECTURE} .*backbone\.ignore=\[{said}\]$"):
            fingerprint(BackboneConfig(encoder, str(folder)))
        assert fingerprint(BackboneConfig(encoder, str(folder), ignore=tuple(said.split(","))))


def test_what_is_not_ignored_is_named(qwen3_embedding):
    with pytest.raises(Refused, match=r"would not obey modules \(modules\.json\), prompts \(config_sentence_transformers\.json\); take"):
        fingerprint(BackboneConfig(UniteConfig(), str(qwen3_embedding), ignore=("chat_template",)))


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_a_base_model_with_a_chat_template_says_nothing(family, twin, tmp_path):
    folder = shutil.copytree(twin(family)["model"].name, tmp_path / "base")
    (folder / "chat_template.jinja").write_text(CHAT)
    assert own_reading(folder) == {}
    assert fingerprint(BackboneConfig(UniteConfig(), str(folder)))


def test_a_clip_in_a_sentence_transformers_folder_says_nothing_but_its_prompts(layout, own):
    assert own_reading(layout("chinese_clip in a root")) == {}
    folder = own("clip in a root")
    assert own_reading(folder) == {"prompts": "config_sentence_transformers.json"}
    with pytest.raises(Refused, match="an embedding model, and univldr reads"):
        fingerprint(BackboneConfig(UniVLDRConfig(), str(folder)))


def test_of_a_hub_id_what_is_fetched_is_looked_at_before_it_is_built_and_of_an_adapter_the_model_under_it(gme, tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **given: str(gme))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", absent)
    with pytest.raises(Refused, match="has the layout of GME"):
        BackboneConfig(UniteConfig(), "Alibaba/gme").refuse_unfit(fetch=True)
    adapter = tmp_path / "adapter"
    amend(adapter / "adapter_config.json", peft_type="LORA", base_model_name_or_path=str(gme))
    with pytest.raises(Refused, match="has the layout of GME"):
        fingerprint(BackboneConfig(UniteConfig(), str(adapter)))
    with pytest.raises(Refused, match="has the layout of GME"):
        fingerprint(BackboneConfig(UniteConfig(), str(adapter), base="Alibaba/gme"))


def absent(*_, **__):
    raise OSError("not there")


@pytest.mark.parametrize("settings", ['{"prompts": null}', "[1]", "{"])
def test_settings_of_another_form_say_nothing(settings, twin, tmp_path):
    folder = shutil.copytree(twin("qwen2_vl")["model"].name, tmp_path / "odd")
    (folder / "config_sentence_transformers.json").write_text(settings)
    assert own_reading(folder) == {}
