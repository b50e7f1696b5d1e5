"""A small curated corpus of visual dialogues, and the checks that every added passage must pass."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import PARTS, PartWriter, read_part
from mirepoix.components.passages.output import PASSAGE_SCHEMA
from tests.components.fixtures import Made, write_corpus
from tests.serving.fixtures import drawing

PICTURES = [drawing("disc", hue / 10, 24) for hue in range(10)]
KNOWLEDGE = {
    "k1": "Lighthouses guide ships along the coast. Their lamps are strong. Keepers lived in them.",
    "k2": "A lighthouse tower is often white. It stands on rocks. Waves reach it.",
    "k3": "Ships carry goods. They cross oceans. Storms slow them.",
    "k4": "Dogs sleep in the grass. They dream. They wake.",
}
TRIPLES = (
    ("t1", "What is this tall tower used for?", "It guides passing ships safely along the rocky coast at night."),
    ("t2", "What is the animal doing?", "It sleeps peacefully in the warm grass beside the fence."),
    ("t3", "How many ships are there?", "There are four old ships in the harbour of the town."),
    ("t4", "Is it day?", "Yes."),
    ("t5", "Which animal sleeps in the deep snow of the mountain?", "An animal that sleeps in the deep snow of the mountain."),
)


def triple(id: str, question: str, answer: str, **more: Any) -> dict[str, Any]:
    row = {"id": id, "text": question, "answer": answer, "images": [PICTURES[len(id + answer) % 10]], "split": "train", "evidence": []}
    return {**row, "video": [], "instruction": "", "source": "made/triples", "line": 1, **more}


def corpus(folder: Path, triples: list[dict[str, Any]], **parts: Any) -> Path:
    """A curated corpus: texts, a captioned picture and a picture, with the triples."""
    texts = [{"id": id, "text": text} for id, text in KNOWLEDGE.items()]
    others = [{"id": "c1", "text": "A lighthouse on rocks", "images": [PICTURES[0]], "line": 7}, {"id": "c2", "images": [PICTURES[1]]}]
    write_corpus(folder, **{"corpus": texts + others, **parts})
    with PartWriter(folder, "triples") as writer:
        writer.write(triples)
    return folder


def dialogues(folder: Path) -> Path:
    """Five triples to train on, and one of another split."""
    given = [triple(*row, line=n, evidence=["k1", "gone", "k2"] if n == 1 else []) for n, row in enumerate(TRIPLES, 1)]
    return corpus(folder, [*given, triple("v1", *TRIPLES[0][1:], split="validation")])


def rows(made: Made, part: str) -> list[dict[str, Any]]:
    """The rows of a part that the stage wrote."""
    return read_part(made.folder, part).to_pylist() if part in PARTS else pq.read_table(made.folder / part).to_pylist()


def adds_up(made: Made) -> None:
    """Every part has its schema, and ids that one part refers to are in the other."""
    for part in ("corpus", "queries", "qrels", "rejects"):
        assert read_part(made.folder, part).schema.equals(PARTS[part]), part
    assert pq.read_table(made.folder / "passages").schema.equals(PASSAGE_SCHEMA)
    candidates, queries = ({row["id"] for row in rows(made, part)} for part in ("corpus", "queries"))
    positives = [(row["query_id"], row["item_id"]) for row in rows(made, "qrels") if row["relevance"] > 0]
    assert {query for query, _ in positives} == queries and {item for _, item in positives} == candidates
    assert len(candidates) == len(rows(made, "corpus")) and len(queries) == len(rows(made, "queries"))
    assert {(row["query_id"], row["item_id"]) for row in rows(made, "passages")} == set(positives)
    outcome = made.outcome
    assert outcome.rows.written == len(queries) and outcome.rows.rejected == len(rows(made, "rejects"))
    counts = {row["outcome"]: row["count"] for row in outcome.tables["passages"]}
    assert sum(counts.values()) == outcome.rows.read and counts["written"] == outcome.metrics["written"] == len(queries)
