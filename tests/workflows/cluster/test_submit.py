"""A run is sent to a cluster with our code and nothing else, followed to its end, and goes on when its watcher stops."""

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from mirepoix.components.training.engine.deepspeed_settings import settings_digest
from mirepoix.models.errors import Refused
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.arguments import parsed
from mirepoix.workflows.cluster import submit as submission
from mirepoix.workflows.cluster.shipped_code import LAYERS
from mirepoix.workflows.cluster.submit import DETACHED, follow_job, job_client, prepare, send, submit
from mirepoix.workflows.config import describe
from mirepoix.workflows.dag.outside import outside
from mirepoix.workflows.recipes.registry import resolve
from tests.workflows.cluster.ray_heads import plain_environment

STAND_IN = """
import os, sys, time
import ray
from mirepoix.workflows.cluster.ray_cluster import connect
from mirepoix.workflows.storage import default_storage
print("arguments", sys.argv[1:])
print("storage", default_storage(), "tracking", os.environ.get("MLFLOW_TRACKING_URI"))
print("config", open(sys.argv[sys.argv.index("--config") + 1]).read() if "--config" in sys.argv else None)
if "seconds=60" in sys.argv:
    print("waiting", flush=True); time.sleep(60)
for word in sys.argv:
    if word.startswith("code="):
        sys.exit(int(word.removeprefix("code=")))
with connect():
    here = ray.remote(lambda: __import__("mirepoix.models.item").models.item.__file__)
    print("worker imports", ray.get(here.remote()))
    for path in [word.partition("=")[2] for word in sys.argv if word.startswith("adapt.deepspeed=")]:
        print("worker reads", ray.get(ray.remote(lambda: open(path).read()).remote()))
"""


def staged(folder: Path, recipe: str = "quickstart", *overrides: str, **options):
    """A job whose command line only prints its arguments."""
    folder.mkdir(exist_ok=True)
    job = prepare(recipe, overrides, folder, **options)
    (folder / "mirepoix" / "workflows" / "__main__.py").write_text(STAND_IN)
    return job


def test_a_job_carries_our_code_and_nothing_else(tmp_path: Path):
    job = prepare("quickstart", [], tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["mirepoix"]
    assert sorted(each.name for each in (tmp_path / "mirepoix").iterdir()) == sorted(["__init__.py", *LAYERS])
    kinds = {each.suffix for each in tmp_path.rglob("*") if each.is_file()}
    assert ".py" in kinds and not kinds & {".pyc", ".parquet", ".db", ".md", ".yaml"}
    assert job.folder == tmp_path


def test_the_code_of_a_job_is_importable_by_itself(tmp_path: Path):
    prepare("quickstart", [], tmp_path)
    code = "import mirepoix.models.item as m, mirepoix.workflows.config as c; print(m.__file__); print(c.__file__)"
    found = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path += {sys.path!r}; {code}"], cwd=tmp_path, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    assert all(line.startswith(str(tmp_path)) for line in found.stdout.split())


def test_whatever_is_in_an_override_reaches_the_recipe_and_no_shell(tmp_path: Path):
    nasty = ["name=a b", "text='; rm -rf /", "sources.0.path=$(id)", 'mixture={"it->t": 1}']
    entrypoint = prepare("quickstart", nasty, tmp_path).entrypoint
    assert shlex.split(entrypoint) == ["python", "-m", "mirepoix.workflows", "run", "quickstart", *nasty]


def test_a_name_has_the_recipe_and_distinguishes_two_runs(tmp_path: Path):
    names = []
    for index, overrides in enumerate([["a=1"], ["a=2"]]):
        (tmp_path / str(index)).mkdir()
        names.append(prepare("mire/ablation no 2", overrides, tmp_path / str(index)).name)
    assert all(name.startswith("mire-ablation-no-2-") for name in names)
    assert names[0].split("-")[4] != names[1].split("-")[4]


def test_the_storage_and_the_tracking_server_travel_and_secrets_do_not(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    job = prepare("quickstart", [], tmp_path, storage="s3://bucket/mirepoix")
    assert job.variables == {"MIREPOIX_STORAGE": "s3://bucket/mirepoix", "MLFLOW_TRACKING_URI": "http://mlflow:5000"}


def test_a_relative_storage_is_refused_because_a_job_has_another_folder(tmp_path: Path):
    with pytest.raises(Refused, match=r"relative 'storage'"):
        prepare("quickstart", [], tmp_path, storage="storage")


def test_a_storage_with_a_key_in_it_does_not_travel(tmp_path: Path, monkeypatch):
    uri = "s3://name:hidden@bucket/mirepoix"
    with pytest.raises(Refused, match="AWS_ACCESS_KEY_ID") as refusal:
        prepare("quickstart", [], tmp_path, storage=uri)
    assert "hidden" not in str(refusal.value)
    monkeypatch.setenv("MIREPOIX_STORAGE", uri)
    with pytest.raises(Refused, match="AWS_ACCESS_KEY_ID"):
        prepare("quickstart", [], tmp_path)


def test_a_settings_file_travels_and_means_the_same_where_it_arrives(tmp_path: Path, monkeypatch):
    file = tmp_path / "my zero.json"
    file.write_text('{"zero_optimization": {"stage": 2}}')
    config = tmp_path / "run.yaml"
    config.write_text(describe(resolve("quickstart", [f"instruct.deepspeed={file}"])))
    overrides = [f"adapt.deepspeed={file}", "seed=3"]
    files = resolve("quickstart", overrides, config).named_files()
    assert set(files) == {"adapt.deepspeed", "instruct.deepspeed"}
    (tmp_path / "job").mkdir()
    job = prepare("quickstart", overrides, tmp_path / "job", config=config, options=["--until", "adapt"], files=files)
    monkeypatch.chdir(tmp_path / "job")
    arguments = parsed(shlex.split(job.entrypoint)[3:])
    file.unlink()
    arrived = resolve(arguments.recipe, arguments.overrides, arguments.config)
    assert arguments.until == "adapt" and arrived.seed == 3
    for training in (arrived.adapt, arrived.instruct):
        assert not Path(training.deepspeed).is_absolute()
        assert outside(training) == {"deepspeed settings": settings_digest(job.folder / training.deepspeed)}
    assert json.loads(Path(arrived.adapt.deepspeed).read_text()) == {"zero_optimization": {"stage": 2}}


def test_another_content_of_a_settings_file_is_another_job(tmp_path: Path):
    names = []
    for stage in (1, 2):
        file, folder = tmp_path / "zero.json", tmp_path / str(stage)
        file.write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        folder.mkdir()
        names.append(prepare("quickstart", [], folder, files={"adapt.deepspeed": file}).name.split("-")[1])
    assert names[0] != names[1]


def test_a_missing_config_file_is_refused(tmp_path: Path):
    with pytest.raises(Refused, match=r"no config file"):
        prepare("quickstart", [], tmp_path, config=tmp_path / "missing.yaml")


def test_a_job_runs_with_its_arguments_its_config_and_our_code_on_the_workers(job_head, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    config = tmp_path / "my run.yaml"
    config.write_text("name: mine")
    zero = tmp_path / "my zero.json"
    zero.write_text('{"zero_optimization": {"stage": 2}}')
    client = job_client(job_head.address)
    files = {"adapt.deepspeed": zero}
    job = staged(tmp_path / "stage", "quickstart", "name=a b", storage="/shared/store", config=config, files=files)
    zero.unlink()
    send(client, job)
    assert follow_job(client, job.name) == 0
    out, err = capfd.readouterr()
    shipped = "adapt.deepspeed=settings/adapt.deepspeed.json"
    assert f"arguments ['run', 'quickstart', 'name=a b', '{shipped}', '--config', 'config/my run.yaml']" in out
    assert 'worker reads {"zero_optimization": {"stage": 2}}' in out
    assert "storage /shared/store tracking http://mlflow:5000" in out
    assert "config name: mine" in out
    assert "_ray_pkg_" in out.split("worker imports", 1)[1].splitlines()[0]
    assert f"submitted {job.name}" in err and f"{job.name} succeeded" in err


def test_the_exit_code_of_the_job_is_ours(job_head, tmp_path: Path, capfd):
    client = job_client(job_head.address)
    job = staged(tmp_path / "stage", "quickstart", "code=3")
    send(client, job)
    assert follow_job(client, job.name) == 3
    assert "exit code 3" in capfd.readouterr().err


def test_the_same_job_is_not_taken_twice(job_head, tmp_path: Path):
    client = job_client(job_head.address)
    job = staged(tmp_path / "stage", "quickstart", "code=0")
    send(client, job)
    with pytest.raises(Refused, match="already exists") as refusal:
        send(client, job)
    assert "\n" not in str(refusal.value)


def test_an_interrupted_watcher_leaves_the_job_running_and_prints_how_to_reach_it(job_head, ctrl_c, tmp_path: Path):
    client = job_client(job_head.address)
    job = staged(tmp_path / "stage", "quickstart", "seconds=60")
    send(client, job)
    follow = f"follow_job(job_client({job_head.address!r}), {job.name!r})"
    code = f"import sys; from mirepoix.workflows.cluster.submit import *; sys.exit({follow})"
    watcher = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for line in watcher.stdout:
            if line.startswith("waiting"):
                break
        watcher.send_signal(signal.SIGINT)
        _, err = watcher.communicate(timeout=20)
    finally:
        watcher.kill()
    assert watcher.returncode == DETACHED
    assert f"ray job logs {job.name} --follow" in err and f"ray job stop {job.name}" in err
    assert client.get_job_status(job.name).value == "RUNNING"
    client.stop_job(job.name)
    assert follow_job(client, job.name) != 0


def test_without_the_right_token_the_variables_to_set_are_named(job_head):
    cases = [
        ({"RAY_AUTH_MODE": "disabled"}, "asks for a token"),
        ({}, "asks for a token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "w" * 64}, "does not accept this token"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": "/nonexistent"}, "no usable token"),
    ]
    code = """if True:
        import json, sys
        from mirepoix.workflows.cluster.ray_cluster import authentication
        from mirepoix.workflows.cluster.submit import job_client
        for variables in json.loads(sys.argv[2]):
            try:
                with authentication(**variables):
                    job_client(sys.argv[1])
            except ValueError as error:
                print(error)
    """
    command = [sys.executable, "-c", code, job_head.address, json.dumps([variables for variables, _ in cases])]
    found = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, timeout=60)
    refusals = found.stdout.splitlines()
    assert len(refusals) == len(cases), found.stderr
    for refusal, (_, words) in zip(refusals, cases, strict=True):
        assert words in refusal
        assert all(name in refusal for name in ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://no-such-host.invalid:8265", "127.0.0.1:9"])
def test_a_cluster_that_does_not_answer_is_refused_in_seconds(address):
    start = time.monotonic()
    with pytest.raises(Refused, match=r"no answer from|no Ray dashboard") as refusal:
        submit("quickstart", address=address)
    assert time.monotonic() - start < 10 and "\n" not in str(refusal.value)


def test_the_given_address_wins_over_the_variables(job_head, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")
    assert job_client(job_head.address).get_address() == job_head.address
    assert os.environ["RAY_ADDRESS"] == "http://127.0.0.1:9"


@pytest.mark.parametrize("address", ["ray://head:10001", "head:8265:1", "ftp://head"])
def test_an_address_that_is_no_dashboard_is_refused(address):
    with pytest.raises(Refused):
        job_client(address)


@contextmanager
def scripted_server(logs: list[str], cuts: list[int], ends_after: int) -> Iterator[str]:
    """A job server whose log connections are cut after so many parts, and whose job ends with a given connection."""
    connections = 0

    async def version(_):
        return web.json_response({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})

    async def tail(request):
        nonlocal connections
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        cut = cuts[min(connections, len(cuts) - 1)]
        connections += 1
        for part in logs[:cut]:
            await socket.send_str(part)
        if cut < len(logs):
            request.transport.abort()
        return socket

    async def details(_):
        over = connections >= ends_after
        return web.json_response(
            {"type": "SUBMISSION", "entrypoint": "x", "status": "SUCCEEDED" if over else "RUNNING", "driver_exit_code": 0 if over else None}
        )

    app = web.Application()
    app.add_routes([web.get("/api/version", version), web.get("/api/jobs/{id}/logs/tail", tail), web.get("/api/jobs/{id}", details)])
    loop, runner = asyncio.new_event_loop(), web.AppRunner(app)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1).start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def test_the_log_is_printed_once_though_the_connection_breaks(monkeypatch, capsys):
    monkeypatch.setattr(submission, "LOST_PAUSE", 0.05)
    with scripted_server(["one\n", "two\n", "three\n"], [1, 2, 0, 3], ends_after=4) as address:
        assert follow_job(job_client(address), "job") == 0
    assert capsys.readouterr().out == "one\ntwo\nthree\n"


def test_a_cluster_that_stays_lost_is_refused_with_the_command_to_follow_the_job(monkeypatch, capsys):
    monkeypatch.setattr(submission, "LOST_PAUSE", 0.05)
    with scripted_server(["one\n"], [1], ends_after=9) as address:
        client = job_client(address)
    with pytest.raises(Refused, match=r"lost the cluster while job was running .* ray job logs job --follow"):
        follow_job(client, "job")


def test_a_submission_that_is_not_followed_returns_at_once(job_head, tmp_path: Path):
    config = tmp_path / "run.yaml"
    config.write_text("name: mine")
    assert submit("no-such-recipe", ["a=1"], address=job_head.address, config=config, follow=False) == 0
    client = job_client(job_head.address)
    (job,) = [each for each in client.list_jobs() if each.submission_id and each.submission_id.startswith("no-such-recipe-")]
    assert shlex.split(job.entrypoint)[-2:] == ["--config", "config/run.yaml"]


def test_a_file_that_names_its_recipe_is_sent_with_the_job(tmp_path: Path):
    file = tmp_path / "my pictures.yaml"
    file.write_text("recipe: search\n")
    (tmp_path / "stage").mkdir()
    job = prepare(str(file), ["seed=1"], tmp_path / "stage")
    assert shlex.split(job.entrypoint)[-3:] == ["run", "config/my pictures.yaml", "seed=1"]
    assert (tmp_path / "stage" / "config" / "my pictures.yaml").read_text() == "recipe: search\n"
    assert job.name.startswith("my-pictures-")


def test_the_command_line_ships_the_settings_file_that_an_override_names(job_head, tmp_path: Path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Path("zero.json").write_text('{"zero_optimization": {"stage": 1}}')
    words = ["submit", "quickstart", "adapt.deepspeed=zero.json", "--until", "nowhere", "--address", job_head.address]
    assert main(words) == 2
    assert "there is no stage nowhere" in capfd.readouterr().out, "the job comes as far as its stages only with the settings file"


def test_a_settings_file_that_is_not_there_is_refused_before_anything_is_sent(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["submit", "quickstart", "adapt.deepspeed=zero.json", "--address", "http://127.0.0.1:9"]) == 2
    assert "deepspeed settings zero.json cannot be read" in capsys.readouterr().err
