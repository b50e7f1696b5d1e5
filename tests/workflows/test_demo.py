"""What a demo searches for."""

import json
from types import SimpleNamespace

import pytest

from mirepoix.components.publishing.deploy import RECEIPT
from mirepoix.workflows import demo
from mirepoix.workflows.run import RunRequest, resolve
from tests.components.fixtures import write_corpus

REPLY = {"took_ms": 12.3, "release": "abc", "results": []}


@pytest.mark.parametrize("arm", ["", "mire"])
def test_what_is_searched_for_is_of_the_split_that_was_measured(tmp_path, monkeypatch, arm):
    """Which the config need not name."""
    queries = [{"id": split, "text": split, "split": split, "task": "t->i"} for split in ("dev", "test", "train")]
    (tmp_path / RECEIPT).write_text(json.dumps({"url": "http://nowhere"}))
    folders = {"deploy": tmp_path, "curate": write_corpus(tmp_path / "curate", queries=queries)}
    words = ["quickstart_all", f"serve={arm}"] if arm else ["quickstart"]
    config, measured = resolve(words[0], [*words[1:], "evaluate.split=null"]), {"headline": {"split": "test"}}
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
    assert demo.demo(RunRequest(words[0], tuple(words[1:]), storage=str(tmp_path))) == 0
    assert asked == ["test"]
