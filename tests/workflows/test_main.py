"""The command line: what it prints, and how it refuses; in this process where nothing has to run."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
import yaml

from mirepoix.components.corpus.parts import PartWriter
from mirepoix.models.encoder_config import ARCHITECTURES
from mirepoix.models.item import Item, item_to_row
from mirepoix.workflows.__main__ import COMMANDS, main
from mirepoix.workflows.recipes.registry import RECIPES, RETRIEVERS, recipe
from mirepoix.workflows.storage import release_of
from tests.workflows.recipes.small_quickstart import ROOT, environment


def refused(result, *parts):
    status, _, err = result
    assert status == 2
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("mirepoix: ")
    for part in parts:
        assert part in err


TERMINATED = """
import os, signal, sys
from mirepoix.workflows import __main__ as command
command.COMMANDS["run"] = lambda _: os.kill(os.getpid(), signal.SIGTERM)
sys.exit(command.main(["run", "search", *sys.argv[1:]]))
"""


@pytest.mark.parametrize("words", [["--json"], []])
def test_a_command_that_is_terminated_says_so_as_its_last_event_or_line(words):
    ended = subprocess.run([sys.executable, "-c", TERMINATED, *words], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert ended.returncode == 143
    if words:
        last = json.loads(ended.stdout.splitlines()[-1])
        assert last["event"] == "interrupted" and last["error"].startswith("terminated; results of finished stages are kept")
    else:
        assert ended.stderr.startswith("mirepoix: terminated; ") and len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "kill"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["serve"], "stopped"),
        (["mlflow"], "stopped"),
        (["validate", "."], "{how}"),
        (["add", "latest", "."], "{how}; results of finished stages are kept, and the same command goes on from there"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_only_of_a_command_that_runs_stages_it_is_said_that_it_goes_on(cli, monkeypatch, ctrl_c, words, said, number, status):
    monkeypatch.setitem(COMMANDS, words[0], lambda _: os.kill(os.getpid(), number))
    before = signal.getsignal(signal.SIGTERM)
    try:
        ended = cli(*words)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert ended == (status, "", f"mirepoix: {said.format(how='interrupted' if status == 130 else 'terminated')}\n")


def test_list_names_every_recipe_and_every_retriever(cli):
    status, out, _ = cli("list")
    assert status == 0
    lines = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert lines[: len(RECIPES) + len(RETRIEVERS)] == [*RECIPES, *RETRIEVERS]
    assert set(RETRIEVERS) == set(ARCHITECTURES)


def test_the_plan_of_a_comparison_names_the_stages_of_every_arm(cli, tmp_path):
    status, out, _ = cli("run", "quickstart_all", "only=mire,univldr", "--until", "embed", "--plan", "--storage", str(tmp_path))
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["univldr:mine-refine", "may", "run", "waits", "for"] in [line[:5] for line in lines]
    assert {line[0].partition(":")[0] for line in lines} == {"sources", "curate", "check", "pairs", "mire", "univldr"}
    assert not [line for line in lines if line[0].endswith(("evaluate", "release"))]
    assert len({re.search(" (may run|runs) ", line).start() for line in out.splitlines()}) == 1, "one column"


def test_a_demo_of_a_comparison_asks_which_arm_to_serve(cli):
    refused(cli("demo", "quickstart_all"), "quickstart_all serves nothing", "serve=ARM")


def test_a_folder_of_a_run_with_several_releases_is_refused_with_the_folders_of_each(cli, tmp_path):
    stages = [{"name": f"{arm}:release", "digest": "d", "target": f"/releases/{arm}"} for arm in ("unite", "mire")]
    (tmp_path / "report.json").write_text(json.dumps({"stages": [*stages, {"name": "jfe:release", "digest": "", "target": ""}]}))
    refused(cli("serve", str(tmp_path)), "made 2 releases", "unite /releases/unite, mire /releases/mire")


def test_the_one_release_of_a_comparison_is_found(tmp_path):
    report = {"stages": [{"name": "unite:release", "digest": "d", "target": "/releases/unite"}]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    assert release_of(str(tmp_path)) == "/releases/unite"


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_described_recipe_is_read_back_as_itself(cli, tmp_path, name):
    _, out, _ = cli("describe", name)
    file = tmp_path / "config.yaml"
    file.write_text(out)
    assert yaml.safe_load(out)["seed"] == recipe(name).seed
    assert cli("describe", name, "--config", str(file))[1] == out


def test_overrides_may_come_before_or_after_options(cli, tmp_path):
    before = cli("run", "quickstart", "seed=3", "--plan", "--storage", str(tmp_path))
    after = cli("run", "quickstart", "--plan", "--storage", str(tmp_path), "seed=3")
    assert before == after
    assert before[0] == 0


def test_a_file_that_is_run_from_another_folder_names_the_storage_that_lies_beside_it(cli, tmp_path, monkeypatch):
    monkeypatch.delenv("MIREPOIX_STORAGE")
    for folder in ("my B/storage/runs/search-20270101-000000-0000", "E"):
        (tmp_path / folder).mkdir(parents=True)
    file, storage = tmp_path / "my B" / "mirepoix.yaml", tmp_path / "my B" / "storage"
    file.write_text("recipe: quickstart\n")
    monkeypatch.chdir(tmp_path / "E")
    hint = f"mirepoix: the current folder has no storage, and {file.parent} has one; to go on with it: --storage '{storage}'\n"
    assert cli("run", str(file), "--plan")[::2] == (0, hint)
    assert cli("run", "quickstart", "--config", "../my B/mirepoix.yaml", "--plan")[2] == hint.replace(f"and {file.parent} ", "and ../my B ")
    assert cli("run", str(file), "--plan", "--json")[2] == hint
    assert cli("run", str(file), "--plan", "--quiet")[::2] == (0, ""), "errors and the result alone"
    assert cli("run", str(file), "--plan", "--storage", str(storage))[2] == ""
    assert cli("run", "quickstart", "--plan")[2] == ""
    (tmp_path / "E" / "storage" / "runs" / "search-20270101-000000-0000").mkdir(parents=True)
    assert cli("run", str(file), "--plan")[2] == "", "the current folder has a storage"
    monkeypatch.chdir(tmp_path / "my B")
    assert cli("run", "mirepoix.yaml", "--plan")[2] == ""


def test_a_plan_lists_what_would_run_and_writes_nothing(cli, tmp_path):
    status, out, _ = cli("run", "quickstart", "--plan", "--storage", str(tmp_path / "storage"))
    assert status == 0
    assert out.splitlines()[0].split() == ["sources", "runs", "never", "ran"]
    assert "adapt            may run    waits for pairs, backbone" in out
    assert not (tmp_path / "storage").exists()


def test_a_typo_in_a_field_is_answered_with_the_nearest_names(cli):
    refused(cli("describe", "quickstart", "instruct.learning_rat=1e-4"), "instruct.learning_rat", "instruct.learning_rate")


def test_a_typo_in_a_recipe_or_stage_is_answered_with_what_there_is(cli, tmp_path):
    refused(cli("run", "quikstart"), "quikstart", "quickstart")
    refused(cli("run", "quickstart", "--plan", "--until", "adopt", "--storage", str(tmp_path)), "adopt", "adapt")
    refused(cli("run", "quickstart", "--plan", "--force", "indx", "--storage", str(tmp_path)), "indx", "index")


def test_a_wrong_value_is_answered_with_what_is_allowed(cli):
    refused(cli("describe", "quickstart", "instruct.zero_stage=7"), "zero_stage", "7", "0, 1, 2")
    refused(cli("describe", "quickstart", "adapt.max_steps=many"), "adapt.max_steps", "many")


@pytest.mark.parametrize(
    "words",
    [
        ("describe", "quickstart", "--config", "/no/such.yaml"),
        ("run", "quickstart", "--plan", "sources.path=/no/such/corpus"),
        ("run", "quickstart", "--plan", "backbone.name=/no/such/model"),
        ("search", "stars", "--image", "/no/such.png"),
        ("serve", "/no/such/release"),
    ],
    ids=lambda words: words[-1],
)
def test_a_missing_file_is_named(cli, words):
    refused(cli(*words), "/no/such")


def test_a_search_without_a_server_is_refused(cli):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        refused(cli("search", "stars", "--url", f"http://127.0.0.1:{probe.getsockname()[1]}"), "nothing answers", "--url")


def test_a_search_without_a_text_and_a_picture_is_refused_before_the_server_is_asked(cli):
    for words in ((), (" ",), ("--target", "i")):
        refused(cli("search", *words, "--url", "http://127.0.0.1:9"), "there is no query; give a text, --image FILE, or both")


def test_a_submission_to_an_address_without_a_cluster_is_refused(cli):
    refused(cli("submit", "quickstart", "--address", "http://127.0.0.1:9"), "http://127.0.0.1:9")


def test_a_submission_is_checked_before_it_is_sent(cli):
    refused(cli("submit", "quickstart", "seed=x", "--address", "http://127.0.0.1:9"), "seed")


@pytest.mark.parametrize("plan", [["--plan"], []], ids=["plan", "run"])
def test_a_storage_that_is_a_file_is_refused(cli, tmp_path, plan):
    (tmp_path / "file").write_text("in the way")
    refused(cli("run", "quickstart", *plan, "--storage", str(tmp_path / "file")), "cannot be read", "--storage")


def test_a_storage_that_cannot_be_written_to_is_refused(cli, tmp_path):
    (tmp_path / "storage").mkdir()
    (tmp_path / "storage" / "runs").write_text("in the way")
    refused(cli("run", "quickstart", "--storage", str(tmp_path / "storage")), "cannot be written to", "--storage")


def test_an_unknown_stage_is_refused_before_anything_is_written(cli, tmp_path):
    refused(cli("run", "quickstart", "--until", "adopt", "--storage", str(tmp_path / "storage")), "adapt")
    assert not (tmp_path / "storage").exists()


def test_a_start_whose_inputs_are_not_up_to_date_is_refused_before_anything_is_written(cli, tmp_path):
    refused(cli("run", "quickstart", "--from", "adapt", "--storage", str(tmp_path / "storage")), "--from adapt", "sources", "never ran")
    assert not (tmp_path / "storage").exists()


def test_an_empty_corpus_stops_the_run_with_one_line_and_leaves_nothing_half_written(ray_cluster, cli, tmp_path):
    for part, rows in (("corpus", []), ("queries", []), ("qrels", [])):
        with PartWriter(tmp_path / "corpus", part) as writer:
            writer.write(rows)
    status, _, err = cli("run", "quickstart", f"sources.path={tmp_path / 'corpus'}", "--storage", str(tmp_path / "storage"))
    assert status == 1
    assert err.count("mirepoix: stage sources failed") == 1
    assert "is empty" in " ".join(err.partition("mirepoix: stage sources failed")[2].split())
    assert max(map(len, err.splitlines())) <= 119
    assert "mirepoix: not run: curate, check, floors, pairs" in err
    assert not list((tmp_path / "storage").glob("artefacts/*/*"))
    assert not list((tmp_path / "storage").glob("tmp/*"))


def test_a_port_in_use_is_refused_before_anything_starts(cli, tmp_path, monkeypatch):
    from mirepoix.serving.store import publish

    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "release.json").write_text("{}")
    publish(tmp_path / "draft", tmp_path / "release", {})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        refused(cli("serve", str(tmp_path / "release"), "--port", str(port)), f"port {port} is in use")


def test_a_folder_of_a_run_without_a_release_is_refused(cli, tmp_path):
    (tmp_path / "report.json").write_text('{"stages": [{"name": "release", "digest": "", "target": ""}]}')
    refused(cli("serve", str(tmp_path)), "no release")


def test_help_shows_every_command_without_loading_the_libraries():
    code = "import sys; from mirepoix.workflows.__main__ import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment(), capture_output=True, text=True, check=True)
    for command in ("run", "describe", "submit", "list", "demo", "serve", "search", "doctor"):
        assert f"    {command} " in shown.stdout
    assert shown.stdout.strip().endswith("False")


def test_an_unknown_option_is_refused_by_name(capsys):
    with pytest.raises(SystemExit) as ending:
        main(["run", "quickstart", "--frobnicate"])
    assert ending.value.code == 2
    assert "--frobnicate" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rn"], "there is no command 'rn'; did you mean run?"),
        (["xyz"], "there is no command 'xyz'; there are init, run, describe, submit, list, demo, release, add, remove, serve, search, "),
        (["run", "quickstart", "--plna"], "there is no option --plna; did you mean --plan?; see `mirepoix run --help`"),
        (["serve", "--prot=8001"], "there is no option --prot; did you mean --port?; see `mirepoix serve --help`"),
        (["submit", "--adress", "http://head:8265"], "there is no option --adress; did you mean --address?"),
        (["run"], "required: RECIPE; `mirepoix list` names the recipes, and `mirepoix init DIR` writes a file of one for your own"),
        (["submit", "quickstart"], "required: --address\n"),
        (["add"], "required: RELEASE, PATH; such as: mirepoix add latest FOLDER\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistyped_or_missing_argument_is_answered_with_what_was_probably_meant(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ending:
        main(words)
    assert ending.value.code == 2 and said in capsys.readouterr().err


def test_a_command_without_its_recipe_names_the_file_that_is_here(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mirepoix.yaml").write_text("recipe: search\n")
    for words, said in ((["run"], "RECIPE; mirepoix.yaml is here: mirepoix run mirepoix.yaml\n"), (["submit"], "mirepoix.yaml --address")):
        with pytest.raises(SystemExit):
            main(words)
        assert said in capsys.readouterr().err


def test_options_by_their_beginnings_and_texts_that_begin_like_options_are_taken(cli, tmp_path):
    assert cli("run", "quickstart", "--pla", "--storage", str(tmp_path))[0] == 0
    for words in (["search", "--two small stars"], ["search", "--url=http://127.0.0.1:9", "--", "--plna"]):
        refused(cli(*words, *([] if "--" in words else ["--url", "http://127.0.0.1:9"])), "nothing answers at http://127.0.0.1:9")


def test_a_folder_or_another_file_in_the_place_of_a_recipe_is_answered_with_what_to_do(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    refused(cli("run", "mine"), "mine is a folder, and neither a recipe nor a file of one; `mirepoix init mine` looks at it and writes")
    (tmp_path / "mine" / "config.yaml").write_text("recipe: quickstart\n")
    refused(
        cli("run", str(tmp_path / "mine")), f"is a folder, and neither a recipe nor a file of one; `mirepoix run {tmp_path}/mine/config"
    )
    (tmp_path / "own.yml").write_text("recipe: quickstart\nseed: 3\n")
    refused(cli("run", "own"), "there is no recipe 'own', and a file own.yml; give that: mirepoix run own.yml")
    assert cli("run", "own.yml", "--plan")[0] == 0, "either ending is that of a file"
    (tmp_path / "own.txt").write_text("recipe: quickstart\n")
    refused(cli("run", "own.txt"), "own.txt is a file, and one of a recipe has a name that ends in .yaml or .yml; rename it")


def test_doctor_prints_every_check(cli):
    status, out, _ = cli("doctor")
    assert status in (0, 1)
    assert "Python" in out
    assert "CPUs" in out


def test_doctor_says_of_a_recipe_what_a_run_of_it_would_be_refused_for(cli, monkeypatch, tmp_path):
    monkeypatch.setattr("mirepoix.workflows.cluster.doctor.checks", lambda storage: [])
    monkeypatch.setattr("mirepoix.workflows.run._ray_is_up", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    status, out, _ = cli("doctor", "quickstart", "instruct.num_workers=60", "--storage", str(tmp_path))
    assert status == 1
    first, advice, counts = out.splitlines()
    assert first.startswith("fail  recipe quickstart  instruct.num_workers=60 and instruct.cpus_per_worker=2 take 120 CPUs, and this")
    assert advice.strip().startswith("-> lower one of them, or give --address") and counts == "0 ok, 0 warn, 1 fail"
    status, out, _ = cli("doctor", "quickstart", "sources.path=/no/such", "--storage", str(tmp_path))
    assert (status, "/no/such" in out) == (1, True)
    status, out, _ = cli("doctor", "quickstart", "--json", "--storage", str(tmp_path))
    assert status == 0
    assert json.loads(out)[0]["found"] == "nothing is in the way of its 15 stages, of which 15 would run"


def test_the_corpus_of_a_user_is_a_source(cli, tmp_path):
    with PartWriter(tmp_path, "corpus") as writer:
        writer.write([item_to_row(Item("a", text="x"))])
    with PartWriter(tmp_path, "queries") as writer:
        writer.write([{**item_to_row(Item("q", text="x")), "split": "train", "task": "t->t"}])
    with PartWriter(tmp_path, "qrels") as writer:
        writer.write([{"query_id": "q", "item_id": "a", "relevance": 1}])
    status, out, _ = cli("run", "quickstart", f"sources.path={tmp_path}", "--plan", "--storage", str(tmp_path / "storage"))
    assert status == 0
    assert out.startswith("sources          runs")
