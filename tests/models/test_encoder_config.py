"""Every config of the models is imported without torch, and names the encoder that it is for."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from mirepoix.models.encoder import encoder_class
from mirepoix.models.encoder_config import ARCHITECTURES, EncoderConfig, config_class, described_config
from mirepoix.models.errors import Refused
from mirepoix.models.retrievers.qwen_vl_config import OneTowerConfig
from mirepoix.models.retrievers.t5_clip_config import T5ClipConfig

ROOT = Path(__file__).parents[2]
CONFIGS = [".".join(("mirepoix", *path.relative_to(ROOT).with_suffix("").parts)) for path in sorted((ROOT / "models").rglob("*_config.py"))]
LIGHT = [*CONFIGS, *(f"mirepoix.models.{name}" for name in ("errors", "item", "losses.objective", "options"))]
IMPORT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*sorted({"torch", "transformers", "tokenizers", "safetensors", "PIL", "ray"} & set(sys.modules)))
"""


def test_every_retriever_has_a_config_module_among_those_that_are_tested():
    assert {path.partition(":")[0] for path in ARCHITECTURES.values()} < set(CONFIGS)


def test_no_config_module_imports_torch_or_transformers():
    command = [sys.executable, "-c", IMPORT, *LIGHT]
    found = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout.strip()) == (0, ""), found.stdout + found.stderr


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_config_names_its_class_and_what_its_retriever_is_built_over(name):
    config = config_class(name)
    assert name == config.ARCHITECTURE
    assert config.CHECKPOINTS and config.FAMILIES and config.TOWERS and config.READS
    encoder = encoder_class(config())
    assert encoder is encoder_class(config)
    assert f"{encoder.__module__}:{encoder.__qualname__}" == config.ENCODER


def test_an_unknown_retriever_is_refused_with_those_there_are():
    with pytest.raises(Refused, match=r"^retriever 'clippy' is not known; .*jfe, marvel, mimic, mire, unite, univldr"):
        config_class("clippy")


@pytest.mark.parametrize("base", [EncoderConfig, OneTowerConfig, T5ClipConfig])
def test_a_config_that_several_retrievers_share_is_refused_with_those_of_one(base):
    with pytest.raises(Refused, match=rf"^{base.__name__} configures no .*give one of AdoptedConfig, JfeConfig, .*UniVLDRConfig$"):
        base()


SAVED_BEFORE = {
    "univldr": '{"max_length": 77}',
    "mire": '{"width": 128, "heads": 12, "global_tokens": 16, "global_hidden": 1024, "patch_hidden": 3072, "query_length": 32, '
    '"document_length": 180, "query_marker": "[unused0]", "document_marker": "[unused1]", "document_guide": "What is this?"}',
    "unite": '{"positions": "1d", "prompt": "raw", "max_length": 2048, "max_pixels": null, "min_pixels": null, "max_frame_pixels": 76800, '
    '"max_frames": 32, "frames_per_second": 1.0}',
    "jfe": '{"positions": "mrope", "max_length": 2048, "attention": "causal", "pooling": "last", "fusion": "late"}',
}
"""Settings of encoders as they were written before some fields were there."""
READ_BEFORE = {
    "univldr": {"clean_text": False},
    "mire": {"document_guide": "What is this?", "punctuation_rows": False},
    "unite": {"prompt": "raw", "resized_twice": False, "min_frame_pixels": None, "newline_after_pictures": True},
    "jfe": {"fusion": "late", "resized_twice": False},
}


@pytest.mark.parametrize("name", SAVED_BEFORE)
def test_settings_that_were_saved_before_a_field_was_there_read_items_as_they_did_then(name):
    config = described_config({"architecture": name, "config": json.loads(SAVED_BEFORE[name])})
    assert {field: getattr(config, field) for field in READ_BEFORE[name]} == READ_BEFORE[name]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_held_before_a_field_is_of_a_field_and_gives_way_to_what_was_saved(name):
    kind = config_class(name)
    assert set(kind.BEFORE) <= {field.name for field in fields(kind)}
    saved = dict.fromkeys(kind.BEFORE, True)
    config = described_config({"architecture": name, "config": saved})
    assert {field: getattr(config, field) for field in saved} == saved
