"""A small generated world through the real stages, each run once a session and published as the runner does it."""

import pytest

from mirepoix.components.curation import curate
from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.embedding import embed, index
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.ingestion import sources
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.pairs import pairs
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.components.publishing import release
from mirepoix.components.publishing.release_config import ReleaseConfig
from mirepoix.components.training import backbone
from mirepoix.components.training.backbone_config import BackboneConfig
from mirepoix.serving.search.index_config import IndexConfig
from tests.components.fixtures import SIZES, WORLD, Made, made


@pytest.fixture(scope="session")
def artefacts(tmp_path_factory):
    """The folder of the stages' artefacts."""
    return tmp_path_factory.mktemp("line")


@pytest.fixture(scope="session")
def ingested(artefacts) -> Made:
    return made(artefacts / "sources", sources.work, SourcesConfig(world=WORLD))


@pytest.fixture(scope="session")
def curated(artefacts, ingested, ray_cluster) -> Made:
    return made(artefacts / "curate", curate.work, CurateConfig(), sources=ingested.folder)


@pytest.fixture(scope="session")
def paired(artefacts, curated) -> Made:
    return made(artefacts / "pairs", pairs.work, PairsConfig(), curate=curated.folder)


@pytest.fixture(scope="session")
def untrained(artefacts, curated) -> Made:
    return made(artefacts / "backbone", backbone.work, BackboneConfig(tiny=SIZES), curate=curated.folder)


@pytest.fixture(scope="session")
def embedded(artefacts, untrained, curated, paired) -> Made:
    inputs = {"encoder": untrained.folder, "curate": curated.folder, "pairs": paired.folder}
    return made(artefacts / "embed", embed.work, EmbedConfig(threads=1, batch_size=2), **inputs)


@pytest.fixture(scope="session")
def indexed(artefacts, embedded) -> Made:
    return made(artefacts / "index", index.work, IndexConfig(), embed=embedded.folder)


@pytest.fixture(scope="session")
def released(artefacts, untrained, indexed, curated, paired) -> Made:
    inputs = {"encoder": untrained, "index": indexed, "curate": curated, "pairs": paired}
    return made(artefacts / "release", release.work, ReleaseConfig(), **{name: part.folder for name, part in inputs.items()})
