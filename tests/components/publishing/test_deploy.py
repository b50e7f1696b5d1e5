"""The release is served on the cluster of the run, and a receipt stands as long as it is."""

import json
import shutil

import httpx
import pytest
from ray import serve

from mirepoix.components.publishing import deploy
from mirepoix.components.publishing.deploy import RECEIPT, stands
from mirepoix.models.errors import Refused
from mirepoix.serving.app import ServeConfig, Server
from mirepoix.serving.http.client import KEY, search_endpoint
from mirepoix.serving.release import open_release
from mirepoix.serving.store import Missing
from tests.components.fixtures import context
from tests.serving.fixtures import free_port

CONFIG = ServeConfig(port=0)
SECRET = "thyme"


@pytest.fixture(scope="module")
def deployed(released, tmp_path_factory):
    """The endpoint, behind a key."""
    lent = context(tmp_path_factory.mktemp("deploy"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KEY, SECRET)
        outcome = deploy.work(lent, CONFIG, release=released.folder)
    yield lent.folder, outcome
    serve.shutdown()


@pytest.fixture(scope="module")
def receipt(deployed):
    folder, _ = deployed
    return json.loads((folder / RECEIPT).read_text())


def test_the_endpoint_gives_the_golden_vectors(deployed):
    _, outcome = deployed
    assert outcome.metrics["golden_cosine"] >= 0.999
    assert outcome.rows.read == outcome.rows.written == 6


def test_the_receipt_says_where_what_is_served(receipt, released):
    release = open_release(released.folder)
    assert (receipt["name"], receipt["release"]) == (release.name, release.version)
    assert httpx.get(f"{receipt['url']}/health").json()["release"] == release.version


def test_it_asks_for_the_key_it_was_started_with(receipt):
    with pytest.raises(Refused, match="401"):
        search_endpoint(receipt["url"], "a star")
    reply = httpx.post(f"{receipt['url']}/v1/search", json={"text": "a star", "k": 3}, headers={"Authorization": f"Bearer {SECRET}"})
    assert len(reply.json()["results"]) == 3


def test_an_endpoint_that_declines_is_refused_in_one_line_of_its_words(receipt, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(Refused, match=r"declined golden item 'd1' \(401\)") as refused:
        deploy._embedding(receipt["url"], {"id": "d1", "text": "a star", "images": []})
    assert "\n" not in str(refused.value)


def test_it_stands_while_it_is_served(deployed):
    assert stands(deployed[0], CONFIG)


def test_it_does_not_stand_for_another_release(deployed, tmp_path):
    other = json.loads((deployed[0] / RECEIPT).read_text()) | {"release": "0" * 12}
    (tmp_path / RECEIPT).write_text(json.dumps(other))
    assert not stands(tmp_path, CONFIG)


def test_a_damaged_release_is_refused_and_leaves_what_is_served(deployed, released, tmp_path):
    draft = shutil.copytree(released.folder, tmp_path / "unpublished")
    (draft / "manifest.json").unlink()
    with pytest.raises(Missing):
        deploy.work(context(tmp_path), CONFIG, release=draft)
    assert stands(deployed[0], CONFIG)


def test_it_does_not_stand_when_it_was_stopped_once_or_twice(deployed, receipt):
    server = Server(receipt["url"], receipt["name"], receipt["release"])
    server.stop()
    assert not stands(deployed[0], CONFIG)
    server.stop()
    assert not serve.status().proxies


def test_a_serve_that_others_can_reach_wants_a_key_though_the_config_says_this_machine(ray_cluster, released, tmp_path, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    serve.start(http_options={"host": "0.0.0.0", "port": free_port()})
    try:
        with pytest.raises(Refused, match=f"0.0.0.0 is open to others .* {KEY}"):
            deploy.work(context(tmp_path), CONFIG, release=released.folder)
    finally:
        serve.shutdown()


@pytest.mark.parametrize(
    "more", [{"video": ["eHg="]}, {"images": ["eHg=", "eHg="]}, {"instruction": "Find it."}], ids=["clip", "two pictures", "instruction"]
)
def test_what_a_request_cannot_carry_is_left_to_the_replicas(more):
    plain = {"text": "a star", "images": [], "video": [], "instruction": ""}
    assert deploy._askable(plain) and not deploy._askable(plain | more)
