"""Helpers of the tests of the stages: work done and published as the runner does it, and hand-made corpora and vectors."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import PARTS
from mirepoix.components.embedding.vectors import rows_to_arrow
from mirepoix.components.stage import Context, Outcome
from mirepoix.components.synthetic.world_config import WorldConfig
from mirepoix.models.backbones.twin_config import Tiny
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.golden import GOLDEN, Golden
from mirepoix.serving.search.dense import build
from mirepoix.serving.store import publish

WORLD = WorldConfig(
    entities=24,
    passages_per_entity=1,
    pictures_per_entity=1,
    image_size=28,
    train_queries=4,
    evaluation_queries=2,
    validation_entities=0.1,
    held_out_entities=0.1,
    corrupt_files=0.05,
    exact_duplicates=0.05,
)
SIZES = Tiny(vocabulary=300, hidden_size=32, layers=1, heads=2, intermediate_size=64, vision_depth=1, vision_width=32, vision_heads=2)


@dataclass(frozen=True)
class Made:
    """A published folder, and what its stage returned."""

    folder: Path
    outcome: Outcome


def context(home: Path, seed: int = 0, report: Callable[..., None] = lambda progress, notes=(): None) -> Context:
    """A stage's context in `home`, with an empty folder and a scratch that outlives it."""
    draft = home / "draft"
    draft.mkdir(parents=True)
    return Context(draft, str(home / "scratch"), report, seed)


def made(home: Path, work: Callable[..., Outcome], config: Any, seed: int = 0, **inputs: Path) -> Made:
    """Runs the work on the inputs, and publishes its folder under `home`."""
    stage_context = context(home, seed)
    outcome = work(stage_context, config, **inputs)
    publish(stage_context.folder, home / "artefact", {})
    return Made(home / "artefact", outcome)


def write_corpus(folder: Path, **parts: Sequence[dict[str, Any]]) -> Path:
    """A corpus folder with the given rows; columns that a row lacks are empty, parts that are not given have no row.

    As curation does it, held/ lists what `held_out_of` the rows gives, besides the rows of it that are given.
    """
    empty = {"text": "", "images": [], "video": [], "instruction": "", "source": "made", "line": 1, "relevance": 1}
    held = held_out_of(*(parts.get(part, ()) for part in ("queries", "qrels", "kin"))) | {row["item_id"] for row in parts.get("held", ())}
    parts = {**parts, "held": [{"item_id": id} for id in sorted(held)]}
    for part in dict.fromkeys(("corpus", "queries", "qrels", *parts)):
        (folder / part).mkdir(parents=True)
        rows = [{**empty, **row} for row in parts.get(part, [])]
        pq.write_table(pa.Table.from_pylist(rows, schema=PARTS[part]), folder / part / "part-00000.parquet")
    return folder


def held_out_of(queries: Sequence[dict[str, Any]], qrels: Sequence[dict[str, Any]], kin: Sequence[dict[str, Any]]) -> set[str]:
    """The answers of the queries outside the split train, and their kin, by definition."""
    outside = {row["id"] for row in queries if row["split"] != "train"}
    answers = {row["item_id"] for row in qrels if row["query_id"] in outside and row.get("relevance", 1) > 0}
    pairs = [{row["item_id"], row["kin_id"]} for row in kin]
    return answers.union(*(pair for pair in pairs if pair & answers))


def write_plain(folder: Path, **parts: Sequence[dict[str, Any]]) -> Path:
    """Plain Parquet as a user might have it: the columns are those of the first row, the types what pyarrow guesses."""
    for part, rows in parts.items():
        (folder / part).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / part / "mine.parquet")
    return folder


def plain_corpus(**parts: Sequence[dict[str, Any]]) -> dict[str, Sequence[dict[str, Any]]]:
    """The rows of a small corpus with the required columns alone; parts that are given replace its own."""
    whole = {
        "corpus": [{"id": "d1", "text": "a star"}, {"id": "d2", "text": "a disc"}],
        "queries": [{"id": "q1", "text": "star ?", "split": "train", "task": "t->t"}],
        "qrels": [{"query_id": "q1", "item_id": "d1"}],
    }
    return {**whole, **parts}


def unit_rows(rows: Sequence[Sequence[float]]) -> np.ndarray:
    """The rows scaled to unit norm."""
    rows_ND = np.asarray(rows, np.float32)
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


def write_vectors(folder: Path, **parts: dict[str, tuple[int, list[float]]]) -> Path:
    """A folder of vectors as `embed` writes it, from {id: (modality, row)} of each part."""
    for part, items in parts.items():
        (folder / part).mkdir(parents=True)
        rows = unit_rows([row for _, row in items.values()])
        columns = {
            "id": pa.array(items, pa.string()),
            "modality": pa.array([code for code, _ in items.values()], pa.int8()),
            "rows": rows_to_arrow(RaggedRows.single(rows)),
        }
        pq.write_table(pa.table(columns), folder / part / "part-00000.parquet")
    (folder / "vectors.json").write_text(json.dumps({"width": rows.shape[1], "encoder": "hand-made"}))
    Golden([], [], []).write(folder / GOLDEN)
    return folder


def write_index(folder: Path, items: dict[str, tuple[int, list[float]]]) -> Path:
    rows = unit_rows([row for _, row in items.values()])
    build(rows, list(items), [code for code, _ in items.values()], encoder="hand-made").save(folder)
    return folder


def write_held_out_corpus(folder: Path) -> Path:
    """A curated corpus with answers in every split, their kin, and candidates that curation holds out beside them."""
    queries = [{"id": f"q-{split}", "text": "x", "split": split, "task": "t->t"} for split in ("train", "validation", "test", "mine")]
    judged = [
        {"query_id": "q-train", "item_id": "trained"},
        {"query_id": "q-validation", "item_id": "validated"},
        {"query_id": "q-test", "item_id": "tested"},
        {"query_id": "q-test", "item_id": "refuted", "relevance": 0},
        {"query_id": "q-mine", "item_id": "other"},
    ]
    kin = [("tested", "kin-behind"), ("kin-before", "tested"), ("trained", "kin-of-trained")]
    names = ["trained", "validated", "tested", "refuted", "other", "kin-behind", "kin-before", "kin-of-trained", "like-tested", "free"]
    return write_corpus(
        folder,
        corpus=[{"id": name, "text": f"text of {name}", "images": [b"i"] if name == "free" else []} for name in names],
        queries=queries,
        qrels=judged,
        kin=[{"item_id": one, "kin_id": other, "why": "test"} for one, other in kin],
        held=[{"item_id": "like-tested"}],
    )
