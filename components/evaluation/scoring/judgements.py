"""What a ranking is judged by: the queries that are measured with their grades, and the pools that they are searched in.

Items are known by their places among the sorted ids of the corpus, as an index has them; a relevant item that is in no index has the place
-1, and counts as one that was not found. Memory is 12 bytes a judgement, 4 a member of a pool, and the queries.
"""

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.corpus.parts import JOINED, joined, part_files, part_tables, source_name
from mirepoix.components.evaluation.boards.board import Board, Pool
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality

NAMED = 5
"""Data sets that a refusal names."""
Places = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Question:
    """A query as it is judged: by grades of items, or where it has answers by whether one of them is in a passage."""

    id: str
    split: str
    task: str
    dataset: str
    pool: str = ""  # of its data set, or of its source where the corpus is of several; empty: the whole corpus
    answers: tuple[str, ...] = ()
    union: str = ""  # the pool that all candidates of its source are in; empty: the whole corpus

    @property
    def target(self) -> Modality:
        return Modality.of_letters(self.task.split("->")[1])


@dataclass
class Judged:
    """Queries, the items that are judged for each, and the corpus that these are of."""

    ids: pa.ChunkedArray | pa.Array  # of the corpus, sorted
    modalities_N: npt.NDArray[np.integer]
    questions: list[Question]
    bounds: npt.NDArray[np.int64]  # where each query's judgements begin
    places: Places
    grades: npt.NDArray[np.int32]
    curate: Path
    pools: Mapping[str, Places] = field(default_factory=dict)
    board: Board | None = None

    def of(self, query: int) -> tuple[Places, npt.NDArray[np.int32]]:
        """The places of the items that are judged for a query, in rising order, and their grades."""
        part = slice(self.bounds[query], self.bounds[query + 1])
        return self.places[part], self.grades[part]

    def relevant(self, query: int) -> dict[str, int]:
        """The grades of the items that are relevant to a query by their ids, of those that are in the corpus."""
        places, grades = self.of(query)
        known = (grades > 0) & (places >= 0)
        return dict(zip(self.ids.take(pa.array(places[known])).to_pylist(), grades[known].tolist(), strict=True))

    def has_answer(self, query: int, passage: str) -> bool:
        """Whether one of the answer strings of a query is in a passage, as its board looks for them."""
        return answer_in(self.questions[query].answers, passage, self.board is not None and self.board.whole_words)

    def answered(self, query: int) -> bool:
        """Whether anything can be relevant to the query."""
        return bool(self.questions[query].answers) or bool((self.of(query)[1] > 0).any())

    def groups(self, pool: Pool) -> Iterator[tuple[npt.NDArray[np.int64], Places | None]]:
        """The queries that are searched in the same candidates, with the places of these, None for all; without those of a list."""
        found: dict[str | Modality, list[int]] = {}
        for query, question in enumerate(self.questions):
            match self.own_pool(question, pool):
                case "universal":
                    found.setdefault(question.union, []).append(query)
                case "target":
                    found.setdefault(question.target, []).append(query)
                case "dataset":
                    found.setdefault(question.pool, []).append(query)
        for value in sorted(found, key=str):
            yield np.array(found[value]), self._candidates(value)

    def listed(self, pool: Pool) -> npt.NDArray[np.int64]:
        """The queries that are searched in the candidates that are judged for them."""
        own = [query for query, question in enumerate(self.questions) if self.own_pool(question, pool) == "listed"]
        return np.array(own, np.int64)

    def own_pool(self, question: Question, pool: Pool) -> Pool | None:
        """The pool of a query: the given one, or that which the board says; None where the board has no such data set."""
        if pool != "board":
            return pool
        row = self.board.row(question.dataset, question.task) if self.board else None
        return (row.pool or "universal") if row else None

    def _candidates(self, of: str | Modality) -> Places | None:
        """The candidates of a modality, or of a pool; None for the whole corpus, which a pool without members is too."""
        if isinstance(of, Modality):
            return np.flatnonzero(self.modalities_N == int(of)).astype(np.int32)
        if not of:
            return None
        if of not in self.pools:
            raise Refused(f"queries are of the pool {of!r}, of which the corpus has no candidate; it has the pools {', '.join(self.pools)}")
        return self.pools[of]

    @cached_property
    def rows(self) -> Places:
        """The place of each row of the curated corpus, -1 where the index has no such item."""
        tables = part_tables(self.curate, "corpus", ["id"], rows=JOINED)
        return np.concatenate([np.empty(0, np.int32), *(places_of(table["id"], self.ids) for table in tables)])

    def texts(self, places: npt.NDArray[np.integer]) -> dict[int, str]:
        """The texts of items by their places, read from the curated corpus."""
        wanted = np.isin(self.rows, np.unique(places))
        found: dict[int, str] = {}
        kept = iter(self.rows[wanted].tolist())
        for table in part_tables(self.curate, "corpus", ["text"], chosen=wanted):
            found.update((next(kept), text or "") for text in table["text"].to_pylist())
        return found


def read_judged(
    curate: Path,
    ids: pa.ChunkedArray | pa.Array,
    modalities_N: npt.NDArray[np.integer],
    measured: Callable[[str, str], bool],
    board: Board | None = None,
) -> Judged:
    """The queries of a curated corpus that are measured, by their id and split, with their judgements and the pools of the corpus."""
    sources, pools = _sources(curate, ids), _pools(curate, ids)
    questions = [
        _question(row, sources, pools)
        for table in part_tables(curate, "queries", ["id", "split", "task", "source", "dataset", "pool", "answers"])
        for row in table.to_pylist()
        if measured(row["id"], row["split"])
    ]
    query_ids = pa.array([question.id for question in questions], pa.string())
    parts = []
    for table in joined(part_tables(curate, "qrels", ["query_id", "item_id", "relevance"])):
        query = places_of(table["query_id"], query_ids)
        table = table.filter(pa.array(query >= 0))
        parts.append((query[query >= 0], places_of(table["item_id"], ids), table["relevance"].to_numpy().astype(np.int32)))
    columns = (
        [np.concatenate([np.empty(0, np.int32), *column]) for column in zip(*parts, strict=True)] if parts else [np.empty(0, np.int32)] * 3
    )
    order = np.lexsort((columns[1], columns[0]))
    query, places, grades = (column[order] for column in columns)
    bounds = np.searchsorted(query, np.arange(len(questions) + 1))
    return Judged(ids, modalities_N, questions, bounds, places, grades, curate, sources | pools, board)


def _question(row: Mapping[str, Any], sources: Container[str], pools: Container[str]) -> Question:
    """A query, with the pools of its own source where the corpus is of several."""
    name = source_name(row["source"])
    own = f"{name}/" if f"{name}/" in sources else ""
    union = f"{own}union" if f"{own}union" in pools else ""
    dataset, pool = row["dataset"] or name, row["pool"] or own
    return Question(row["id"], row["split"], row["task"], dataset, pool, tuple(row["answers"] or ()), union)


def refuse_other_board(judged: Judged, split: str | None = None) -> None:
    """Refuses a board that has none of the data sets that queries are of: all of them, or those of a split."""
    board, asked = judged.board, [question for question in judged.questions if split in (None, question.split)]
    if board is None or not asked or any(board.row(question.dataset, question.task) for question in asked):
        return
    found = sorted({f"{question.dataset} ({question.task})" for question in asked})
    known = list(dict.fromkeys(f"{row.dataset} ({row.task})" if row.task else row.dataset for row in board.rows))
    of = f" of the split {split}" if split else ""
    raise Refused(
        f"evaluate.board is {board.name!r}, and no query{of} is of one of its data sets: the corpus has {_first(found)}, the board "
        f"{_first(known)}; name another board, or evaluate.board=null"
    )


def _first(names: Sequence[str]) -> str:
    """A few names, and how many more there are."""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _pools(curate: Path, ids: pa.ChunkedArray | pa.Array) -> dict[str, Places]:
    """The places of the members of each pool, in rising order."""
    found: dict[str, list[Places]] = {}
    if part_files(curate, "pools"):
        for table in joined(part_tables(curate, "pools", ["pool", "item_id"])):
            places, names = places_of(table["item_id"], ids), table["pool"].combine_chunks().dictionary_encode()
            codes = names.indices.to_numpy(zero_copy_only=False)
            for code, name in enumerate(names.dictionary.to_pylist()):
                found.setdefault(name, []).append(places[(codes == code) & (places >= 0)])
    return {name: np.unique(np.concatenate(parts)) for name, parts in sorted(found.items())}


def _sources(curate: Path, ids: pa.ChunkedArray | pa.Array) -> dict[str, Places]:
    """Where the corpus is of several sources, the places of the candidates of each, by what their ids begin with: `SOURCE/`."""
    found: set[str] = set()
    for table in part_tables(curate, "corpus", ["source"], rows=JOINED):
        found.update(map(source_name, pc.unique(table["source"]).to_pylist()))
    return (
        {f"{name}/": np.flatnonzero(pc.starts_with(ids, f"{name}/")).astype(np.int32) for name in sorted(found)} if len(found) > 1 else {}
    )


def places_of(ids: pa.ChunkedArray | pa.Array, among: pa.ChunkedArray | pa.Array) -> Places:
    """The place of each id among others; -1 where it is not there."""
    among = among.combine_chunks() if isinstance(among, pa.ChunkedArray) else among
    found = pc.index_in(ids, value_set=among)
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    return np.asarray(pc.fill_null(found, -1)).astype(np.int32)


def answer_in(answers: Sequence[str], passage: str, whole_words: bool) -> bool:
    """Whether an answer is in a passage, in any case of letters: as any string, or as whole words, with no letter or digit beside it."""
    folded = passage.lower()
    for answer in answers:
        wanted = answer.strip().lower()
        if wanted and (re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", folded) if whole_words else wanted in folded):
            return True
    return False
