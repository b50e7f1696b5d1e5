"""A small real release, another one that differs in everything, and one server for all tests that speak HTTP."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item, items_to_table
from mirepoix.models.retrievers.unite import Unite
from mirepoix.models.retrievers.unite_config import UniteConfig
from mirepoix.serving.release import folder_digest
from mirepoix.serving.search.dense import build
from tests.serving.fixtures import corpus, free_port, golden_of, published, spoilt
from tests.serving.load import Starting, Truth, truth_of


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory) -> Path:
    return _encoder(tmp_path_factory.mktemp("encoder"), seed=0)


def _encoder(home: Path, seed: int) -> Path:
    sizes = Tiny(vocabulary=300, hidden_size=32, layers=1, heads=2, intermediate_size=64, vision_depth=1, vision_width=32, vision_heads=2)
    checkpoints = make_twin(home / "backbone", "qwen2_vl", [item.text for item in corpus() if item.text], sizes, seed=seed)
    Unite.build(checkpoints, UniteConfig()).save(home / "saved")
    return home / "saved"


@pytest.fixture(scope="session")
def parts(encoder_folder, tmp_path_factory) -> dict[str, Path]:
    """The folders that a release is assembled from."""
    return _parts(tmp_path_factory.mktemp("parts"), encoder_folder, corpus())


def _parts(home: Path, encoder_folder: Path, items: list[Item]) -> dict[str, Path]:
    vectors = load_encoder(encoder_folder).encode(items).ragged()
    build(vectors, [item.id for item in items], [item.modality for item in items], encoder=folder_digest(encoder_folder)).save(
        home / "index"
    )
    (home / "corpus").mkdir(parents=True)
    for part, half in enumerate((items[30:], items[:30])):
        pq.write_table(items_to_table(half), home / "corpus" / f"part-{part:05d}.parquet")
    return {"encoder_folder": encoder_folder, "index_folder": home / "index", "corpus_folder": home / "corpus"}


@pytest.fixture(scope="session")
def release_folder(parts, tmp_path_factory) -> Path:
    return published(tmp_path_factory.mktemp("release"), parts)


@pytest.fixture(scope="session")
def other_release(tmp_path_factory) -> Path:
    """Other weights, and another corpus, with other ids: what is encoded by the one and searched in the other has no release's scores."""
    home = tmp_path_factory.mktemp("other")
    items = [replace(item, id=f"other {item.id}") for item in reversed(corpus())]
    parts = _parts(home / "parts", _encoder(home, seed=1), items)
    return published(home, parts, golden=golden_of(parts, items[:2]))


@pytest.fixture(scope="session")
def truth(release_folder, other_release) -> Truth:
    """What each of the two releases gives."""
    return truth_of(release_folder, other_release)


@pytest.fixture(scope="session")
def refused_releases(release_folder, tmp_path_factory) -> dict[str, Path]:
    """Releases that may not answer, by what they are refused for."""
    home = tmp_path_factory.mktemp("refused")
    damaged = shutil.copytree(release_folder, home / "damaged")
    (damaged / "golden.json").write_text("{}")
    return {
        "comes out at cosine": spoilt(
            release_folder, home / "unproved", "golden.json", lambda golden: golden | {"vectors": golden["vectors"][::-1]}
        ),
        "golden.json": damaged,
        "--trust-remote-code": spoilt(release_folder, home / "code", "release.json", lambda release: release | {"custom_code": True}),
    }


@pytest.fixture(scope="session")
def starting() -> Starting:
    """What clients were told while the server of the session was starting."""
    return Starting(f"http://127.0.0.1:{free_port()}")


@pytest.fixture(scope="session")
def served(ray_cluster, release_folder, starting) -> Iterator[str]:
    """The address of a server of the release; it requires no key."""
    from mirepoix.serving.ray_serve import app
    from mirepoix.serving.serve_config import ServeConfig

    run = app.serve.run

    def asked_first(*arguments, **options):
        starting.ask()
        return run(*arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(app.serve, "run", asked_first)
        server = app.start(str(release_folder), ServeConfig(port=starting.port))
    starting.ask()
    yield server.url
    server.stop()
