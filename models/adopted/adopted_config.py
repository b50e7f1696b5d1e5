"""How a published model is used that is opened as its own folder describes it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from mirepoix.models.backbones.checkpoint_config import Checkpoint, Kind
from mirepoix.models.encoder_config import EncoderConfig, Traits
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.options import option, refuse_unknown


@dataclass(frozen=True)
class AdoptedConfig(EncoderConfig):
    """How a published model is used that is opened as its own folder describes it: towers, prompts, pooling and widths are the folder's."""

    ARCHITECTURE = "adopted"
    ENCODER = "mirepoix.models.adopted.adopted:Adopted"
    CHECKPOINTS: ClassVar[dict[str, Kind]] = {"model": "multimodal"}
    FAMILIES = ("clip", "siglip", "siglip2", "chinese_clip")
    TOWERS = ("text", "vision")
    READS = Modality.TEXT | Modality.IMAGE | Modality.VIDEO
    TEMPERED = None
    OBEYS_THE_FOLDER = True

    query_prompt: str | None = option(None, "name of the folder's prompt for queries; null: query, where it has one")
    document_prompt: str | None = option(
        None, "name of the folder's prompt for documents; null: the first of document, passage, corpus that it has"
    )
    instructed: str = option("{instruction} ", "what comes before an item that has an instruction, in place of the folder's prompt")
    several: Literal["refuse", "sum"] = option(
        "refuse", "an item of several modalities, where the model reads one at a time: refuse it, or add the vectors of its parts"
    )
    width: int | None = option(None, "vectors are cut to this width and normalised again; null: as the folder has it")
    max_length: int | None = option(None, "most tokens of a text; null: as the folder has it")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_unknown(self)
        try:
            worded = self.instructed.format(instruction="<>")
        except (KeyError, IndexError, ValueError):
            worded = ""
        if "<>" not in worded:
            raise Refused(f"instructed is {self.instructed!r}; give a text in which {{instruction}} stands for the instruction")
        for name in ("width", "max_length"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise Refused(f"{name} is {given}; give 1 or more, or null")

    def traits(self, checkpoints: Mapping[str, Checkpoint]) -> Traits:
        """What the folder says; of a hub id that is not here yet, nothing is known."""
        from mirepoix.models.adopted.folder import resolved
        from mirepoix.models.adopted.layout import MODEL, MODULES, read_layout, refuse_code
        from mirepoix.models.backbones.adapter import adapter_folder

        (checkpoint,) = checkpoints.values()
        checkpoint, folder = resolved(checkpoint, adapter_folder(checkpoint, fetch=False), fetch=False)
        here = folder is not None and (Path(checkpoint.name).is_dir() or any((folder / name).is_file() for name in (MODULES, MODEL)))
        if folder is None or not here:  # of a hub id there may be some files alone
            return Traits(self.READS, None, None)
        layout = read_layout(folder, checkpoint.ignore)
        refuse_code(layout, checkpoint)
        return Traits(layout.reads, layout.towers, self.width or layout.width)
