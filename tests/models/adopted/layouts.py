"""Published layouts over tiny random models, each written once."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from mirepoix.models.backbones.twin_tokenizers import bert_tokenizer
from tests.models.adopted.written import amend, dense, normalize, pooling, transformer, write, write_clip_with_dense
from tests.models.conftest import SIZES, WORDS

WIDTH = SIZES.hidden_size


@pytest.fixture(scope="session")
def bert(twin, tmp_path_factory) -> Path:
    """A BERT with the pooler that published ones have."""
    from transformers import BertModel

    text = Path(twin("bert_clip")["text"].name)
    folder = tmp_path_factory.mktemp("bert") / "bert"
    shutil.copytree(text, folder)
    config = BertModel.from_pretrained(text, add_pooling_layer=False).config
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def layout(twin, bert, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a layout by its name."""
    home = tmp_path_factory.mktemp("layouts")

    def static(width: int):
        import torch
        from sentence_transformers.sentence_transformer.modules import StaticEmbedding

        torch.manual_seed(5)
        return StaticEmbedding(bert_tokenizer(WORDS * 20, 300)._tokenizer, embedding_dim=width)

    def routed(folder: Path) -> Path:
        from sentence_transformers.base.modules import Router

        router = Router.for_query_document([static(WIDTH)], [transformer(bert), pooling(WIDTH, "cls")])
        return write(folder, router, normalize(), prompts={"query": "find: "})

    def legacy_clip(folder: Path) -> Path:
        """As clip-ViT-B-32 lies on the hub: one module of an old name, in a folder of its own."""
        folder.mkdir()
        shutil.copytree(twin("clip")["model"].name, folder / "0_CLIPModel")
        first = {"idx": 0, "name": "0", "path": "0_CLIPModel", "type": "sentence_transformers.models.CLIPModel"}
        (folder / "modules.json").write_text(json.dumps([first]))
        amend(folder / "config_sentence_transformers.json", __version__={"sentence_transformers": "2.2.0"})
        return folder

    def old_bert(folder: Path) -> Path:
        """As most text models lie on the hub: old module names, every way of pooling a key of its own, no modality named."""
        write(folder, transformer(bert), pooling(WIDTH, "cls"), prompts={"query": "query: ", "passage": "passage: "})
        ways = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
        (folder / "1_Pooling" / "config.json").unlink()
        amend(
            folder / "1_Pooling" / "config.json",
            word_embedding_dimension=WIDTH,
            **{f"pooling_mode_{way}": way == "cls_token" for way in ways},
        )
        places = (("", "Transformer"), ("1_Pooling", "Pooling"))
        listed = [
            {"idx": n, "name": str(n), "path": at, "type": f"sentence_transformers.models.{kind}"} for n, (at, kind) in enumerate(places)
        ]
        (folder / "modules.json").write_text(str(listed).replace("'", '"'))
        (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 24, "do_lower_case": false}')
        (folder / "config_sentence_transformers.json").write_text('{"prompts": {"query": "query: ", "passage": "passage: "}}')
        return folder

    def named(family: str, folder: Path, *more, **settings) -> Path:
        return write(folder, transformer(twin(family)["model"].name), *more, **settings)

    makers: dict[str, Callable[[Path], Path]] = {
        "clip": lambda folder: Path(shutil.copytree(twin("clip")["model"].name, folder)),
        "chinese_clip": lambda folder: Path(shutil.copytree(twin("chinese_clip")["model"].name, folder)),
        "clip in a root": lambda folder: named("clip", folder, normalize(), prompts={"query": "a picture of "}),
        "clip in 0_CLIPModel": legacy_clip,
        "chinese_clip in a root": lambda folder: named("chinese_clip", folder),
        "clip with a dense layer": lambda folder: write_clip_with_dense(folder, twin("clip")["model"].name, 24),
        "bert, mean": lambda folder: write(
            folder, transformer(bert), pooling(WIDTH), normalize(), prompts={"query": "query: ", "document": "passage: "}
        ),
        "bert, mean without its prompt": lambda folder: write(
            folder, transformer(bert), pooling(WIDTH, include_prompt=False), prompts={"query": "two large ", "document": "snow "}
        ),
        "bert, as it was saved in 2022": old_bert,
        "bert with a dense layer": lambda folder: write(folder, transformer(bert), pooling(WIDTH), dense(WIDTH, 16)),
        "bert, cut to 20": lambda folder: write(folder, transformer(bert), pooling(WIDTH, "max"), truncate_dim=20),
        "static": lambda folder: write(folder, static(32), prompts={"query": "q "}),
        "routed": routed,
    }

    @cache
    def made(name: str) -> Path:
        return makers[name](home / name.replace(" ", "-").replace(",", ""))

    made.names = tuple(makers)  # type: ignore[attr-defined]
    return made


@pytest.fixture
def own(layout, tmp_path) -> Callable[[str], Path]:
    """A copy of a layout that the test may change."""
    return lambda name: Path(shutil.copytree(layout(name), tmp_path / "own"))
