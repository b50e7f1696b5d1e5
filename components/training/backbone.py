"""The encoder that training starts from: a retriever over a checkpoint folder, a hub id, or a tiny random twin made for the corpus."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.pairs.instructions import INSTRUCTIONS
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.components.training.backbone_config import TINY, BackboneConfig
from mirepoix.models.backbones.twins import make_twin, seeded
from mirepoix.models.encoder import encoder_class


def work(context: Context, config: BackboneConfig, curate: Path) -> Outcome:
    """Writes the untrained encoder as a checkpoint folder of its own."""
    retriever = encoder_class(config.encoder)
    texts = read_part(curate, "corpus", ["text"]).num_rows
    with TemporaryDirectory() as scratch:
        checkpoints = config.checkpoints
        if config.name == TINY:
            family = config.tiny.family or config.encoder.FAMILIES[0]
            checkpoints = make_twin(Path(scratch), family, _texts(curate, retriever.prompt(config.encoder)), config.tiny, context.seed)
        with seeded(context.seed):
            encoder = retriever.build(checkpoints, config.encoder)
        encoder.save(context.folder)
    parameters = sum(weight.numel() for weight in encoder.parameters())
    return Outcome(Rows(read=texts, written=texts), {"parameters": parameters, "dimension": encoder.dimension})


def _texts(curate: Path, prompt: str) -> Iterator[str]:
    """The texts that the tokenizer is trained on: the corpus and the training queries, each with the prompt and the instructions."""
    queries = read_part(curate, "queries", ["text", "split"]).to_pylist()
    training = [row["text"] for row in queries if row["split"] == "train"]
    for text in (*read_part(curate, "corpus", ["text"])["text"].to_pylist(), *training):
        yield text
        yield prompt
        yield from (wordings[0] for wordings in INSTRUCTIONS.values())
