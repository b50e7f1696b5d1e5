"""The figures of a run are gathered from those stages that it has, and shown in one table."""

import json
from dataclasses import replace

import pytest

from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.evaluation.metrics import MEASURES
from mirepoix.serving.store import publish
from mirepoix.workflows.dag import results
from mirepoix.workflows.dag.comparison import Arm, Comparison
from mirepoix.workflows.recipes.registry import recipe, resolve
from mirepoix.workflows.runner.execute import Report, StageReport

TASKS = ("i->t", "t->i")
GAINS = {("trained", "target"): 1.0, ("trained", "universal"): 0.5, ("untrained", "target"): 0.2, ("untrained", "universal"): 0.1}


def done(target="", **more) -> StageReport:
    return StageReport("done", digest="d" * 64, target=str(target), **more)


def evaluated(folder, recall: float) -> StageReport:
    """A stage that measured this much on one task, and nothing on the other."""
    entries = []
    for (system, pool), gain in GAINS.items():
        value = round(recall * gain, 3)
        figures = {"average": value / 2, "low": value / 4, "high": value, "tasks": dict(zip(TASKS, (value, 0.0), strict=True))}
        counts = {"queries": dict.fromkeys(TASKS, 36)}
        entries.append({"system": system, "pool": pool, "split": "test", **counts} | dict.fromkeys(MEASURES, figures))
    headline = {"split": "test", "measure": "recall@5", "pool": "target"}
    headline |= {entry["system"]: entry["recall@5"] for entry in entries if entry["pool"] == "target"}
    draft = folder.with_name(f"{folder.name}-draft")
    draft.mkdir()
    (draft / "metrics.json").write_text(json.dumps({"headline": headline, "results": entries}))
    publish(draft, folder, {})
    return done(folder)


def method(folder, recall: float, rows: int = 60) -> dict[str, StageReport]:
    """The stages of a method whose corpus has 60 items."""
    return {
        "backbone": done(metrics={"parameters": 1234567.0}),
        "adapt": done(took=60.0),
        "instruct": done(took=15.4),
        "index": done(metrics={"items": 60.0, "rows": float(rows), "width": 128.0}),
        "evaluate": evaluated(folder, recall),
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
    assert set(single) == {"headline", "results", "facts"}


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
    assert first == "recall@5 on test, target pool"
    assert head.split() == ["task", "queries", "untrained", "trained"]
    assert [task.split() for task in tasks] == [["i->t", "36", "0.160", "0.800"], ["t->i", "36", "0.000", "0.000"]]
    assert target.split()[:4] == ["average,", "target", "0.080", "0.400"] and "95 % interval 0.200 to 0.800" in target
    assert universal.split()[:4] == ["average,", "universal", "0.040", "0.200"]
    assert verdict == "the training helped: recall@5 0.080 before, 0.400 after, and the 95 % intervals do not overlap"


def test_a_run_that_stopped_before_it_measured_has_no_table():
    gathered = results.gather(recipe("quickstart"), Report({"sources": done(), "backbone": done(metrics={"parameters": 1.0})}))
    assert gathered == {"facts": {"parameters": 1}}
    assert results.results_table(gathered) == ""


def test_a_comparison_reports_the_same_of_each_arm(config, report, single):
    arms = results.gather(config, report)["arms"]
    assert list(arms) == ["unite", "jfe", "mire"]
    assert arms["unite"] == single | {"failure": ""}
    assert arms["mire"]["facts"]["rows_per_item"] == 21
    assert results.figures({"arms": arms}) == {"unite recall@5": 0.4, "mire recall@5": 0.2}


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
    stages |= {"other:instruct": done(took=4.0), "other:index": made["index"], "other:evaluate": evaluated(tmp_path / "other", 0.6)}
    arms = results.gather(Comparison(arms={"one": one, "other": other}), Report(stages))["arms"]
    assert arms["other"]["facts"]["parameters"] == 1234567
    assert arms["other"]["facts"]["training_seconds"] == 64.0, "the adaptation that it shares counts for it too"


def test_the_table_of_a_comparison_has_a_column_for_each_arm(config, report):
    lines = [line.split() for line in results.results_table(results.gather(config, report)).splitlines()]
    assert lines[0] == ["recall@5", "on", "test,", "target", "pool"]
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
    measured = results.read(stages["evaluate"].target, "metrics.json")
    measured["results"] = [{**entry, "system": "encoder"} for entry in measured["results"] if entry["system"] == "trained"]
    measured["headline"]["encoder"] = measured["headline"].pop("trained")
    del measured["headline"]["untrained"]
    draft = tmp_path / "plain-draft"
    draft.mkdir()
    (draft / "metrics.json").write_text(json.dumps(measured))
    publish(draft, tmp_path / "untrained", {})
    return {name: stages[name] for name in ("backbone", "index")} | {"evaluate": done(tmp_path / "untrained")}


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
    assert results.figures(gathered) == {"one recall@5": 0.2, "plain recall@5": 0.4}
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
