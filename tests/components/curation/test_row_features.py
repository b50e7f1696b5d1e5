"""Facts come back as they were added, for any rows in any order."""

import numpy as np
import pyarrow as pa

from mirepoix.components.curation.row_features import FACTS_SCHEMA, LOOK, ROW, RowFeatures
from mirepoix.components.curation.signatures import PERMUTATIONS


def row(number, shingles=0, looks=0, minhash=False):
    fact = np.zeros((), ROW)
    fact["tokens"], fact["sketch"], fact["looks"], fact["minhash"] = number, shingles, looks, minhash
    seen = np.zeros(looks, LOOK)
    seen["hash"] = 100 * number + np.arange(looks)
    return {
        "row": fact.tobytes(),
        "sketch": (10 * number + np.arange(shingles, dtype=np.uint64)).tobytes(),
        "looks": seen.tobytes(),
        "minhash": np.full(PERMUTATIONS, number, np.uint32).tobytes() if minhash else b"",
    }


def noted(folder, rows, cut=2):
    facts = RowFeatures(folder)
    for first in range(0, len(rows), cut):
        facts.add(pa.Table.from_pylist(rows[first : first + cut], schema=FACTS_SCHEMA))
    facts.seal()
    return facts


def test_each_row_has_its_own_facts(tmp_path):
    facts = noted(tmp_path, [row(1, 3, 0, True), row(2), row(3, 2, 2), row(4, 1, 0, True), row(5, 0, 3)])
    assert facts.rows["tokens"].tolist() == [1, 2, 3, 4, 5]
    values, counts = facts.sketches(np.array([2, 1, 0, 2]))
    assert (values.tolist(), counts.tolist()) == ([30, 31, 10, 11, 12, 30, 31], [2, 0, 3, 2])
    values, counts = facts.looks(np.array([4, 2]))
    assert (values["hash"].tolist(), counts.tolist()) == ([500, 501, 502, 300, 301], [3, 2])
    assert facts.first_looks("hash", np.array([4, 2])).tolist() == [500, 300]
    assert facts.minhashes(np.array([3, 0]), 5, 7).tolist() == [[4, 4], [1, 1]]


def test_there_may_be_nothing_to_know(tmp_path):
    facts = noted(tmp_path, [row(1), row(2)])
    assert len(facts.rows) == 2
    assert [len(found[0]) for found in (facts.sketches(np.array([0, 1])), facts.looks(np.array([1])))] == [0, 0]
