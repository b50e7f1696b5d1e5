"""What of a board is measured with the files that there are: absent data sets are named, and a part is never called the whole."""

import json
import shutil
from contextlib import nullcontext

import pytest

from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.evaluation.floors_config import FloorsConfig
from mirepoix.models.errors import Refused
from mirepoix.workflows.dag import boards
from mirepoix.workflows.recipes.registry import resolve
from mirepoix.workflows.run import RunRequest, diagnose
from mirepoix.workflows.runner.tracking import Tracker
from tests.components.ingestion.formats import miniatures

MODEL = "backbone.encoder=UniteConfig"


def stages_of(recipe, *folders, settings=()):
    return resolve(recipe, [f"sources.path={','.join(map(str, folders))}", "backbone.name=tiny", MODEL, *settings]).stages()


def pools_of(stages):
    """The pools of the evaluation and of its floors."""
    (measured,) = [stage.config for stage in stages if isinstance(stage.config, EvaluateConfig)]
    (floors,) = [stage.config for stage in stages if isinstance(stage.config, FloorsConfig)]
    assert set(floors.pools) == set(measured.measured_pools)
    return measured.measured_pools


# Data sets that are not there


def test_rows_of_a_board_without_a_data_set_are_named_with_how_many_they_are(tmp_path):
    folder = miniatures.mbeir(tmp_path / "s")
    assert boards.notes(stages_of("mbeir", folder)) == (
        f"not in {folder}, so not measured: VisualNews t->i, Fashion200K t->i, EDIS t->it, VisualNews i->t, Fashion200K i->t, "
        "InfoSeek it->t, CIRR it->i, InfoSeek it->it (8 of 16)",
    )
    (folder / "query/test/mbeir_webqa_task1_test.jsonl").unlink()
    (note,) = boards.notes(stages_of("mbeir", folder))
    assert "WebQA t->t, EDIS t->it, VisualNews i->t" in note and "WebQA t->it" not in note and note.endswith("(9 of 16)")


def test_a_group_that_is_wholly_absent_is_named_as_one(tmp_path):
    folder = miniatures.mmeb_v2(tmp_path / "s")
    shutil.rmtree(folder / "video-tasks")
    (note,) = boards.notes(stages_of("mmeb_v2", folder))
    assert note.startswith(f"not in {folder}, so not measured: Video (18), VDRv2 (4), OOD (4), N24News, HatefulMemes, ")
    assert "UCF101" not in note and "V-CLS" not in note and note.endswith("VisRAG_InfoVQA, VisRAG_PlotQA (72 of 78)")


def test_of_chosen_data_sets_those_that_are_not_there_are_named_and_no_others(tmp_path):
    folder = miniatures.mmeb_v2(tmp_path / "s")
    assert boards.notes(stages_of("mmeb_v2", folder, settings=["sources.only_datasets=UCF101,VisRAG_C*"])) == ()
    (note,) = boards.notes(stages_of("mmeb_v2", folder, settings=["sources.only_datasets=VisRAG_*,MSR-VTT"]))
    names = "VisRAG_ArxivQA, VisRAG_MP-DocVQA, VisRAG_SlideVQA, VisRAG_InfoVQA, VisRAG_PlotQA"
    assert note == f"not in {folder}, so not measured: {names} (5 of 78)"
    (note,) = boards.notes(stages_of("mmeb_v2", folder, settings=["sources.only_datasets=Video"]))
    assert note == f"not in {folder}, so not measured: K700, HMDB51, Breakfast, MSVD, YouCook2, Charades-STA (6 of 78)"
    folder = miniatures.mbeir(tmp_path / "m")
    _, note = reversed(boards.notes(stages_of("mbeir", folder, settings=["sources.only_datasets=*_task7"])))
    assert note == f"not in {folder}, so not measured: CIRR it->i (1 of 16)"


def test_a_benchmark_whose_data_sets_are_all_there_or_are_known_when_they_are_read_needs_no_note(tmp_path):
    for recipe, sample in (("evqa", "evqa"), ("evqa_plus", "evqa"), ("webqa", "webqa"), ("webqa_plus", "webqa"), ("okvqa", "okvqa")):
        assert boards.notes(stages_of(recipe, getattr(miniatures, sample)(tmp_path / recipe))) == ()
    assert boards.notes(resolve("quickstart", []).stages()) == ()


def test_a_folder_without_any_data_set_of_the_board_is_refused(tmp_path):
    folder = miniatures.beir_pages(tmp_path / "s/our_pages", 0).parent
    with pytest.raises(Refused) as refusal:
        stages_of("vidore", folder)
    assert str(refusal.value) == (
        f"{folder} has no data set of ViDoRe, which evaluate.board names: it has our_pages, and the board has ViDoRe v1 (10), "
        "ViDoRe v3 (8), ViDoRe v2 (4); bring some of these, or measure by no board: evaluate.board=null evaluate.measure=R@5"
    )
    assert stages_of("vidore", folder, settings=["evaluate.board=null", "evaluate.measure=R@5"])


def test_with_both_data_sets_of_m2kr_in_a_folder_each_is_searched_in_its_own_passages(tmp_path):
    miniatures.infoseek(miniatures.evqa(tmp_path / "s"))
    for recipe, name in (("evqa", "EVQA"), ("evqa_plus", "EVQA"), ("infoseek", "Infoseek")):
        (source,) = stages_of(recipe, tmp_path / "s")[0].arguments["sources"]
        assert [each.name for each in source.datasets] == [name]
        assert {shard.part.partition(" ")[2] for shard in source.shards} == {name}
    shutil.rmtree(tmp_path / "s/EVQA_data")
    with pytest.raises(Refused, match=r"lacks EVQA_data/test-\*.parquet, which m2kr needs"):
        stages_of("evqa", tmp_path / "s")
    shutil.rmtree(tmp_path / "s/EVQA_passages")
    with pytest.raises(Refused, match=r"has 'E-VQA', which is none of .*/s' has Infoseek, and others come from hf.co/datasets/BByrneLab"):
        stages_of("evqa", tmp_path / "s")


# The candidates of all data sets together


def test_the_union_is_measured_where_its_file_is_read_whole(tmp_path):
    folder = miniatures.mbeir(tmp_path / "s")
    assert pools_of(stages_of("mbeir", folder)) == ("dataset", "universal")
    assert pools_of(stages_of("mbeir", folder, settings=["sources.only_datasets=mscoco,union"])) == ("dataset", "universal")
    assert pools_of(stages_of("mbeir", folder, settings=["sources.only_datasets=*"])) == ("dataset", "universal")


@pytest.mark.parametrize(
    ("settings", "gone", "cure"),
    [
        (["sources.only_datasets=mscoco"], "none", "add union to sources.only_datasets"),
        ([], "cand_pool/global", "bring cand_pool/global/mbeir_union_test_cand_pool.jsonl from hf.co/datasets/TIGER-Lab/M-BEIR"),
    ],
)
def test_the_candidates_of_some_data_sets_are_never_called_the_union(tmp_path, settings, gone, cure):
    folder = miniatures.mbeir(tmp_path / "s")
    shutil.rmtree(folder / gone, ignore_errors=True)
    stages = stages_of("mbeir", folder, settings=settings)
    assert pools_of(stages) == ("dataset",)
    told = f"the candidates of all data sets together are not searched, since not all of them are read; to search them, {cure}"
    assert boards.notes(stages)[-1] == told
    assert pools_of(stages_of("mbeir", folder, settings=[*settings, "evaluate.pools=dataset"])) == ("dataset",)
    with pytest.raises(Refused) as refusal:
        stages_of("mbeir", folder, settings=[*settings, "evaluate.pools=dataset,universal"])
    assert str(refusal.value) == (
        "evaluate.pools has universal, the candidates of all data sets together, and not all of them are read; give "
        f"evaluate.pools=dataset, or {cure}"
    )
    with pytest.raises(Refused, match=r"^evaluate.pool is universal, .*; give evaluate.pool=dataset, or "):
        stages_of("mbeir", folder, settings=[*settings, "evaluate.pool=universal"])


def test_of_several_sources_the_candidates_together_are_no_union(tmp_path):
    one, another = miniatures.mbeir(tmp_path / "one"), miniatures.mbeir(tmp_path / "another")
    stages = stages_of("mbeir", one, another)
    assert pools_of(stages) == ("dataset",) and boards.notes(stages)[-1].endswith("to search them, give the benchmark as the only source")


def test_a_run_by_no_board_searches_all_that_it_reads(tmp_path):
    folder = miniatures.mbeir(tmp_path / "s")
    given = ["sources.only_datasets=mscoco", "evaluate.board=null", "evaluate.measure=R@5"]
    assert pools_of(stages_of("mbeir", folder, settings=given)) == ("universal", "target")


# Through the command line


def test_a_plan_and_a_run_say_what_is_not_measured(cli, tmp_path, monkeypatch):
    monkeypatch.setattr("mirepoix.workflows.run.open_tracker", lambda *_: Tracker())
    monkeypatch.setattr("mirepoix.workflows.cluster.ray_cluster.private_cluster", nullcontext)  # so few rows are read without it
    folder = miniatures.mbeir(tmp_path / "s")
    words = ["mbeir", f"sources.path={folder}", "backbone.name=tiny", MODEL, "sources.only_datasets=*_task7", f"--storage={tmp_path / 'o'}"]
    status, out, _ = cli("run", *words, "--plan")
    lines = out.splitlines()
    assert status == 0 and len([line for line in lines if line.startswith("note ")]) == 2 and max(map(len, lines)) < 120
    assert "not measured: CIRR it->i (1 of 16)" in " ".join(out.split())
    status, out, _ = cli("run", *words, "--plan", "--json")
    told = [event["text"] for event in map(json.loads, out.splitlines()) if event["event"] == "note"]
    assert told[0] == f"not in {folder}, so not measured: CIRR it->i (1 of 16)" and len(told) == 2
    status, _, err = cli("run", *words, "--until", "sources", "--local")
    assert status == 0 and [line.partition(" ")[0] for line in err.splitlines() if line[0] != " "][:3] == ["note", "note", "sources"]


def test_all_that_a_benchmark_lacks_is_told_a_line_each_before_the_first_stage(cli, tmp_path):
    folder = miniatures.mbeir(tmp_path / "s")
    shutil.rmtree(folder / "instructions")
    (folder / "cand_pool/local/mbeir_nights_task4_cand_pool.jsonl").unlink()
    storage = tmp_path / "o"
    status, out, err = cli("run", "mbeir", f"sources.path={folder}", "backbone.name=tiny", MODEL, "--storage", str(storage), "--local")
    assert (status, out, storage.exists()) == (2, "", False)
    assert [line.partition(", which ")[0] for line in err.splitlines()] == [
        f"mirepoix: '{folder}' lacks cand_pool/local/mbeir_nights_task4_cand_pool.jsonl, the candidates of nights_task4",
        f"mirepoix: '{folder}' lacks instructions/query_instructions.tsv",
    ]
    found = diagnose(RunRequest("mbeir", (f"sources.path={folder}", "backbone.name=tiny", MODEL), storage=str(storage)))
    assert [(each.state, "lacks" in each.found) for each in found] == [("fail", True)] * 2, "doctor tells the same"
