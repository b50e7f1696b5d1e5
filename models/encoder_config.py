"""Configs of retrievers: how each reads an item, and what it is built over; none of them imports torch.

A config names the class of its encoder, and only `encoder_class` in encoder.py imports it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from mirepoix.models.backbones.checkpoint_config import Checkpoint, Kind
from mirepoix.models.backbones.tuning_config import Tuning
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.options import import_named, revive

ARCHITECTURES = {
    "adopted": "mirepoix.models.adopted.adopted_config:AdoptedConfig",
    "jfe": "mirepoix.models.retrievers.jfe_config:JfeConfig",
    "marvel": "mirepoix.models.retrievers.marvel_config:MarvelConfig",
    "mimic": "mirepoix.models.retrievers.mimic_config:MimicConfig",
    "mire": "mirepoix.models.retrievers.mire_config:MireConfig",
    "unite": "mirepoix.models.retrievers.unite_config:UniteConfig",
    "univldr": "mirepoix.models.retrievers.univldr_config:UniVLDRConfig",
}
"""The retrievers: the module and class of each one's config, by its name."""
DESCRIPTION = "mirepoix.json"
"""The file in an encoder's folder that names its retriever, the config, the temperature and the widths that were trained."""
FIELDS = ("architecture", "config", "temperature", "widths")
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
"""The weights of a checkpoint folder: one file, or several that an index names."""
CODE = "auto_map"
READERS = tuple(f"{kind}_config.json" for kind in ("tokenizer", "processor", "preprocessor", "video_preprocessor"))
"""The field by which a checkpoint names classes of its own, and the files of what reads inputs, which may have it as config.json may."""
Role = Literal["query", "document"]


class Traits(NamedTuple):
    """What is known of an encoder before its weights are loaded: what it reads, its towers, its width; None: known once it is opened."""

    reads: Modality
    towers: tuple[str, ...] | None
    width: int | None


@dataclass(frozen=True)
class EncoderConfig:
    """How a retriever reads and pools an item. Each retriever has a subclass, whose constants say what it is built over."""

    ARCHITECTURE: ClassVar[str]  # its name in ARCHITECTURES
    ENCODER: ClassVar[str]  # module and class of its encoder
    CHECKPOINTS: ClassVar[Mapping[str, Kind]]  # what it is built over, by the attributes of the encoder that hold the models
    FAMILIES: ClassVar[tuple[str, ...]]  # tiny twins that it can be built over, the default first
    TOWERS: ClassVar[tuple[str, ...]]  # the parts that can be trained apart, as `Tuning.towers` names them
    READS: ClassVar[Modality]  # modalities that its items may have
    TUNING: ClassVar[type[Tuning]] = Tuning  # the settings of a stage of its training
    TEMPERED: ClassVar[bool | None] = False  # whether published checkpoints bring it a temperature; None: some do
    OBEYS_THE_FOLDER: ClassVar[bool] = False  # whether prompts and pooling are those of the checkpoint, not the retriever's own
    BEFORE: ClassVar[Mapping[str, Any]] = {}  # how items were read before a field was there, where its default reads them in another way

    def __post_init__(self) -> None:
        if not hasattr(self, "ENCODER"):
            classes = ", ".join(path.partition(":")[2] for path in ARCHITECTURES.values())
            raise Refused(f"{type(self).__name__} configures no retriever of its own; give one of {classes}")

    def traits(self, checkpoints: Mapping[str, Checkpoint]) -> Traits:
        """What is known of the encoder over these checkpoints: of most retrievers the same over all of them."""
        return Traits(self.READS, self.TOWERS, None)


def config_class(name: str) -> type[EncoderConfig]:
    """The config class of a retriever."""
    if name not in ARCHITECTURES:
        raise Refused(f"retriever {name!r} is not known; there are {', '.join(sorted(ARCHITECTURES))}")
    config: type[EncoderConfig] = import_named(ARCHITECTURES[name])
    return config


def read_description(folder: str | Path) -> dict[str, Any]:
    """The description of an encoder that `Encoder.save` wrote into its folder."""
    path = Path(folder) / DESCRIPTION
    if not path.is_file():
        raise Refused(f"{folder} holds no {DESCRIPTION}; give the folder of an encoder that training or a release wrote")
    description = _json(path)
    if missing := [field for field in FIELDS if field not in description]:
        raise Refused(f"{path} has no {', '.join(missing)}; give the folder of a whole encoder")
    return description


def described_config(description: Mapping[str, Any]) -> EncoderConfig:
    """The config in a description. A field that it lacks has the value by which its encoder read items before there was such a field."""
    kind = config_class(description["architecture"])
    config: EncoderConfig = revive(kind, {**kind.BEFORE, **description["config"]})
    return config


def describes_encoder(name: str | Path) -> bool:
    """Whether a name is that of a folder with an encoder that `Encoder.save` wrote."""
    return (Path(name).expanduser() / DESCRIPTION).is_file()


def saved_config(folder: str | Path) -> EncoderConfig:
    """The config of the encoder in a folder; refused where files of the encoder are missing. No weight is read."""
    folder = Path(folder).expanduser()
    description = read_description(folder)
    config = described_config(description)
    for name in () if config.OBEYS_THE_FOLDER else config.CHECKPOINTS:  # of those, whoever opens the folder knows its files
        place = checkpoint_folder(config, folder, name)
        weights = [WEIGHTS]
        if (place / WEIGHTS_INDEX).is_file():
            weights = sorted(set(_json(place / WEIGHTS_INDEX).get("weight_map", {}).values()))
        if missing := [file for file in ("config.json", *weights) if not (place / file).is_file()]:
            raise Refused(f"{place} lacks {', '.join(missing[:3])}; give the folder of a whole encoder")
    return config


def checkpoint_folder(config: EncoderConfig, folder: Path, name: str) -> Path:
    """The folder of a checkpoint within that of an encoder: the encoder's own where it is built over one, else one of its name."""
    return folder if len(config.CHECKPOINTS) == 1 else folder / name


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise Refused(f"{path} is no JSON ({str(error).partition(':')[0]}); give the folder of a whole encoder") from error
    if not isinstance(found, dict):
        raise Refused(f"{path} is no JSON object; give the folder of a whole encoder")
    return found
