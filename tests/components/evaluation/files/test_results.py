"""Results have the layout of mteb's files, which mteb itself reads in test_mteb_encoder.py, and that of a model card on the hub."""

import json
from datetime import UTC, datetime

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from mirepoix.components.evaluation.files.results import Scored, model_index, mteb_name, task_result, write_task_results
from mirepoix.models.errors import Refused

METRICS = {"R@5": 0.75, "nDCG@10": 2 / 3, "Success@1": 0.5, "RR@10": 0.6, "P@5": 0.2, "AP@100": 0.55}
TEST = Scored("ArguAna", "mteb/arguana", "test", METRICS, "nDCG@10", "c22ab2a51041ffd869aaddef7af8d8215647e41a", languages=("eng-Latn",))
DEV = Scored("ArguAna", "mteb/arguana", "dev", {"nDCG@10": 0.25}, "nDCG@10", TEST.revision, "short")


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("nDCG@10", "ndcg_at_10"),
        ("R@5", "recall_at_5"),
        ("Success@1", "hit_rate_at_1"),
        ("RR@10", "mrr_at_10"),
        ("P@5", "precision_at_5"),
        ("AP@100", "map_at_100"),
        ("AP", "map"),
        ("Judged@10", "judged_at_10"),
        ("infAP", "infap"),
    ],
)
def test_metrics_have_the_names_of_mteb(metric, name):
    assert mteb_name(metric) == name


def test_a_task_result_has_every_split_and_subset_with_its_main_score():
    result = task_result([TEST, DEV], datetime(2026, 1, 2, tzinfo=UTC))
    assert (result["task_name"], result["dataset_revision"], result["date"]) == ("ArguAna", TEST.revision, 1767312000.0)
    scores = {
        "recall_at_5": 0.75,
        "ndcg_at_10": 0.666667,
        "hit_rate_at_1": 0.5,
        "mrr_at_10": 0.6,
        "precision_at_5": 0.2,
        "map_at_100": 0.55,
    }
    assert result["scores"] == {
        "test": [scores | {"main_score": 0.666667, "hf_subset": "default", "languages": ["eng-Latn"]}],
        "dev": [{"ndcg_at_10": 0.25, "main_score": 0.25, "hf_subset": "short", "languages": ["und-Zyyy"]}],
    }


def test_each_task_is_a_file_of_its_name(tmp_path):
    other = Scored("Own pictures (t->i)".replace(">", ""), "own", "test", {"R@1": 1.0}, "R@1")
    files = write_task_results(tmp_path / "results", [TEST, other, DEV])
    assert [file.name for file in files] == ["ArguAna.json", "Own pictures (t-i).json"]
    assert json.loads(files[0].read_text()) == task_result([TEST, DEV])


def test_the_hub_reads_the_model_index_of_a_card_and_writes_the_same():
    index = model_index("mine", [TEST, DEV])
    name, results = model_index_to_eval_results(index)
    assert eval_results_to_model_index(name, results) == index
    card = ModelCard(f"---\n{yaml.safe_dump({'model-index': index, 'license': 'mit'})}---\n\n# mine\n")
    assert card.data.eval_results == results and card.data.model_name == "mine"
    first = results[0]
    assert (first.metric_type, first.metric_name, first.metric_value) == ("ndcg_at_10", "nDCG@10", 0.666667)
    assert (first.task_type, first.dataset_name, first.dataset_type) == ("information-retrieval", "ArguAna", "mteb/arguana")
    assert (first.dataset_split, first.dataset_config, first.dataset_revision) == ("test", "default", TEST.revision)
    assert [each.metric_value for each in results if each.dataset_split == "dev"] == [0.25]


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (lambda: Scored("A", "a", "test", {"R@1": 1.0}, "R@5"), r"the main metric of A is 'R@5'; give one of R@1"),
        (lambda: Scored("A", "a", "test", {"R@1": float("nan")}, "R@1"), r"R@1 of A is nan; give a number"),
        (lambda: task_result([TEST, Scored("A", "a", "test", {"R@1": 1.0}, "R@1")]), r"a result is of one task at one revision"),
        (lambda: task_result([TEST, TEST]), r"ArguAna is scored twice on the subset default of test"),
        (
            lambda: write_task_results("/nowhere", [Scored("../A", "a", "test", {"R@1": 1.0}, "R@1")]),
            r"the task '../A' has characters that",
        ),
    ],
)
def test_what_is_no_result_is_refused(given, why):
    with pytest.raises(Refused, match=why):
        given()
