"""Measures rankings that need no encoder, once for a corpus: by words, by pixels and by chance.

A trained encoder that is below one of them has learnt nothing that these have not. `bm25` ranks texts by words, with whatever the query has
of text; `pixels` ranks pictures by the correlation of small grey thumbnails, with the first picture of a query or a candidate, or the
middle frame of a clip; `chance` is the mean over all orders. A query that a ranking can tell nothing of finds nothing, and counts as zero;
where that is so of every query, the ranking is left out.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from mirepoix.components.corpus.parts import first_picture, modality_codes, part_tables
from mirepoix.components.evaluation.floors_config import FloorsConfig
from mirepoix.components.evaluation.scoring.judgements import Judged, places_of, read_judged, refuse_other_board
from mirepoix.components.evaluation.scoring.measuring import VALUES, Measuring
from mirepoix.components.evaluation.scoring.rankers import ByVectors, ByWords, Ranker
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.item import Modality
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.search.bm25 import build_sparse
from mirepoix.serving.search.dense import build_flat

SIDE = 16
"""Pixels of a side of a thumbnail."""
BATCH = 10_000
"""Thumbnails that become vectors at a time."""
ROWS = 64
"""Rows that are read at a time with their pictures."""
THREADS = 4
NOTHING = pa.table({"query": pa.array([], pa.string())})
"""The values where nothing was measured."""


def work(context: Context, config: FloorsConfig, curate: Path) -> Outcome:
    """Writes queries.parquet with the values of every query, as the evaluation of an encoder does, and the runs."""
    evaluation = config.evaluation()
    splits = {split for table in part_tables(curate, "queries", ["split"]) for split in table["split"].to_pylist()}
    if not splits - ({"train"} if config.trained else set()):  # then the corpus, which may be large, is not read
        pq.write_table(NOTHING, context.folder / VALUES)
        return Outcome(Rows(0, 0), {"systems": 0})
    ids, modalities_N = _corpus(curate, with_modalities="target" in evaluation.measured_pools)
    judged = read_judged(curate, ids, modalities_N, lambda _, split: not config.trained or split != "train", board=evaluation.public_board)
    refuse_other_board(judged)
    asked = len(judged.questions)
    measuring = Measuring(judged, evaluation, context.folder, context.seed)
    pools, tables = len(evaluation.measured_pools), []
    report = context.counter(asked * pools * len(config.floors))
    makers: dict[str, Callable[[Path, Judged], Ranker | None]] = {"bm25": _by_words, "pixels": _by_pixels}
    for floor in config.floors:
        if floor == "chance":
            tables.append(measuring.by_chance(report))
        elif (ranker := makers[floor](curate, judged)) is not None:
            tables.append(measuring.measure(floor, ranker, report))
        else:
            report(asked * pools)
    pq.write_table(pa.concat_tables(tables) if tables else NOTHING, context.folder / VALUES)
    return Outcome(Rows(asked, asked), {"systems": len(tables)})


def _corpus(curate: Path, with_modalities: bool) -> tuple[pa.Array, npt.NDArray[np.int32]]:
    """The ids of the candidates, sorted, and the modality of each; 0 where it is not asked for, as it takes all pictures to know it."""
    columns = ["id", "text", "images", "video"] if with_modalities else ["id"]
    ids: list[str] = []
    codes = [np.empty(0, np.int32)]
    for table in part_tables(curate, "corpus", columns, rows=ROWS if with_modalities else 10_000):
        ids += table["id"].to_pylist()
        codes.append(modality_codes(table) if with_modalities else np.zeros(table.num_rows, np.int32))
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return pa.array([ids[row] for row in order], pa.string()), np.concatenate(codes)[order]


def _by_words(curate: Path, judged: Judged) -> Ranker | None:
    """BM25 over the texts of the corpus; None where no query has a text, or no candidate has."""
    names = [question.id for question in judged.questions]
    measured = set(names)
    texts = {id: text for id, text in _texts(curate, "queries") if id in measured}
    asked = [texts[name] for name in names]
    if not any(map(str.strip, asked)) or not any(text.strip() for _, text in _texts(curate, "corpus")):
        return None
    known = [id for table in part_tables(curate, "corpus", ["id"]) for id in table["id"].to_pylist()]
    return ByWords(build_sparse((text for _, text in _texts(curate, "corpus")), known, [int(Modality.TEXT)] * len(known)), asked)


def _texts(curate: Path, part: str) -> Iterator[tuple[str, str]]:
    for table in part_tables(curate, part, ["id", "text"]):
        yield from zip(table["id"].to_pylist(), (text or "" for text in table["text"].to_pylist()), strict=True)


def _by_pixels(curate: Path, judged: Judged) -> Ranker | None:
    """The correlation of thumbnails; None where no query has a picture, or no candidate has.

    Thumbnails are kept as bytes, and become vectors where they lie in the index: a million of them take 1.3 GB.
    """
    names = [question.id for question in judged.questions]
    asked = dict(_thumbnails(curate, "queries", set(names)))
    known = dict(_thumbnails(curate, "corpus")) if asked else {}
    if not known:
        return None
    ids = sorted(known)
    batches = (unit_rows(np.stack([known.pop(id) for id in ids[start : start + BATCH]])) for start in range(0, len(ids), BATCH))
    index = build_flat(batches, SIDE * SIDE + 1, ids, Modality.IMAGE)
    vectors = RaggedRows.single(unit_rows(np.stack([*asked.values()])))
    numbers = {name: row for row, name in enumerate(asked)}
    places = np.sort(places_of(pa.array(ids, pa.string()), judged.ids))
    return ByVectors(index, vectors, np.array([numbers.get(name, -1) for name in names], np.int64), places)


def _thumbnails(curate: Path, part: str, wanted: set[str] | None = None) -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """The thumbnails of items by their ids, of those that have a picture or a clip."""
    with ThreadPoolExecutor(THREADS) as threads:
        for table in part_tables(curate, part, ["id", "images", "video"], rows=ROWS):
            found = {}
            for row in table.to_pylist():
                picture = first_picture(row)
                if picture is not None and (wanted is None or row["id"] in wanted):
                    found[row["id"]] = picture
            yield from zip(found, threads.map(thumbnail, found.values()), strict=True)


def thumbnail(picture: bytes) -> npt.NDArray[np.uint8]:
    """The grey pixels of a picture at the size of a thumbnail."""
    with Image.open(BytesIO(picture)) as opened:
        opened.draft("L", (2 * SIDE, 2 * SIDE))  # a JPEG is decoded at a fraction of its size
        return np.asarray(opened.convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)).ravel()


def unit_rows(grey_NP: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Thumbnails as unit vectors of their pixels about the mean; one without contrast has a direction that only others such have."""
    centred = grey_NP.astype(np.float32)
    centred -= centred.mean(1, keepdims=True)
    flat = np.abs(centred).max(1) < 0.5
    centred[flat] = 0
    rows = np.column_stack([centred, np.where(flat, 1, 1e-3)])
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)
