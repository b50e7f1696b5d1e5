"""The release is served on the cluster of the run, and its receipt is valid as long as it is served."""

import json
import shutil
from time import monotonic, sleep

import httpx
import pytest
import ray
from ray import serve
from ray._private.utils import push_error_to_driver

from mirepoix.components.publishing import deploy
from mirepoix.components.publishing.receipt import RECEIPT, still_served
from mirepoix.models.errors import Refused
from mirepoix.serving.engine.memory import Room
from mirepoix.serving.http.client import KEY, search_endpoint
from mirepoix.serving.ray_serve import app
from mirepoix.serving.ray_serve.app import Server
from mirepoix.serving.release import open_release
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.serving.store import Manifest, Missing
from tests.components.fixtures import context
from tests.serving.fixtures import free_port

CONFIG = ServeConfig(port=0)
SECRET = "thyme"


@pytest.fixture(scope="module")
def deployed(released, tmp_path_factory):
    """The endpoint, behind a key."""
    stage_context = context(tmp_path_factory.mktemp("deploy"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, SECRET)
        outcome = deploy.work(stage_context, CONFIG, release=released.folder)
    yield stage_context.folder, outcome
    serve.shutdown()


@pytest.fixture(scope="module")
def receipt(deployed):
    folder, _ = deployed
    return json.loads((folder / RECEIPT).read_text())


def test_where_a_swap_needs_a_pause_the_command_that_makes_one_is_named(released, tmp_path, monkeypatch):
    def start(target, config, stored, pause_by):
        raise Room("tiny", 2, 1, 3.0).refusal(pause_by)

    monkeypatch.setattr(app, "start", start)
    with pytest.raises(
        Refused, match=rf"are there; with `mirepoix serve {released.folder} --address HEAD:6379 --pause` the old one ends first"
    ):
        deploy.work(context(tmp_path), CONFIG, release=released.folder)


def test_the_endpoint_gives_the_golden_vectors(deployed):
    _, outcome = deployed
    assert outcome.metrics["golden_cosine"] >= 0.999
    assert outcome.rows.read == outcome.rows.written == 12


def test_the_receipt_has_the_url_and_the_release(receipt, released):
    release = open_release(released.folder)
    assert (receipt["name"], receipt["release"]) == (release.name, release.version)
    assert httpx.get(f"{receipt['url']}/health").json()["release"] == release.version


def test_the_endpoint_requires_the_key_it_was_started_with(receipt):
    with pytest.raises(Refused, match="401"):
        search_endpoint(receipt["url"], "a star")
    reply = httpx.post(f"{receipt['url']}/v1/search", json={"text": "a star", "k": 3}, headers={"Authorization": f"Bearer {SECRET}"})
    assert len(reply.json()["results"]) == 3


def test_an_endpoint_that_declines_is_refused_with_its_own_words_in_one_line(receipt, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(Refused, match=r"declined golden item 'd1' \(401\)") as refused:
        deploy._embedding(receipt["url"], {"id": "d1", "text": "a star", "images": []})
    assert "\n" not in str(refused.value)


def test_the_receipt_is_valid_while_the_release_is_served(deployed):
    assert still_served(deployed[0], CONFIG)


def test_the_receipt_is_not_valid_for_another_release(deployed, tmp_path):
    other = json.loads((deployed[0] / RECEIPT).read_text()) | {"release": "0" * 12}
    (tmp_path / RECEIPT).write_text(json.dumps(other))
    assert not still_served(tmp_path, CONFIG)


def test_a_damaged_release_is_refused_and_the_served_one_stays(deployed, released, tmp_path):
    draft = shutil.copytree(released.folder, tmp_path / "unpublished")
    (draft / "manifest.json").unlink()
    with pytest.raises(Missing):
        deploy.work(context(tmp_path), CONFIG, release=draft)
    assert still_served(deployed[0], CONFIG)


def test_the_receipt_is_not_valid_after_the_endpoint_was_stopped_of_which_ray_prints_no_failure(deployed, receipt, capsys):
    server = Server(receipt["url"], receipt["name"], receipt["release"])
    server.stop()
    assert not still_served(deployed[0], CONFIG)
    server.stop()
    assert not serve.status().proxies
    push_error_to_driver(ray._private.worker.global_worker, "test", "the last line")  # it is printed after all others
    printed = ""
    end = monotonic() + 30
    while "the last line" not in printed and monotonic() < end:
        sleep(0.05)
        printed += "".join(capsys.readouterr())
    assert "the last line" in printed and "graceful_shutdown" not in printed


def test_an_endpoint_reachable_from_other_machines_needs_a_key_whatever_the_config_says(ray_cluster, released, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    serve.start(http_options={"host": "0.0.0.0", "port": free_port()})
    try:
        with pytest.raises(Refused, match=f"0.0.0.0 is reachable from other machines .* {KEY}"):
            deploy.work(context(tmp_path), CONFIG, release=released.folder)
    finally:
        serve.shutdown()


@pytest.mark.parametrize(
    "more", [{"video": ["eHg="]}, {"images": ["eHg=", "eHg="]}, {"instruction": "Find it."}], ids=["clip", "two pictures", "instruction"]
)
def test_items_that_a_request_cannot_contain_are_left_to_the_replicas(more):
    plain = {"text": "a star", "images": [], "video": [], "instruction": ""}
    assert deploy._expressible(plain) and not deploy._expressible(plain | more)


def test_a_copy_of_a_release_is_recorded_as_served_where_the_release_lies_itself(tmp_path):
    (tmp_path / "manifest.json").write_text(Manifest("d", {}, {"stage": "release", "key": "0123456789abcdef0123"}).dumps().decode())
    scratch = "s3://bucket/mine/work/fedcba9876543210?region=x"
    assert deploy._stored(scratch, tmp_path) == "s3://bucket/mine/artefacts/release/0123456789abcdef?region=x"
    assert deploy._stored(str(tmp_path / "work" / "fedcba9876543210"), tmp_path) is None, "one in a local storage is served from there"
