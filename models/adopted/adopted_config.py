"""How a published model is used that is opened as its own folder describes it."""

from collections.abc import Mapping
from dataclasses import dataclass
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
        if "{instruction}" not in self.instructed:
            raise Refused(f"instructed is {self.instructed!r}; give a text in which {{instruction}} stands for the instruction")
        for name in ("width", "max_length"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise Refused(f"{name} is {given}; give 1 or more, or null")

    def traits(self, checkpoints: Mapping[str, Checkpoint]) -> Traits:
        """What the folder says; of a hub id that is not here yet, nothing is known."""
        from mirepoix.models.adopted.folder import local_folder
        from mirepoix.models.adopted.layout import read_layout, refuse_code
        from mirepoix.models.backbones.adapter import adapter_folder, base_of

        (checkpoint,) = checkpoints.values()
        adapter = adapter_folder(checkpoint, fetch=False)
        checkpoint = base_of(checkpoint, adapter) if adapter else checkpoint
        folder = local_folder(checkpoint, fetch=False)
        if folder is None:
            return Traits(self.READS, None, None)
        layout = read_layout(folder, checkpoint.ignore)
        refuse_code(layout, checkpoint)
        return Traits(layout.reads, layout.towers, self.width or layout.width)
