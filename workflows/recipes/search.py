"""The recipe of a search without a training."""

from mirepoix.components.curation.curate_config import CurateConfig, NearRules
from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.training.backbone_config import BackboneConfig
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.recipes.published import BARE, CLIP_B32

MODEL = BackboneConfig(name=CLIP_B32, encoder=AdoptedConfig(several="sum"))
"""The encoder where none is named: CLIP, of the smallest size that was published; a picture with a text is the sum of both."""
OWN = CurateConfig(
    max_picture_bytes=100_000_000,
    max_picture_pixels=89_000_000,  # Pillow warns of more
    picture_pixels=2_000_000,
    near=NearRules(texts=None, pictures=None),
    near_duplicates="keep",
    leakage="off",
    max_rejected=1.0,
)
"""Curation of what somebody wants to find again: photographs of a telephone are scaled down, similar ones all stay, and however many files
are damaged, the others are searched. Equal ones are merged, and nothing can leak where nothing is trained."""


def search() -> Retrieval:
    """Search without a training: a folder of pictures, texts or both, through a published encoder as it is; a laptop's CPU is enough.

    mirepoix run search sources.path=DIR                        pictures alone, or any corpus; through CLIP ViT-B/32
    mirepoix run search sources.path=DIR backbone.name=MODEL    through another model, by folder or hub id; see docs/models.md
    mirepoix release ENCODER --corpus DIR                       the same up to the release, through any encoder

    Neither captions nor queries nor splits are needed. Where there are queries with answers, of any split, the encoder is measured by them;
    where there are none, the result says so, and the release is made all the same. Queries have no instructions.
    """
    return Retrieval(
        curate=OWN,
        pairs=BARE,
        backbone=MODEL,
        adapt=None,
        instruct=None,
        embed=EmbedConfig(batch_size=16, threads=4, shard_rows=256),
        deploy=ServeConfig(port=0),
    )
