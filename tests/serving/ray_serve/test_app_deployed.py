"""The file that `mirepoix serve --write` makes, with Ray's own `serve deploy`: a release is served, swapped under load, and scaled."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import yaml

from mirepoix.models.options import import_named
from mirepoix.serving.ray_serve.deployment import BUILDER, DEPLOYMENT
from mirepoix.serving.serve_config import MIDDLEWARES, PROXY_CALLBACK, ServeConfig
from mirepoix.serving.store import publish
from mirepoix.workflows.cluster.shipped_code import code_root
from mirepoix.workflows.commands.serve_request import ServeRequest, write_deployment
from tests.serving.fixtures import corpus, free_port, golden_of, published
from tests.serving.load import Clients, Load, unharmed
from tests.workflows.cluster.ray_heads import Head, head

PATIENCE = 90.0


def test_the_file_names_the_release_where_another_one_is_a_swap_and_the_settings_where_the_builder_reads_them(tmp_path, monkeypatch):
    monkeypatch.setattr(ServeRequest, "release", str(tmp_path / "release"))
    file = tmp_path / "serve.yaml"
    write_deployment(ServeRequest("a", str(tmp_path), ServeConfig(port=8123, encoders=2, most_encoders=4, ongoing=3)), file)
    written = yaml.safe_load(file.read_text())
    (application,) = written["applications"]
    assert application["deployments"] == [{"name": DEPLOYMENT, "user_config": {"release": str(tmp_path / "release")}}]
    assert "release" not in application["args"], "other args start the replicas anew"
    assert application["args"]["config"] | {"encoders": 2, "most_encoders": 4, "ongoing": 3} == application["args"]["config"]
    assert written["http_options"]["port"] == 8123 and callable(import_named(application["import_path"]))
    assert application["import_path"] == BUILDER


class Deployed:
    """A Ray head on which `serve deploy` serves a file."""

    def __init__(self, ray: Head, home: Path, release: Path):
        self.ray, self.file = ray, home / "serve.yaml"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        words = [sys.executable, "-m", "mirepoix.workflows", "serve", str(release), "--write", str(self.file), "--port", str(self.port)]
        subprocess.run([*words, "--encoders", "2", "encoder_cpus=0.5"], env=ray.env, check=True, capture_output=True)

    def deploy(self, release: Path, scaling: dict[str, float] | None = None, **config: object) -> None:
        written = yaml.safe_load(self.file.read_text())
        (application,) = written["applications"]
        application["deployments"][0]["user_config"]["release"] = str(release)
        application["deployments"][0] |= {"autoscaling_config": scaling} if scaling else {}
        application["args"]["config"] |= config
        self.file.write_text(yaml.safe_dump(written))
        command = [str(Path(sys.executable).parent / "serve"), "deploy", str(self.file)]
        subprocess.run(command, env=self.ray.env | {"RAY_DASHBOARD_ADDRESS": self.ray.address}, check=True, capture_output=True)

    def release(self) -> str:
        with suppress(httpx.HTTPError, ValueError, KeyError):
            return str(httpx.get(f"{self.url}/health", timeout=10).json()["release"])
        return ""

    def replicas(self) -> set[str]:
        """The names of the replicas that run."""
        with suppress(httpx.HTTPError, ValueError, KeyError):
            state = httpx.get(f"{self.ray.address}/api/serve/applications/", timeout=10).json()
            replicas = state["applications"]["mirepoix"]["deployments"][DEPLOYMENT]["replicas"]
            return {each["replica_id"] for each in replicas if each["state"] == "RUNNING"}
        return set()

    def log(self) -> str:
        return "".join(each.read_text() for each in self.ray.folder.glob("ray/session_latest/logs/serve/replica_*.log"))

    def metrics_of(self) -> int:
        """How many replicas the metrics are of."""
        lines = httpx.get(f"{self.url}/metrics", timeout=10).text.splitlines()
        return len({line for line in lines if line.startswith("mirepoix_release_info{")})


def until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < end, f"not within {PATIENCE:g} seconds"
        time.sleep(0.2)


@pytest.fixture
def deployed(tmp_path, release_folder) -> Iterator[Deployed]:
    with head(token=False, variables={"PYTHONPATH": str(code_root()), PROXY_CALLBACK: MIDDLEWARES}) as ray:
        yield Deployed(ray, tmp_path, release_folder)


@pytest.mark.soak
def test_a_file_is_deployed_another_release_in_it_is_a_swap_without_a_failure_and_one_that_is_not_proved_is_not_served(
    deployed, release_folder, parts, tmp_path
):
    deployed.deploy(release_folder)
    until(lambda: len(deployed.replicas()) == 2 and deployed.release() != "")
    first, running = deployed.release(), deployed.replicas()
    until(lambda: deployed.metrics_of() == 2)

    other = published(tmp_path / "other", parts, golden=golden_of(parts, corpus()[:1]))
    with Load(deployed.url, Clients(("search", "embed", "health"), 4)) as load:
        time.sleep(1)
        deployed.deploy(other)
        until(lambda: deployed.release() not in ("", first))
        time.sleep(3)  # the other replica changes over too
    report = unharmed(load.report, least=20)
    assert len(report.releases) == 2 and report.records[-1].release != first
    second = deployed.release()
    assert deployed.replicas() == running, "no replica is started for a swap"

    draft = shutil.copytree(release_folder, tmp_path / "draft", ignore=shutil.ignore_patterns("manifest.json"))
    golden = json.loads((draft / "golden.json").read_text())
    (draft / "golden.json").write_text(json.dumps({**golden, "vectors": golden["vectors"][::-1]}))
    publish(draft, tmp_path / "broken", {})
    with Load(deployed.url, Clients(("search", "embed", "health"), 4)) as load:
        deployed.deploy(tmp_path / "broken")
        until(lambda: deployed.log().count("the release before it goes on") == 2)
        time.sleep(2)
    assert unharmed(load.report, least=20).releases == [second]
    assert deployed.log().count("golden item 'text-00' comes out at cosine") == 2


@pytest.mark.soak
def test_replicas_are_added_under_load_end_after_it_and_are_replaced_for_other_settings_without_a_failed_request(deployed, release_folder):
    deployed.deploy(release_folder, encoders=1, most_encoders=3, ongoing=1)
    until(lambda: len(deployed.replicas()) == 1 and deployed.release() != "")
    with Load(deployed.url, Clients(("search", "embed"), 6)) as load:
        until(lambda: len(deployed.replicas()) > 1)
        time.sleep(3)
    unharmed(load.report, least=50)
    assert len(deployed.replicas()) <= 3
    with Load(deployed.url, Clients(("health",), 1)) as load:
        eager = {"downscale_delay_s": 2, "look_back_period_s": 3}  # Serve waits for ten minutes by itself
        deployed.deploy(release_folder, {"min_replicas": 1, "max_replicas": 3, "target_ongoing_requests": 4, **eager})
        until(lambda: len(deployed.replicas()) == 1)
        time.sleep(3)
    unharmed(load.report, least=10)
    (alone,) = deployed.replicas()
    with Load(deployed.url, Clients(("search", "embed"), 2)) as load:
        deployed.deploy(release_folder, batch={"batch_size": 16})
        until(lambda: len(now := deployed.replicas()) == 1 and alone not in now)
        time.sleep(3)
    unharmed(load.report, least=50)
