"""Some queries with what was found for them, for the report: where the encoder does better than the best floor, and where it does worse.

The untrained encoder counts as a floor here.
"""

import base64
import json
from collections.abc import Iterable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
from PIL import Image

from mirepoix.components.corpus.parts import first_picture, rows_with_ids
from mirepoix.components.evaluation.evaluate_config import FLOORS, released
from mirepoix.components.evaluation.scoring.judgements import Judged

FILE = "gallery.json"
EACH = 6
"""Queries that are shown of each kind."""
FOUND, ANSWERS = 4, 2
"""Candidates that are shown of each ranking, and answers of each query."""
LETTERS, SIDE = 240, 112
"""Letters of a text and pixels of a side of a picture that are shown."""


def write_gallery(folder: Path, rows: pa.Table, judged: Judged, head: Mapping[str, Any], curate: Path, floors: Path | None) -> None:
    """Writes gallery.json: queries of the headline's split and pool, those with the largest differences of each task in turn."""
    system = released(head)
    beside = _beside(head, system)
    values = {name: _values(rows, name, head) for name in (system, beside) if name}
    own = values[system]
    other = values[beside] if beside else dict.fromkeys(own, 0.0)
    questions = {question.id: place for place, question in enumerate(judged.questions)}
    gains = {query: value - other.get(query, 0.0) for query, value in own.items()}
    wins = _in_turn([query for query in gains if gains[query] > 0], lambda query: -gains[query], judged, questions)
    losses = _in_turn(
        [query for query in gains if gains[query] < 0 or own[query] == 0],
        lambda query: (gains[query], own[query]),
        judged,
        questions,
    )
    chosen = {*wins, *losses}
    found = {name: _found(_run(folder, floors, name, head["pool"]), chosen) for name in (system, beside) if name}
    answers = {query: _answers(judged, questions[query]) for query in chosen}
    wanted = {id for by_query in (*found.values(), answers) for ids in by_query.values() for id in ids}
    items = _shown(curate, "corpus", wanted)
    asked = _shown(curate, "queries", chosen)

    def card(query: str) -> dict[str, Any]:
        place = questions[query]
        question, relevant = judged.questions[place], judged.relevant(place)

        def results(name: str) -> list[dict[str, Any]]:
            shown = [items[id] for id in found[name].get(query, ()) if id in items]
            right = (judged.has_answer(place, item["text"]) if question.answers else item["id"] in relevant for item in shown)
            return [_cut(item) | {"relevant": each} for item, each in zip(shown, right, strict=True)]

        return {
            "query": _cut(asked[query]),
            "task": question.task,
            "dataset": question.dataset,
            "value": own[query],
            "beside": other.get(query, 0.0),
            "answers": [_cut(items[id]) for id in answers[query] if id in items] or [{"text": text} for text in question.answers[:ANSWERS]],
            "found": results(system),
            "found_beside": results(beside) if beside else [],
        }

    gallery = {"system": system, "beside": beside, "measure": head["called"], "pool": head["pool"], "split": head["split"]}
    content = gallery | {"wins": [card(query) for query in wins], "losses": [card(query) for query in losses]}
    (folder / FILE).write_text(json.dumps(content, indent=1) + "\n")


def _beside(head: Mapping[str, Any], system: str) -> str:
    """The best by the headline of the floors and the untrained encoder; chance has no ranking to show."""
    there = {name: head[name]["average"] for name in (*FLOORS, "untrained") if name in head and name not in ("chance", system)}
    return max(there, key=lambda name: there[name]) if there else ""


def _values(rows: pa.Table, system: str, head: Mapping[str, Any]) -> dict[str, float]:
    chosen = rows
    for name, value in (("system", system), ("pool", head["pool"]), ("split", head["split"])):
        chosen = chosen.filter(pc.equal(chosen[name], value))
    return {
        query: value
        for query, value in zip(chosen["query"].to_pylist(), chosen[head["measure"]].to_pylist(), strict=True)
        if value is not None
    }


def _in_turn(queries: Iterable[str], order: Any, judged: Judged, questions: Mapping[str, int]) -> list[str]:
    """The first queries by an order, of each data set and task in turn."""
    groups: dict[tuple[str, str], list[str]] = {}
    for query in sorted(queries, key=lambda query: (order(query), query)):
        question = judged.questions[questions[query]]
        groups.setdefault((question.dataset, question.task), []).append(query)
    turns = sorted((turn, place, query) for place, own in enumerate(groups.values()) for turn, query in enumerate(own))
    return [query for _, _, query in turns[:EACH]]


def _run(folder: Path, floors: Path | None, system: str, pool: str) -> Path:
    home = floors if floors is not None and system in FLOORS else folder
    return home / f"{system}-{pool}.trec"


def _found(run: Path, queries: set[str]) -> dict[str, list[str]]:
    """The first candidates of some queries in a run, which is read in parts."""
    found: dict[str, list[str]] = {}
    if not run.is_file() or not run.stat().st_size or not queries:
        return found
    names = ["query", "q0", "item", "rank", "score", "tag"]
    types = {"query": pa.string(), "item": pa.string()}
    wanted = pa.array(sorted(queries))
    with pa_csv.open_csv(
        run,
        pa_csv.ReadOptions(column_names=names),
        pa_csv.ParseOptions(delimiter=" ", quote_char=False),
        pa_csv.ConvertOptions(column_types=types, include_columns=["query", "item", "rank"]),
    ) as reader:
        for batch in reader:
            kept = batch.filter(pc.and_(pc.is_in(batch["query"], value_set=wanted), pc.less_equal(batch["rank"], FOUND)))
            for query, item in zip(kept["query"].to_pylist(), kept["item"].to_pylist(), strict=True):
                found.setdefault(query, []).append(item)
    return found


def _answers(judged: Judged, query: int) -> list[str]:
    """The ids of the answers with the highest grades."""
    relevant = judged.relevant(query)
    return sorted(relevant, key=lambda id: -relevant[id])[:ANSWERS]


def _shown(curate: Path, part: str, wanted: set[str]) -> dict[str, dict[str, Any]]:
    """Items by their ids: their whole text, as answers are looked for in it, and a small picture."""
    found = {}
    for table in rows_with_ids(curate, part, wanted):
        for row in table.to_pylist():
            found[row["id"]] = {"id": row["id"], "text": row["text"] or "", "picture": _small(first_picture(row))}
    return found


def _cut(item: dict[str, Any]) -> dict[str, Any]:
    """The item with its text as it is shown."""
    text = item["text"]
    return item if len(text) <= LETTERS else item | {"text": f"{text[: LETTERS - 1]}…"}


def _small(picture: bytes | None) -> str:
    """A picture as a small JPEG in a data URI; empty where there is none."""
    if picture is None:
        return ""
    with Image.open(BytesIO(picture)) as opened:
        opened.draft("RGB", (2 * SIDE, 2 * SIDE))
        small = opened.convert("RGB")
        small.thumbnail((SIDE, SIDE))
        out = BytesIO()
        small.save(out, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
