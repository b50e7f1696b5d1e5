"""The encoder that training starts from: a retriever over a checkpoint folder, a hub id, or a tiny random twin made for the corpus."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mirepoix.components.corpus import read_part
from mirepoix.components.instructions import INSTRUCTIONS
from mirepoix.models.backbone import TinyQwen2VL, make_tiny
from mirepoix.models.encoder import ARCHITECTURES, architecture
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.models.unite import UniteConfig
from mirepoix.serving.store import Context, Outcome, Rows


@dataclass(frozen=True)
class BackboneConfig:
    """Which retriever is built on what."""

    retriever: str = option("unite", "the way of building: one of the names that `mirepoix list` prints")
    name: str = option("tiny", "a Qwen2-VL checkpoint folder or hub id; tiny: a random one with a tokenizer trained on the corpus")
    revision: str | None = option(None, "commit, tag or branch of a hub id; a commit says for good which weights are meant")
    fingerprint: str | None = option(None, "names, sizes and times of the files of a checkpoint folder, filled in when the run starts")
    tiny: TinyQwen2VL = option(TinyQwen2VL, "sizes of the tiny one")
    encoder: UniteConfig = option(UniteConfig, "how the retriever reads an item")

    def __post_init__(self) -> None:
        if self.retriever not in ARCHITECTURES:
            raise Refused(f"retriever is {self.retriever!r}; give one of {', '.join(ARCHITECTURES)}")


def fingerprint(name: str) -> str | None:
    """Names, sizes and times of the files of a checkpoint folder; None for a hub id, of which the revision speaks."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if name.startswith(("/", ".", "~")):
            raise Refused(f"backbone folder {name} is not there; give an existing checkpoint folder, a hub id, or tiny")
        return None
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return "; ".join(f"{file.relative_to(folder)} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)


def work(context: Context, config: BackboneConfig, curate: Path) -> Outcome:
    """Writes the untrained encoder as a checkpoint folder of its own."""
    retriever = architecture(config.retriever)
    texts = read_part(curate, "corpus", ["text"]).num_rows
    with TemporaryDirectory() as scratch:
        folder: str | Path = config.name
        if config.name == "tiny":
            folder = Path(scratch)
            make_tiny(folder, _texts(curate, retriever.PROMPT), config.tiny, context.seed)
        encoder = retriever.open(folder, config.encoder, config.revision if config.name != "tiny" else None)
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
