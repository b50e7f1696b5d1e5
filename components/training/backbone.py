"""The encoder that training starts from, or that is released as it is.

It is a retriever over a checkpoint folder, a hub id, or a tiny random twin made for the corpus; or an encoder that was saved before.
"""

import shutil
from collections.abc import Iterator, Mapping
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

MODALITIES = [Modality(code) for code in range(1, sum(Modality) + 1)]
"""All that an item may consist of."""


def work(context: Context, config: BackboneConfig, curate: Path) -> Outcome:
    """Writes the encoder as a checkpoint folder of its own."""
    texts = read_part(curate, "corpus", ["text"]).num_rows
    reads = config.traits.reads  # from the checkpoint's folder: an item that is not read is refused before weights are loaded
    unread = {modality: f"{config.name} reads {reads.words} alone" for modality in MODALITIES if modality & ~reads}
    _refuse(curate, unread)
    encoder = _copied(context, config) if config.is_encoder else _built(context, config, curate)
    _refuse(curate, {modality: why for modality in MODALITIES if modality not in unread and (why := encoder.refusal(modality))})
    parameters = sum(weight.numel() for weight in encoder.parameters())
    return Outcome(Rows(read=texts, written=texts), {"parameters": parameters, "dimension": encoder.dimension})


def _refuse(curate: Path, unread: Mapping[Modality, str]) -> None:
    """Refuses a corpus with items of these modalities, with how many there are and why: here, and not after hours of embedding.

    The corpus is not read where none is unread.
    """
    if not unread:
        return
    for part in ("corpus", "queries"):
        found: dict[Modality, tuple[int, str]] = {}
        for table in part_tables(curate, part, ITEM_SCHEMA.names):
            codes_N = modality_codes(table)
            for code in np.unique(codes_N).tolist():
                count, first = found.get(Modality(code), (0, table["id"][int(np.argmax(codes_N == code))].as_py()))
                found[Modality(code)] = count + int((codes_N == code).sum()), first
        for modality, (count, first) in found.items():
            if modality in unread:
                raise Refused(f"{count:,} of the {part}, such as {first!r}, have {modality.words}, and {unread[modality]}")


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
