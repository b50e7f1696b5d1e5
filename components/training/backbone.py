"""The encoder that training starts from, or that is released as it is.

It is a retriever over a checkpoint folder, a hub id, or a tiny random twin made for the corpus; or an encoder that was saved before.
"""

import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from mirepoix.components.corpus.parts import modality_codes, part_tables, read_part
from mirepoix.components.pairs.instructions import INSTRUCTIONS
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.components.training.backbone_config import TINY, BackboneConfig
from mirepoix.models.backbones.twins import make_twin, seeded
from mirepoix.models.encoder import Encoder, encoder_class, load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import ITEM_SCHEMA, Modality
from mirepoix.serving.store import MANIFEST


def work(context: Context, config: BackboneConfig, curate: Path) -> Outcome:
    """Writes the encoder as a checkpoint folder of its own."""
    texts = read_part(curate, "corpus", ["text"]).num_rows
    encoder = _copied(context, config) if config.is_encoder else _built(context, config, curate)
    _refuse_unread(encoder, curate)
    parameters = sum(weight.numel() for weight in encoder.parameters())
    return Outcome(Rows(read=texts, written=texts), {"parameters": parameters, "dimension": encoder.dimension})


def _refuse_unread(encoder: Encoder, curate: Path) -> None:
    """Refuses a corpus with items that the encoder does not read, with how many there are: here, and not after hours of embedding."""
    for part in ("corpus", "queries"):
        found: dict[int, int] = defaultdict(int)
        example: dict[int, str] = {}
        for table in part_tables(curate, part, ITEM_SCHEMA.names):
            codes_N = modality_codes(table)
            for code in np.unique(codes_N).tolist():
                found[code] += int((codes_N == code).sum())
                example.setdefault(code, table["id"][int(np.argmax(codes_N == code))].as_py())
        for code, count in sorted(found.items()):
            if why := encoder.refusal(Modality(code)):
                raise Refused(f"{count:,} of the {part}, such as {example[code]!r}, have {Modality(code).words}, and {why}")


def _copied(context: Context, config: BackboneConfig) -> Encoder:
    """The saved encoder that `name` is, opened to see that it is whole; its files are copied, so that the copy has the same digest."""
    folder = Path(config.name).expanduser()
    encoder = load_encoder(folder, config.trust_remote_code)
    hidden = shutil.ignore_patterns(".*")
    shutil.copytree(
        folder,
        context.folder,
        ignore=lambda at, names: hidden(at, names) | ({MANIFEST} if at == str(folder) else set()),
        dirs_exist_ok=True,
    )
    return encoder


def _built(context: Context, config: BackboneConfig, curate: Path) -> Encoder:
    """A retriever over checkpoints, or over a twin."""
    retriever = encoder_class(config.encoder)
    with TemporaryDirectory() as scratch:
        checkpoints = config.checkpoints
        if config.name == TINY:
            family = config.tiny.family or config.encoder.FAMILIES[0]
            checkpoints = make_twin(Path(scratch), family, _texts(curate, retriever.prompt(config.encoder)), config.tiny, context.seed)
        else:
            config.refuse_unfit(fetch=True)
        with seeded(context.seed):
            encoder = retriever.build(checkpoints, config.encoder)
        encoder.save(context.folder)
    return encoder


def _texts(curate: Path, prompt: str) -> Iterator[str]:
    """The texts that the tokenizer is trained on: the corpus and the training queries, each with the prompt and the instructions."""
    queries = read_part(curate, "queries", ["text", "split"]).to_pylist()
    training = [row["text"] for row in queries if row["split"] == "train"]
    for text in (*read_part(curate, "corpus", ["text"])["text"].to_pylist(), *training):
        yield text
        yield prompt
        yield from (wordings[0] for wordings in INSTRUCTIONS.values())
