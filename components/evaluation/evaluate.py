"""Searches the index with every query of evaluation and computes measures by split, task, data set and pool.

Both the trained and the untrained encoder are measured, and beside them the floors, which need no encoder. Without a training there is one
encoder, and queries of every split are measured, as `pairs` chose them; a corpus without any is not an error then: the result says that
nothing was measured, and why. A query that nothing in the corpus answers counts as zero.
"""

import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import part_rows, part_tables
from mirepoix.components.embedding.vectors import read_vectors
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig, released
from mirepoix.components.evaluation.gallery import write_gallery
from mirepoix.components.evaluation.scoring.judgements import Judged, read_judged, refuse_other_board
from mirepoix.components.evaluation.scoring.measuring import VALUES, Measuring
from mirepoix.components.evaluation.scoring.rankers import ByVectors
from mirepoix.components.evaluation.scoring.summary import Summary, board_table, headline
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.errors import Refused
from mirepoix.serving.search.dense import Index
from mirepoix.serving.search.open import open_index


def work(
    context: Context,
    config: EvaluateConfig,
    curate: Path,
    embed: Path,
    index: Path,
    untrained_embed: Path | None = None,
    untrained_index: Path | None = None,
    floors: Path | None = None,
) -> Outcome:
    """Measures all encoders on the same queries, and writes metrics.json, queries.parquet, gallery.json, TREC runs and qrels."""
    systems = {"encoder": (embed, index)}
    if untrained_embed is not None and untrained_index is not None:
        systems = {"trained": (embed, index), "untrained": (untrained_embed, untrained_index)}
    searched = _opened(index)
    judged = _judged(config, curate, embed, searched)
    asked = len(judged.questions)
    answered = sum(map(judged.answered, range(asked)))
    if not answered and "trained" in systems:
        raise Refused("there is nothing to evaluate: no query outside the split 'train' has an answer in the corpus")
    if not answered:
        return _unmeasured(context, curate, asked)
    config = replace(config, split=headline_split({question.split for question in judged.questions}, config.split))
    refuse_unknown_totals(judged, config)
    refuse_other_board(judged, config.split)
    measuring = Measuring(judged, config, context.folder, context.seed)
    report, tables = context.counter(asked * len(systems) * len(config.measured_pools)), []
    for system, (vectors, rows_of) in systems.items():
        tables.append(measuring.measure(system, _ranker(searched if rows_of == index else _opened(rows_of), vectors, judged), report))
    if floors is not None:
        below = pq.read_table(floors / VALUES)
        known = pa.array([question.id for question in judged.questions], pa.string())
        below = below.filter(pc.is_in(below["query"], value_set=known))
        tables += [below] if below.num_rows else []  # a file without a row has no column for a measure
    rows = pa.concat_tables([table.select(tables[0].schema.names) for table in tables])
    pq.write_table(rows, context.folder / VALUES)
    _write_qrels(context.folder / "qrels.trec", judged)
    results = Summary(rows, config, context.seed).results()
    head = headline(results, config)
    summary: dict[str, Any] = {"headline": head, "results": results, "unanswered": asked - answered}
    if config.public_board is not None:
        summary["board"] = board_table(results, config)
    (context.folder / "metrics.json").write_text(json.dumps(summary, indent=1, sort_keys=True) + "\n")
    write_gallery(context.folder, rows, judged, head, curate, floors)
    shown = {name: value for name, value in head.items() if isinstance(value, str)}
    shown |= {system: head[system]["average"] for system in head if isinstance(head[system], dict) and "average" in head[system]}
    tables_of: dict[str, list[dict[str, Any]]] = {"headline": [shown]}
    if asked > answered:
        tables_of["notices"] = [{"detail": f"{asked - answered:,} of {asked:,} queries have no answer in the corpus; they count as zero"}]
    return Outcome(Rows(asked, asked), _flat(summary), tables_of)


def _opened(folder: Path) -> Index:
    opened = open_index(folder)
    assert isinstance(opened, Index), folder
    return opened


def _judged(config: EvaluateConfig, curate: Path, embed: Path, index: Index) -> Judged:
    """The queries that are measured: held-out ones, and those of train that `pairs` had embedded."""
    embedded = {id for table in part_tables(embed, "queries", ["id"]) for id in table["id"].to_pylist()}
    return read_judged(
        curate, index.ids, index.modalities_N, lambda id, split: split != "train" or id in embedded, board=config.public_board
    )


def _ranker(index: Index, vectors: Path, judged: Judged) -> ByVectors:
    ids, _, encoded = read_vectors(vectors, "queries")
    rows = {id: row for row, id in enumerate(ids)}
    return ByVectors(index, encoded, np.array([rows[question.id] for question in judged.questions], np.int64))


def _unmeasured(context: Context, curate: Path, unanswered: int) -> Outcome:
    """The outcome for a corpus without a query that can be measured, with the reason; other arms may train on what queries it has."""
    of_train = "outside the split 'train' " if part_rows(curate, "qrels") else ""
    lacking = f"no query {of_train}has an answer in the corpus" if part_rows(curate, "queries") else "the corpus has no queries"
    why = f"no score was computed: {lacking}; bring queries, or captions that are read apart, as docs/your_pictures.md explains"
    (context.folder / "metrics.json").write_text(json.dumps({"results": [], "unmeasured": why}, indent=1, sort_keys=True) + "\n")
    return Outcome(Rows(unanswered, 0, rejected=unanswered), {}, {"notices": [{"detail": why}]})


def headline_split(there: Collection[str], wanted: str | None) -> str:
    """The split of the headline, among those measured, train last; refused where `wanted` is not one of them."""
    if wanted not in (None, *there):
        raise Refused(f"evaluate.split is {wanted!r}; the corpus has queries of {', '.join(sorted(there))}")
    return wanted or min(there, key=lambda split: (split == "train", split != "test", not split.startswith("test"), split))


def refuse_unknown_totals(judged: Judged, config: EvaluateConfig) -> None:
    """Refuses a headline that depends on how many passages are relevant, where that is not known: where answers are strings."""
    headline = next((each for each in config.measured if each.name == config.headline_measure), None)
    asked = next((question for question in judged.questions if question.answers), None)
    if headline is not None and headline.needs_all and asked is not None:
        raise Refused(
            f"evaluate.measure is {headline.name}, which depends on how many items are relevant in all; that is not known where answers "
            f"are strings in passages, as for {asked.id}: give RR@k, P@k or Success@k"
        )


def _write_qrels(file: Path, judged: Judged) -> None:
    """Writes the judgements above 0 with their grades."""
    with file.open("w") as out:
        for query in sorted(range(len(judged.questions)), key=lambda query: judged.questions[query].id):
            out.writelines(f"{judged.questions[query].id} 0 {id} {grade}\n" for id, grade in judged.relevant(query).items())


def _flat(summary: dict) -> dict[str, float]:
    """The metrics that are logged to MLflow."""
    head = summary["headline"]
    systems = dict.fromkeys(entry["system"] for entry in summary["results"])
    metrics = {f"{system} {head['measure']}": head[system]["average"] for system in systems if system in head}
    for entry in summary["results"]:
        if entry["system"] == released(systems) and head["measure"] in entry:
            metrics[f"{entry['split']} {entry['pool']} {head['measure']}"] = entry[head["measure"]]["average"]
    for table in summary.get("board", {}).get("tables", ()):
        for mean in table["means"]:
            if mean["system"] == released(systems):
                metrics[f"{summary['board']['title']} {table['pool']} {mean['name']}"] = mean["value"]
    return metrics | ({"unanswered": float(summary["unanswered"])} if summary["unanswered"] else {})
