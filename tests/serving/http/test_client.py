"""The output of a search in a terminal, without heavy imports."""

import subprocess
import sys

from mirepoix.serving.http.client import shown

REPLY = {
    "took_ms": 12.3,
    "release": "abc",
    "results": [
        {"id": "p1", "score": 0.91, "rank": 1, "modality": "it", "text": "a red circle " * 20, "source": None},
        {"id": "p2", "score": 0.5, "rank": 2, "modality": "i", "text": ""},
    ],
}


def test_each_result_is_a_line_of_bounded_length():
    first, second, last = shown(REPLY).splitlines()
    assert first.split()[:4] == ["1.", "0.910", "it", "p1"]
    assert len(first) < 130
    assert second.endswith("p2")
    assert last.strip() == "2 results in 12 ms, release abc"


def test_where_a_result_was_read_from_is_a_line_below_it_and_counts_as_no_result():
    results = [REPLY["results"][0] | {"source": "shop/produkte.csv:12"}, REPLY["results"][1] | {"source": "emoji/Travel & Places/a.png"}]
    lines = shown(REPLY | {"results": results}).splitlines()
    assert [lines[1], lines[3]] == ["                 shop/produkte.csv:12", "                 emoji/Travel & Places/a.png"]
    assert len(lines) == 5 and lines[4] == "  2 results in 12 ms, release abc"
    assert lines[0].index("p1") == lines[1].index("shop")
    marked = shown(REPLY | {"results": results}, {"p2"}).splitlines()
    assert marked[0].index("p1") == marked[1].index("shop")


def test_what_answers_the_query_is_marked():
    first, second, last = shown(REPLY, {"p2"}).splitlines()
    assert "*" not in first
    assert " 2. * 0.500" in second
    assert "answers the query" in last


def test_no_results_are_shown_as_0_results():
    assert "0 results" in shown({"took_ms": 1.0, "release": "abc", "results": []})


def test_a_warning_of_the_reply_is_shown_above_the_count():
    warning = "the release has no texts; it has 1,897 pictures"
    lines = shown({"took_ms": 1.0, "release": "abc", "results": [], "warnings": [warning]}).splitlines()
    assert lines == [f"  {warning}", "  0 results in 1 ms, release abc"]


def test_a_search_waits_for_no_library_that_only_training_needs():
    code = """
import sys
from mirepoix.workflows.__main__ import main
assert main(["search", "two stars", "--url", "http://127.0.0.1:9"]) == 2
print(sorted({"torch", "transformers", "ray", "mlflow", "pyarrow", "faiss"} & set(sys.modules)))
"""
    asked = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert asked.stdout == "[]\n" and "nothing answers at http://127.0.0.1:9" in asked.stderr, asked
