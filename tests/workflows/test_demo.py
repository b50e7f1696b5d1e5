"""What a demo searches for, and how a search's reply is shown in a terminal."""

import json
from types import SimpleNamespace

import pytest

from mirepoix.components.deploy import RECEIPT
from mirepoix.workflows import demo
from mirepoix.workflows.demo import shown
from mirepoix.workflows.run import Order, settled
from tests.components.larder import write_corpus

REPLY = {
    "took_ms": 12.3,
    "release": "abc",
    "results": [
        {"id": "p1", "score": 0.91, "rank": 1, "modality": "it", "text": "a red circle " * 20},
        {"id": "p2", "score": 0.5, "rank": 2, "modality": "i", "text": ""},
    ],
}


def test_each_result_is_a_line_of_bounded_length():
    first, second, last = shown(REPLY).splitlines()
    assert first.split()[:4] == ["1.", "0.910", "it", "p1"]
    assert len(first) < 130
    assert second.endswith("p2")
    assert last.strip() == "2 results in 12 ms, release abc"


def test_what_answers_the_query_is_marked():
    first, second, last = shown(REPLY, {"p2"}).splitlines()
    assert "*" not in first
    assert " 2. * 0.500" in second
    assert "answers the query" in last


def test_no_result_is_said_so():
    assert "0 results" in shown({"took_ms": 1.0, "release": "abc", "results": []})


@pytest.mark.parametrize("arm", ["", "mire"])
def test_what_is_searched_for_is_of_the_split_that_was_measured(tmp_path, monkeypatch, arm):
    """Which the config need not name."""
    queries = [{"id": split, "text": split, "split": split, "task": "t->i"} for split in ("dev", "test", "train")]
    (tmp_path / RECEIPT).write_text(json.dumps({"url": "http://nowhere"}))
    folders = {"deploy": tmp_path, "curate": write_corpus(tmp_path / "curate", queries=queries)}
    words = ["quickstart_all", f"serve={arm}"] if arm else ["quickstart"]
    config, measured = settled(words[0], [*words[1:], "evaluate.split=null"]), {"headline": {"split": "test"}}
    stages = {config.served: SimpleNamespace(target="released")}
    told = {"arms": {arm: measured}} if arm else measured
    made = SimpleNamespace(config=config, told=told, endpoint=None, folder="run", report=SimpleNamespace(stages=stages))
    asked = []
    for name, instead in {
        "run": lambda order, resources: made,
        "ended": lambda made: 0,
        "_fetched": lambda made, stage: folders[stage],
        "search_endpoint": lambda url, text, *rest: asked.append(text) or REPLY,
    }.items():
        monkeypatch.setattr(demo, name, instead)
    assert demo.demo(Order(words[0], tuple(words[1:]), storage=str(tmp_path))) == 0
    assert asked == ["test"]
