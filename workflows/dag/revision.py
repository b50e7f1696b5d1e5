"""The DAG that makes a release with more items, or with fewer, of one that is published, and the config from which it is built.

sources -> curate -> merge -> embed -> index -> release      items are added
                     merge -> embed -> index -> release      items are removed

Every stage after `curate` reads the release too, whose digest is in its key. Nothing is trained, and the published release is not changed.
"""

from dataclasses import dataclass, replace
from typing import Any

from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.revision.revision_config import MergeConfig, ReencodeConfig, RevisedConfig
from mirepoix.models.encoder_config import described_config
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.serving.release import peek
from mirepoix.workflows.dag.outside import with_outside
from mirepoix.workflows.dag.stages import ADOPTING, COMPONENTS, CURATING, ENCODING, SEARCHING, encoding_versions
from mirepoix.workflows.runner.graph import Stage

BUSY = ("merge", "index", "release")
"""Stages that compute in their own process; the others wait for workers."""


@dataclass(frozen=True)
class Revision:
    """A release, and what is added to it or removed from it."""

    seed: int = option(0, "seed of the random numbers of every stage")
    sources: SourcesConfig = option(SourcesConfig, "where the new items come from; without a path, none are added")
    curate: CurateConfig = option(CurateConfig, "the rules by which new items are kept")
    merge: MergeConfig = option(MergeConfig, "the release, and which items are added, replaced and removed")
    embed: EmbedConfig = option(EmbedConfig, "how new items are encoded")
    trust_remote_code: bool = option(False, "open a release whose encoder runs code that its checkpoint brought")

    def __post_init__(self) -> None:
        if not self.merge.release:
            raise Refused("merge.release is not given; give the folder or URI of a release")

    def stages(self) -> list[Stage]:
        """The stages of the config, in an order in which they could run."""
        of = self.merge.release
        release, description = peek(of)
        release.refuse_code(self.trust_remote_code)
        encoder = described_config(description)
        libraries = (*ENCODING, *ADOPTING) if encoder.OBEYS_THE_FOLDER else ENCODING
        given = [
            _stage("sources", "ingestion.sources:work", self.sources, {}, ("pillow", "pyarrow")),
            _stage("curate", "curation.curate:work", self.curate, {"sources": "sources"}, CURATING),
        ]
        encoding = ReencodeConfig(of, self.embed, self.trust_remote_code)
        merged = _stage("merge", "revision.merge:work", self.merge, {"curate": "curate"}, ("pillow", "numpy", "pyarrow"))
        if not self.sources.path:
            given, merged = [], replace(merged, inputs={})
        embedded = _stage("embed", "revision.reencode:work", encoding, {"merge": "merge"}, libraries)
        versions = encoding_versions(encoder, libraries)
        indexed = _stage("index", "revision.reindex:work", RevisedConfig(), {"merge": "merge", "embed": "embed"}, SEARCHING)
        released = {"merge": "merge", "index": "index"}
        published = _stage("release", "revision.rerelease:work", RevisedConfig(), released, (*SEARCHING, "pillow"))
        stages = [
            *given,
            merged,
            replace(embedded, modules=(encoder.ENCODER.partition(":")[0],), arguments={"versions": versions}),
            replace(indexed, arguments={"release": of}),
            replace(published, arguments={"release": of}),
        ]
        return with_outside([replace(stage, seed=self.seed) for stage in stages])


def _stage(name: str, work: str, config: Any, inputs: dict[str, str], libraries: tuple[str, ...]) -> Stage:
    """A stage by the path of its work. Those that start no workers compute in their own process, and claim a CPU."""
    busy = name in BUSY
    path = f"{COMPONENTS}.{work}"
    return Stage(name, path, config, inputs, libraries=libraries, num_cpus=float(busy), retries=1, light=True, uses_ray=not busy)
