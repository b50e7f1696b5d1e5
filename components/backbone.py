"""The encoder that training starts from: a retriever over a checkpoint folder, a hub id, or a tiny random twin made for the corpus."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from mirepoix.components.corpus import read_part
from mirepoix.components.instructions import INSTRUCTIONS
from mirepoix.models.backbone import TinyQwen2VL, make_tiny
from mirepoix.models.encoder import architecture
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.models.unite import SYSTEM, UniteConfig
from mirepoix.serving.store import Context, Outcome, Rows


@dataclass(frozen=True)
class BackboneConfig:
    """Which retriever is built on what."""

    retriever: str = option("unite", "the way of building: one of the names that `mirepoix list` prints")
    name: str = option("tiny", "a Qwen2-VL checkpoint folder or hub id; tiny: a random one with a tokenizer trained on the corpus")
    fingerprint: str | None = option(None, "names, sizes and times of the files of a checkpoint folder, filled in when the run starts")
    tiny: TinyQwen2VL = option(TinyQwen2VL, "sizes of the tiny one")
    unite: UniteConfig = option(UniteConfig, "how UNITE reads an item")


def fingerprint(name: str) -> str | None:
    """Names, sizes and times of the files of a checkpoint folder; None for a hub id, whose files do not change under a revision."""
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
            make_tiny(folder, _texts(curate), config.tiny, context.seed)
        encoder = retriever.open(folder, config.unite)
        encoder.save(context.folder)
    parameters = sum(weight.numel() for weight in encoder.parameters())
    return Outcome(Rows(read=texts, written=texts), {"parameters": parameters, "dimension": encoder.dimension})


def _texts(curate: Path) -> Iterator[str]:
    """What the encoder will read: the corpus, the queries, and the words of the prompt as often as the prompt stands around them."""
    for part in ("corpus", "queries"):
        for text in read_part(curate, part, ["text"])["text"].to_pylist():
            yield text
            yield f"system\n{SYSTEM}\nuser\nassistant\nSummary above sentence and image in one word:"
            yield from (wordings[0] for wordings in INSTRUCTIONS.values())
