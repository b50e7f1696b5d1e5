"""`mirepoix try` over a training in plain processes, whose checkpoints lie as Ray Train lays them out in a storage of the runner."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.pairs import pairs as pairs_stage
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.components.stage import Context
from mirepoix.components.training import checkpoint_encoder
from mirepoix.components.training.job import make_job
from mirepoix.models.encoder import load_own_encoder
from mirepoix.models.item import table_to_items
from mirepoix.models.vectors import maxsim
from mirepoix.serving.store import join, publish
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.dag.comparison import Arm, Comparison
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.recipes.registry import described
from mirepoix.workflows.runner.lease import Driver
from mirepoix.workflows.runner.task import BEGUN
from tests.components.fixtures import write_corpus
from tests.components.training.toy_training import NAMES, TOY, picture, run, write_encoder

STEPS = 6
CONFIG = replace(TOY, max_steps=STEPS, save_steps=2, learning_rate=1e-2)
SEED = 3
RUN = "toy-20270101-120000-0001"
KEY = "0123456789abcdef"
TRAINED = f"step_{4:08d}-1"
ROUNDING = 1e-5
"""Of a score, between two encodings of the same items in this process, where the number of threads may differ."""


def put(storage: Path, home: Path, step: str, **fields) -> str:
    """Publishes a folder as the result of a stage; returns its target."""
    target = storage / "artefacts" / step / "aaaaaaaaaaaaaaaa"
    publish(home, target, fields)
    return str(target)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A storage with the results before a training, and the training's checkpoints of the steps 2 and 4."""
    home = tmp_path_factory.mktemp("try")
    storage = home / "storage"
    flags = [{"id": f"flag{n}", "images": [picture(name)], "source": f"/flags/{n}.png"} for n, name in enumerate(NAMES)]
    split = ["test" if n % 6 == 0 else "train" for n in range(len(NAMES))]
    queries = [{"id": f"q{n}", "text": f"which flag is {name}", "split": split[n], "task": "t->i"} for n, name in enumerate(NAMES)]
    qrels = [{"query_id": f"q{n}", "item_id": f"flag{n}"} for n in range(len(NAMES))]
    corpus = write_corpus(home / "corpus", corpus=flags, queries=queries, qrels=qrels)
    curate = put(storage, corpus, "curate")
    (home / "pairs").mkdir()
    pairs_stage.work(Context(home / "pairs", "", lambda row: None, 0), PairsConfig(adapt_tasks=None), Path(curate))
    digest = json.loads((Path(curate) / "manifest.json").read_text())["digest"]
    pairs = put(storage, home / "pairs", "pairs", inputs={"curate": digest})
    encoder = put(storage, write_encoder(home), "backbone")
    job = make_job(CONFIG, SEED, Path(pairs, "instruct"), Path(encoder))
    run({"train": job}, 1, home / "trained")
    return storage, {"pairs": pairs, "encoder": encoder}, home / "trained" / "train"


@pytest.fixture
def storage(made, tmp_path, monkeypatch):
    """That storage with a run that trains: its checkpoints of steps 2 and 4 are committed."""
    whole, inputs, trained = made
    storage = tmp_path / "storage"
    shutil.copytree(whole, storage, copy_function=os.link)
    inputs = {name: target.replace(str(whole), str(storage)) for name, target in inputs.items()}
    scratch = storage / "work" / KEY
    shutil.copytree(trained, scratch / "train", copy_function=os.link, ignore=shutil.ignore_patterns("final", "latest.json"))
    (scratch / BEGUN).write_text(json.dumps({"stage": "instruct", "inputs": inputs}))
    commit(storage, f"step_{2:08d}-1", TRAINED)
    begin(storage, Retrieval(seed=SEED, adapt=None, instruct=CONFIG))
    priorities = []
    monkeypatch.setattr(os, "nice", priorities.append)
    monkeypatch.setattr("torch.set_num_threads", priorities.append)
    yield storage
    assert {*priorities} <= {10, min(2, os.cpu_count())}


def commit(storage: Path, *names: str) -> None:
    results = [{"checkpoint_dir_name": name, "metrics": {}} for name in names]
    (storage / "work" / KEY / "train" / "checkpoint_manager_snapshot.json").write_text(json.dumps({"checkpoint_results": results}))


def begin(storage: Path, config) -> None:
    """The folder of a run of the config whose training is begun."""
    folder = storage / "runs" / RUN
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(described("toy", config))
    began = [storage / "artefacts" / step / "aaaaaaaaaaaaaaaa" for step in ("curate", "pairs", "backbone")]
    targets = [str(target) for target in (*began, storage / "artefacts" / "instruct" / KEY)]
    record = {"driver": "gone", "work": "run", "host": "h", "machine": "m", "pid": 1, "start": "1", "began": 1.0, "noted": 1.0}
    (folder / "run.json").write_text(json.dumps({**record, "targets": targets}))


def tried(cli, storage, *words) -> dict:
    status, out, err = cli("try", "latest", "--storage", str(storage), "--json", *words)
    assert (status, err) == (0, "")
    return json.loads(out)


def test_ranks_and_recalls_are_those_of_the_last_checkpoint_and_of_the_encoder_before_it(cli, storage, made, tmp_path):
    found = tried(cli, storage, "--queries", "4", "--documents", "30")
    assert (found["run"], found["stage"], found["step"], found["total"], found["state"]) == (RUN, "instruct", 4, STEPS, "killed")
    assert (found["documents"], found["all_documents"], found["all_queries"], len(found["queries"])) == (30, 36, 6, 4)
    assert time.time() - 600 < found["saved"] < time.time()
    _, inputs, trained = made
    corpus, asked = (table_to_items(read_part(Path(inputs["pairs"]).parents[1] / place, part)) for place, part in PLACES)
    searched = {id for query in found["queries"] for id in query["answers"]}
    assert searched == {f"flag{query['id'][1:]}" for query in found["queries"]}
    half = checkpoint_encoder.checkpoint_encoder(trained / TRAINED, Path(inputs["encoder"]), CONFIG)
    for encoder, name in ((half, "rank"), (load_own_encoder(inputs["encoder"]), "rank_before")):
        scores = maxsim(encoder.encode(asked, role="query"), encoder.encode(corpus)).numpy()
        for query in found["queries"]:
            own = next(n for n, item in enumerate(asked) if item.id == query["id"])
            answer = next(n for n, item in enumerate(corpus) if item.id == query["answers"][0])
            not_behind = int((scores[own] >= scores[own][answer] - 1e-6).sum())
            assert query[name] <= not_behind, "among fewer documents no rank is worse"
    for system, name in (("checkpoint", "rank"), ("before", "rank_before")):
        for depth in (1, 5, 10):
            hits = [query[name] <= depth for query in found["queries"]]
            assert found["recall"][system][f"R@{depth}"] == sum(hits) / 4
    for query in found["queries"]:
        right = [result["answers"] for result in query["results"]]
        assert len(right) == 3 and right == [place == query["rank"] for place in (1, 2, 3)]
    assert {result["modality"] for query in found["queries"] for result in query["results"]} == {"i"}


PLACES = (("curate/aaaaaaaaaaaaaaaa", "corpus"), ("pairs/aaaaaaaaaaaaaaaa", "queries"))


def test_over_the_whole_corpus_ranks_are_exactly_those_of_the_encoder_that_training_wrote_there(cli, storage, made):
    _, inputs, trained = made
    final = storage / "work" / KEY / "train" / "final"
    shutil.copytree(trained / "final", final)
    commit(storage, TRAINED, "final")
    found = tried(cli, storage, "--documents", "1000")
    assert (found["step"], found["documents"]) == (STEPS, 36)
    corpus, asked = (table_to_items(read_part(Path(inputs["pairs"]).parents[1] / place, part)) for place, part in PLACES)
    for encoder, name in ((load_own_encoder(final / "encoder"), "rank"), (load_own_encoder(inputs["encoder"]), "rank_before")):
        scores = maxsim(encoder.encode(asked, 16, role="query"), encoder.encode(corpus, 16)).numpy()
        ranks, places = {query["id"]: query[name] for query in found["queries"]}, {item.id: n for n, item in enumerate(corpus)}
        assert ranks.keys() == {item.id for item in asked}
        for item, row in zip(asked, scores, strict=True):
            others = np.delete(row, own := places[f"flag{item.id[1:]}"]) - row[own]
            first, last = (1 + int((others > bound).sum()) for bound in (ROUNDING, -ROUNDING))
            assert first <= ranks[item.id] <= last
    assert [query["rank"] for query in found["queries"]] != [query["rank_before"] for query in found["queries"]]


def test_what_is_printed_has_queries_results_with_marks_and_both_recalls(cli, storage):
    commit(storage, TRAINED)
    status, out, _ = cli("try", RUN, "--storage", str(storage), "--queries", "2", "--documents", "1000")
    lines = out.splitlines()
    assert status == 0 and all(len(line) <= 119 for line in lines)
    assert lines[0] == f"{RUN}  killed"
    assert lines[1].startswith("  training    instruct, checkpoint of step 4 of 6, saved ")
    assert lines[2:4] == [
        "  queries     2 of the 6 that are held out",
        "  documents   36 of 36, with all answers to these queries that are ranked below",
    ]
    heads = [line for line in lines if line.startswith("t->i")]
    assert len(heads) == 2 and all("which flag is " in line and "answer at " in line and " (before " in line for line in heads)
    results = [line for line in lines if line.startswith("   1. ") or line.startswith("   2. ") or line.startswith("   3. ")]
    assert len(results) == 6 and all("  i   flag" in line and "[picture] /flags/" in line for line in results)
    record = tried(cli, storage, "--queries", "2", "--documents", "1000")
    assert [line[6] == "*" for line in results] == [result["answers"] for query in record["queries"] for result in query["results"]]
    assert lines[-3] == "(* answers the query)              R@1        R@5       R@10"
    for line, label, system in ((lines[-2], "step 4", "checkpoint"), (lines[-1], "before this training", "before")):
        assert line == f"{label:<27}" + "".join(f"{value:>11.3f}" for value in record["recall"][system].values())


def test_nothing_is_written_into_the_storage(cli, storage):
    def content() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in storage.rglob("*")}

    before = content()
    tried(cli, storage, "--queries", "1", "--documents", "4")
    assert content() == before


@pytest.mark.parametrize("while_it", ["_verified", "checkpoint_encoder"], ids=["is verified", "is read"])
def test_a_checkpoint_that_is_removed_meanwhile_is_no_damaged_one_and_the_newer_is_taken(while_it, cli, storage, monkeypatch):
    train = storage / "work" / KEY / "train"
    commit(storage, f"step_{2:08d}-1")
    real, read = getattr(checkpoint_encoder, while_it), []

    def removed(place, *others):
        read.append(Path(place).name)
        if len(read) == 1:
            commit(storage, TRAINED)
            shutil.rmtree(train / f"step_{2:08d}-1")
        return real(place, *others)

    monkeypatch.setattr(checkpoint_encoder, while_it, removed)
    found = tried(cli, storage, "--queries", "1", "--documents", "4")
    assert (found["step"], found["damaged"]) == (4, {})
    assert read == [f"step_{2:08d}-1", TRAINED]


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_tried_and_if_none_is_whole_that_is_said(cli, storage):
    train = storage / "work" / KEY / "train"
    for name in (TRAINED, f"step_{2:08d}-1"):
        shard = train / name / "engine" / "mp_rank_00_model_states.pt"
        content = bytearray(shard.read_bytes())
        content[len(content) // 2] ^= 0x40
        shard.unlink()
        shard.write_bytes(content)
        fault = "engine/mp_rank_00_model_states.pt has other content than was written"
        if name == TRAINED:
            few = ("--queries", "1", "--documents", "4")
            found = tried(cli, storage, *few)
            assert (found["step"], found["damaged"]) == (2, {TRAINED: fault})
            lines = cli("try", RUN, "--storage", str(storage), *few)[1].splitlines()
            assert lines[1].startswith("  training    instruct, checkpoint of step 2 of 6, saved ")
            assert lines[2] == f"  damaged     {TRAINED}: {fault}"
    faults = f"{TRAINED}: {fault}; step_{2:08d}-1: {fault}"
    assert refusal(cli, storage).startswith(f"none of the 2 checkpoints in {train} is whole ({faults}); ")


def test_a_whole_checkpoint_that_cannot_be_read_is_refused_in_one_line(cli, storage, monkeypatch):
    def failed(*_):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(checkpoint_encoder, "checkpoint_encoder", failed)
    assert refusal(cli, storage) == f"checkpoint {storage}/work/{KEY}/train/{TRAINED} cannot be read (two lines)"


def test_a_training_that_ends_while_its_sample_is_drawn_is_said(cli, storage, monkeypatch):
    monkeypatch.setattr("mirepoix.workflows.commands.try_run._give_way", lambda: shutil.rmtree(storage / "work" / KEY))
    assert refusal(cli, storage).startswith(f"the training instruct of {RUN} has ended meanwhile; ")


def refusal(cli, storage, *words) -> str:
    status, out, err = cli("try", "latest", "--storage", str(storage), *words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    return err.removeprefix("mirepoix: ").rstrip("\n")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "has no checkpoint yet; the first is saved after step 2 of 6 (instruct.save_steps is 2)"),
        ({"save_steps": 100}, "saves no checkpoint before its end: it has 6 steps, and instruct.save_steps is 100"),
    ],
)
def test_without_a_checkpoint_it_is_said_when_there_will_be_one(changes, said, cli, storage):
    shutil.rmtree(storage / "work" / KEY / "train")
    config = Retrieval(seed=SEED, adapt=None, instruct=replace(CONFIG, **changes))
    begin(storage, config)
    killed = "" if changes else "; the run is killed, and the same command goes on with it"
    assert refusal(cli, storage) == f"the training instruct of {RUN} {said}{killed}"
    with Driver(str(storage), folder=str(storage / "runs" / RUN)) as driver:
        driver.rely(str(storage / "artefacts" / "instruct" / KEY))
        assert refusal(cli, storage) == f"the training instruct of {RUN} {said}"


def test_a_run_without_a_training_that_goes_on_is_told_apart_by_why(cli, storage):
    scratch = storage / "work" / KEY
    (scratch / BEGUN).unlink()
    assert refusal(cli, storage).startswith(f"the training of {RUN} was begun by an earlier version, which did not record its inputs")
    shutil.rmtree(scratch)
    assert refusal(cli, storage) == f"the trainings of {RUN} have ended (instruct); `mirepoix show {RUN}` prints what became of them"
    record = storage / "runs" / RUN / "run.json"
    record.write_text(record.read_text().replace(f"instruct/{KEY}", f"embed/{KEY}"))
    assert refusal(cli, storage).startswith(f"no training of {RUN} has begun, and it is killed; ")
    (storage / "runs" / RUN / "config.yaml").write_text(described("toy", Retrieval(adapt=None, instruct=None)))
    assert refusal(cli, storage).startswith(f"{RUN} has no training to try; ")


def test_the_training_of_an_arm_is_found_with_the_arms_config_and_another_one_is_refused_by_name(cli, storage):
    begun = storage / "work" / KEY / BEGUN
    begun.write_text(begun.read_text().replace('"instruct"', '"mine:instruct"'))
    begin(storage, Comparison(seed=SEED, arms={"mine": Arm(adapt=None, instruct=CONFIG)}))
    few = ("--queries", "1", "--documents", "4")
    assert tried(cli, storage, *few)["stage"] == "mine:instruct"
    assert tried(cli, storage, *few, "--stage", "mine:instruct")["step"] == 4
    assert refusal(cli, storage, "--stage", "adapt") == f"--stage is adapt; the trainings of {RUN} that go on are mine:instruct"


def test_a_corpus_that_is_gone_is_said(cli, storage):
    shutil.rmtree(storage / "artefacts" / "curate")
    assert "the corpus that " in (said := refusal(cli, storage)) and f"is not in {storage}; it was removed" in said


@pytest.mark.parametrize("words", [("--queries", "0"), ("--documents", "0"), ("--seed", "-1")])
def test_numbers_that_draw_nothing_are_refused(words, cli, storage):
    assert refusal(cli, storage, *words).startswith(f"{words[0]} is {words[1]}; give ")


def test_a_storage_without_runs_is_refused(cli, tmp_path):
    assert main(["try", "latest", "--storage", str(tmp_path)]) == 2


def test_a_training_on_an_object_store_is_tried_as_one_in_a_folder(cli, storage, bucket, tmp_path, monkeypatch):
    from pyarrow import fs

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    here = tried(cli, storage, "--queries", "2", "--documents", "6")
    uri = bucket("try")
    remote, path = fs.FileSystem.from_uri(uri)
    for name in ("work", "runs"):
        fs.copy_files(str(storage / name), f"{path}/{name}", destination_filesystem=remote)
    for step in ("curate", "pairs", "backbone"):
        target = join(uri, "artefacts", step, "aaaaaaaaaaaaaaaa")
        draft = tmp_path / "draft"
        shutil.copytree(storage / "artefacts" / step / "aaaaaaaaaaaaaaaa", draft)
        fields = json.loads((draft / "manifest.json").read_text())["fields"]
        (draft / "manifest.json").unlink()
        publish(draft, target, fields)
    begun = json.loads((storage / "work" / KEY / BEGUN).read_text())
    inputs = {name: join(uri, "artefacts", *target.split("/")[-2:]) for name, target in begun["inputs"].items()}
    with remote.open_output_stream(f"{path}/work/{KEY}/{BEGUN}") as stream:
        stream.write(json.dumps({**begun, "inputs": inputs}).encode())
    status, out, err = cli("try", RUN, "--storage", uri, "--json", "--queries", "2", "--documents", "6")
    assert (status, err) == (0, "")
    there = json.loads(out)
    assert {**there, "saved": 0} == {**here, "saved": 0}
