"""The retriever that is built, and the checkpoints that it is built over."""

from dataclasses import dataclass
from pathlib import Path

from mirepoix.models.backbones.checkpoint_config import Checkpoint, folder_fingerprint
from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.encoder_config import EncoderConfig, describes_encoder, saved_config
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.models.retrievers.unite_config import UniteConfig

TINY = "tiny"


@dataclass(frozen=True)
class BackboneConfig:
    """The retriever that is built, and the checkpoints that it is built over."""

    encoder: EncoderConfig = option(UniteConfig, "the retriever, and how it reads an item")
    name: str = option(
        TINY,
        "a checkpoint folder or hub id; the folder of an encoder (mirepoix.json): that encoder, with its settings in place of "
        "backbone.encoder's; tiny: a random twin with a tokenizer trained on the corpus",
    )
    revision: str | None = option(None, "commit, tag or branch of a hub id; only a commit always names the same weights")
    vision: str | None = option(None, "checkpoint of the vision tower, for a retriever built over two checkpoints")
    vision_revision: str | None = option(None, "its commit, tag or branch")
    tiny: Tiny = option(Tiny, "sizes of the tiny twin")

    def __post_init__(self) -> None:
        if self.is_encoder:
            self._take_saved_settings()
            return
        retriever = self.encoder
        two_towers = len(retriever.CHECKPOINTS) > 1
        absent = self.name.startswith(("/", ".", "~")) and not Path(self.name).expanduser().is_dir()  # refused when stages are made of it
        if self.name != TINY and not absent and two_towers != (self.vision is not None):
            problem = f"backbone.vision is {self.vision!r} and {retriever.ARCHITECTURE} is built over {' and '.join(retriever.CHECKPOINTS)}"
            raise Refused(f"{problem}; give backbone.vision where the vision tower is a checkpoint of its own, and only there")
        if self.name == TINY and self.vision is not None:
            raise Refused(f"backbone.vision is {self.vision!r} and backbone.name is tiny; give both towers, or neither")
        if self.tiny.family not in (None, *retriever.FAMILIES):
            known = ", ".join(retriever.FAMILIES)
            raise Refused(f"backbone.tiny.family is {self.tiny.family!r}; {retriever.ARCHITECTURE} is built over {known}, or null")

    @property
    def is_encoder(self) -> bool:
        """Whether the name is the folder of an encoder that was saved here, which is taken as it is."""
        return self.name != TINY and describes_encoder(self.name)

    def _take_saved_settings(self) -> None:
        """Sets `encoder` to the settings that were saved with the encoder; refused where it is of another retriever."""
        saved = saved_config(self.name)
        if type(saved) is not type(self.encoder):
            given = (
                f"backbone.name is {self.name}, an encoder of {saved.ARCHITECTURE}, and backbone.encoder a {type(self.encoder).__name__}"
            )
            raise Refused(f"{given}; give backbone.encoder={type(saved).__name__}")
        for name in ("vision", "revision", "vision_revision"):
            if getattr(self, name) is not None:
                raise Refused(f"backbone.{name} is given, and backbone.name is {self.name}, a whole encoder; give backbone.{name}=null")
        object.__setattr__(self, "encoder", saved)

    @property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """The published checkpoints, by the names of the encoder's parts."""
        given = (Checkpoint(self.name, self.revision), Checkpoint(self.vision or "", self.vision_revision))
        return dict(zip(self.encoder.CHECKPOINTS, given, strict=False))


def fingerprint(config: BackboneConfig) -> str | None:
    """Names, sizes and times of the files of checkpoint folders; None for hub ids, whose revision identifies the weights."""
    if config.is_encoder:
        return folder_fingerprint(config.name)
    return "; ".join(filter(None, (folder_fingerprint(str(checkpoint.name)) for checkpoint in config.checkpoints.values()))) or None
