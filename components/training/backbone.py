"""The encoder that training starts from: a retriever over a checkpoint folder, a hub id, or a tiny random twin made for the corpus."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.pairs.instructions import INSTRUCTIONS
from mirepoix.models.backbones.checkpoints import Checkpoint
from mirepoix.models.backbones.twins import Tiny, make_twin, seeded
from mirepoix.models.encoder import EncoderConfig, architecture_of
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.models.retrievers.unite import UniteConfig
from mirepoix.serving.store import Context, Outcome, Rows

TINY = "tiny"


@dataclass(frozen=True)
class BackboneConfig:
    """Which retriever is built on what."""

    encoder: EncoderConfig = option(UniteConfig, "the retriever, and how it reads an item")
    name: str = option(TINY, "a checkpoint folder or hub id; tiny: a random twin with a tokenizer trained on the corpus")
    revision: str | None = option(None, "commit, tag or branch of a hub id; a commit says for good which weights are meant")
    vision: str | None = option(None, "checkpoint of the vision tower, for a retriever whose towers are apart")
    vision_revision: str | None = option(None, "its commit, tag or branch")
    fingerprint: str | None = option(None, "names, sizes and times of the files of checkpoint folders, filled in when the run starts")
    tiny: Tiny = option(Tiny, "sizes of the tiny one")

    def __post_init__(self) -> None:
        retriever = architecture_of(self.encoder)
        apart = len(retriever.CHECKPOINTS) > 1
        if self.name != TINY and apart != (self.vision is not None):
            fault = f"backbone.vision is {self.vision!r} and {retriever.architecture} is built over {' and '.join(retriever.CHECKPOINTS)}"
            raise Refused(f"{fault}; give backbone.vision where the vision tower is a checkpoint of its own, and only there")
        if self.name == TINY and self.vision is not None:
            raise Refused(f"backbone.vision is {self.vision!r} and backbone.name is tiny; give both towers, or neither")
        if self.tiny.family not in (None, *retriever.FAMILIES):
            known = ", ".join(retriever.FAMILIES)
            raise Refused(f"backbone.tiny.family is {self.tiny.family!r}; {retriever.architecture} is built over {known}, or null")

    @property
    def checkpoints(self) -> dict[str, Checkpoint]:
        """What is published, by the names of the encoder's parts."""
        given = (Checkpoint(self.name, self.revision), Checkpoint(self.vision or "", self.vision_revision))
        return dict(zip(architecture_of(self.encoder).CHECKPOINTS, given, strict=False))


def fingerprint(config: BackboneConfig) -> str | None:
    """Names, sizes and times of the files of checkpoint folders; None for hub ids, of which the revision speaks."""
    return "; ".join(filter(None, (folder_fingerprint(str(checkpoint.name)) for checkpoint in config.checkpoints.values()))) or None


def folder_fingerprint(name: str) -> str | None:
    """Names, sizes and times of the files of a checkpoint folder; None for a hub id."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith(("/", ".", "~")):
            raise Refused(f"backbone folder {name} is not there; give an existing checkpoint folder, a hub id, or tiny")
        return None
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return "; ".join(f"{file.relative_to(folder)} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)


def work(context: Context, config: BackboneConfig, curate: Path) -> Outcome:
    """Writes the untrained encoder as a checkpoint folder of its own."""
    retriever = architecture_of(config.encoder)
    texts = read_part(curate, "corpus", ["text"]).num_rows
    with TemporaryDirectory() as scratch:
        checkpoints = config.checkpoints
        if config.name == TINY:
            family = config.tiny.family or retriever.FAMILIES[0]
            checkpoints = make_twin(Path(scratch), family, _texts(curate, retriever.PROMPT), config.tiny, context.seed)
        with seeded(context.seed):
            encoder = retriever.build(checkpoints, config.encoder)
        encoder.save(context.folder)
    parameters = sum(weight.numel() for weight in encoder.parameters())
    return Outcome(Rows(read=texts, written=texts), {"parameters": parameters, "dimension": encoder.dimension})


def _texts(curate: Path, prompt: str) -> Iterator[str]:
    """What the encoder will read in training: the corpus, the training queries, and the prompt as often as it stands around them."""
    queries = read_part(curate, "queries", ["text", "split"]).to_pylist()
    asked = [row["text"] for row in queries if row["split"] == "train"]
    for text in (*read_part(curate, "corpus", ["text"])["text"].to_pylist(), *asked):
        yield text
        yield prompt
        yield from (wordings[0] for wordings in INSTRUCTIONS.values())
