"""Code in a checkpoint folder is never run, for any of its parts, and no question about it is printed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.backbones.twins import make_twin
from tests.components.generation.causal import make_causal

ROOT = Path(__file__).parents[3]
CODE = """
import os
from pathlib import Path

Path(os.environ["MARKER"]).touch()
"""
OPENED = """
import json, os, sys
from pathlib import Path
from mirepoix.components.generation.local import Local
from mirepoix.components.generation.writer_config import LocalConfig
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.checkpoints import open_checkpoint
from mirepoix.models.errors import Refused
from mirepoix.models.retrievers.mire import published_linear

def outcome(way, folder):
    try:
        if way == "writer":
            Local(LocalConfig(folder), 0)._opened
        elif way == "projection":
            published_linear(Checkpoint(folder), 8)
        else:
            part = open_checkpoint(Checkpoint(folder), way)
            return {"opened": [type(each).__module__ for each in part[:3] if each is not None]}
    except Refused as refused:
        return {"refused": str(refused)}
    except Exception as error:
        return {"raised": repr(error)}
    return {"opened": []}

outcomes = {}
for way, folder in json.loads(sys.argv[1]):
    outcomes[f"{way} of {Path(folder).name}"] = {**outcome(way, folder), "ran": Path(os.environ["MARKER"]).exists()}
    Path(os.environ["MARKER"]).unlink(missing_ok=True)
Path(sys.argv[2]).write_text(json.dumps(outcomes))
"""
REFUSED = (
    "cannot be opened: it needs code of its own (auto_map), and code from a checkpoint is not run{}; "
    "give a checkpoint whose model, tokenizer and image processor are classes of transformers itself"
)
UNLESS = " unless you say so: read it, then give backbone.trust_remote_code=true"
WORDS = ["a small red circle", "two large blue stars at night"]


def edit(path: Path, **fields: object) -> None:
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**before, **fields}))


def copied(source: Path, folder: Path) -> Path:
    shutil.copytree(source, folder)
    (folder / "custom.py").write_text(CODE)
    return folder


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The outcome of opening each folder with `y` on standard input, the output of that process, and the home of the folders."""
    home = tmp_path_factory.mktemp("custom")
    sizes = Tiny(hidden_size=32, intermediate_size=32, layers=1, vision_width=32)
    clip, bert = (make_twin(home / family, family, WORDS * 20, sizes, seed=0) for family in ("clip", "bert_clip"))
    causal = make_causal(home / "causal")
    every = {f"Auto{name}": f"custom.{name}" for name in ("Config", "Model", "ModelForCausalLM", "ImageProcessor", "Processor")}

    model = copied(clip["model"].name, home / "model")
    edit(model / "config.json", model_type="of_its_own", auto_map=every)
    known = copied(clip["model"].name, home / "known")
    edit(known / "config.json", auto_map=every)
    tokenizer = copied(bert["vision"].name, home / "tokenizer")
    edit(tokenizer / "tokenizer_config.json", tokenizer_class="OfItsOwn", auto_map={"AutoTokenizer": ["custom.Tokenizer", None]})
    images = copied(bert["text"].name, home / "images")
    edit(images / "preprocessor_config.json", image_processor_type="OfItsOwn", auto_map={"AutoImageProcessor": "custom.ImageProcessor"})
    processor = copied(clip["model"].name, home / "processor")
    edit(processor / "processor_config.json", processor_class="OfItsOwn", auto_map={"AutoProcessor": "custom.Processor"})
    writer = copied(causal, home / "writer")
    edit(writer / "config.json", model_type="of_its_own", auto_map=every)
    generating = copied(causal, home / "generating")
    (generating / "custom_generate").mkdir()
    (generating / "custom_generate" / "generate.py").write_text(CODE)

    cases = [
        *((kind, model) for kind in ("multimodal", "text", "vision", "projection")),
        ("multimodal", known), ("multimodal", tokenizer), ("multimodal", images), ("vision", images), ("multimodal", processor),
        ("writer", writer), ("writer", generating),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", OPENED, json.dumps([(way, str(folder)) for way, folder in cases]), str(home / "outcomes.json")],
        cwd=ROOT, input="y\n" * 100, capture_output=True, text=True, timeout=300,
        env=os.environ | {"MARKER": str(home / "marker"), "HF_HOME": str(home / "hub"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads((home / "outcomes.json").read_text()), done.stdout + done.stderr, home


@pytest.mark.parametrize(
    ("what", "folder"),
    [
        ("multimodal of model", "checkpoint {}/model"),
        ("text of model", "checkpoint {}/model"),
        ("vision of model", "checkpoint {}/model"),
        ("projection of model", "checkpoint {}/model"),
        ("multimodal of tokenizer", "checkpoint {}/tokenizer"),
        ("multimodal of images", "checkpoint {}/images"),
        ("vision of images", "checkpoint {}/images"),
        ("writer of writer", "the local writer's folder {}/writer"),
    ],
)
def test_a_checkpoint_that_only_its_own_code_opens_is_refused_in_one_line(opened, what, folder):
    found, _, home = opened
    unless = "" if what.startswith(("writer", "projection")) else UNLESS
    assert found[what] == {"refused": f"{folder.format(home)} {REFUSED.format(unless)}", "ran": False}


@pytest.mark.parametrize("what", ["multimodal of known", "multimodal of processor", "writer of generating"])
def test_where_transformers_has_classes_of_its_own_these_are_used_and_the_code_is_not(opened, what):
    modules = opened[0][what].get("opened")
    assert modules is not None and not opened[0][what]["ran"]
    assert all(module.startswith("transformers.") for module in modules)


def test_no_question_is_printed(opened):
    assert "[y/N]" not in opened[1] and "Do you wish" not in opened[1]
