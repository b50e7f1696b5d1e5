"""The config of the generated world, and the vocabulary and splits that limit it."""

from dataclasses import dataclass, fields

from mirepoix.models.errors import Refused
from mirepoix.models.options import option

SPLITS = ("train", "validation", "test_entity", "test_combination")
FACTS: dict[str, tuple[str, ...]] = {
    "town": ("Arlen", "Brask", "Corvo", "Delft", "Elmar", "Fjord", "Gantz", "Hobro", "Istan", "Jasper"),
    "food": ("rice", "bread", "figs", "fish", "soup", "nuts", "honey", "beans", "corn", "cheese"),
    "maker": ("smith", "potter", "weaver", "baker", "mason", "tailor", "carver", "glazier", "cooper", "tanner"),
    "century": ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
    "habit": ("sleeping", "singing", "digging", "swimming", "hiding", "dancing", "climbing", "hunting", "resting", "flying"),
}
STATED_FACTS = ("This is {name}, {seen}. The {kind} of {name} is {value}.", "About {name}, {seen}. The {kind} of {name} is {value}.")
ILLUSTRATED_FACTS = (
    "See {name}, {seen}. The {kind} of {name} is {value}.",
    "Here is {name}, {seen}. The {kind} of {name} is {value}.",
)


@dataclass(frozen=True)
class WorldConfig:
    """Sizes, splits and flaws of a generated world."""

    entities: int = option(190, "synthetic entities, all splits together")
    passages_per_entity: int = option(2, "text candidates of an entity; each states one fact, the first five state different ones")
    pictures_per_entity: int = option(2, "picture candidates of an entity")
    captioned_per_entity: int = option(1, "pictures of an entity with its name and look as their caption")
    illustrated_per_entity: int = option(1, "passages of an entity with a picture; each states one fact")
    image_size: int = option(56, "side of a picture in pixels")
    train_queries: int = option(500, "training queries per family")
    evaluation_queries: int = option(36, "queries per family of each other split")
    validation_entities: float = option(0.07, "share of entities kept for validation")
    held_out_entities: float = option(0.12, "share of entities kept for test_entity; their combinations of shape and colour are trained on")
    held_out_combinations: float = option(
        0.15, "share of the combinations of shape and colour, and of the entities, kept for test_combination"
    )
    missing_captions: float = option(0.1, "share of captioned pictures that lose their caption")
    near_duplicates: float = option(0.01, "candidates added as slightly changed copies, as a share of the regular ones")
    exact_duplicates: float = option(0.0, "candidates added as equal copies under another id, as a share of the regular ones")
    corrupt_files: float = option(0.01, "candidates added whose picture no decoder reads, as a share of the regular ones")
    false_negatives: float = option(0.0, "share of the training positives that are left out of qrels; each query keeps one")
    leaks: float = option(0.0, "training queries added as copies, equal or slightly changed, of held-out queries, as a share of the others")

    def __post_init__(self) -> None:
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.type is float and not 0 <= value <= 1:
                raise Refused(f"{setting.name} is {value}; it is a share, give a number from 0 to 1")
            if setting.type is int and value < 1:
                raise Refused(f"{setting.name} is {value}; give 1 or more")
        if not 24 <= self.image_size <= 1024:
            raise Refused(f"image_size is {self.image_size}; give 24 to 1024 pixels")
        if self.held_out_combinations > 0.5:
            raise Refused(
                f"held_out_combinations is {self.held_out_combinations}; give 0.5 or less, or too few colours of a shape are trained on"
            )
        for name, wordings in (("passages_per_entity", STATED_FACTS), ("illustrated_per_entity", ILLUSTRATED_FACTS)):
            most = 2 * len(wordings) * len(FACTS)
            if getattr(self, name) > most:
                raise Refused(f"{name} is {getattr(self, name)}; give at most {most}, there are no more wordings of the {len(FACTS)} facts")

    def sizes(self) -> dict[str, int]:
        """The number of entities of each split; a split needs two, a picture and the target of its modification."""
        shares = {
            "validation": self.validation_entities,
            "test_entity": self.held_out_entities,
            "test_combination": self.held_out_combinations,
        }
        sizes = {split: round(share * self.entities) for split, share in shares.items()}
        sizes["train"] = self.entities - sum(sizes.values())
        for split in SPLITS:
            if sizes[split] < 2 and shares.get(split, 1):
                raise Refused(
                    f"{self.entities} entities leave {sizes[split]} to {split}, which needs 2 or more; raise entities or change the shares"
                )
        return sizes
