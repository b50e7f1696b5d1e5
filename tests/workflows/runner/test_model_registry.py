"""The model registry of MLflow follows the aliases of a storage: a real store, without a byte of a release in it."""

import json
import socket
from pathlib import Path

import pytest

from mirepoix.serving.store import Manifest, publish
from mirepoix.workflows.runner import model_registry, tracking
from mirepoix.workflows.runner.execute import StageReport
from mirepoix.workflows.runner.model_registry import RegisteredModel, RegisteredRelease, mirror
from mirepoix.workflows.runner.tracking import Tracker
from tests.workflows.upkeep.storages import key_of, make_release, make_run, stage_of, target


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A SQLite store that is set up once: its tables take seconds."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    tracking.experiment_id(tracking.connect(uri), "warm", None)
    return uri


@pytest.fixture
def name(request):
    """A name of releases of the test's own."""
    return request.node.name


@pytest.fixture
def storage(tmp_path, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "storage")


@pytest.fixture
def client(store):
    return tracking.connect(store)


@pytest.fixture
def dead_server():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return f"http://127.0.0.1:{port}"


def release(storage: str, version: str, **more) -> RegisteredRelease:
    return RegisteredRelease(version, key_of(version), key_of(f"key {version}"), f"{storage}/artefacts/release/{version}", **more)


def aliases(client, name: str) -> dict[str, str]:
    """The versions of releases by their aliases, as MLflow has them."""
    known = client.get_registered_model(name).aliases
    return {alias: client.get_model_version(name, str(version)).tags["version"] for alias, version in known.items()}


def versions(client, name: str) -> list:
    return list(client.search_model_versions(f"name = '{name}'"))


def measured(store: str, storage: str, artifacts: Path) -> tuple[str, str]:
    """The runs of MLflow of a release and of its evaluation, as a run of a recipe leaves them there."""
    tracker = Tracker(store, tracking.EXPERIMENT, "search", {}, str(artifacts))
    tracker.begin("driver", storage, ["driver"])
    found = []
    for stage, metrics in (("release", {"documents": 10.0}), ("evaluate", {"R@5": 0.625, "target R@10": 0.75})):
        corpus = StageReport("done", target=f"{storage}/artefacts/curate/x", digest="c" * 64)
        vectors = StageReport("done", target=f"{storage}/artefacts/embed/x", digest="e" * 64)
        found.append(tracker.start(stage, {"config": {}, "seed": 0}, {"embed": vectors, "curate": corpus}))
        manifest = Manifest("d" * 64, {}, {"key": "k" * 64, "metrics": metrics, "rows": {"read": 10}})
        tracker.finish(stage, StageReport("done", target="/t", digest="d" * 64), manifest)
    tracker.end("FINISHED")
    return found[0], found[1]


def test_a_release_becomes_a_version_whose_source_is_its_folder_and_nothing_is_uploaded(storage, client, name, tmp_path):
    one = release(storage, "1", tags={"run": "search-1"})
    assert mirror(storage, [RegisteredModel(name, {"champion": one, "trial": one})]) == ""
    assert aliases(client, name) == {"champion": "1", "trial": "1"}
    (version,) = versions(client, name)
    assert version.source == one.target
    expected = {"version": "1", "digest": one.digest, "key": one.key, "artefact": one.target, "run": "search-1", "storage": storage}
    assert expected.items() <= version.tags.items()
    (model,) = client.search_logged_models([client.get_experiment_by_name("mirepoix").experiment_id], f"tags.digest = '{one.digest}'")
    assert model.tags["artefact"] == one.target and model.tags["mlflow.model.isExternal"] == "true" and model.status == "READY"
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": name, "version": str(version.version)}]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [], "no file of a model, and no other store"


def test_to_mirror_again_adds_no_version_and_a_way_back_takes_the_version_that_is_there(storage, client, name):
    one, two = release(storage, "1"), release(storage, "2")
    for now in (one, two, two, one):
        assert mirror(storage, [RegisteredModel(name, {"champion": now})]) == ""
        assert aliases(client, name) == {"champion": now.version}
    assert len(versions(client, name)) == 2


def test_aliases_that_were_removed_go_and_so_do_those_that_were_given_by_hand(storage, client, name):
    one, two = release(storage, "1"), release(storage, "2")
    mirror(storage, [RegisteredModel(name, {"champion": one, "trial": two})])
    client.set_registered_model_alias(name, "by-hand", "1")
    client.set_registered_model_alias(name, "champion", "2")
    assert mirror(storage, [RegisteredModel(name, {"champion": one})]) == ""
    assert aliases(client, name) == {"champion": "1"}
    assert mirror(storage, [RegisteredModel(name, {})]) == ""
    assert aliases(client, name) == {} and len(versions(client, name)) == 2, "the versions stay"


def test_aliases_of_another_storage_in_the_same_mlflow_stay(storage, client, name):
    other = f"{storage}-other"
    mirror(other, [RegisteredModel(name, {"theirs": release(other, "1")})])
    assert mirror(storage, [RegisteredModel(name, {"ours": release(storage, "1")})]) == ""
    assert mirror(storage, [RegisteredModel(name, {})]) == ""
    assert aliases(client, name) == {"theirs": "1"}


def test_a_name_of_releases_that_never_had_an_alias_here_makes_no_model(storage, client, name):
    assert mirror(storage, [RegisteredModel(name, {})]) == ""
    assert not client.search_registered_models(f"name = '{name}'")


def test_metrics_and_data_sets_of_the_runs_that_made_and_measured_a_release_are_linked(storage, store, client, name, tmp_path):
    made_in, measured_in = measured(store, storage, tmp_path / "artifacts")
    before = len(client.get_metric_history(measured_in, "R_at_5"))
    one = release(storage, "linked", run_id=made_in, measured_in=measured_in)
    assert mirror(storage, [RegisteredModel(name, {"champion": one})]) == ""
    (version,) = versions(client, name)
    (made,) = client.get_run(made_in).outputs.model_outputs
    model = client.get_logged_model(made.model_id)
    assert version.run_id == model.source_run_id == made_in
    linked = {metric.key: (metric.value, metric.run_id, metric.dataset_name, metric.dataset_digest) for metric in model.metrics}
    assert linked["R_at_5"] == (0.625, measured_in, "curate", "c" * 36) and linked["target R_at_10"][0] == 0.75
    assert linked["documents"] == (10.0, made_in, "curate", "c" * 36)
    assert [each.model_id for each in client.get_run(measured_in).inputs.model_inputs] == [model.model_id]
    assert len(client.get_metric_history(measured_in, "R_at_5")) == before == 1, "the run's own curve is as it was"


def test_a_release_whose_run_mlflow_does_not_have_is_registered_without_it(storage, client, name):
    one = release(storage, "1", run_id="f" * 32, measured_in="e" * 32)
    assert mirror(storage, [RegisteredModel(name, {"champion": one})]) == ""
    assert aliases(client, name) == {"champion": "1"} and versions(client, name)[0].run_id is None


def test_an_attempt_that_mlflow_broke_off_is_gone_on_from(storage, client, name, monkeypatch):
    one = release(storage, f"broken {name}")
    created = model_registry._Registry._created
    monkeypatch.setattr(model_registry._Registry, "_created", lambda *_: 1 / 0)
    line = mirror(storage, [RegisteredModel(name, {"champion": one})])
    assert "does not follow (division by zero); the aliases in the storage hold" in line and "\n" not in line
    monkeypatch.setattr(model_registry._Registry, "_created", created)
    assert mirror(storage, [RegisteredModel(name, {"champion": one})]) == ""
    experiment = client.get_experiment_by_name("mirepoix").experiment_id
    assert len(client.search_logged_models([experiment], f"tags.digest = '{one.digest}'")) == 1


def test_a_server_that_takes_no_local_folder_gets_the_logged_model_as_the_source(storage, store, client, name, tmp_path, monkeypatch):
    """As MLflow's server answers (3.17), which looks the model up in its own store."""
    made_in, _ = measured(store, storage, tmp_path / "artifacts")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    from mlflow import MlflowClient, set_tracking_uri
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

    set_tracking_uri(store)
    create = MlflowClient.create_model_version

    def refusing(self, name, source, *rest, **more):
        if source.startswith("/"):
            raise MlflowException("Invalid model version source", INVALID_PARAMETER_VALUE)
        return create(self, name, source, *rest, **more)

    monkeypatch.setattr(MlflowClient, "create_model_version", refusing)
    one = release(storage, "1", run_id=made_in)
    assert mirror(storage, [RegisteredModel(name, {"champion": one})]) == ""
    (version,) = versions(client, name)
    (made,) = client.get_run(made_in).outputs.model_outputs
    assert version.source == f"models:/{made.model_id}" and version.tags["artefact"] == one.target
    assert mirror(storage, [RegisteredModel(name, {"champion": one})]) == "" and len(versions(client, name)) == 1
    set_tracking_uri(None)


@pytest.mark.parametrize("odd", ["a/b:c", "bob's", 'the "best"', "50% of it"])
def test_names_that_mlflow_does_not_take_are_written_as_it_takes_them(storage, client, odd):
    assert mirror(storage, [RegisteredModel(odd, {"champion": release(storage, "1")})]) == ""
    assert aliases(client, odd.replace("/", "_").replace(":", "_")) == {"champion": "1"}


# Through the commands


def test_what_mlflow_missed_it_has_after_the_next_change_or_a_sync(cli, storage, store, client, name, dead_server, tmp_path, monkeypatch):
    one, two, three = (make_release(storage, each, name) for each in "abc")

    def releases(*words):
        return cli("releases", *words, "--storage", storage)

    assert releases("promote", one) == (0, f"{name}@champion is now {one}\n", "")
    assert aliases(client, name) == {"champion": one}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead_server)
    for words in (["promote", two], ["promote", three, "--alias", "trial"], ["promote", three], ["rollback"], ["unalias", "trial"]):
        status, _, err = releases(*words)
        assert status == 0 and len(err.splitlines()) == 1
        assert err.startswith(f"MLflow at {dead_server} does not follow (") and "`mirepoix releases sync`" in err
    assert releases("sync")[0] == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert aliases(client, name) == {"champion": one}
    assert releases("sync") == (0, f"the model registry of MLflow has the 1 alias of {storage}\n", "")
    assert aliases(client, name) == {"champion": two}
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead_server)
    releases("promote", three, "--alias", "trial")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    assert releases("rollback")[0] == 0
    assert aliases(client, name) == {"champion": one, "trial": three}
    releases("unalias", "champion")
    assert aliases(client, name) == {"trial": three}


def test_an_alias_that_changes_while_mlflow_follows_is_followed_too(cli, storage, client, name, monkeypatch):
    """The slower of two processes would else write what was so before the other's change."""
    one, two = (make_release(storage, each, name) for each in "ab")
    cli("releases", "promote", one, "--storage", storage)
    mirrored: list[str] = []

    def late(storage: str, models: list[RegisteredModel]) -> str:
        if not mirrored:
            mirrored.append("slow")
            cli("releases", "promote", two, "--storage", storage)
        return mirror(storage, models)

    monkeypatch.setattr("mirepoix.workflows.upkeep.registered.mirror", late)
    cli("releases", "promote", one, "--alias", "trial", "--storage", storage)
    assert aliases(client, name) == {"champion": two, "trial": one}


def test_a_promoted_release_is_linked_to_the_runs_that_its_own_run_names(cli, storage, store, client, name, tmp_path):
    made_in, measured_in = measured(store, storage, tmp_path / "artifacts")
    version = make_release(storage, "a", name, run_id=made_in)
    draft = tmp_path / "draft"
    draft.mkdir()
    (draft / "metrics.json").write_text("{}")
    publish(draft, target(storage, "m", "evaluate"), {"stage": "evaluate", "key": key_of("m"), "run_id": measured_in})
    stages = [
        {**stage_of(storage, "a", "release"), "name": "mire:release"},
        {**stage_of(storage, "m", "evaluate"), "name": "mire:evaluate"},
    ]
    run = make_run(storage, 1, {}, recipe="both", stages=stages)
    assert cli("releases", "promote", version, "--storage", storage)[0] == 0
    (registered,) = versions(client, name)
    assert {"run": run, "recipe": "both", "arm": "mire"}.items() <= registered.tags.items()
    (model,) = client.get_run(made_in).outputs.model_outputs
    assert {metric.run_id for metric in client.get_logged_model(model.model_id).metrics} == {made_in, measured_in}
