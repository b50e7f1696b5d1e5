"""Before the first stage: what the machine has not, what the hub has not, and what the config says the corpus has not; a line each."""

import json
import struct
from dataclasses import replace

import pytest

from mirepoix.workflows.__main__ import main
from mirepoix.workflows.checks.preflight import Preflight, stages_that_run
from mirepoix.workflows.cluster.machine import Machine, Node
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.recipes.registry import resolve
from mirepoix.workflows.runner.execute import execute

GIB = 1 << 30
LAPTOP = Machine(
    "this machine",
    (Node(8, 0, 16 * GIB),),
    free_disk=lambda folder: 100 * GIB,
    free_port=lambda host, port: True,
    has_module=lambda name: True,
)
CLUSTER = replace(LAPTOP, name="the cluster at head:6379", nodes=(Node(8, 0), Node(16, 2)), joined=True)


def told(*settings, recipe="quickstart", machine=LAPTOP, storage="/nowhere", running=None, find_models=None):
    """The problems of a recipe with overrides, as lines."""
    stages = resolve(recipe, settings).stages()
    names = frozenset(stage.name for stage in stages if running is None or stage.name in running)
    models = {"find_models": find_models} if find_models else {}
    return [str(problem) for problem in Preflight(stages, names, storage, machine, **models).problems()]


def test_a_recipe_that_fits_has_no_problem():
    assert told() == []
    assert told(recipe="quickstart_all") == []


# GPUs


def test_a_training_on_more_gpus_than_there_are_is_told_with_what_to_give_instead():
    (line,) = told("instruct.use_gpu=true", "instruct.num_workers=4")
    assert line == (
        "instruct.use_gpu=true and instruct.num_workers=4 take 4 GPUs, and this machine has no GPU; "
        "give instruct.use_gpu=null to train on CPUs where there are too few, or give --address of a cluster that has them"
    )
    assert told("instruct.use_gpu=true", "instruct.num_workers=2", machine=CLUSTER) == []
    (line,) = told("instruct.use_gpu=true", "instruct.num_workers=3", machine=CLUSTER)
    assert "take 3 GPUs, and the cluster at head:6379 has 2 GPUs; lower instruct.num_workers, give" in line
    assert told("instruct.num_workers=4") == [], "null trains on CPUs"
    spot = ("instruct.use_gpu=true", "instruct.num_workers=8")
    assert told(*spot, "instruct.min_workers=2", machine=CLUSTER) == [], "the fewest have room"
    (line,) = told(*spot, "instruct.min_workers=3", machine=CLUSTER)
    assert "instruct.min_workers=3 take 3 GPUs, and the cluster at head:6379 has 2 GPUs; lower instruct.min_workers, give" in line


def test_gpus_that_an_autoscaler_may_start_count_and_those_beyond_them_are_told():
    growing = replace(CLUSTER, startable=(Node(8, 4, count=2),))
    assert told("instruct.use_gpu=true", "instruct.num_workers=8", machine=growing) == []
    (line,) = told("instruct.use_gpu=true", "instruct.num_workers=9", machine=growing)
    assert "the cluster at head:6379 has 8 GPUs, with all that its autoscaler may start;" in line
    unlimited = replace(CLUSTER, startable=(Node(8, 4, count=float("inf")),))
    assert told("instruct.use_gpu=true", "instruct.num_workers=900", "instruct.global_batch_size=900", machine=unlimited) == []


def test_embedding_mining_and_serving_on_gpus_are_told_each_with_its_field():
    lines = told("embed.use_gpu=true", "mine=MineConfig", "mine.encode.use_gpu=true", "deploy.encoder_gpus=0.5")
    assert [line.partition(" ")[0] for line in lines] == ["embed.use_gpu=true", "mine.encode.use_gpu=true", "deploy.encoder_gpus=0.5"]
    assert lines[0].startswith(
        "embed.use_gpu=true takes a GPU for each of its actors, and this machine has no GPU; give embed.use_gpu=false"
    )
    assert told("embed.use_gpu=true", "embed.workers=4", machine=CLUSTER) == [], "two of the four actors start, and do the work"


def test_an_engine_that_writes_takes_gpus_and_its_library():
    settings = ["passages.kind=written", "passages.written.writer=EngineConfig", "passages.written.writer.model=/models/writer"]
    lines = told(*settings, "passages.written.writer.gpus_per_worker=2", machine=replace(LAPTOP, has_module=lambda name: name != "vllm"))
    assert lines[0].startswith("passages.written.writer is an EngineConfig, and vLLM is not installed; pip install 'mirepoix[vllm]'")
    assert lines[1].startswith("passages.written.writer.gpus_per_worker=2 takes 2 GPUs for an engine, and this machine has no GPU;")
    assert told(*settings[1:]) == [], "nothing is written"


def test_gpus_of_another_make_are_not_known_and_refuse_nothing():
    other = replace(LAPTOP, nodes=(Node(8, None, 16 * GIB),))
    assert told("instruct.use_gpu=true", "embed.use_gpu=true", machine=other) == []


def test_a_comparison_names_the_arm():
    lines = told("only=mire,univldr", "arms.mire.refine.use_gpu=true", recipe="quickstart_all")
    assert [line.partition(" ")[0] for line in lines] == ["arms.mire.refine.use_gpu=true"]


# The cluster


def test_a_cluster_that_does_not_answer_is_told_with_the_cure_that_its_problem_has():
    silent = replace(
        CLUSTER, name="127.0.0.1:9", nodes=(), problem="no Ray head answers at '127.0.0.1:9' (UNAVAILABLE); give its HOST:PORT"
    )
    assert told(machine=silent) == [
        "the run joins 127.0.0.1:9, and no Ray head answers at '127.0.0.1:9' (UNAVAILABLE); give its HOST:PORT",
    ]
    (line,) = told(machine=replace(silent, problem="no answer"))
    assert line == "the run joins 127.0.0.1:9, and no answer; check its address and its token"


# CPUs


def test_more_cpus_than_there_are_are_told():
    (line,) = told("adapt.num_workers=3", "adapt.cpus_per_worker=4")
    given = "adapt.num_workers=3 and adapt.cpus_per_worker=4 take 12 CPUs, and this machine has 8 CPUs for a cluster of its own; "
    assert line == f"{given}lower one of them, or give --address of a cluster that has them"
    assert told("adapt.num_workers=3", "adapt.cpus_per_worker=4", machine=CLUSTER) == []
    assert told("adapt.num_workers=3", "adapt.min_workers=2", "adapt.cpus_per_worker=4") == [], "the fewest have room"
    (line,) = told("adapt.cpus_per_worker=17", machine=CLUSTER)
    assert line == "adapt.cpus_per_worker=17, and no node has more than 16 CPUs; lower it"
    (line,) = told("deploy.encoders=9")
    assert line.startswith("deploy.encoders=9 and deploy.encoder_cpus=1 take 9 CPUs, and this machine has 8 CPUs")


# Models of the hub


def test_hub_ids_are_told_by_why_they_cannot_be_had():
    asked = []

    def find(models):
        asked.extend(models)
        return dict.fromkeys(models, ("unknown id", "https://huggingface.co answers 404: there is no such model, or it is private"))

    (line,) = told("backbone.name=open/none", recipe="search", find_models=find)
    assert [(model.field, model.id, model.revision) for model in asked] == [("backbone.name", "open/none", None)]
    assert line.startswith(
        "backbone.name=open/none, and open/none is neither a folder nor in the cache of this machine, and https://huggingface.co answers "
        "404: there is no such model"
    )
    assert line.endswith("correct the id, or give a folder; set HF_TOKEN if it is private")
    for state, cure in (("offline", "unset HF_HUB_OFFLINE"), ("not allowed", "licence"), ("no answer", "connect to the network")):
        (line,) = told(recipe="search", find_models=lambda models, state=state: dict.fromkeys(models, (state, "why")))
        assert cure in line
    for state in ("here", "reached"):
        assert told(recipe="search", find_models=lambda models, state=state: dict.fromkeys(models, (state, ""))) == []


def test_a_hub_id_is_not_asked_for_where_the_backbone_is_up_to_date():
    def find(models):
        raise AssertionError(models)

    assert told(recipe="search", find_models=find, running={"curate", "embed"}) == []


# Memory and disk


@pytest.fixture
def model(tmp_path):
    """A folder of a CLIP whose header claims a number of weights."""

    def write(weights):
        folder = tmp_path / f"clip-{weights}"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({"model_type": "clip", "projection_dim": 8}))
        half = weights // 2
        header = json.dumps({"__metadata__": {}, "a": {"dtype": "F16", "shape": [half, 1]}, "b": {"shape": [weights - half]}})
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode())
        return str(folder)

    return write


BILLION = 10**9


def test_towers_that_do_not_fit_into_memory_are_told_once_for_each_stage_that_opens_them(model):
    name = model(5 * BILLION)
    lines = told(f"backbone.name={name}", recipe="search")
    assert lines[0] == (
        f"backbone.name={name} has 5.00 billion weights, which take 18.6 GiB once they are opened, and this machine with its swap has "
        "16.0 GiB; take a smaller model"
    )
    assert [" in the actors of embed (1)," in line for line in lines] == [False, True]
    assert told(f"backbone.name={model(4 * BILLION)}", recipe="search") == []
    assert told(f"backbone.name={name}", recipe="search", machine=CLUSTER) == [], "of a cluster it is not known"


def test_a_training_takes_what_zero_keeps_of_each_weight_and_one_of_adapters_the_weights_alone(model):
    whole = ["backbone.encoder=AdoptedConfig", f"backbone.name={model(2 * BILLION)}", "adapt=null", "instruct.tuning.towers=text,vision"]
    (line,) = told(*whole, "instruct.tuning.lora=null")
    assert "which take 29.8 GiB in instruct with gradients and Adam's two means, for 1 of its workers, and this machine" in line
    assert line.endswith("train adapters (instruct.tuning.lora=Lora), or take a smaller model")
    assert told(*whole, "instruct.tuning.lora=Lora") == []
    with_gpu = replace(LAPTOP, nodes=(Node(8, 1, 64 * GIB, (24 * GIB,)),))
    (line,) = told(*whole, "instruct.tuning.lora=null", machine=with_gpu)
    assert "29.8 GiB in instruct with gradients and Adam's two means, for each worker, and a GPU of this machine has 24.0 GiB" in line


def test_a_disk_that_is_too_small_for_copies_of_pictures_and_weights_is_told(tmp_path, model):
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / "pictures" / f"{number}.jpg").write_bytes(bytes(1_000_000))
    given = [f"sources.path={tmp_path}/pictures", f"backbone.name={model(1_000_000)}"]
    small = replace(LAPTOP, free_disk=lambda folder: 6_900_000.0)
    (line,) = told(*given, recipe="search", machine=small, storage=str(tmp_path))
    assert line.startswith(f"the run writes 6.7 MiB or more to {tmp_path}, and 6.6 MiB are free there; free some, or give --storage")
    for free, settings in ((7_000_001.0, []), (10_000_001.0, ["curate.picture_pixels=null"])):
        enough = replace(LAPTOP, free_disk=lambda folder, free=free: free)
        assert told(*given, *settings, recipe="search", machine=enough, storage=str(tmp_path)) == []
    assert told(*given, recipe="search", machine=small, storage=str(tmp_path), running={"embed"}) == []
    assert told(*given, recipe="search", machine=small, storage="s3://bucket") == []


# Ports and extras


def test_a_port_in_use_is_told_where_the_endpoint_would_start_here():
    taken = replace(LAPTOP, free_port=lambda host, port: (host, port) != ("127.0.0.1", 8000))
    (line,) = told("deploy.port=8000", machine=taken)
    assert line.startswith("deploy.port is 8000, and nothing more can listen at 127.0.0.1:8000; stop what listens there")
    assert told("deploy.port=0", machine=taken) == []
    assert told("deploy.port=8000", machine=replace(taken, joined=True)) == [], "the cluster's Serve may be what listens there"


def test_a_library_that_an_adopted_folder_needs_and_an_index_without_faiss_are_told(tmp_path):
    (tmp_path / "modules.json").write_text(json.dumps([{"type": "sentence_transformers.models.Transformer", "path": ""}]))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    bare = replace(LAPTOP, has_module=lambda name: False)
    first, second = told(f"backbone.name={tmp_path}", recipe="search", machine=bare)
    assert first.startswith(f"backbone.name={tmp_path} is a sentence-transformers folder, and that library is not installed; pip install")
    assert second.startswith("the run makes an index, and FAISS is not installed; pip install 'mirepoix[cpu]'")
    assert told(f"backbone.name={tmp_path}", recipe="search", machine=replace(bare, joined=True)) == []


# Splits


@pytest.fixture
def beir(tmp_path):
    (tmp_path / "beir" / "qrels").mkdir(parents=True)
    (tmp_path / "beir" / "corpus.jsonl").write_text('{"_id": "a", "text": "x"}\n')
    (tmp_path / "beir" / "queries.jsonl").write_text('{"_id": "q", "text": "x"}\n')
    for split in ("train", "dev"):
        (tmp_path / "beir" / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n")
    return tmp_path / "beir"


def test_a_split_that_no_file_is_of_is_told(beir):
    given = f"sources.path={beir}"
    (line,) = told(given, "evaluate.split=test")
    assert line == (
        "evaluate.split is 'test', and the files of the sources are of train, validation; give one of validation, or null; "
        "sources.splits=OLD=NEW renames one"
    )
    assert told(given, "evaluate.split=test", "sources.splits=validation=test") == []
    assert told(given, "evaluate.split=held_out", "curate.held_out=0.1") == []
    assert told(given, "evaluate.split=test", running={"curate", "instruct"}) == [], "nothing would be evaluated"
    assert told(given, "evaluate.split=train", "adapt=null", "instruct=null") == [], "nothing is trained on it"
    (beir / "qrels" / "dev.tsv").unlink()
    (line,) = told(given, "evaluate.split=test")
    assert "of train; bring held-out queries: curate.held_out=0.1 makes a split; sources" in line
    (line,) = told(given, "evaluate.split=null")
    assert line.startswith("the run trains, and then evaluates, and all files of the sources are of the split train; give curate.held_out")


def test_of_splits_that_are_not_read_none_can_be_measured(beir):
    (line,) = told(f"sources.path={beir}", "sources.only_splits=train", "evaluate.split=validation")
    assert line.startswith("evaluate.split is 'validation', and the files of the sources are of train; bring held-out queries")
    assert told(f"sources.path={beir}", "sources.splits=validation=test", "sources.only_splits=train,test", "evaluate.split=test") == []


def test_a_format_that_has_its_splits_in_its_rows_tells_nothing_before_it_is_read(tmp_path):
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "x", "split": "dev"}\n')
    (tmp_path / "a.png").write_bytes(b"")
    assert told(f"sources.path={tmp_path}", "evaluate.split=test") == []


# Through the command line


def test_a_training_without_a_query_as_captions_are_read_with_their_pictures_is_told(tmp_path):
    for folder in ("in", "beir"):
        (tmp_path / folder).mkdir()
    (tmp_path / "in" / "a.png").touch()
    (tmp_path / "in" / "a.csv").write_text("file,caption,ask\na.png,a boat,which one floats?\n")
    given = [f"sources.path={tmp_path / 'in'}", "sources.captions=together"]
    (line,) = told(*given, recipe="finetune", find_models=lambda models: {})
    assert line == (
        "sources.captions is together, and no source has queries of its own: a caption that is read with its picture is none, and the "
        "training has no pair; give sources.captions=apart, a column of queries (sources.columns=query=NAME), or `mirepoix run search` "
        "without a training"
    )
    columns = ["sources.columns=picture=file,text=caption"]
    assert told(*given, *columns, recipe="finetune", find_models=lambda models: {}) == [line]
    asked = ["sources.columns=picture=file,text=caption,query=ask"]
    assert told(*given, *asked, recipe="finetune", find_models=lambda models: {}) == []
    assert told(given[0], recipe="finetune", find_models=lambda models: {}) == []
    assert told(*given, recipe="search", find_models=lambda models: {}) == []
    assert told(*given, recipe="finetune", running={"sources", "curate"}, find_models=lambda models: {}) == []


def test_what_config_and_sources_contradict_is_told_whatever_the_storage_has_from_other_sources(tmp_path, beir, cli):
    from mirepoix.serving.store import publish
    from mirepoix.workflows.runner.fingerprint import ingredients

    (tmp_path / "a.png").touch()
    (tmp_path / "a.csv").write_text("file,caption\na.png,a boat\n")
    together = [f"sources.path={tmp_path}", "sources.captions=together", "backbone.name=tiny"]
    unnamed = [f"sources.path={beir}", "evaluate.split=test", "backbone.name=tiny"]
    storage = tmp_path / "storage"
    for number, stage in enumerate(stage for words in (together, unnamed) for stage in resolve("finetune", words).stages()):
        (tmp_path / f"draft{number}").mkdir()
        (tmp_path / f"draft{number}" / "x").write_text("x")
        parts = json.loads(json.dumps(ingredients(stage, {"sources": "others"}) | {"created": 0.0}))
        publish(tmp_path / f"draft{number}", storage / "artefacts" / stage.step / f"{number:016x}", parts)
    for words, said in ((together, "no source has queries of its own"), (unnamed, "evaluate.split is 'test'")):
        for home in (storage, tmp_path / "empty"):
            status, out, err = cli("run", "finetune", *words, "--plan", "--storage", str(home))
            assert status == 2 and out and said in err, home


def test_all_problems_are_told_by_plan_and_run_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mirepoix.workflows.run.this_machine", lambda: LAPTOP)
    monkeypatch.setattr("mirepoix.workflows.run._ray_is_up", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    settings = ["instruct.use_gpu=true", "adapt.cpus_per_worker=99", "--storage", str(tmp_path / "storage")]
    assert main(["run", "quickstart", "--plan", *settings]) == 2
    planned = capsys.readouterr()
    assert planned.out.startswith("sources") and "take 1 GPU, and this machine has no GPU" in planned.err
    assert main(["run", "quickstart", *settings]) == 2
    refused = capsys.readouterr()
    assert refused.err == planned.err and len(planned.err.splitlines()) == 2 and refused.out == ""
    assert all(line.startswith("mirepoix: ") for line in planned.err.splitlines())
    assert not (tmp_path / "storage").exists()


def test_a_stage_that_waits_is_certain_to_run_unless_it_was_made_before_from_other_inputs(tmp_path):
    from mirepoix.serving.store import publish
    from mirepoix.workflows.runner.fingerprint import ingredients

    stages = resolve("quickstart").stages()
    planned = execute(stages, str(tmp_path), plan=True)
    every = {stage.name for stage in stages}
    assert stages_that_run(stages, planned, str(tmp_path)) == every
    (adapt,) = [stage for stage in stages if stage.name == "adapt"]
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "x").write_text("x")
    parts = json.loads(json.dumps(ingredients(adapt, {"pairs": "another"})))
    publish(tmp_path / "draft", tmp_path / "artefacts" / "adapt" / "key", parts)
    assert stages_that_run(stages, planned, str(tmp_path)) == every - {"adapt"}
    changed = resolve("quickstart", ["adapt.max_steps=7"]).stages()
    assert stages_that_run(changed, execute(changed, str(tmp_path), plan=True), str(tmp_path)) == every
    assert isinstance(resolve("quickstart"), Retrieval)
