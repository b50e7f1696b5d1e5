"""What of a board can be measured with the files that there are: its data sets, and the pool of the candidates of all of them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import TYPE_CHECKING

from mirepoix.components.corpus.captions_config import whole_of
from mirepoix.components.evaluation.boards.board import Board, BoardRow
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.evaluation.floors_config import FloorsConfig
from mirepoix.components.ingestion.formats.mbeir_layout import TASKS
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.models.errors import Refused
from mirepoix.workflows.runner.graph import Stage

if TYPE_CHECKING:
    from mirepoix.components.ingestion.formats.benchmark_files import DataSet
    from mirepoix.components.ingestion.readers import Source

UNION = "universal"
"""The pool of the candidates of all data sets."""


def measurable(stages: Sequence[Stage]) -> list[Stage]:
    """The stages, without the pool of all candidates where only those of some data sets are read: its scores would be too high.

    Refused where that pool was asked for, and where there is no data set of the board.
    """
    board, sources = _board(stages), _sources(stages)
    if board is None:
        return list(stages)
    if board.rows and len(absent := _absent(stages, board) or ()) == len(board.rows):
        there = ", ".join(each.name for source in sources for each in source.datasets or ())
        raise Refused(
            f"{_paths(sources)} has no data set of {board.title}, which evaluate.board names: it has {there or 'none'}, and the board "
            f"has {_named(board, absent)}; bring some of these, or measure by no board: evaluate.board=null evaluate.measure=R@5"
        )
    return [_without_union(stage, cure) for stage in stages] if (cure := _no_union(sources)) else list(stages)


def notes(stages: Sequence[Stage]) -> tuple[str, ...]:
    """What of a board is not measured, as its files are not there or not read: a line each."""
    board, sources = _board(stages), _sources(stages)
    return () if board is None else tuple(_notes(stages, board, sources))


def _notes(stages: Sequence[Stage], board: Board, sources: "Sequence[Source]") -> Iterator[str]:
    if absent := _absent(stages, board):
        yield f"not in {_paths(sources)}, so not measured: {_named(board, absent)} ({len(absent)} of {len(board.rows)})"
    if UNION in board.pools and (cure := _no_union(sources)):
        yield f"the candidates of all data sets together are not searched, since not all of them are read; to search them, {cure}"


def _without_union(stage: Stage, cure: str) -> Stage:
    """A stage that measures, without the pool of all candidates; refused where the config names it."""
    match stage.config:
        case EvaluateConfig() as config:
            if UNION in (*config.pools, config.pool):
                field, asked = ("evaluate.pools", "has") if UNION in config.pools else ("evaluate.pool", "is")
                given = f"{field} {asked} {UNION}, the candidates of all data sets together, and not all of them are read"
                raise Refused(f"{given}; give {field}=dataset, or {cure}")
            return replace(stage, config=replace(config, pools=tuple(pool for pool in config.measured_pools if pool != UNION)))
        case FloorsConfig() as floors:
            return replace(stage, config=replace(floors, pools=tuple(pool for pool in floors.pools if pool != UNION)))
    return stage


def _no_union(sources: "Sequence[Source]") -> str:
    """What would have the candidates of all data sets read; empty where they are, or the board does not search them together."""
    ranked = [cure for source in sources if (cure := source.no_union) is not None]
    if ranked and len(sources) > 1:
        return "give the benchmark as the only source"
    return next(filter(None, ranked), "")


def _absent(stages: Sequence[Stage], board: Board) -> list[BoardRow] | None:
    """The rows of a board of which there is no data set, of those that are chosen; None where that is known only when they are read."""
    sources = _sources(stages)
    there = [source.datasets for source in sources]
    if not sources or None in there:
        return None
    known = list(chain.from_iterable(found or () for found in there))
    chosen = [row for row in board.rows if any(_is_chosen(row, source.tree.only_datasets) for source in sources)]
    return [row for row in chosen if not any(_is_of(row, each) for each in known)]


def _is_of(row: BoardRow, found: "DataSet") -> bool:
    """Whether a row of a board is of a data set, or of the same without some of its captions."""
    return whole_of(row.dataset) == found.dataset and (not row.task or not found.task or row.task == found.task)


def _is_chosen(row: BoardRow, patterns: Sequence[str]) -> bool:
    """Whether a row of a board is of a data set that is to be read."""
    task = [f"{row.dataset}_task{TASKS.index(row.task)}"] if row.task in TASKS else []
    names = (whole_of(row.dataset), row.label, *row.groups, *task)
    return not patterns or any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def _named(board: Board, rows: Sequence[BoardRow]) -> str:
    """The labels of rows, or in their place the group that they are the whole of, with how many it has."""
    left, found = list(rows), list[str]()
    for group in sorted(board.means, key=lambda name: -len(board.mean_rows(name))):
        whole = board.mean_rows(group)
        if len(whole) > 1 and all(row in left for row in whole):
            found.append(f"{group} ({len(whole)})")
            left = [row for row in left if row not in whole]
    return ", ".join([*found, *(row.label for row in left)])


def _board(stages: Sequence[Stage]) -> Board | None:
    """The board that the run measures by, of sources that are files."""
    measured = next((stage.config for stage in stages if isinstance(stage.config, EvaluateConfig)), None)
    return measured.public_board if measured is not None and _sources(stages) else None


def _sources(stages: Sequence[Stage]) -> "Sequence[Source]":
    """The opened sources; none where the corpus is the generated world."""
    return next((stage.arguments.get("sources", ()) for stage in stages if isinstance(stage.config, SourcesConfig)), ())


def _paths(sources: "Sequence[Source]") -> str:
    return ", ".join(source.tree.path for source in sources)
