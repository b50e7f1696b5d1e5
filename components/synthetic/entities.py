"""Synthetic entities with a name, a look and facts, in splits that test entities and combinations never trained on; and texts about them.

The language is regular, with one word for each value and one noun for each kind of fact, so that a tiny random model can learn it.
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mirepoix.components.synthetic.drawing import ATTRIBUTES, Identity
from mirepoix.components.synthetic.world_config import FACTS, ILLUSTRATED_FACTS, STATED_FACTS
from mirepoix.models.errors import Refused

SYLLABLES = ("ba", "do", "fi", "gu", "ka", "le", "mo", "nu", "pi", "ra", "so", "ti", "va", "wo", "xe", "zu")

CAPTIONS = ("Photo of {name}, {seen}.", "View of {name}, {seen}.")
QUESTIONS = ("What is the {kind} of {whom}?", "Which {kind} has {whom}?", "Tell the {kind} of {whom}.", "Name the {kind} of {whom}.")
QUESTIONS_TO_SEE = (
    "Show the {kind} of {whom}.",
    "Show which {kind} has {whom}.",
    "Page with the {kind} of {whom}?",
    "Page on the {kind} of {whom}.",
)
SEARCHES = tuple(f"{verb} {{seen}}" for verb in ("find", "picture of", "image of", "look for", "I want", "where is", "any", "search"))
SEARCHES_TO_READ = tuple(
    f"{verb} {{seen}}" for verb in ("page about", "page with", "page showing", "show page about", "show page with", "page of")
)
MODIFICATIONS = (
    "the same but {attribute} {word}",
    "this with {attribute} {word}",
    "change the {attribute} to {word}",
    "now with {attribute} {word}",
)

Combination = tuple[str, str]  # shape, colour
_QUIET = tuple(name for name in ATTRIBUTES if name not in ("shape", "colour"))
_FULLEST = 0.6  # largest share of the looks in use; above it, free neighbouring looks become rare


@dataclass(frozen=True)
class Entity:
    """A synthetic entity; no two share a name or an identity."""

    name: str
    split: str
    identity: Identity
    facts: dict[str, str]


def stream(*key: object) -> random.Random:
    """A random generator of its own for each part of a world, so that changing one field of the config leaves other parts unchanged."""
    return random.Random("/".join(map(str, key)))


def invent(sizes: dict[str, int], held_out_combinations: float, rng: random.Random) -> list[Entity]:
    """Entities in the number of each split in `sizes`; those of test_combination, and no others, have held-out combinations."""
    trained, held_out = _combinations(held_out_combinations, rng)
    _refuse_too_many(sizes, len(trained), len(held_out))
    taken: dict[Identity, str] = {}
    _place_identities("train", sizes["train"], trained, taken, rng)
    known = {identity.combination for identity in taken}
    seen = [combination for combination in trained if combination in known]
    _place_identities("validation", sizes["validation"], seen, taken, rng)
    _place_identities("test_entity", sizes["test_entity"], seen, taken, rng)
    _place_identities("test_combination", sizes["test_combination"], held_out, taken, rng)
    return [
        Entity(name, split, identity, {kind: rng.choice(values) for kind, values in FACTS.items()})
        for name, (identity, split) in zip(_names(len(taken), rng), taken.items(), strict=True)
    ]


def neighbours(entities: Sequence[Entity]) -> list[tuple[Entity, str, Entity]]:
    """Each ordered pair of entities of one split that differ in exactly one attribute, with the name of that attribute."""
    by_identity = {entity.identity: entity for entity in entities}
    found = []
    for entity in entities:
        for name, words in ATTRIBUTES.items():
            for word in words:
                other = by_identity.get(replace(entity.identity, **{name: word}))
                if other is not None and other is not entity and other.split == entity.split:
                    found.append((entity, name, other))
    return found


def _names(count: int, rng: random.Random) -> list[str]:
    """Distinct names of syllables; the last syllable is a checksum, so that any two names differ in at least two syllables.

    A tokenizer splits at the hyphens, so that a name that was never trained on consists of syllables that were.
    """
    base, length = len(SYLLABLES), 2
    while base**length < count:
        length += 1
    names = []
    for number in rng.sample(range(base**length), count):
        digits = [number // base**place % base for place in range(length)]
        names.append("-".join(SYLLABLES[digit] for digit in [*digits, sum(digits) % base]).capitalize())
    return names


def _combinations(share: float, rng: random.Random) -> tuple[list[Combination], list[Combination]]:
    """Trained and held-out combinations.

    The held-out ones are a stair-shaped diagonal of the grid of shapes and colours: spread evenly over both, and each beside another
    of the same shape or colour.
    """
    shapes, colours = (rng.sample(ATTRIBUTES[name], len(ATTRIBUTES[name])) for name in ("shape", "colour"))
    stairs = [
        (shape, colours[(step + offset + rise) % len(colours)])
        for offset in range(0, len(colours), 2)
        for step, shape in enumerate(shapes)
        for rise in (0, 1)
    ]
    held_out = max(1, round(share * len(stairs))) if share else 0
    return stairs[held_out:], stairs[:held_out]


def _refuse_too_many(sizes: dict[str, int], trained: int, held_out: int) -> None:
    held = sizes["test_combination"]
    looks = math.prod(len(ATTRIBUTES[name]) for name in _QUIET)
    for splits, wanted, combinations in (("test_combination", held, held_out), ("the other splits", sum(sizes.values()) - held, trained)):
        room = int(_FULLEST * looks * combinations)
        if wanted > room:
            raise Refused(f"{wanted} entities of {splits} need as many different looks, there is room for {room}; lower entities")


def _place_identities(split: str, count: int, allowed: Sequence[Combination], taken: dict[Identity, str], rng: random.Random) -> None:
    """Chooses `count` free identities in pairs that differ in one attribute, so that modifications have targets.

    Pairs and not larger groups: the fewer looks are similar, the more a retriever learns of how looks are composed.
    """
    uses = dict.fromkeys(rng.sample(allowed, len(allowed)), 0)
    while count > 0:
        shape, colour = min(uses, key=uses.__getitem__)
        uses[shape, colour] += 1  # also if both are taken, or a full combination would be tried for ever
        one = Identity(shape, colour, **{name: rng.choice(ATTRIBUTES[name]) for name in _QUIET})
        beside = [combination for combination in uses if (combination[0] == shape) != (combination[1] == colour)]
        if beside and rng.random() < 0.5:
            shape, colour = min(beside, key=lambda combination: (uses[combination], rng.random()))
            other = replace(one, shape=shape, colour=colour)
        else:
            name = rng.choice(_QUIET)
            other = replace(one, **{name: rng.choice([word for word in ATTRIBUTES[name] if word != getattr(one, name)])})
        found = [one, other][:count]
        if not any(identity in taken for identity in found):
            taken.update(dict.fromkeys(found, split))
            uses[other.combination] += other.combination != one.combination
            count -= len(found)


def fact_passages(entity: Entity, number: int, illustrated: bool, rng: random.Random) -> list[tuple[str, str]]:
    """Passages that name the entity, describe its look and state one fact, as pairs of the kind of fact and the text."""
    kinds = rng.sample(list(FACTS), len(FACTS))
    wordings = [
        (template, seen) for seen in entity.identity.wordings() for template in (ILLUSTRATED_FACTS if illustrated else STATED_FACTS)
    ]
    first = rng.randrange(len(wordings))
    passages = []
    for place in range(number):
        kind = kinds[place % len(kinds)]
        template, seen = wordings[(first + place // len(kinds)) % len(wordings)]
        passages.append((kind, template.format(name=entity.name, seen=seen, kind=kind, value=entity.facts[kind])))
    return passages


def captions(entity: Entity) -> list[str]:
    """Texts for a picture of the entity: its name and its look."""
    return [template.format(name=entity.name, seen=seen) for template in CAPTIONS for seen in entity.identity.wordings()]


def questions(kind: str, whom: str, to_see: bool = False) -> list[str]:
    """Questions about a fact of `whom`: a name, or "this" in a picture."""
    return [template.format(kind=kind, whom=whom) for template in (QUESTIONS_TO_SEE if to_see else QUESTIONS)]


def descriptions(entity: Entity, to_read: bool = False) -> list[str]:
    """Searches for the look of the entity, in words."""
    return [template.format(seen=seen) for template in (SEARCHES_TO_READ if to_read else SEARCHES) for seen in entity.identity.wordings()]


def counterfactuals(attribute: str, word: str) -> list[str]:
    """Modifications of a picture."""
    return [template.format(attribute=attribute, word=word) for template in MODIFICATIONS]


def retyped(text: str, rng: random.Random) -> str:
    """The text with another case, other spaces or other punctuation."""
    return rng.choice((text.upper(), text.lower(), text.replace(" ", "  "), text.replace(",", ";"), text.replace(".", "!")))
