"""A small real release, and one server of it for all tests that speak HTTP."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import items_to_table
from mirepoix.models.retrievers.unite import Unite
from mirepoix.models.retrievers.unite_config import UniteConfig
from mirepoix.serving.release import folder_digest
from mirepoix.serving.search.dense import build
from tests.serving.fixtures import corpus, published


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory) -> Path:
    home = tmp_path_factory.mktemp("encoder")
    sizes = Tiny(vocabulary=300, hidden_size=32, layers=1, heads=2, intermediate_size=64, vision_depth=1, vision_width=32, vision_heads=2)
    checkpoints = make_twin(home / "backbone", "qwen2_vl", [item.text for item in corpus() if item.text], sizes, seed=0)
    Unite.build(checkpoints, UniteConfig()).save(home / "saved")
    return home / "saved"


@pytest.fixture(scope="session")
def parts(encoder_folder, tmp_path_factory) -> dict[str, Path]:
    """The folders that a release is assembled from."""
    home = tmp_path_factory.mktemp("parts")
    items = corpus()
    vectors = load_encoder(encoder_folder).encode(items).ragged()
    build(vectors, [item.id for item in items], [item.modality for item in items], encoder=folder_digest(encoder_folder)).save(
        home / "index"
    )
    (home / "corpus").mkdir()
    for part, half in enumerate((items[30:], items[:30])):
        pq.write_table(items_to_table(half), home / "corpus" / f"part-{part:05d}.parquet")
    return {"encoder_folder": encoder_folder, "index_folder": home / "index", "corpus_folder": home / "corpus"}


@pytest.fixture(scope="session")
def release_folder(parts, tmp_path_factory) -> Path:
    return published(tmp_path_factory.mktemp("release"), parts)


@pytest.fixture(scope="session")
def served(ray_cluster, release_folder) -> Iterator[str]:
    """The address of a server of the release; it requires no key."""
    from mirepoix.serving.ray_serve.app import start
    from mirepoix.serving.serve_config import ServeConfig

    server = start(str(release_folder), ServeConfig(port=0))
    yield server.url
    server.stop()
