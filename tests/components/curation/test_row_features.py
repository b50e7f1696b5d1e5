"""Features are read as they were added, for any rows in any order."""

import numpy as np
import pyarrow as pa

from mirepoix.components.curation.row_features import FEATURES_SCHEMA, ROW, RowFeatures
from mirepoix.components.curation.signatures import PERMUTATIONS, PICTURE_SIGNATURE


def row(number, shingles=0, signatures=0, minhash=False):
    fields = np.zeros((), ROW)
    fields["tokens"], fields["sketch"], fields["signatures"], fields["minhash"] = number, shingles, signatures, minhash
    seen = np.zeros(signatures, PICTURE_SIGNATURE)
    seen["hash"] = 100 * number + np.arange(signatures)
    return {
        "row": fields.tobytes(),
        "sketch": (10 * number + np.arange(shingles, dtype=np.uint64)).tobytes(),
        "signatures": seen.tobytes(),
        "minhash": np.full(PERMUTATIONS, number, np.uint32).tobytes() if minhash else b"",
    }


def noted(folder, rows, cut=2):
    features = RowFeatures(folder)
    for first in range(0, len(rows), cut):
        features.add(pa.Table.from_pylist(rows[first : first + cut], schema=FEATURES_SCHEMA))
    features.finish()
    return features


def test_each_row_has_its_own_features(tmp_path):
    features = noted(tmp_path, [row(1, 3, 0, True), row(2), row(3, 2, 2), row(4, 1, 0, True), row(5, 0, 3)])
    assert features.rows["tokens"].tolist() == [1, 2, 3, 4, 5]
    values, counts = features.sketches(np.array([2, 1, 0, 2]))
    assert (values.tolist(), counts.tolist()) == ([30, 31, 10, 11, 12, 30, 31], [2, 0, 3, 2])
    values, counts = features.signatures(np.array([4, 2]))
    assert (values["hash"].tolist(), counts.tolist()) == ([500, 501, 502, 300, 301], [3, 2])
    assert features.first_signatures("hash", np.array([4, 2])).tolist() == [500, 300]
    assert features.minhashes(np.array([3, 0]), 5, 7).tolist() == [[4, 4], [1, 1]]


def test_rows_may_have_no_sketches_and_no_signatures(tmp_path):
    features = noted(tmp_path, [row(1), row(2)])
    assert len(features.rows) == 2
    assert [len(found[0]) for found in (features.sketches(np.array([0, 1])), features.signatures(np.array([1])))] == [0, 0]
