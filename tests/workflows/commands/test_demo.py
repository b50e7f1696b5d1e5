"""The queries of a demo."""

from types import SimpleNamespace

import pytest

from mirepoix.components.publishing.receipt import Receipt
from mirepoix.workflows.commands import demo
from mirepoix.workflows.recipes.registry import resolve
from mirepoix.workflows.run import RunRequest
from tests.components.fixtures import write_corpus

REPLY = {"took_ms": 12.3, "release": "abc", "results": []}


@pytest.mark.parametrize("arm", ["", "mire"])
def test_the_queries_are_of_the_split_that_was_evaluated(tmp_path, monkeypatch, arm):
    """The config may leave the split open; the results name it."""
    queries = [{"id": split, "text": split, "split": split, "task": "t->i"} for split in ("dev", "test", "train")]
    Receipt("http://nowhere", "abc", "release").write(tmp_path)
    folders = {"deploy": tmp_path, "curate": write_corpus(tmp_path / "curate", queries=queries)}
    words = ["quickstart_all", f"serve={arm}"] if arm else ["quickstart"]
    config, measured = resolve(words[0], [*words[1:], "evaluate.split=null"]), {"headline": {"split": "test"}}
    stages = {config.served: SimpleNamespace(target="released")}
    record = {"arms": {arm: measured}} if arm else measured
    made = SimpleNamespace(config=config, record=record, endpoint=None, folder="run", report=SimpleNamespace(stages=stages))
    asked = []
    for name, instead in {
        "run": lambda request, resources, display: made,
        "print_outcome": lambda made, output: 0,
        "_fetched": lambda made, stage: folders[stage],
        "search_endpoint": lambda url, text, *rest: asked.append(text) or REPLY,
    }.items():
        monkeypatch.setattr(demo, name, instead)
    assert demo.demo(RunRequest(words[0], tuple(words[1:]), storage=str(tmp_path))) == 0
    assert asked == ["test"]


def test_a_demo_of_a_corpus_without_a_query_searches_nothing_and_says_so(tmp_path, monkeypatch, capsys):
    config = resolve("search")
    Receipt("http://nowhere", "abc", "release").write(tmp_path)
    record = {"results": [], "unmeasured": "no score was computed: the corpus has no queries"}
    stages = {config.served: SimpleNamespace(target="released")}
    made = SimpleNamespace(config=config, record=record, endpoint=None, folder="run", report=SimpleNamespace(stages=stages))
    monkeypatch.setattr(demo, "run", lambda request, resources, display: made)
    monkeypatch.setattr(demo, "print_outcome", lambda made, output: 0)
    monkeypatch.setattr(demo, "_fetched", lambda made, stage: tmp_path)
    assert demo.demo(RunRequest("search", storage=str(tmp_path))) == 0
    assert "no search is shown, as the corpus has no query" in capsys.readouterr().out
