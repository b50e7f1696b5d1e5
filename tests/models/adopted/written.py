"""Folders of published layouts, written by sentence-transformers itself or by hand, and the vectors that it gives for them."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image

from mirepoix.models.encoder_config import Role
from mirepoix.models.item import Item


def write(folder: Path, *modules: Any, **settings: Any) -> Path:
    """The folder of a model of these modules, as the library saves it."""
    from sentence_transformers import SentenceTransformer

    SentenceTransformer(modules=list(modules), device="cpu", **settings).eval().save(str(folder), create_model_card=False)
    return folder


def transformer(folder: str | Path) -> Any:
    from sentence_transformers.base.modules import Transformer

    return Transformer(str(folder))


def normalize() -> Any:
    from sentence_transformers.base.modules import Normalize

    return Normalize()


def pooling(width: int, mode: str = "mean", **settings: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return Pooling(width, mode, **settings)


def dense(width: int, narrow: int, name: str = "sentence_embedding") -> Any:
    from sentence_transformers.base.modules import Dense

    torch.manual_seed(3)
    return Dense(width, narrow, module_input_name=name, module_output_name=name)


def write_clip_with_dense(folder: Path, clip: str | Path, narrow: int) -> Path:
    """A CLIP with a projection behind it, which transformers alone does not open."""
    first = transformer(clip)
    return write(folder, first, dense(first.get_embedding_dimension(), narrow), normalize())


def by_library(folder: Path, items: Sequence[Item], role: Role = "document", **given: Any) -> torch.Tensor:
    """The unit vectors of items as the library gives them, each encoded alone."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    encode = model.encode_query if role == "query" else model.encode_document
    inputs = [Image.open(io.BytesIO(item.images[0])).convert("RGB") if item.images else item.text for item in items]
    return torch.stack([F.normalize(torch.as_tensor(encode([each], convert_to_tensor=True, **given)[0]), dim=-1) for each in inputs])


def amend(path: Path, **fields: Any) -> None:
    """Sets fields of a JSON file, which may be new."""
    before = json.loads(path.read_text()) if path.is_file() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**before, **fields}))
