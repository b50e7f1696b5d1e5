"""Queries of the generated world in the eight task families of M-BEIR, with their intents and the candidates that satisfy them."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from mirepoix.components.synthetic.drawing import Identity, draw
from mirepoix.components.synthetic.entities import Entity, counterfactuals, descriptions, neighbours, questions, stream
from mirepoix.components.synthetic.world_config import FACTS
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality

TEXT, IMAGE, BOTH = Modality.TEXT, Modality.IMAGE, Modality.TEXT | Modality.IMAGE
TASKS = ("t->t", "t->i", "t->it", "i->t", "i->i", "it->t", "it->i", "it->it")


@dataclass(frozen=True)
class Truth:
    """The content of a candidate: the entity that it shows or describes, and the kind of fact that it states, if any."""

    entity: Entity
    fact: str | None = None


@dataclass(frozen=True)
class Intent:
    """The intent of a query: candidates of this modality about this identity, and, if a fact is given, that state this kind of fact."""

    modality: Modality
    identity: Identity
    fact: str | None = None

    def satisfied_by(self, item: Item, truth: Truth) -> bool:
        return item.modality == self.modality and truth.entity.identity == self.identity and self.fact in (None, truth.fact)


@dataclass(frozen=True)
class GeneratedQuery:
    """A query with its split, its task family and its intent."""

    item: Item
    split: str
    task: str
    intent: Intent


@dataclass(frozen=True)
class Draft:
    """A query before its picture is drawn."""

    shown: Identity | None
    text: str
    intent: Intent


def drafts_of(seed: int, entities: Sequence[Entity], count: int, relevant_ids: Mapping[Intent, list[str]]) -> dict[str, list[Draft]]:
    """`count` drafts of each family about the entities of one split; text-only families have no repeated draft."""
    pools: dict[str, list[Draft]] = defaultdict(list)
    for entity in entities:
        identity = entity.identity
        pools["t->i"] += [Draft(None, text, Intent(IMAGE, identity)) for text in descriptions(entity)]
        pools["t->it by look"] += [Draft(None, text, Intent(BOTH, identity)) for text in descriptions(entity, to_read=True)]
        pools["i->t"].append(Draft(identity, "", Intent(TEXT, identity)))
        pools["i->i"].append(Draft(identity, "", Intent(IMAGE, identity)))
        for fact, (named, pictured, modality) in itertools.product(FACTS, (("t->t", "it->t", TEXT), ("t->it by name", "it->it", BOTH))):
            intent = Intent(modality, identity, fact)
            if intent in relevant_ids:
                pools[named] += [Draft(None, text, intent) for text in questions(fact, entity.name, to_see=modality == BOTH)]
                pools[pictured] += [Draft(identity, text, intent) for text in questions(fact, "this", to_see=modality == BOTH)]
    for source, attribute, target in neighbours(entities):
        intent = Intent(IMAGE, target.identity)
        pools["it->i"] += [Draft(source.identity, text, intent) for text in counterfactuals(attribute, getattr(target.identity, attribute))]

    split = entities[0].split
    counts = {name: {"t->it by look": count - count // 2, "t->it by name": count // 2}.get(name, count) for name in pools}
    chosen: dict[str, list[Draft]] = defaultdict(list)
    for name, pool in pools.items():
        if counts[name] > len(pool) and pool[0].shown is None:
            raise Refused(
                f"{counts[name]} queries {name} of {split} are configured, its {len(entities)} entities allow {len(pool)}; give fewer"
            )
        rng = stream(seed, "drafts", split, name)
        chosen[name.split()[0]] += itertools.islice(itertools.cycle(rng.sample(pool, len(pool))), counts[name])
    return {task: stream(seed, "order", split, task).sample(chosen[task], count) for task in TASKS}


def queries_of(
    side: int, seed: int, drafts: Mapping[str, Mapping[str, Sequence[Draft]]], tick: Callable[[], None]
) -> Iterator[GeneratedQuery]:
    """The queries of each split, the families in turn; every picture is drawn in a pose that no other picture has."""
    numbers = itertools.count()
    for split, families in drafts.items():
        for rank, task in itertools.product(range(len(families[TASKS[0]])), TASKS):
            number, draft = next(numbers), families[task][rank]
            pose = stream(seed, "query", split, task, rank)
            images = (draw(draft.shown, side, pose),) if draft.shown else ()
            tick()
            yield GeneratedQuery(Item(f"q{number:06d}", draft.text, images, source="world", line=number + 1), split, task, draft.intent)
