"""Runs: for each query the documents that were found, best first, in the files of TREC, BEIR, M-BEIR, mteb and ranx.

trec    query Q0 document rank score tag
beir    the same; the rank is 0 in each line
mbeir   query Q0 document rank score tag task
mteb    the predictions that `mteb.evaluate(prediction_folder=...)` writes: {subset: {split: {query: {document: score}}}}
ranx    {query: {document: score}}

The order is trec_eval's, whatever ranks a file has: by score as a float of 32 bits, and of equal ones by id, the last first. A run of lines
is read query by query, so that its length does not matter; one of JSON is in memory as a whole.
"""

import gzip
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.compute as pc

from mirepoix.components.evaluation.files.columns import Layout, counted, first_columns, open_bytes, read_rows, refuse_white_space
from mirepoix.models.errors import Refused

LAYOUTS = {
    "trec": Layout("query Q0 document rank score tag", 6, 0, 2, 4, float),
    "beir": Layout("query Q0 document 0 score tag", 6, 0, 2, 4, float),
    "mbeir": Layout("query Q0 document rank score tag task", 7, 0, 2, 4, float),
}
JSON_FORMS = ("mteb", "ranx")
RUN_FORMS = (*LAYOUTS, *JSON_FORMS)
META = "mteb_model_meta"
"""What mteb writes beside the subsets of its predictions."""


class Ranking(NamedTuple):
    """The documents that were found for a query, best first, with their scores."""

    query: str
    ids: list[str]
    scores: list[float]


def read_run(path: str | Path, form: str | None = None, part: str | None = None) -> Iterator[Ranking]:
    """The rankings of a file; `form` None: recognised by the columns, or by the depth of the JSON.

    `part` is the SUBSET/SPLIT that is read of mteb's predictions; None: the only one.
    """
    path = Path(path)
    if form not in (None, *RUN_FORMS):
        raise Refused(f"the format of a run is {form!r}; give one of {', '.join(RUN_FORMS)}")
    first = first_columns(path)
    if form in JSON_FORMS or (form is None and first[0].startswith(b"{")):
        return _of_json(path, form, part)
    if part is not None:
        raise Refused(f"part is {part!r}, and {path} has no parts; only mteb's predictions have")
    if form is None:
        form = next((name for name, layout in LAYOUTS.items() if layout.columns == len(first)), None)
    if form is None:
        known = ", ".join(f"{layout.columns} ({name})" for name, layout in LAYOUTS.items() if name != "beir")
        raise Refused(f"{path}:1: {counted(len(first))}, and the lines of a run have {known}; or give the JSON of mteb or ranx")
    return _of_lines(path, LAYOUTS[form])


def _of_lines(path: Path, layout: Layout) -> Iterator[Ranking]:
    seen: set[str] = set()
    query: str | None = None
    ids: list[str] = []
    scores: list[np.ndarray] = []
    lines: list[np.ndarray] = []
    for rows in read_rows(path, layout):
        runs = pc.run_end_encode(rows.queries)
        start = 0
        for name, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
            if name != query:
                if query is not None:
                    yield _ranking(query, ids, np.concatenate(scores), _place(path, np.concatenate(lines)))
                    seen.add(query)
                if name in seen:
                    raise Refused(
                        f"{path}:{rows.lines[start]}: query {name!r} comes again after others; bring its lines together: sort -s -k1,1"
                    )
                query, ids, scores, lines = name, [], [], []
            ids += rows.documents[start:end].to_pylist()
            scores.append(rows.values[start:end])
            lines.append(rows.lines[start:end])
            start = end
    if query is not None:
        yield _ranking(query, ids, np.concatenate(scores), _place(path, np.concatenate(lines)))


def _place(path: Path, lines: np.ndarray) -> Callable[[int], str]:
    return lambda row: f"{path}:{lines[row]}"


def _ranking(query: str, ids: list[str], scores: np.ndarray, place: Callable[[int], str]) -> Ranking:
    """The documents in trec_eval's order; refused where one is there twice, at the place of its second row."""
    if len(set(ids)) < len(ids):
        row = next(row for row, id in enumerate(ids) if id in ids[:row])
        raise Refused(f"{place(row)}: query {query!r} has document {ids[row]!r} twice; keep one of them")
    with np.errstate(over="ignore"):
        keys = scores.astype(np.float32)
    if (keys[1:] < keys[:-1]).all():
        return Ranking(query, ids, scores.tolist())
    order = sorted(range(len(ids)), key=lambda row: (keys[row], ids[row]), reverse=True)
    return Ranking(query, [ids[row] for row in order], scores[order].tolist())


def _of_json(path: Path, form: str | None, part: str | None) -> Iterator[Ranking]:
    found = _json(path)
    depth = _depth({name: value for name, value in found.items() if name != META})
    known = {2: "ranx", 4: "mteb"}.get(depth)
    if known is None or form not in (None, known):
        wanted = "{subset: {split: {query: {document: score}}}}" if form == "mteb" else "{query: {document: score}}"
        raise Refused(f"{path} is not {wanted}; give the predictions of mteb, or a run of ranx")
    if known == "ranx":
        if part is not None:
            raise Refused(f"part is {part!r}, and {path} is a run of ranx, which has no parts; leave part out")
        return _of_mapping(path, found)
    parts = {f"{subset}/{split}": run for subset, splits in found.items() if subset != META for split, run in splits.items()}
    if part is None and len(parts) == 1:
        (part,) = parts
    if part not in parts:
        given = "has several parts" if part is None else f"has no part {part!r}"
        raise Refused(f"{path} {given}; give one of {', '.join(parts)}")
    return _of_mapping(path, parts[part])


def _json(path: Path) -> dict[str, Any]:
    with open_bytes(path) as file:
        try:
            found = json.load(file)
        except ValueError as error:
            raise Refused(f"{path} is no JSON ({str(error).splitlines()[0]}); give the predictions of mteb, or a run of ranx") from error
    if not isinstance(found, dict):
        raise Refused(f"{path} is no JSON object; give the predictions of mteb, or a run of ranx")
    return found


def _depth(value: Any) -> int:
    """How many objects are in each other before there is a number; an empty one is taken for the last of them."""
    if not isinstance(value, dict):
        return 0
    return 1 + max((_depth(each) for each in list(value.values())[:1]), default=0)


def _of_mapping(path: Path, run: Mapping[str, Any]) -> Iterator[Ranking]:
    for query, found in run.items():
        numbers = isinstance(found, dict) and all(isinstance(score, int | float) and np.isfinite(score) for score in found.values())
        if not numbers:
            raise Refused(f"{path}: the documents of query {query!r} have no numbers as scores; give {{document: score}} for each query")
        refuse_white_space([query], "query")
        refuse_white_space(list(found), "document")
        yield _ranking(query, list(found), np.array(list(found.values()), np.float64), lambda _: str(path))


def write_run(
    path: str | Path,
    rankings: Iterable[tuple[str, Sequence[str], Sequence[float]]],
    form: str = "trec",
    tag: str = "mirepoix",
    tasks: Mapping[str, int] | None = None,
) -> None:
    """Writes rankings of (query, ids, scores), best first, with ranks from 1; a name that ends in .gz is compressed.

    A score that is not below the one before it is lowered to the next smaller float of 32 bits, as trec_eval sorts by score and would break
    ties in another order than the ranking's. `tasks` are M-BEIR's ids of tasks, by query.
    """
    if form not in ("trec", "mbeir"):
        raise Refused(f"a run is written as trec or mbeir, not as {form!r}")
    refuse_white_space([tag], "run")
    path = Path(path)
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else path.open("w", encoding="utf-8") as out:
        for query, ids, scores in rankings:
            refuse_white_space([query], "query")
            refuse_white_space(list(ids), "document")
            end = f"{tag}\n" if form == "trec" else f"{tag} {_task(query, tasks)}\n"
            lowered = _lowered(query, np.asarray(scores, np.float64)).tolist()
            out.writelines(
                f"{query} Q0 {id} {rank} {score:.9g} {end}" for rank, (id, score) in enumerate(zip(ids, lowered, strict=True), 1)
            )


def _task(query: str, tasks: Mapping[str, int] | None) -> int:
    task = (tasks or {}).get(query)
    if task is None:
        raise Refused(f"query {query!r} has no id of a task, which a line of M-BEIR ends with; give tasks={{query: id}}")
    return task


def _lowered(query: str, scores: np.ndarray) -> np.ndarray:
    """The scores as strictly decreasing floats of 32 bits; refused where they are not best first."""
    if not np.isfinite(scores).all():
        raise Refused(f"a score of query {query!r} is not finite; give numbers")
    if (scores[1:] > scores[:-1]).any():
        raise Refused(f"the scores of query {query!r} are not best first; sort its documents by score")
    return falling(scores)


def falling(scores: np.ndarray) -> np.ndarray:
    """Scores, best first, as strictly decreasing floats of 32 bits: ties are lowered to the next smaller one."""
    least = scores.astype(np.float32)
    for rank in (np.flatnonzero(least[1:] >= least[:-1]) + 1).tolist():
        while rank < len(least) and least[rank] >= least[rank - 1]:
            least[rank] = np.nextafter(least[rank - 1], np.float32(-np.inf))
            rank += 1
    return least
