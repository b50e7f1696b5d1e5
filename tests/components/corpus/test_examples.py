"""The first rows of each reason are kept with the place that each was read from."""

import pyarrow as pa

from mirepoix.components.corpus.examples import Examples


def test_three_rows_of_each_part_and_reason_are_kept_in_order():
    kept = Examples()
    names = [f"in/{letter}.png" for letter in "abcde"]
    table = pa.table({"id": [*"abcde"], "source": names, "line": [1] * 5})
    kept.add("corpus", table, ["damaged", None, "damaged", "damaged", "damaged"], ["", "", "x", "", ""])
    kept.add(["queries"], pa.table({"id": ["q"], "source": ["in/q.csv"], "line": [7]}), ["damaged"])
    assert [tuple(row.values()) for row in kept.rows] == [
        ("damaged", "corpus", "in/a.png", "a", ""),
        ("damaged", "corpus", "in/c.png", "c", "x"),
        ("damaged", "corpus", "in/d.png", "d", ""),
        ("damaged", "queries", "in/q.csv:7", "q", ""),
    ]


def test_a_row_of_an_unknown_source_has_no_place():
    kept = Examples()
    kept.add("corpus", pa.table({"id": ["a"], "source": pa.array([None], pa.string()), "line": [3]}), ["damaged"])
    assert kept.rows == [{"reason": "damaged", "part": "corpus", "place": "", "id": "a", "detail": ""}]
