"""A made-up multimodal world, small or large, in which every claim about retrieval can be tested, since its truth is known.

Candidates show an entity, tell of it, or both. A query is a wish: for an identity, and perhaps for a fact. Relevant is every
candidate that grants the wish. The same dials and seed give the same bytes.
"""

import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace

from mirepoix.components.corpus.parts import PartWriter
from mirepoix.components.synthetic.drawing import DAMAGES, damaged, draw, perturbed
from mirepoix.components.synthetic.entities import (
    FACTS,
    ILLUSTRATED,
    SPLITS,
    TOLD,
    Entity,
    captions,
    invent,
    questions,
    retyped,
    stream,
    tellings,
)
from mirepoix.components.synthetic.queries import IMAGE, TASKS, TEXT, GeneratedQuery, Intent, Truth, drafts_of, queries_of
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, item_to_row
from mirepoix.models.options import option
from mirepoix.serving.store import Context, Outcome, Rows


@dataclass(frozen=True)
class WorldConfig:
    """The dials of a world."""

    entities: int = option(190, "made-up things, all splits together")
    passages_per_entity: int = option(2, "text candidates of an entity; each tells one fact, the first five tell different ones")
    pictures_per_entity: int = option(2, "picture candidates of an entity")
    captioned_per_entity: int = option(1, "pictures of an entity with its name and look as their caption")
    illustrated_per_entity: int = option(1, "passages of an entity that come with a picture; each tells one fact")
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
        for dial in fields(self):
            value = getattr(self, dial.name)
            if dial.type is float and not 0 <= value <= 1:
                raise Refused(f"{dial.name} is {value}; it is a share, give a number from 0 to 1")
            if dial.type is int and value < 1:
                raise Refused(f"{dial.name} is {value}; give 1 or more")
        if not 24 <= self.image_size <= 1024:
            raise Refused(f"image_size is {self.image_size}; give 24 to 1024 pixels")
        if self.held_out_combinations > 0.5:
            raise Refused(
                f"held_out_combinations is {self.held_out_combinations}; give 0.5 or less, or too few colours of a shape are trained on"
            )
        for name, wordings in (("passages_per_entity", TOLD), ("illustrated_per_entity", ILLUSTRATED)):
            most = 2 * len(wordings) * len(FACTS)
            if getattr(self, name) > most:
                raise Refused(f"{name} is {getattr(self, name)}; give at most {most}, there are no more wordings of the {len(FACTS)} facts")

    def sizes(self) -> dict[str, int]:
        """Entities of each split; a split needs two, a picture and what its modification leads to."""
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


@dataclass(frozen=True)
class JudgedPair:
    """That a candidate is relevant to a query."""

    query_id: str
    item_id: str
    relevance: int = 1


@dataclass(frozen=True)
class Question:
    """A picture with a question about it, its concise answer, and the passages that hold the answer."""

    item: Item
    split: str
    image_id: str  # the candidate whose picture it is
    answer: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Planted:
    """Every flaw that the dials put into the world, to the item."""

    missing_captions: tuple[str, ...]
    near_duplicates: dict[str, str]  # copy -> original
    exact_duplicates: dict[str, str]  # copy -> original
    corrupt_files: dict[str, str]  # item -> damage
    false_negatives: tuple[tuple[str, str], ...] = ()  # query, item
    leaks: dict[str, str] = field(default_factory=dict)  # training query -> held-out query


@dataclass(frozen=True)
class World:
    """Everything that is there, and everything that is true of it."""

    config: WorldConfig
    seed: int
    entities: list[Entity]
    corpus: list[Item]
    queries: list[GeneratedQuery]
    qrels: list[JudgedPair]
    triples: list[Question]
    truth: dict[str, Truth]  # of each candidate but the corrupt ones
    planted: Planted


Report = Callable[[dict[str, float]], None]


def generate(config: WorldConfig, seed: int, report: Report = lambda progress: None) -> World:
    """The world of these dials and this seed."""
    entities = invent(config.sizes(), config.held_out_combinations, stream(seed, "entities"))
    wanted = {
        split: config.train_queries if split == "train" else config.evaluation_queries
        for split in SPLITS
        if any(entity.split == split for entity in entities)
    }
    tick = _ticker(report, sum(_amounts(config).values()) + len(TASKS) * sum(wanted.values()))
    corpus, truth, planted = _candidates(config, seed, entities, tick)
    granting: dict[Intent, list[str]] = defaultdict(list)
    for item in corpus:
        if item.id in truth:
            about = truth[item.id]
            for fact in dict.fromkeys((None, about.fact)):
                granting[Intent(item.modality, about.entity.identity, fact)].append(item.id)
    drafts = {split: drafts_of(seed, [entity for entity in entities if entity.split == split], wanted[split], granting) for split in wanted}
    queries = list(queries_of(config.image_size, seed, drafts, tick))
    judgements = [JudgedPair(query.item.id, item_id) for query in queries for item_id in granting[query.wish]]
    training = {query.item.id for query in queries if query.split == "train"}
    dropped = _dropped(config, seed, [judgement for judgement in judgements if judgement.query_id in training])
    copies, leaks = _leaked(config, seed, queries)
    judgements += [JudgedPair(copy.item.id, item_id) for copy in copies for item_id in granting[copy.wish]]
    lacking = tuple((judgement.query_id, judgement.item_id) for judgement in dropped)
    return World(
        config=config,
        seed=seed,
        entities=entities,
        corpus=corpus,
        queries=queries + copies,
        qrels=[judgement for judgement in judgements if judgement not in dropped],
        triples=_triples(seed, entities, granting, {item.id: item for item in corpus}),
        truth=truth,
        planted=replace(planted, false_negatives=lacking, leaks=leaks),
    )


def work(context: Context, config: WorldConfig) -> Outcome:
    """Writes the world as a corpus folder, with world.json that says what is in it and what is wrong with it."""
    world = generate(config, context.seed, context.report)
    judged = enumerate(world.qrels, 1)
    parts = {
        "corpus": [item_to_row(item) for item in world.corpus],
        "queries": [item_to_row(query.item) | {"split": query.split, "task": query.task} for query in world.queries],
        "qrels": [asdict(judgement) | {"source": "world", "line": line} for line, judgement in judged],
        "triples": [
            item_to_row(triple.item) | {"split": triple.split, "answer": triple.answer, "evidence": list(triple.evidence)}
            for triple in world.triples
        ],
    }
    for part, rows in parts.items():
        with PartWriter(context.folder, part) as writer:
            writer.write(rows)
    counts = count_by(world)
    description = {
        "seed": world.seed,
        "dials": asdict(config),
        "counts": counts,
        "planted": asdict(world.planted),
        "held_out_combinations": sorted({entity.identity.combination for entity in world.entities if entity.split == "test_combination"}),
        "entities": [asdict(entity) for entity in world.entities],
    }
    (context.folder / "world.json").write_text(json.dumps(description, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    total = len(world.corpus) + len(world.queries)
    return Outcome(Rows(read=total, written=total), {name: float(count) for name, count in counts.items()})


def count_by(world: World) -> dict[str, int]:
    """How many there are of each kind of thing."""
    counts = Counter(
        {"candidates": len(world.corpus), "queries": len(world.queries), "qrels": len(world.qrels), "triples": len(world.triples)}
    )
    counts.update(f"candidates.{item.modality.letters}" for item in world.corpus)
    counts.update(f"queries.{query.split}" for query in world.queries)
    return dict(counts)


def _ticker(report: Report, total: int) -> Callable[[], None]:
    steps = itertools.count(1)

    def tick() -> None:
        step = next(steps)
        if step % max(1, total // 100) == 0 or step == total:
            report({"step": step, "total": total})

    return tick


def _amounts(config: WorldConfig) -> dict[str, int]:
    """How many candidates are regular, and how many are added as copies and as corrupt files."""
    each = config.passages_per_entity + config.pictures_per_entity + config.captioned_per_entity + config.illustrated_per_entity
    regular = each * config.entities
    shares = {"near": config.near_duplicates, "exact": config.exact_duplicates, "corrupt": config.corrupt_files}
    return {"regular": regular} | {name: round(share * regular) for name, share in shares.items()}


def _candidates(
    config: WorldConfig, seed: int, entities: Sequence[Entity], tick: Callable[[], None]
) -> tuple[list[Item], dict[str, Truth], Planted]:
    """The pool in an order, and under ids, that tell nothing."""
    amounts = _amounts(config)
    rng = stream(seed, "candidates")
    numbers = iter(rng.sample(range(sum(amounts.values())), sum(amounts.values())))
    items: dict[str, Item] = {}
    truth: dict[str, Truth] = {}

    def add(text: str, images: tuple[bytes, ...], about: Truth | None) -> str:
        number = next(numbers)
        item = Item(f"c{number:06d}", text, images, source="world", line=number + 1)
        items[item.id] = item
        if about is not None:
            truth[item.id] = about
        tick()
        return item.id

    captioned = [(entity.name, place) for entity in entities for place in range(config.captioned_per_entity)]
    bare = set(stream(seed, "captions").sample(captioned, round(config.missing_captions * len(captioned))))
    missing = []
    for entity in entities:
        poses = stream(seed, "poses", entity.name)

        def picture(entity: Entity = entity, poses: random.Random = poses) -> tuple[bytes, ...]:
            return (draw(entity.identity, config.image_size, poses),)

        for fact, text in tellings(entity, config.passages_per_entity, False, poses):
            add(text, (), Truth(entity, fact))
        for fact, text in tellings(entity, config.illustrated_per_entity, True, poses):
            add(text, picture(), Truth(entity, fact))
        for _ in range(config.pictures_per_entity):
            add("", picture(), Truth(entity))
        wordings = captions(entity)
        for place in range(config.captioned_per_entity):
            caption = "" if (entity.name, place) in bare else wordings[place % len(wordings)]
            item_id = add(caption, picture(), Truth(entity))
            if not caption:
                missing.append(item_id)
    regular = list(items)
    near, exact, corrupt = {}, {}, {}
    for original in rng.sample(regular, amounts["exact"]):
        exact[add(items[original].text, items[original].images, truth[original])] = original
    for original in rng.sample(regular, amounts["near"]):
        text = retyped(items[original].text, rng) if items[original].text else ""
        images = tuple(perturbed(image, rng) for image in items[original].images)
        near[add(text, images, truth[original])] = original
    for damage in itertools.islice(itertools.cycle(DAMAGES), amounts["corrupt"]):
        image = draw(rng.choice(entities).identity, config.image_size, rng)
        corrupt[add("", (damaged(image, damage, rng),), None)] = damage
    return [items[item_id] for item_id in sorted(items)], truth, Planted(tuple(missing), near, exact, corrupt)


def _dropped(config: WorldConfig, seed: int, judgements: Sequence[JudgedPair]) -> dict[JudgedPair, None]:
    """The true judgements that the dial leaves out."""
    wanted = round(config.false_negatives * len(judgements))
    left = Counter(judgement.query_id for judgement in judgements)
    most = len(judgements) - len(left)
    if wanted > most:
        raise Refused(
            f"false_negatives is {config.false_negatives}; each query keeps a positive, so give at most {most / len(judgements):.3f}"
        )
    dropped: dict[JudgedPair, None] = {}
    for judgement in stream(seed, "false negatives").sample(judgements, len(judgements)):
        if len(dropped) == wanted:
            break
        if left[judgement.query_id] > 1:
            left[judgement.query_id] -= 1
            dropped[judgement] = None
    return dropped


def _leaked(config: WorldConfig, seed: int, queries: Sequence[GeneratedQuery]) -> tuple[list[GeneratedQuery], dict[str, str]]:
    """Training queries that copy held-out ones, under ids that go on after the others, and whom each copies."""
    rng = stream(seed, "leaks")
    held_out = [query for query in queries if query.split != "train"]
    wanted = round(config.leaks * (len(queries) - len(held_out)))
    if wanted > len(held_out):
        most = len(held_out) / (len(queries) - len(held_out))
        raise Refused(f"leaks is {config.leaks}, {wanted} copies of {len(held_out)} held-out queries; give at most {most:.3f}")
    copies, leaks = [], {}
    for number, original in enumerate(rng.sample(held_out, wanted), len(queries)):
        text, images = original.item.text, original.item.images
        if rng.random() < 0.5:
            text, images = retyped(text, rng), tuple(perturbed(image, rng) for image in images)
        item = Item(f"q{number:06d}", text, images, source="world", line=number + 1)
        copies.append(replace(original, item=item, split="train"))
        leaks[item.id] = original.item.id
    return copies, leaks


def _triples(seed: int, entities: Sequence[Entity], granting: Mapping[Intent, list[str]], items: Mapping[str, Item]) -> list[Question]:
    """One for each picture and each fact that a passage tells of what it shows."""
    rng = stream(seed, "triples")
    triples: list[Question] = []
    for entity in entities:
        for fact, image_id in itertools.product(FACTS, granting[Intent(IMAGE, entity.identity)]):
            passages = granting.get(Intent(TEXT, entity.identity, fact))
            if passages:
                number = len(triples)
                question = rng.choice(questions(fact, "this"))
                item = Item(f"a{number:06d}", question, items[image_id].images, source="world", line=number + 1)
                triples.append(Question(item, entity.split, image_id, entity.facts[fact], tuple(passages)))
    return triples
