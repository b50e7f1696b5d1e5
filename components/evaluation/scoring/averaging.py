"""What averages are over: the queries of each task, of each data set, or all."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mirepoix.components.evaluation.boards.board import Board
from mirepoix.components.evaluation.evaluate_config import Mean


def averaged(datasets: Sequence[str], tasks: Sequence[str], mean: Mean, board: Board | None = None) -> list[npt.NDArray[np.int64]]:
    """The places of the queries of each part that an average is over.

    Over data sets, those of a board are its rows; of any other each task is a part, since a data set may have tasks of unlike difficulty.
    """
    parts: dict[tuple[str, str], list[int]] = {}
    for place, (dataset, task) in enumerate(zip(datasets, tasks, strict=True)):
        key = ("", "")
        if mean == "tasks":
            key = ("", task)
        elif mean == "datasets":
            row = board.row(dataset, task) if board else None
            key = (dataset, row.task or "") if row else (dataset, task)
        parts.setdefault(key, []).append(place)
    return [np.array(places) for _, places in sorted(parts.items())]
