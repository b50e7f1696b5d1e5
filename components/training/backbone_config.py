"""The retriever that is built, and the checkpoints that it is built over."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mirepoix.models.adopted.own_reading import refuse_own_reading
from mirepoix.models.backbones.adapter import adapter_folder, base_of
from mirepoix.models.backbones.checkpoint_config import Checkpoint, folder_fingerprint
from mirepoix.models.backbones.twin_config import SCALED, Tiny
from mirepoix.models.encoder_config import EncoderConfig, Traits, describes_encoder, read_description, saved_config
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
    base: str | None = option(None, "model under an adapter that `name` is, a folder or hub id; null: the one that the adapter names")
    ignore: tuple[str, ...] = option((), "what the checkpoint says about how it is read and is not obeyed, as the refusal of it names it")
    trust_remote_code: bool = option(False, "run code that the checkpoint brings; read it first")
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
        if type(saved) is not type(self.encoder) and not self.encoder.OBEYS_THE_FOLDER:
            given = (
                f"backbone.name is {self.name}, an encoder of {saved.ARCHITECTURE}, and backbone.encoder a {type(self.encoder).__name__}"
            )
            raise Refused(f"{given}; give backbone.encoder={type(saved).__name__}")
        for name in ("vision", "revision", "vision_revision"):
            if getattr(self, name) is not None:
                raise Refused(f"backbone.{name} is given, and backbone.name is {self.name}, a whole encoder; give backbone.{name}=null")
        if read_description(Path(self.name).expanduser()).get("custom_code") and not self.trust_remote_code:
            raise Refused(
                f"backbone.name is {self.name}, an encoder that runs code which its checkpoint brought; read it, then give "
                "backbone.trust_remote_code=true"
            )
        object.__setattr__(self, "encoder", saved)

    @property
    def traits(self) -> Traits:
        """What is known of the encoder before its weights are loaded."""
        if self.name == TINY:
            return Traits(self.encoder.READS, self.encoder.TOWERS, None)
        return self.encoder.traits(self.checkpoints)

    @property
    def tempered(self) -> bool | None:
        """Whether the encoder has a temperature before it is trained; None: known once its weights are loaded."""
        if self.is_encoder:
            return read_description(Path(self.name).expanduser())["temperature"] is not None
        return (self.tiny.family or self.encoder.FAMILIES[0]) in SCALED if self.name == TINY else self.encoder.TEMPERED

    def refuse_unfit(self, fetch: bool = False) -> None:
        """Refuses a checkpoint that cannot be opened, or that says how it is read and would not be obeyed, as far as its JSON files tell.

        Those of a hub id are fetched if `fetch` says so; else what is not here is not looked at.
        """
        for checkpoint in self.checkpoints.values():
            if self.encoder.OBEYS_THE_FOLDER:
                self.encoder.traits({"model": checkpoint})
            else:
                refuse_own_reading(checkpoint, self.encoder.ARCHITECTURE, fetch)

    @property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """The published checkpoints, by the names of the encoder's parts."""
        allowed: dict[str, Any] = {"trust_remote_code": self.trust_remote_code, "ignore": self.ignore}
        given = (
            Checkpoint(self.name, self.revision, self.base, **allowed),
            Checkpoint(self.vision or "", self.vision_revision, **allowed),
        )
        return dict(zip(self.encoder.CHECKPOINTS, given, strict=False))


def fingerprint(config: BackboneConfig) -> str | None:
    """Names, sizes and times of the files of checkpoint folders; None for hub ids, whose revision identifies the weights.

    A folder that the retriever cannot be built over, as far as its JSON files say, is refused: before the first stage, not in it.
    """
    if config.is_encoder:
        return folder_fingerprint(config.name)
    checkpoints = list(config.checkpoints.values())
    folders = [checkpoint.name for checkpoint in checkpoints]
    folders += [base_of(each, adapter).name for each in checkpoints if (adapter := adapter_folder(each, fetch=False))]
    found = [found for name in folders if (found := folder_fingerprint(str(name)))]
    if config.name != TINY:
        config.refuse_unfit()
    return "; ".join(found) or None
