"""The figures of a run are gathered from those stages that it has, and shown in tables: by task, or those of a board."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.evaluation.boards.registry import BOARDS
from mirepoix.components.evaluation.evaluate_config import MEASURES, not_reached
from mirepoix.serving.store import publish
from mirepoix.workflows.dag import results
from mirepoix.workflows.dag.comparison import Arm, Comparison
from mirepoix.workflows.recipes.registry import recipe, resolve
from mirepoix.workflows.runner.execute import Report, StageReport
from mirepoix.workflows.runner.progress import LINE
from tests.components.evaluation.board_results import boarded

TASKS = ("i->t", "t->i")
GAINS = {("trained", "target"): 1.0, ("trained", "universal"): 0.5, ("untrained", "target"): 0.2, ("untrained", "universal"): 0.1}


def done(target="", **more) -> StageReport:
    return StageReport("done", digest="d" * 64, target=str(target), **more)


FLOORS = {"bm25": (0.3, 0.0), "pixels": (0.1, 0.0), "chance": (0.05, 0.05)}
"""The values of floors by task, in both pools."""


def figures_of(values: Sequence[float]) -> dict[str, Any]:
    """The figures of a measure by the values of the tasks."""
    average = sum(values) / len(values)
    tasks = dict(zip(TASKS, values, strict=True))
    return {"average": average, "low": average / 2, "high": 2 * average, "tasks": tasks, "datasets": {"world": tasks}}


def measured(recall: float, floors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """The metrics of a method with this recall on one task and none on the other."""
    values = {place: (round(recall * gain, 3), 0.0) for place, gain in GAINS.items()}
    values |= {(floor, pool): of for floor, of in floors.items() for pool in ("target", "universal")}
    counts = {"queries": dict.fromkeys(TASKS, 36), "datasets": {"world": dict.fromkeys(TASKS, 36)}, "curve": {}}
    entries = [
        {"system": system, "pool": pool, "split": "test", **counts} | dict.fromkeys(MEASURES, figures_of(of))
        for (system, pool), of in values.items()
    ]
    headline = {"split": "test", "measure": "R@5", "called": "R@5", "pool": "target", "mean": "tasks"}
    headline |= {entry["system"]: entry["R@5"] for entry in entries if entry["pool"] == "target"}
    averages = {entry["system"]: entry["R@5"]["average"] for entry in entries if entry["pool"] == "target"}
    return {"headline": headline | {"below": not_reached(averages)}, "results": entries, "unanswered": 0}


def evaluated(folder, metrics: Mapping[str, Any]) -> StageReport:
    """A stage `evaluate` that wrote these metrics, and a gallery."""
    draft = folder.with_name(f"{folder.name}-draft")
    draft.mkdir()
    (draft / "metrics.json").write_text(json.dumps(metrics))
    (draft / "gallery.json").write_text(json.dumps({"of": folder.name}))
    publish(draft, folder, {})
    return done(folder)


def method(folder, recall: float, rows: int = 60, floors: Mapping[str, Sequence[float]] | None = None) -> dict[str, StageReport]:
    """The stages of a method whose corpus has 60 items."""
    return {
        "backbone": done(metrics={"parameters": 1234567.0}),
        "adapt": done(took=60.0),
        "instruct": done(took=15.4),
        "index": done(metrics={"items": 60.0, "rows": float(rows), "width": 128.0}),
        "evaluate": evaluated(folder, measured(recall, floors or {})),
    }


@pytest.fixture
def single(tmp_path):
    return results.gather(recipe("quickstart"), Report(method(tmp_path / "one", 0.8)))


@pytest.fixture
def report(tmp_path):
    """Three arms, of which the second was not trained and the third has several rows an item."""
    stages = {"pairs": done()}
    for name, recall, rows in (("unite", 0.8, 60), ("mire", 0.4, 1260)):
        stages |= {f"{name}:{step}": stage for step, stage in method(tmp_path / name, recall, rows).items()}
    stages |= {"jfe:backbone": done(metrics={"parameters": 10.0}), "jfe:adapt": StageReport("failed", error="the loss is nan")}
    stages |= {
        "jfe:instruct": StageReport("not run", "no result of jfe:adapt"),
        "jfe:evaluate": StageReport("not run", "no result of jfe:instruct"),
    }
    return Report(stages)


@pytest.fixture
def config():
    whole = recipe("quickstart_all")
    return replace(whole, arms={name: whole.arms[name] for name in ("unite", "jfe", "mire")})


def test_a_run_of_one_retriever_reports_its_figures_sizes_and_times(single):
    assert single["headline"]["trained"]["average"] == 0.4
    assert single["facts"] == {"parameters": 1234567, "training_seconds": 75.4, "width": 128, "rows_per_item": 1.0}
    assert set(single) == {"headline", "results", "facts"}, "and no board, where none is named"


def test_how_many_items_can_be_searched_is_said_with_the_rows_that_were_left_out():
    rows = {"read": 1911, "written": 1908, "rejected": 3, "merged": 0}
    stages = {
        "sources": StageReport("done", digest="d", rows=rows),
        "curate": StageReport("skipped", digest="d", rows={"read": 1908, "written": 1894, "rejected": 0, "merged": 14}),
        "a:release": StageReport("done", digest="d", metrics={"documents": 1894.0}),
    }
    expected = "1,894 items can be searched; of the rows that were read 14 merged as duplicates, 3 rejected"
    assert results.searchable(stages) == [expected]
    assert results.searchable({"a:release": stages["a:release"]}) == ["1,894 items can be searched"]
    assert results.searchable({"sources": stages["sources"]}) == results.searchable({**stages, "merge": StageReport("done")}) == []


def test_rejected_rows_are_named_by_their_file_and_reason_three_at_most():
    def example(place: str, reason: str) -> dict[str, str]:
        return {"reason": reason, "part": "corpus", "place": place, "id": "x", "detail": ""}

    found = [example("in/copy.png", "exact duplicate"), example("in/a.png", "damaged"), example("in/b.png", "damaged")]
    rows = {"read": 9, "written": 6, "rejected": 2, "merged": 1}
    stages = {"curate": StageReport("done", digest="d", rows=rows, tables={"examples": found})}
    assert results.rejected_rows(stages) == "2 rejected: in/a.png (damaged), in/b.png (damaged)"
    more = {"read": 9, "written": 0, "rejected": 9, "merged": 0}
    read = {"examples": [example("in/c.csv:7", "bad row"), example("in/d.csv:8", "bad row")]}
    stages["sources"] = StageReport("done", digest="d", rows=more, tables=read)
    expected = "11 rejected: in/c.csv:7 (bad row), in/d.csv:8 (bad row), in/a.png (damaged) and 8 more"
    assert results.rejected_rows(stages) == expected
    assert results.rejected_rows({"curate": StageReport("done", digest="d", rows={**rows, "rejected": 0, "merged": 3})}) == ""


def test_its_table_sets_trained_against_untrained(single):
    first, head, *tasks, target, universal, verdict = results.results_table(single).splitlines()
    assert first == "R@5 on test, target pool"
    assert head.split() == ["task", "queries", "untrained", "trained"]
    assert [task.split() for task in tasks] == [["i->t", "36", "0.160", "0.800"], ["t->i", "36", "0.000", "0.000"]]
    assert target == "  average, target                  0.080    0.400   (95 % interval 0.200 to 0.800)"
    assert universal.split()[:4] == ["average,", "universal", "0.040", "0.200"]
    assert verdict == "the training helped: R@5 0.080 before, 0.400 after, and the 95 % intervals do not overlap"


def test_the_queries_without_an_answer_are_counted_below_the_table(tmp_path):
    stages = method(tmp_path / "one", 0.8)
    lost = stages | {"evaluate": evaluated(tmp_path / "lost", measured(0.8, {}) | {"unanswered": 1204})}
    said = "1,204 queries have no answer in the corpus, and count as zero"
    assert results.results_table(results.gather(recipe("quickstart"), Report(lost))).splitlines()[-1] == said
    assert "no answer" not in results.results_table(results.gather(recipe("quickstart"), Report(stages)))
    arms = {"one": results.gather(recipe("quickstart"), Report(lost)) | {"failure": ""}}
    assert results.results_table({"arms": arms}).splitlines()[-1] == said


@pytest.fixture
def with_floors(tmp_path):
    return results.gather(recipe("quickstart"), Report(method(tmp_path / "floored", 0.2, floors=FLOORS)))


def test_floors_are_columns_before_the_encoders_and_what_is_below_one_says_so(with_floors):
    assert results.results_table(with_floors).splitlines() == [
        "R@5 on test, target pool",
        "  task                queries   chance   pixels     BM25  untrained  trained",
        "  i->t                     36    0.050    0.100    0.300      0.040    0.200   below BM25",
        "  t->i                     36    0.050    0.000    0.000      0.000    0.000   below chance",
        "  average, target                0.050    0.050    0.150      0.020    0.100   below BM25",
        "    (95 % interval 0.050 to 0.200)",
        "  average, universal             0.050    0.050    0.150      0.010    0.050   below BM25",
        "    (95 % interval 0.025 to 0.100)",
        "the training helped: R@5 0.020 before, 0.100 after, and the 95 % intervals do not overlap; the model is below BM25",
        "  (0.150), which needs no encoder",
    ]


def test_no_line_is_longer_than_a_terminal_whatever_the_encoder_is_below(tmp_path):
    every = dict.fromkeys(FLOORS, (0.9, 0.9))
    metrics = measured(0.2, every)
    for entry in metrics["results"]:
        if entry["system"] == "untrained":
            entry["R@5"] = figures_of((0.9, 0.9))
    stages = {"evaluate": evaluated(tmp_path / "worst", metrics)}
    lines = results.results_table(results.gather(recipe("quickstart"), Report(stages))).splitlines()
    assert lines[2].endswith("   below BM25, pixels, chance, untrained") and max(map(len, lines)) <= LINE


def test_a_comparison_has_a_line_for_each_floor_under_the_averages_of_a_pool(tmp_path):
    stages = {f"one:{step}": stage for step, stage in method(tmp_path / "one", 0.8, floors=FLOORS).items()}
    stages |= {f"other:{step}": stage for step, stage in method(tmp_path / "other", 0.4).items()}
    arms = {"one": Arm(), "other": Arm(embed=EmbedConfig(reuse=False), adapt=None)}
    lines = results.results_table(results.gather(Comparison(arms=arms), Report(stages))).splitlines()
    at = next(place for place, line in enumerate(lines) if line.startswith("  average, target"))
    assert [line.split() for line in lines[at + 3 : at + 7]] == [
        ["BM25", "0.150", "-"],
        ["nearest", "pixels", "0.050", "-"],
        ["chance", "0.050", "-"],
        ["untrained", "0.080", "0.040"],
    ]


def test_a_report_of_an_earlier_version_is_still_shown(single):
    old = {name: value for name, value in single["headline"].items() if name not in ("called", "mean", "below")}
    assert results.results_table(single | {"headline": old}) == results.results_table(single)


def test_a_board_is_shown_in_its_own_words_with_the_means_of_what_was_measured():
    """Of M-BEIR two rows: R@5 there is a hit rate, and of FashionIQ R@10."""
    values = {
        ("visualnews", "t->i"): {"encoder": {"Success@5": 0.5}, "bm25": {"Success@5": 0.75}},
        ("fashioniq", "it->i"): {"encoder": {"Success@10": 0.25}, "bm25": {"Success@10": 0.125}},
    }
    assert results.results_table(boarded("mbeir", values)).splitlines() == [
        "M-BEIR on test, dataset pool",
        "  data set              queries     BM25  encoder",
        "  VisualNews t->i R@5         2    0.750    0.500   below BM25",
        "  FashionIQ it->i R@10        2    0.125    0.250",
        "  mean Average (2 of 16)           0.438    0.375   below BM25",
        "  average, dataset                 0.438    0.375   below BM25   (95 % interval 0.375 to 0.375)",
        "the encoder as it came is below BM25 (0.438), which needs no encoder",
    ]


def test_a_board_that_prints_several_measures_has_a_line_for_each():
    own = {"RR@5": 0.2, "P@5": 0.4, "Success@5": 1.0}
    values = {("OKVQA-GS", "it->t"): {"trained": own, "untrained": dict.fromkeys(own, 0.5)}}
    assert results.results_table(boarded("okvqa", values)).splitlines()[:5] == [
        "OK-VQA on test, dataset pool",
        "  Google Search       queries  untrained  trained",
        "  MRR@5                     2      0.500    0.200   below untrained",
        "  P@5                       2      0.500    0.400   below untrained",
        "  PRRecall@5                2      0.500    1.000",
    ]


@pytest.mark.parametrize("board", BOARDS)
def test_the_columns_of_every_board_are_aligned(board):
    own = dict.fromkeys(BOARDS[board].measures, 0.5)
    values = {(row.dataset, row.task or "t->i"): {"encoder": own, "chance": own} for row in BOARDS[board].rows}
    lines = [line for line in results.results_table(boarded(board, values)).splitlines() if line.startswith("  ")]
    scored = [line.partition("   (")[0] for line in lines if line.split()[-1] != "encoder"]
    assert len({line.rindex("0.500") for line in scored}) == 1 and len({line.index("0.500") for line in scored}) == 1
    assert max(map(len, lines)) <= LINE


def test_galleries_are_of_the_arms_that_were_measured(tmp_path, config):
    stages = method(tmp_path / "one", 0.8)
    assert results.galleries(recipe("quickstart"), Report(stages)) == {"": {"of": "one"}}
    stages |= {"evaluate": replace(stages["evaluate"], digest="")}
    assert results.galleries(recipe("quickstart"), Report(stages)) == {}
    arms = {"unite:evaluate": evaluated(tmp_path / "unite", measured(0.8, {})), "jfe:evaluate": StageReport("failed", error="no")}
    arms["mire:evaluate"] = evaluated(tmp_path / "mire", {"results": [], "unmeasured": "no score was computed"})
    assert results.galleries(config, Report(arms)) == {"unite": {"of": "unite"}}


def test_an_arm_that_shares_an_evaluation_has_its_gallery_too(tmp_path):
    stages = {"one:evaluate": evaluated(tmp_path / "one", measured(0.8, {}))}
    assert results.galleries(Comparison(arms={"one": Arm(), "other": Arm()}), Report(stages)) == {
        "one": {"of": "one"},
        "other": {"of": "one"},
    }


def test_a_run_that_stopped_before_it_measured_has_no_table():
    gathered = results.gather(recipe("quickstart"), Report({"sources": done(), "backbone": done(metrics={"parameters": 1.0})}))
    assert gathered == {"facts": {"parameters": 1}}
    assert results.results_table(gathered) == ""


def test_a_comparison_reports_the_same_of_each_arm(config, report, single):
    arms = results.gather(config, report)["arms"]
    assert list(arms) == ["unite", "jfe", "mire"]
    assert arms["unite"] == single | {"failure": ""}
    assert arms["mire"]["facts"]["rows_per_item"] == 21
    assert results.figures({"arms": arms}) == {"unite R@5": 0.4, "mire R@5": 0.2}


def test_an_arm_that_failed_has_the_first_error_as_its_failure(config, report):
    failed = results.gather(config, report)["arms"]["jfe"]
    assert failed == {"facts": {"parameters": 10}, "failure": "jfe:adapt failed: the loss is nan"}


def test_what_failed_for_all_is_why_each_is_missing(config):
    lost = {"curate": StageReport("failed", error="no rows"), "pairs": StageReport("not run", "no result of curate")}
    lost |= {f"{arm}:evaluate": StageReport("not run", "no result of curate, pairs") for arm in config.arms}
    assert {arm["failure"] for arm in results.gather(config, Report(lost))["arms"].values()} == {"curate failed: no rows"}


def test_an_arm_that_was_not_asked_to_the_end_did_not_fail(config):
    gathered = results.gather(config, Report({"unite:backbone": done(metrics={"parameters": 3.0})}))["arms"]
    assert gathered["unite"] == {"facts": {"parameters": 3}, "failure": ""}


def test_an_arm_takes_what_another_made_for_it(tmp_path):
    one = Arm()
    other = replace(one, instruct=replace(one.instruct, learning_rate=3e-5))
    made = method(tmp_path / "one", 0.8)
    stages = {f"one:{step}": stage for step, stage in made.items()}
    stages |= {
        "other:instruct": done(took=4.0),
        "other:index": made["index"],
        "other:evaluate": evaluated(tmp_path / "other", measured(0.6, {})),
    }
    arms = results.gather(Comparison(arms={"one": one, "other": other}), Report(stages))["arms"]
    assert arms["other"]["facts"]["parameters"] == 1234567
    assert arms["other"]["facts"]["training_seconds"] == 64.0, "the adaptation that it shares counts for it too"


def test_the_table_of_a_comparison_has_a_column_for_each_arm(config, report):
    lines = [line.split() for line in results.results_table(results.gather(config, report)).splitlines()]
    assert lines[0] == ["R@5", "on", "test,", "target", "pool"]
    assert lines[1] == ["task", "queries", "unite", "jfe", "mire"]
    assert lines[2:4] == [["i->t", "36", "0.800", "-", "0.400"], ["t->i", "36", "0.000", "-", "0.000"]]
    assert lines[4:8] == [
        ["average,", "target", "0.400", "-", "0.200"],
        ["95", "%", "from", "0.200", "-", "0.100"],
        ["to", "0.800", "-", "0.400"],
        ["untrained", "0.080", "-", "0.040"],
    ]
    assert lines[8] == ["average,", "universal", "0.200", "-", "0.100"]
    assert lines[12:15] == [
        ["parameters", "1,234,567", "10", "1,234,567"],
        ["rows", "x", "width", "1", "x", "128", "-", "21", "x", "128"],
        ["training", "75", "s", "-", "75", "s"],
    ]
    assert lines[15:] == [["jfe:", "jfe:adapt", "failed:", "the", "loss", "is", "nan"]]


def test_columns_are_aligned_whatever_the_arms_are_called(config, report):
    lines = results.results_table(results.gather(config, report)).splitlines()[1:12]
    assert len({len(line) for line in lines}) == 1


def untrained(tmp_path, recall: float) -> dict[str, StageReport]:
    """The stages of a method without a training, whose encoder was measured as it came."""
    stages = method(tmp_path / "plain", recall)
    metrics = measured(recall, {})
    metrics["results"] = [{**entry, "system": "encoder"} for entry in metrics["results"] if entry["system"] == "trained"]
    metrics["headline"]["encoder"] = metrics["headline"].pop("trained")
    del metrics["headline"]["untrained"]
    return {name: stages[name] for name in ("backbone", "index")} | {"evaluate": evaluated(tmp_path / "untrained", metrics)}


def test_the_table_of_a_run_without_a_training_has_one_encoder(tmp_path):
    gathered = results.gather(resolve("quickstart", ["adapt=null", "instruct=null"]), Report(untrained(tmp_path, 0.8)))
    assert "training_seconds" not in gathered["facts"]
    table = results.results_table(gathered)
    _, head, *tasks, target, universal = table.splitlines()
    assert head.split() == ["task", "queries", "encoder"] and "trained" not in table
    assert [task.split() for task in tasks] == [["i->t", "36", "0.800"], ["t->i", "36", "0.000"]]
    assert target.split()[:3] == ["average,", "target", "0.400"] and universal.split()[:3] == ["average,", "universal", "0.200"]


def test_an_arm_without_a_training_stands_beside_those_with_one(tmp_path):
    stages = {f"one:{step}": stage for step, stage in method(tmp_path / "one", 0.4).items()}
    stages |= {f"plain:{step}": stage for step, stage in untrained(tmp_path, 0.8).items()}
    compared = Comparison(arms={"one": Arm(), "plain": Arm(adapt=None, instruct=None, embed=EmbedConfig(batch_size=1))})
    gathered = results.gather(compared, Report(stages))
    assert results.figures(gathered) == {"one R@5": 0.2, "plain R@5": 0.4}
    lines = [line.split() for line in results.results_table(gathered).splitlines()]
    assert lines[1:5] == [
        ["task", "queries", "one", "plain"],
        ["i->t", "36", "0.400", "0.800"],
        ["t->i", "36", "0.000", "0.000"],
        ["average,", "target", "0.200", "0.400"],
    ]
    assert lines[7] == ["untrained", "0.040", "-"]
    assert lines[-1] == ["training", "75", "s", "-"]


def test_a_run_by_whose_corpus_nothing_could_be_measured_says_so(tmp_path):
    (tmp_path / "draft").mkdir()
    (tmp_path / "draft" / "metrics.json").write_text(
        json.dumps({"results": [], "unmeasured": "no score was computed: the corpus has no queries"})
    )
    publish(tmp_path / "draft", tmp_path / "evaluate", {})
    stages = {"evaluate": done(tmp_path / "evaluate")}
    gathered = results.gather(recipe("quickstart"), Report(stages))
    assert gathered == {"facts": {}, "results": [], "unmeasured": "no score was computed: the corpus has no queries"}
    assert results.results_table(gathered) == "no score was computed: the corpus has no queries"
    compared = Comparison(arms={"plain": Arm(adapt=None, instruct=None)})
    arms = results.gather(compared, Report({"plain:evaluate": stages["evaluate"]}))
    assert results.figures(arms) == {} and results.results_table(arms).splitlines() == [
        "  plain: no score was computed: the corpus has no queries"
    ]


def test_a_comparison_in_which_every_arm_failed_still_has_the_reasons(config):
    gathered = results.gather(
        config,
        Report(
            {
                "curate": StageReport("failed", error="no rows"),
                **{f"{arm}:evaluate": StageReport("not run", "no result of curate") for arm in config.arms},
            }
        ),
    )
    assert results.results_table(gathered).splitlines() == [f"  {arm}: curate failed: no rows" for arm in config.arms]
