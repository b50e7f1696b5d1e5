"""An endpoint that would end with its run is not started again, and is said to be up only where it is."""

from types import SimpleNamespace

from mirepoix.components.publishing.receipt import Receipt
from mirepoix.serving.store import publish
from mirepoix.workflows.run import RunRequest, _endpoint, plan_config
from mirepoix.workflows.runner.execute import Report, StageReport, execute
from mirepoix.workflows.runner.graph import Stage
from tests.workflows.runner.stub_stages import COPY, STILL_THERE, StubConfig


def test_an_endpoint_that_has_answered_is_started_again_only_where_it_stays_up_or_is_searched(tmp_path, monkeypatch):
    monkeypatch.setattr("mirepoix.workflows.run._joins", lambda request: request.address is not None)
    monkeypatch.setattr("mirepoix.workflows.run._problems", lambda *_: [])
    stages = [Stage("deploy", COPY, StubConfig(str(tmp_path / "log")), valid=STILL_THERE)]
    config, storage = SimpleNamespace(stages=lambda: stages), str(tmp_path / "storage")

    def reason(**request) -> str:
        return plan_config(RunRequest("any", storage=storage, **request), config)[0].stages["deploy"].reason

    assert reason() == "never ran"
    assert execute(stages, storage, local=True).ok
    assert reason() == "up to date"
    assert reason(address="HEAD:6379") == reason(private=True) == "its result no longer holds"
    assert reason(force=("deploy",)) == "forced"


def test_an_endpoint_is_said_to_be_up_only_where_it_answers_or_was_just_started_on_a_cluster_that_stays(tmp_path):
    (tmp_path / "draft").mkdir()
    Receipt("http://127.0.0.1:9", "abc", "mirepoix").write(tmp_path / "draft")
    publish(tmp_path / "draft", tmp_path / "deploy", {})

    def url(status: str, joined: bool) -> str | None:
        return _endpoint(Report({"deploy": StageReport(status, target=str(tmp_path / "deploy"))}), joined)

    assert url("done", joined=True) == "http://127.0.0.1:9"
    assert url("done", joined=False) is url("skipped", joined=False) is url("failed", joined=True) is None
