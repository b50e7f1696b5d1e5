"""The quickstart, small, through the command line: from nothing to a searched endpoint, again, changed, killed, and beside another."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pyarrow.compute as pc
import pytest
from selenium.webdriver.common.by import By

from mirepoix.components.corpus.parts import read_part
from mirepoix.serving import store
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.cluster.shipped_code import LAYERS
from mirepoix.workflows.recipes.registry import recipe
from tests.workflows.cluster.ray_heads import free_ports
from tests.workflows.recipes.small_quickstart import (
    BESIDE,
    ROOT,
    SMALL,
    environment,
    finish,
    folders_of_ours,
    mirepoix,
    processes_of_ours,
    start,
)

STAGES = [stage.name for stage in recipe("quickstart").stages()]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def before():
    token = Path.home() / ".ray" / "auth_token"
    return processes_of_ours(), folders_of_ours(), token.stat().st_mtime_ns if token.exists() else None


@pytest.fixture(scope="module")
def first(home, before):
    """A whole demo from nothing."""
    return mirepoix("demo", "quickstart", *SMALL, "--storage", str(home / "storage"), cwd=home, timeout=580)


def latest_run(home):
    """The report of the latest run, and the folder of that run."""
    (latest,) = sorted((home / "storage" / "runs").iterdir())[-1:]
    return json.loads((latest / "report.json").read_text()), latest


def test_every_stage_is_done_and_the_endpoint_is_searched_three_ways(first):
    assert first.status == 0, first.out + first.err
    assert first.stages("done") == set(STAGES)
    for kind in ("a text", "a picture", "a picture and a question about it"):
        assert f"search with {kind} " in first.out
    assert first.out.count("results in") == 3


def test_the_table_sets_trained_against_untrained_for_every_task(first):
    for task in ("t->t", "t->i", "t->it", "i->t", "i->i", "it->t", "it->i", "it->it"):
        assert f"\n  {task} " in first.out
    header = next(line for line in first.out.splitlines() if line.startswith("  task "))
    assert header.split() == ["task", "queries", "chance", "pixels", "BM25", "untrained", "trained"]


def test_the_last_lines_name_the_report_the_release_and_the_pages(first, home):
    for what in ("the report", "the release", "the search page", "the MLflow page"):
        assert what in first.out
    report = next(line.split()[-1] for line in first.out.splitlines() if line.strip().startswith("the report"))
    assert Path(report).is_file()
    assert "\nendpoint  " not in first.out
    assert "the endpoint has ended with the cluster of the demo" in first.out


def test_the_report_holds_settings_data_and_figures_by_task(first, home):
    report, folder = latest_run(home)
    assert report["settings"]["instruct"]["max_steps"] == 12
    assert report["data"]["digest"] == store.read_manifest(next((home / "storage/artefacts/curate").iterdir())).digest
    assert {entry["system"] for entry in report["results"]} == {"trained", "untrained", "bm25", "pixels", "chance"}
    for section in ("Over depth", "Examples"):
        assert f"<h2>{section} " in (folder / "report.html").read_text()
    assert {stage["name"] for stage in report["stages"]} == set(STAGES)
    assert "<html" in (folder / "report.html").read_text()


@pytest.fixture
def planned(first, home, capsys, monkeypatch):
    """The plan of a run over the first one's storage, as words by stage, whether or not other tests have a cluster in this process."""
    monkeypatch.setattr("mirepoix.workflows.run._joins", lambda request: False)

    def plan(*words):
        assert main(["run", *words, "--plan", "--storage", str(home / "storage")]) == 0
        return {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}

    return plan


def test_the_folder_of_the_run_can_be_run_again(home, planned):
    plan = planned("quickstart", "--config", str(latest_run(home)[1] / "config.yaml"))
    assert {name: " ".join(words) for name, words in plan.items()} == dict.fromkeys(STAGES, "up to date")


def test_one_changed_training_field_would_run_again_only_what_depends_on_it(planned):
    plan = planned("quickstart", *SMALL, "instruct.learning_rate=3e-4")
    current = {name for name, words in plan.items() if words == ["up", "to", "date"]}
    assert current == {"sources", "curate", "check", "floors", "pairs", "backbone", "adapt", "embed-untrained", "index-untrained"}
    assert "learning_rate" in " ".join(plan["instruct"])
    assert plan["embed"] == ["may", "run", "waits", "for", "instruct"]


def test_nothing_is_left_running_and_nobody_elses_token_is_touched(first, before):
    processes, folders, token_time = before
    deadline = time.monotonic() + 30
    while left := (processes_of_ours() - processes) | (folders_of_ours() - folders):
        assert time.monotonic() < deadline, left
        time.sleep(0.5)
    token = Path.home() / ".ray" / "auth_token"
    assert (token.stat().st_mtime_ns if token.exists() else None) == token_time


def test_every_artefact_matches_its_manifest(first, home):
    folders = [folder for stage in (home / "storage/artefacts").iterdir() for folder in stage.iterdir()]
    assert len(folders) == len(STAGES)
    for folder in folders:
        store.verify(folder)
    assert not list((home / "storage").glob("work/*/*")), "scratch of a finished stage is left"


def test_mlflow_has_a_run_for_the_whole_and_one_for_each_stage_with_curves_of_training(first, home):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'storage' / 'mlflow.db'}")
    (experiment,) = [found for found in client.search_experiments() if found.name == "mirepoix"]
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = {run.data.tags["stage"]: run for run in runs if "mlflow.parentRunId" in run.data.tags}
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert len(parents) == 1
    assert set(children) == set(STAGES)
    assert parents[0].data.params["instruct.max_steps"] == "12"
    assert [point.step for point in client.get_metric_history(children["adapt"].info.run_id, "loss")] == [2, 4, 6, 8, 10, 12]
    assert {used.dataset.name for used in children["adapt"].inputs.dataset_inputs} == {"pairs", "encoder"}
    systems = ("trained", "untrained", "bm25", "pixels", "chance")
    assert {f"{system} R_at_5" for system in systems} <= children["evaluate"].data.metrics.keys()
    for run in runs:
        assert "mlflow.source.git.commit" in run.data.tags or "source" in run.data.tags, run.data.tags
    assert {"report.html", "report.json"} <= {file.path for file in client.list_artifacts(parents[0].info.run_id)}


@pytest.fixture(scope="module")
def mlflow_page(first, home):
    """The address of MLflow's page, served by the command that the demo ended with."""
    line = next(line for line in first.out.splitlines() if line.strip().startswith("the MLflow page"))
    port = free_ports(1)[0]
    command = [*line.split(" after ")[1].split(), "--port", str(port)]
    assert "mlflow" in command, line
    variables = environment(MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false")  # its workers for jobs of language models, which we send none
    with open(home / "mlflow.log", "w") as log:
        server = subprocess.Popen(command, cwd=home, env=variables, stdout=log, stderr=log, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 240
        while not answers(f"{url}/health"):
            assert server.poll() is None and time.monotonic() < deadline, (home / "mlflow.log").read_text()
            time.sleep(0.2)
        yield url
    finally:
        server.terminate()  # it ends the server that it has started
        server.wait(60)


def answers(url: str) -> bool:
    with suppress(httpx.TransportError):
        return httpx.get(url, timeout=5).status_code == 200
    return False


def read_until(browser, url: str, *words: str) -> str:
    """The text of a page once all the words are on it."""
    browser.get("about:blank")
    browser.get(url)
    deadline = time.monotonic() + 40
    while True:
        text = browser.execute_script("return document.body.innerText")
        missing = [word for word in words if word not in text]
        if not missing:
            return text
        assert time.monotonic() < deadline, f"{missing} of {url} is not on the page:\n{text}"
        time.sleep(0.2)


def test_the_mlflow_page_shows_the_run_with_its_stages_its_curves_and_its_report(first, home, mlflow_page, browser):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'storage' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mirepoix").experiment_id
    runs = {run.data.tags.get("stage", "whole"): run.info for run in client.search_runs([experiment], "attributes.status = 'FINISHED'")}
    place = f"{mlflow_page}/#/experiments/{experiment}/runs"
    read_until(browser, f"{place}/{runs['whole'].run_id}", "instruct.max_steps", "Finished", runs["whole"].run_name)
    read_until(browser, f"{place}/{runs['whole'].run_id}/artifacts", "report.html", "report.json")
    read_until(browser, f"{place}/{runs['adapt'].run_id}", "loss", "pairs", "quickstart")
    read_until(browser, f"{place}/{runs['adapt'].run_id}/model-metrics", "accuracy", "data_wait")  # the page draws those that are seen
    deadline = time.monotonic() + 40
    while len(browser.find_elements(By.CSS_SELECTOR, "svg.main-svg path.js-line")) < 2:
        assert time.monotonic() < deadline, "no curves are drawn"
        time.sleep(0.2)


def test_a_second_run_skips_what_is_up_to_date_and_needs_no_cluster(first, home):
    """With its temporary folder out of reach no cluster could be started."""
    words = ["run", "quickstart", *SMALL, "--until", "release", "--storage", str(home / "storage")]
    again = mirepoix(*words, TMPDIR="/nowhere", RAY_ADDRESS="127.0.0.1:9")
    assert again.status == 0, again.err
    assert again.stages("up to date") == set(STAGES) - {"deploy", "evaluate", "floors", "embed-untrained", "index-untrained"}


@pytest.mark.soak
def test_a_second_demo_only_serves_again_and_on_its_own_cluster_whatever_other_is_set(first, home):
    again = mirepoix("demo", "quickstart", *SMALL, "--storage", str(home / "storage"), cwd=home, RAY_ADDRESS="127.0.0.1:9")
    assert again.status == 0, again.err
    assert again.stages("done") == {"deploy"}
    assert again.stages("up to date") == set(STAGES) - {"deploy"}
    assert again.out.count("results in") == 3
    assert again.seconds < first.seconds / 2


def test_a_release_is_served_and_searched_from_the_command_line(first, home, capsys, ctrl_c):
    _, folder = latest_run(home)
    server = start("serve", str(folder), "--port", "0")
    try:
        assert server.stdout.readline().startswith("starting the server of ")
        line = server.stdout.readline()
        assert "is served at http://127.0.0.1:" in line, finish(server, time.monotonic())
        url = line.split("served at ")[1].split()[0]
        words = mirepoix("search", "two small red plain star marks on night", "--target", "i", "-k", "3", "--url", url)
        assert words.status == 0, words.err
        assert "3 results in" in words.out
        row = read_part(next((home / "storage/artefacts/curate").iterdir()), "queries").filter(pc.field("task") == "i->t").to_pylist()[0]
        (home / "query.png").write_bytes(row["images"][0])
        assert main(["search", "--image", str(home / "query.png"), "--json", "--url", url]) == 0
        assert len(json.loads(capsys.readouterr().out)["results"]) == 5
        (home / "query.txt").write_text("no picture")
        assert main(["search", "--image", str(home / "query.txt"), "--url", url]) == 2
        assert "declined (400)" in capsys.readouterr().err
        assert main(["search", "star " * 20_000, "--url", url]) == 2
        assert "declined (4" in capsys.readouterr().err
    finally:
        server.send_signal(signal.SIGINT)
        ended = finish(server, time.monotonic(), 180)
    assert ended.status == 0
    assert "stopped" in ended.out


@pytest.mark.soak
def test_a_killed_driver_goes_on_from_the_last_checkpoint(first, home):
    steps = ["adapt.max_steps=40", "adapt.save_steps=10", "adapt.logging_steps=1", "adapt.global_batch_size=4"]
    words = ["run", "quickstart", *SMALL, *steps, "--until", "adapt", "--storage", str(home / "storage")]
    began = time.monotonic()
    process = start(*words)
    while not (snapshots := list((home / "storage/work").glob("*/train/checkpoint_manager_snapshot.json"))) or "step_" not in (
        snapshots[0].read_text()
    ):
        assert process.poll() is None, finish(process, began)
        assert time.monotonic() - began < 300
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    finish(process, began)
    kept = max(int(folder.name.split("_")[1].split("-")[0]) for folder in snapshots[0].parent.glob("step_*"))
    tried = mirepoix("try", "latest", "--storage", str(home / "storage"), "--queries", "4", "--documents", "50", "--json")
    assert tried.status == 0, tried.err
    found = json.loads(tried.out)
    assert (found["stage"], found["state"], found["total"], found["documents"]) == ("adapt", "killed", 40, 50)
    assert found["step"] in (kept, kept - 10) and found["step"] % 10 == 0 and len(found["queries"]) == 4
    # What does not decide the result may change: its checkpoints are the same training's.
    resumed = mirepoix(*words, "adapt.save_steps=7", "adapt.dataloader_num_workers=0", "adapt.max_failures=1")
    assert resumed.status == 0, resumed.err
    assert resumed.stages("done") == {"adapt"}

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{home / 'storage' / 'mlflow.db'}")
    runs = client.search_runs(["1"], "tags.stage = 'adapt' and tags.cached = 'false'", order_by=["attributes.start_time DESC"])
    steps = [point.step for point in client.get_metric_history(runs[0].info.run_id, "loss")]
    assert steps == list(range(steps[0], 41)), "every step, in order"
    assert 10 < steps[0] <= kept + 10 and steps[0] % 10 == 1, "from the last committed checkpoint on"
    assert runs[1].info.status == "KILLED"


def checkout(folder: Path) -> Path:
    """A copy of the checkout with a recipe and with names of entities that no other code has."""
    for layer in LAYERS:
        shutil.copytree(ROOT / layer, folder / layer, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "mirepoix.py", folder)
    for name, change in {
        "workflows/recipes/registry.py": 'RECIPES["shipped"] = quickstart',
        "components/synthetic/entities.py": 'SYLLABLES = tuple(f"q{each}" for each in SYLLABLES)',
    }.items():
        with open(folder / name, "a") as module:
            module.write(f"\n{change}\n")
    return folder


@pytest.fixture(scope="module")
def cluster(job_head):
    """A cluster that takes jobs, and the variables by which a command authenticates."""
    return job_head, {name: value for name, value in job_head.env.items() if name.startswith("RAY_AUTH")}


@pytest.fixture(scope="module")
def beside(first, home, cluster, tmp_path_factory):
    """A comparison of the first retriever with a second one, as a job of the cluster, and the storage of both; takes two minutes."""
    storage = tmp_path_factory.mktemp("beside") / "shared"
    shutil.copytree(home / "storage", storage)
    words = ["submit", *BESIDE, "--address", cluster[0].address, "--storage", str(storage)]
    return mirepoix(*words, cwd=storage.parent, timeout=580, **cluster[1]), storage


@pytest.mark.soak
def test_a_comparison_as_a_job_of_a_cluster_skips_what_is_up_to_date_and_runs_the_rest(beside):
    ended, _ = beside
    assert ended.status == 0, ended.out + ended.err
    shared = ("sources", "curate", "check", "floors", "pairs")
    up_to_date = {name if name in shared else f"unite:{name}" for name in STAGES if name != "deploy"}
    assert ended.stages("up to date") == up_to_date, "the quickstart alone made all of UNITE's"
    steps = ("backbone", "instruct", "embed", "embed-untrained", "index", "index-untrained", "evaluate", "release")
    assert ended.stages("done") == {"deploy", *(f"univldr:{step}" for step in steps)}


@pytest.mark.soak
def test_its_table_has_both_with_their_averages_sizes_and_times(beside):
    lines = [line.split() for line in beside[0].out.splitlines()]
    (columns,) = [line for line in lines if line[:2] == ["task", "queries"]]
    assert columns[2:] == ["unite", "univldr"]
    for row in ("t->t", "it->it", "average, target", "average, universal", "parameters", "rows x width", "training"):
        assert [line for line in lines if line[: len(row.split())] == row.split()], row


@pytest.mark.soak
def test_its_report_has_both_and_the_endpoint_serves_the_one_that_was_named(beside):
    ended, storage = beside
    (folder,) = (storage / "runs").glob("quickstart_all-*")
    arms = json.loads((folder / "report.json").read_text())["arms"]
    assert {name: arm["failure"] for name, arm in arms.items()} == {"unite": "", "univldr": ""}
    assert all(arm["facts"]["training_seconds"] > 0 and arm["headline"]["trained"] for arm in arms.values())
    assert "<th>unite<th>univldr" in (folder / "report.html").read_text()
    (endpoint,) = re.findall(r"^endpoint  (http://\S+)$", ended.out, re.MULTILINE)
    assert httpx.get(f"{endpoint}/health").json()["release"] in {
        json.loads(file.read_text())["version"] for file in (storage / "artefacts" / "release").glob("*/release.json")
    }


@pytest.mark.soak
def test_mlflow_has_its_stages_by_arm_and_its_figures_on_the_whole(beside):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{beside[1] / 'mlflow.db'}")
    (whole,) = client.search_runs(["1"], "tags.recipe = 'quickstart_all'")
    children = client.search_runs(["1"], f"tags.mlflow.parentRunId = '{whole.info.run_id}'")
    arms = {run.info.run_name: run.data.tags.get("arm") for run in children}
    assert arms["univldr:instruct"] == "univldr" and arms["unite:instruct"] == "unite" and arms["curate"] is None
    assert set(whole.data.metrics) == {"unite R_at_5", "univldr R_at_5"}


@pytest.mark.soak
def test_what_a_job_serves_outlives_it_and_a_demo_that_searches_it(beside):
    ended, storage = beside
    (endpoint,) = re.findall(r"^endpoint  (http://\S+)$", ended.out, re.MULTILINE)
    assert answers(f"{endpoint}/health"), "the endpoint ended with its job"
    demo = mirepoix("demo", *BESIDE, "--storage", str(storage), cwd=storage.parent)
    assert demo.status == 0, demo.out + demo.err
    assert demo.stages("up to date") == ended.stages("up to date") | ended.stages("done")
    assert f"\nendpoint  {endpoint}\n" in demo.out
    assert f"the endpoint is up at {endpoint}" in demo.out
    assert answers(f"{endpoint}/health"), "a demo stopped an endpoint that was not its own"


def test_a_job_of_a_checkout_runs_the_code_of_that_checkout_on_driver_and_workers(cluster, tmp_path):
    ray = str(Path(sys.executable).with_name("ray"))
    code = checkout(tmp_path / "checkout")
    plain = [ray, "job", "submit", "--address", cluster[0].address, "--working-dir", str(code), "--"]
    plain += ["python", "-m", "mirepoix.workflows", "run", "shipped", *SMALL, "--until", "curate", "--storage", str(tmp_path / "plain")]
    done = subprocess.run(plain, env=environment(**cluster[1]), cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert next((tmp_path / "plain" / "runs").iterdir()).name.startswith("shipped-"), "the driver imported other code"
    texts = read_part(next((tmp_path / "plain" / "artefacts" / "curate").iterdir()), "corpus")["text"].to_pylist()
    names = {name for text in texts for name in re.findall(r"\b[A-Z][a-z]+(?:-[a-z]+)+", text)}
    assert names
    assert all(syllable.startswith("q") for name in names for syllable in name.lower().split("-")), "the workers imported other code"
