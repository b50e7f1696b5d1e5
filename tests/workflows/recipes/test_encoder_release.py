"""Which settings `mirepoix release` makes of an encoder and a corpus, and what it refuses before anything is written."""

import json
from pathlib import Path

import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.retrievers.mire_config import MireConfig
from mirepoix.models.retrievers.univldr_config import UniVLDRConfig
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.recipes.encoder_release import settings
from mirepoix.workflows.recipes.registry import resolve

DESCRIPTION = {"architecture": "univldr", "config": {"max_length": 40}, "temperature": 0.02, "widths": []}
CHECKPOINT = {"config.json": '{"model_type": "clip"}', "model.safetensors": "x"}
PICTURES = ("a.png", "beach/b.jpg")


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def corpus(tmp_path):
    return write(tmp_path / "my, pictures", dict.fromkeys(PICTURES, "x"))


def test_a_saved_encoder_names_its_retriever_and_has_its_settings(tmp_path, corpus):
    encoder = write(tmp_path / "encoder", {**CHECKPOINT, "mirepoix.json": json.dumps(DESCRIPTION)})
    config = resolve("search", settings(str(encoder), [str(corpus)], "mine"))
    assert (config.backbone.name, config.backbone.encoder) == (str(encoder), UniVLDRConfig(max_length=40, clean_text=False))
    assert (config.sources.path, config.release.name) == ((str(corpus),), "mine"), "a comma in a path is part of it"
    over_two = {f"{part}/{name}": text for part in ("text", "vision") for name, text in CHECKPOINT.items()}
    described = {**DESCRIPTION, "architecture": "mire", "config": {"query_length": 48}}
    encoder = write(tmp_path / "two", {**over_two, "mirepoix.json": json.dumps(described)})
    backbone = resolve("search", settings(str(encoder), [str(corpus)])).backbone
    assert backbone.encoder == MireConfig(query_length=48, punctuation_rows=False) and backbone.vision is None


def test_a_published_checkpoint_is_named_by_its_folder_from_the_root_or_by_its_hub_id(tmp_path, corpus, monkeypatch):
    write(tmp_path / "clip", CHECKPOINT)
    monkeypatch.chdir(tmp_path)
    recipe_encoder = resolve("search").backbone.encoder
    for given, name in (("clip", str(tmp_path / "clip")), ("openai/clip-vit-large-patch14", "openai/clip-vit-large-patch14")):
        config = resolve("search", settings(given, ["one=a", "b"]))
        assert (config.backbone.name, config.backbone.encoder) == (name, recipe_encoder)
        assert config.sources.path == ("one=a", "b") and config.release.name == "mirepoix"


def test_an_adapter_is_a_published_checkpoint_over_the_model_that_it_names_or_that_is_given(tmp_path, corpus, capsys):
    base = write(tmp_path / "clip", CHECKPOINT)
    files = {
        "adapter_config.json": json.dumps({"peft_type": "LORA", "base_model_name_or_path": str(base)}),
        "adapter_model.safetensors": "x",
    }
    words = ["release", str(write(tmp_path / "adapter", files)), "--corpus", str(corpus), "--plan", "--storage", str(tmp_path / "storage")]
    assert main(words) == 0
    assert "backbone" in capsys.readouterr().out
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    assert main(words) == 2
    assert "is an adapter and names no model under it; give backbone.base=FOLDER_OR_ID" in capsys.readouterr().err
    assert main([*words, f"backbone.base={base}"]) == 0


def test_a_plan_ends_with_the_release_and_settings_of_the_user_come_last(tmp_path, corpus, capsys):
    words = ["release", str(write(tmp_path / "clip", CHECKPOINT)), "--corpus", str(corpus), "release.name=x", "curate.max_rejected=2"]
    assert main([*words, "--plan", "--storage", str(tmp_path / "storage")]) == 2
    assert "max_rejected is 2.0" in capsys.readouterr().err
    assert main([*words[:-1], "--plan", "--storage", str(tmp_path / "storage")]) == 0
    plan = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert plan == ["sources", "curate", "check", "backbone", "pairs", "embed", "index", "release"] and not (tmp_path / "storage").exists()


@pytest.mark.parametrize("encoder", ["gone", "storage/artefacts/instruct/0123", "s3://bucket/encoder", "/no/such", "org/"])
def test_what_is_neither_here_nor_a_hub_id_is_refused(encoder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if encoder == "gone":
        assert settings(encoder, ["x"])[-1] == "backbone.name=gone", "a hub id may have no slash"
        return
    with pytest.raises(Refused, match="is no folder here; give the folder of an encoder or of a checkpoint, or a hub id"):
        settings(encoder, ["x"])


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({"a.png": "x"}, "given holds no encoder: neither mirepoix.json"),
        ({"config.json": "{}"}, "given holds no weights, *.safetensors or *.bin; give the folder of a whole checkpoint"),
        ({"report.json": "{}"}, "given is the folder of a run; give that of an encoder which it made"),
        ({"encoder/mirepoix.json": "{}", "release.json": "{}"}, "given is a release already; `mirepoix serve` serves it, and"),
        ({"config.json": "{}", "mirepoix.json": json.dumps(DESCRIPTION)}, "given lacks model.safetensors; give the folder of a whole"),
        ({**CHECKPOINT, "mirepoix.json": "{"}, "mirepoix.json is no JSON"),
        ({**CHECKPOINT, "mirepoix.json": json.dumps({**DESCRIPTION, "architecture": "x"})}, "retriever 'x' is not known; there are"),
        ({**CHECKPOINT, "mirepoix.json": json.dumps({**DESCRIPTION, "config": {"y": 1}})}, "UniVLDRConfig has no field y"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value),
)
def test_a_folder_that_holds_no_whole_encoder_is_refused_before_anything_is_written(files, words, corpus, tmp_path, capsys):
    encoder = write(tmp_path / "given", files)
    assert main(["release", str(encoder), "--corpus", str(corpus), "--storage", str(tmp_path / "storage")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not (tmp_path / "storage").exists()


@pytest.mark.parametrize(("files", "words"), [((), "there is no corpus at"), ((".hidden",), "there is no file in")])
def test_a_corpus_that_is_not_there_or_is_empty_is_refused_before_anything_is_written(files, words, tmp_path, capsys):
    encoder = write(tmp_path / "clip", CHECKPOINT)
    corpus = write(tmp_path / "corpus", dict.fromkeys(files, "x"))
    assert main(["release", str(encoder), "--corpus", str(corpus), "--storage", str(tmp_path / "storage")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line and not (tmp_path / "storage").exists()
