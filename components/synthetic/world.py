"""A generated multimodal corpus of any size whose relevance judgements are complete, for testing claims about retrieval.

Candidates show an entity, describe it, or both. The intent of a query is an identity and perhaps a kind of fact; every candidate that
satisfies the intent is relevant. The same config and seed give the same bytes.
"""

import itertools
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from mirepoix.components.corpus.parts import PartWriter
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.components.synthetic.drawing import DAMAGES, damaged, draw, perturbed
from mirepoix.components.synthetic.entities import Entity, captions, fact_passages, invent, questions, retyped, stream
from mirepoix.components.synthetic.queries import IMAGE, TASKS, TEXT, GeneratedQuery, Intent, Truth, drafts_of, queries_of
from mirepoix.components.synthetic.world_config import FACTS, SPLITS, WorldConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, item_to_row


@dataclass(frozen=True)
class JudgedPair:
    """A candidate that is relevant to a query."""

    query_id: str
    item_id: str
    relevance: int = 1


@dataclass(frozen=True)
class Question:
    """A picture with a question about it, its concise answer, and the passages that contain the answer."""

    item: Item
    split: str
    image_id: str  # the candidate whose picture it is
    answer: str
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Planted:
    """Every flaw that the config adds to the world, by item."""

    missing_captions: tuple[str, ...]
    near_duplicates: dict[str, str]  # copy -> original
    exact_duplicates: dict[str, str]  # copy -> original
    corrupt_files: dict[str, str]  # item -> damage
    false_negatives: tuple[tuple[str, str], ...] = ()  # query, item
    leaks: dict[str, str] = field(default_factory=dict)  # training query -> held-out query


@dataclass(frozen=True)
class World:
    """The parts of the corpus, with the truth about each candidate and the flaws that were added."""

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
    """Generates the world of a config and a seed."""
    entities = invent(config.sizes(), config.held_out_combinations, stream(seed, "entities"))
    wanted = {
        split: config.train_queries if split == "train" else config.evaluation_queries
        for split in SPLITS
        if any(entity.split == split for entity in entities)
    }
    tick = _ticker(report, sum(_amounts(config).values()) + len(TASKS) * sum(wanted.values()))
    corpus, truth, planted = _candidates(config, seed, entities, tick)
    relevant_ids: dict[Intent, list[str]] = defaultdict(list)
    for item in corpus:
        if item.id in truth:
            about = truth[item.id]
            for fact in dict.fromkeys((None, about.fact)):
                relevant_ids[Intent(item.modality, about.entity.identity, fact)].append(item.id)
    drafts = {
        split: drafts_of(seed, [entity for entity in entities if entity.split == split], wanted[split], relevant_ids) for split in wanted
    }
    queries = list(queries_of(config.image_size, seed, drafts, tick))
    judgements = [JudgedPair(query.item.id, item_id) for query in queries for item_id in relevant_ids[query.intent]]
    training = {query.item.id for query in queries if query.split == "train"}
    dropped = _dropped(config, seed, [judgement for judgement in judgements if judgement.query_id in training])
    copies, leaks = _leaked(config, seed, queries)
    judgements += [JudgedPair(copy.item.id, item_id) for copy in copies for item_id in relevant_ids[copy.intent]]
    lacking = tuple((judgement.query_id, judgement.item_id) for judgement in dropped)
    return World(
        config=config,
        seed=seed,
        entities=entities,
        corpus=corpus,
        queries=queries + copies,
        qrels=[judgement for judgement in judgements if judgement not in dropped],
        triples=_triples(seed, entities, relevant_ids, {item.id: item for item in corpus}),
        truth=truth,
        planted=replace(planted, false_negatives=lacking, leaks=leaks),
    )


def work(context: Context, config: WorldConfig) -> Outcome:
    """Writes the world as a corpus folder, with world.json, which describes its entities and its flaws."""
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
    """Counts of candidates by modality, queries by split, judgements and triples."""
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
    """The number of regular candidates, and of those added as copies and as corrupt files."""
    each = config.passages_per_entity + config.pictures_per_entity + config.captioned_per_entity + config.illustrated_per_entity
    regular = each * config.entities
    shares = {"near": config.near_duplicates, "exact": config.exact_duplicates, "corrupt": config.corrupt_files}
    return {"regular": regular} | {name: round(share * regular) for name, share in shares.items()}


def _candidates(
    config: WorldConfig, seed: int, entities: Sequence[Entity], tick: Callable[[], None]
) -> tuple[list[Item], dict[str, Truth], Planted]:
    """The candidates in an order and with ids that carry no information."""
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

        for fact, text in fact_passages(entity, config.passages_per_entity, False, poses):
            add(text, (), Truth(entity, fact))
        for fact, text in fact_passages(entity, config.illustrated_per_entity, True, poses):
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
    """The true judgements that `false_negatives` leaves out of qrels."""
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
    """Training queries that copy held-out ones, with ids after all others, and the id of the query that each copies."""
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


def _triples(seed: int, entities: Sequence[Entity], relevant_ids: Mapping[Intent, list[str]], items: Mapping[str, Item]) -> list[Question]:
    """A question for each picture and each fact of its entity that a passage states."""
    rng = stream(seed, "triples")
    triples: list[Question] = []
    for entity in entities:
        for fact, image_id in itertools.product(FACTS, relevant_ids[Intent(IMAGE, entity.identity)]):
            passages = relevant_ids.get(Intent(TEXT, entity.identity, fact))
            if passages:
                number = len(triples)
                question = rng.choice(questions(fact, "this"))
                item = Item(f"a{number:06d}", question, items[image_id].images, source="world", line=number + 1)
                triples.append(Question(item, entity.split, image_id, entity.facts[fact], tuple(passages)))
    return triples
