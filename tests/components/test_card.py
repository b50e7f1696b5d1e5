"""A card says what the release and the run's report say, all of it where hubs and people look for it, and nothing else."""

import copy
import json

import pytest
import yaml

from mirepoix.components.card import Layout, card, published
from mirepoix.components.metrics import MEASURES
from mirepoix.models.item import Modality
from mirepoix.models.unite import UniteConfig
from mirepoix.serving.release import Release
from tests.components.test_report import REPORT


class Stub:
    """UNITE, as a card sees it."""

    architecture, READS, dimension, config = "unite", Modality.TEXT | Modality.IMAGE, 64, UniteConfig(max_length=77)


TRAINING = {"max_steps": 520, "learning_rate": 1.1e-3, "tuning": {"towers": ["language"], "lora": None}}
MIXTURE = [{"stage": "adapt", "task": "t->i", "pairs": 4321}]
LAYOUT = Layout(
    "transformers", "torch transformers", 'AutoModel.from_pretrained("FOLDER")', "import torch\n", ("It is cut.",), tags=("extra",)
)


@pytest.fixture
def release(tmp_path):
    return Release(tmp_path, "cook", "0123abcd", "feed", "i", "d", "g", (16, 64), {"": "Find it.", "t->i": "Find | a <picture>."})


@pytest.fixture
def run():
    told = copy.deepcopy(REPORT)
    told["settings"] |= {"adapt": TRAINING, "instruct": TRAINING, "backbone": {"name": "tiny", "fingerprint": "model 12 34"}}
    told["stages"] += [
        {"name": "pairs", "status": "done", "digest": "c" * 64, "rows": {"read": 10, "written": 9}, "tables": {"mixture": MIXTURE}},
        {"name": "adapt", "status": "done", "digest": "d" * 64, "rows": {"read": 9, "written": 9}, "metrics": {"loss": 0.25, "steps": 520}},
    ]
    return told


def head_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def lines(text):
    """The rows of its tables, as tuples of cells."""
    return [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in text.splitlines() if line.startswith("|")]


def test_its_head_is_what_hubs_read(release, run):
    head = head_of(card(release, Stub(), LAYOUT, run))
    assert (head["library_name"], head["pipeline_tag"]) == ("transformers", "feature-extraction")
    assert {"mirepoix", "unite", "extra"} <= set(head["tags"]) and "base_model" not in head
    (index,) = head["model-index"]
    assert index["name"] == "cook" and len(index["results"]) == 4
    first = index["results"][0]
    assert first["dataset"]["name"] == "test_combination, universal pool"  # the headline's
    values = {metric["name"]: metric["value"] for metric in first["metrics"]}
    assert {f"{measure}, average over tasks" for measure in MEASURES} <= set(values)
    assert values["recall@5, average over tasks"] == 0.5 and values["recall@5, it->t"] == 0.75


def test_scores_stand_by_split_pool_and_task_beside_those_before_training(release, run):
    text = card(release, Stub(), LAYOUT, run)
    assert (
        text.index("### test_combination, universal pool") < text.index("### test_combination, target pool") < text.index("### validation")
    )
    assert ("it->t", "12", "0.150", "0.750") in lines(text)
    assert ("average (95 % interval)", "24", "0.100", "0.500 (0.400 to 0.600)") in lines(text)


def test_training_is_told_by_its_data_stages_and_settings(release, run):
    text = card(release, Stub(), LAYOUT, run)
    assert "Recipe `quickstart`, run 2025-01-02 03:04:05." in text and "b" * 64 in text and "1,200 written" in text
    assert ("curate", "1,234", "1,200") in lines(text) and ("pairs", "10", "9") in lines(text)
    assert ("adapt", "t->i", "4,321") in lines(text)
    assert "### Stage `adapt`" in text and "Ended with loss 0.25, steps 520." in text
    assert "### Stage `instruct`" not in text  # it is in the settings, and did not run
    settings = [yaml.safe_load(block.split("```")[0]) for block in text.split("```yaml\n")[1:]]
    assert settings[0] == {"max_steps": 520, "learning_rate": 0.0011, "tuning": {"towers": ["language"], "lora": None}}


def test_without_a_report_it_says_so_and_knows_what_the_release_knows(release):
    text = card(release, Stub(), LAYOUT, None)
    assert "model-index" not in head_of(text) and "## Scores" not in text
    assert "The report of the run was not given" in text
    for told in ("cook", "0123abcd", "feed", "16, 64", "Find it.", "max_length 77", "It is cut.", "text and image"):
        assert told in text


def test_its_code_and_what_it_needs_are_the_layouts(release):
    text = card(release, Stub(), LAYOUT, None)
    assert "```python\nimport torch\n```" in text and "pip install torch transformers\n" in text


def test_cells_hold_what_would_break_a_table(release):
    assert ("t->i", "Find \\| a &lt;picture>.") in lines(card(release, Stub(), LAYOUT, None))


def test_a_run_that_measured_nothing_has_no_scores(release, run):
    del run["results"], run["headline"]
    text = card(release, Stub(), LAYOUT, run)
    assert "The run measured none." in text and "model-index" not in head_of(text)


@pytest.mark.parametrize(
    ("backbone", "ids"),
    [
        ({"name": "Qwen/Qwen2-VL-2B-Instruct", "revision": "abc"}, ["Qwen/Qwen2-VL-2B-Instruct"]),
        ({"name": "OpenMatch/t5-ance", "vision": "openai/clip-vit-base-patch32"}, ["OpenMatch/t5-ance", "openai/clip-vit-base-patch32"]),
        ({"name": "tiny"}, []),
        ({"name": "/home/cook/models/qwen"}, []),
        ({"name": "~/qwen"}, []),
    ],
)
def test_what_is_on_a_hub_is_named_as_the_base_and_folders_are_not(backbone, ids, release, run):
    run["settings"]["backbone"] = backbone
    assert published(run) == ids
    text = card(release, Stub(), LAYOUT, run)
    assert head_of(text).get("base_model", []) == ids
    assert ("/home/cook" not in text and "name: qwen" in text) or "qwen" not in json.dumps(backbone)


def test_no_place_of_the_machine_is_told(release, run):
    run["settings"]["sources"] = {"path": ["/home/cook/corpus"]}
    run["stages"][0]["target"] = "/home/cook/storage"
    text = card(release, Stub(), LAYOUT, run)
    assert "/home/cook" not in text and str(release.folder) not in text and "fingerprint" not in text
