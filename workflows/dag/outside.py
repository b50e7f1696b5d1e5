"""Fingerprints of what stages read besides each other's results: corpora, checkpoints, releases, settings files.

They are a part of the stage and its key, not of the user's config. Data that is not there is refused here, before the first stage runs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.pairs.mine_config import MineConfig
from mirepoix.components.pairs.mine_config import fingerprint as release_fingerprint
from mirepoix.components.passages import passages_config, verbalise_config
from mirepoix.components.passages.passages_config import PassagesConfig
from mirepoix.components.passages.verbalise_config import VerbaliseConfig
from mirepoix.components.revision.revision_config import MergeConfig, ReencodeConfig, RevisedConfig, listed_fingerprint
from mirepoix.components.training.backbone_config import TINY, BackboneConfig
from mirepoix.components.training.backbone_config import fingerprint as checkpoint_fingerprint
from mirepoix.components.training.engine.deepspeed_settings import settings_digest
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.errors import Refused
from mirepoix.workflows.runner.graph import Stage


def with_outside(stages: Sequence[Stage]) -> list[Stage]:
    """The stages, each with the fingerprints of the data that it reads from outside.

    The sources of a run that measures by a board are refused where files are missing that the board needs.
    """
    measured = any(isinstance(stage.config, EvaluateConfig) and stage.config.board for stage in stages)
    return [_with_outside(stage, measured) for stage in stages]


def _with_outside(stage: Stage, measured: bool) -> Stage:
    """The stage with its fingerprints; sources that are opened for theirs are passed on to the work, which need not list them again."""
    match stage.config:
        case SourcesConfig(path=path) if path:
            from mirepoix.components.ingestion.sources import fingerprint, opened

            sources = opened(stage.config, measured)
            return replace(stage, outside={"sources": fingerprint(sources)}, arguments={**stage.arguments, "sources": sources})
        case RevisedConfig():
            return replace(stage, outside={"release": release_fingerprint(stage.arguments["release"])})
    return replace(stage, outside=outside(stage.config))


def outside(config: Any) -> Mapping[str, str]:
    """The fingerprints of the data that the stage of a config reads from outside, by what that is; refused where it is not there."""
    match config:
        case SourcesConfig(format=form) if form != "auto":
            raise Refused(f"sources.path is not given; give the folder or URI of a corpus in the format {form}")
        case PassagesConfig():
            return passages_config.outside(config)
        case VerbaliseConfig():
            return verbalise_config.outside(config)
        case BackboneConfig(name=name) if name != TINY:
            found = checkpoint_fingerprint(config)
            return {"checkpoint": found} if found else {}
        case MineConfig(release=release) if release is not None:
            return {"release": release_fingerprint(release)}
        case MergeConfig(release=release, remove_listed=listed):
            ids = {"ids": listed_fingerprint(listed)} if listed else {}
            return {"release": release_fingerprint(release), **ids}
        case ReencodeConfig(release=release):
            return {"release": release_fingerprint(release)}
        case TrainConfig(deepspeed=path) if path is not None:
            return {"deepspeed settings": settings_digest(path)}
    return {}
