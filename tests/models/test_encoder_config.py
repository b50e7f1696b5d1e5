"""Every config of the models is imported without torch, and names the encoder that it is for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mirepoix.models.encoder import encoder_class
from mirepoix.models.encoder_config import ARCHITECTURES, EncoderConfig, config_class
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
