"""Rankings of places are written as rankings of ids are."""

import numpy as np
import pyarrow as pa
import pytest

from mirepoix.components.evaluation.files.run_writer import RunWriter
from mirepoix.components.evaluation.files.runs import read_run, write_run

IDS = ["a", "b/1", 'c"d', "é,f"]
RANKED = {"q1": ([2, 0, 3], [0.5, 0.5, 0.25]), "q2": ([], []), "q3": ([1], [-1.0]), "q4": ([3, 1, 0], [0.0, 0.0, 0.0])}


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_run_of_places_is_that_of_their_ids_with_ties_lowered(tmp_path, at_once):
    with RunWriter(tmp_path / "places.trec", "mine") as run:
        for start in range(0, len(RANKED), at_once):
            part = [*RANKED.items()][start : start + at_once]
            ranked = [(np.array(places, np.int64), np.array(scores, np.float32)) for _, (places, scores) in part]
            run.write([query for query, _ in part], pa.array(IDS), ranked)
    write_run(tmp_path / "ids.trec", [(query, [IDS[n] for n in places], scores) for query, (places, scores) in RANKED.items()], tag="mine")
    places, ids = ([line.split() for line in (tmp_path / name).read_text().splitlines()] for name in ("places.trec", "ids.trec"))
    assert [line[:4] + line[5:] for line in places] == [line[:4] + line[5:] for line in ids]
    assert [np.float32(line[4]) for line in places] == [np.float32(line[4]) for line in ids]
    assert [(one.query, one.ids) for one in read_run(tmp_path / "places.trec")] == [
        (query, [IDS[n] for n in places]) for query, (places, _) in RANKED.items() if places
    ]
