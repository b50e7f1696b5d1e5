"""What a run costs here: an estimate from the sizes of the model, the counts of the corpus and the speed of this machine.

embedding   operations of a picture and of a text, times their numbers, over the speed that a product of matrices has here; a text is taken
            for as long as the longest of a batch of the sampled texts, to which the batch is padded
training    three times the operations of each tower that is trained, once those of one that is frozen, for each pair
reading     the seconds that one picture took here, twice: it is checked, and decoded again to be embedded
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from mirepoix.workflows.init.machine import Machine
from mirepoix.workflows.init.models import Model
from mirepoix.workflows.init.pictures import Pictures
from mirepoix.workflows.recipes.search import OWN

REACHED = 0.65
"""Share of the speed that `machine` measures, of matrices of 384 by 384, that a model reaches. Measured by
`bench/your_pictures.py --pictures 96 share` in CPU seconds: the forward of CLIP ViT-B/32 over batches of 16 pictures reached a median
of 0.63 on two cores (three times five repeats, 0.48 to 0.88, beside other work) and of 0.65 on one (five, 0.60 to 0.69). Of short
captions, a ninth of the work of a picture, it reached 0.1 to 0.4; training was not measured."""
EMBEDDED = 16
"""Items of a batch that is embedded, as the recipes have it."""
LETTERS = 4.0
"""Letters of a token of English, about; a letter of another script is taken for a token."""
PROCESS = 1.5e9
"""Bytes that the processes of a run take without a model: the driver, Ray, and an actor with torch; about, chosen here."""
STARTING = 60.0
"""Seconds that starting the cluster and the processes of the stages takes, about."""


@dataclass(frozen=True)
class Costs:
    """The estimate, in bytes and seconds."""

    download: int
    disk: int
    memory: float
    reading: float
    embedding: float
    training: float = 0.0

    @property
    def seconds(self) -> float:
        return STARTING + self.reading + self.embedding + self.training


def costs(
    model: Model,
    machine: Machine,
    pictures: Pictures,
    items: tuple[int, int],
    pairs_seen: int = 0,
    batch: int = 32,
    here: bool = False,
    sample: Sequence[str] = (),
) -> Costs:
    """The costs of a run over so many pictures and texts, which embeds both, and trains on so many pairs of a picture and a text.

    The texts are taken to be as long as those of the sample; without one, of the full length.
    """
    count, texts = items
    speed = machine.rate * REACHED
    vision = model.vision.operations if model.vision else 0.0
    text = model.text_operations(longest_tokens(sample, EMBEDDED) if sample else model.text.tokens)
    trained_text = model.text_operations(longest_tokens(sample, batch) if sample else model.text.tokens)
    passes = 2 if pairs_seen else 1  # an untrained model is measured beside the trained one
    embedding = passes * (count * vision + texts * text) / speed
    training = 3 * pairs_seen * (vision + trained_text) / speed
    kept = pictures.bytes * min(1.0, (OWN.picture_pixels or 1e9) / max(1.0, pictures.megapixels * 1e6))
    encoders = 3 if pairs_seen else 2  # of the backbone, of the training, in the release
    vectors = passes * (count + texts) * model.vector * 4
    disk = pictures.bytes + 2 * kept + encoders * model.bytes + 2 * vectors  # as read, as curated and in the release
    towers = [tower for tower in (model.text, model.vision) if tower]
    working = (
        sum(tower.activation_bytes(batch) for tower in towers) if pairs_seen else max(t.activation_bytes(16) / t.layers for t in towers)
    )
    return Costs(
        download=0 if here else model.download,
        disk=round(disk),
        memory=PROCESS + model.bytes + working,
        reading=2 * count * pictures.seconds / max(1, machine.cpus),
        embedding=embedding,
        training=training,
    )


def longest_tokens(sample: Sequence[str], batch: int) -> float:
    """The tokens of the longest text of a batch, about: the mean over the batches that the sample gives."""
    lengths = [2 + sum(1 / LETTERS if letter.isascii() else 1 for letter in text) for text in sample]  # and a token at each end
    return mean(max(lengths[start : start + batch]) for start in range(0, len(lengths), batch))
