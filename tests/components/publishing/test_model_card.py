"""A card has the facts of the release and of the run's report, where hubs and readers expect them, and no others."""

import copy
import json
import re
from dataclasses import replace

import pytest
import yaml

from mirepoix.components.evaluation.evaluate_config import MEASURES
from mirepoix.components.generation.writer_config import EndpointConfig
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.passages.verbalise_config import VerbaliseConfig
from mirepoix.components.publishing.model_card import Layout, card, published
from mirepoix.models.item import Modality
from mirepoix.models.retrievers.unite_config import UniteConfig
from mirepoix.serving.release import Release
from mirepoix.workflows.config import jsonable
from mirepoix.workflows.recipes.published import marvel
from tests.components.evaluation.reports.test_report import REPORT


class Stub:
    """UNITE, as a card sees it."""

    architecture, reads, dimension, config = "unite", Modality.TEXT | Modality.IMAGE, 64, UniteConfig(max_length=77)

    def refusal(self, modality):
        return None


TRAINING = {"max_steps": 520, "learning_rate": 1.1e-3, "tuning": {"towers": ["language"], "lora": None}}
MIXTURE = [
    {"stage": stage, "source": "world", "task": task, "before": 5000, "after": after}
    for stage, task, after in (("adapt", "t->i", 4321), ("adapt", "i->i", 0), ("instruct", "it->t", 765))
]
LAYOUT = Layout(
    "transformers", "torch transformers", 'AutoModel.from_pretrained("FOLDER")', "import torch\n", ("It is cut.",), tags=("extra",)
)


@pytest.fixture
def release(tmp_path):
    return Release(tmp_path, "cook", "0123abcd", "feed", "i", "d", "g", (16, 64), {"": "Find it.", "t->i": "Find | a <picture>."})


@pytest.fixture
def run():
    report = copy.deepcopy(REPORT)
    report["settings"] |= {"adapt": TRAINING, "instruct": TRAINING, "backbone": {"name": "tiny"}}
    report["stages"] += [
        {"name": "pairs", "status": "done", "digest": "c" * 64, "rows": {"read": 10, "written": 9}, "tables": {"mixture": MIXTURE}},
        {"name": "adapt", "status": "done", "digest": "d" * 64, "rows": {"read": 9, "written": 9}, "metrics": {"loss": 0.25, "steps": 520}},
    ]
    return report


@pytest.fixture
def marvel_run(run, monkeypatch):
    """A run of MARVEL's three trainings, on a corpus that is verbalised for the last."""
    writer = EndpointConfig(model="cook/writer", url="http://10.0.0.7:8000/v1")
    config = replace(
        marvel(),
        sources=SourcesConfig(path=("/home/cook/webqa", "s3://private/more"), format="webqa"),
        verbalise=VerbaliseConfig(kind="written", wording="Ask for it.", writer=writer),
    )
    monkeypatch.setattr("mirepoix.workflows.dag.retrieval.with_outside", list)  # there is no such corpus
    run["settings"] = jsonable(config)
    run["stages"] = [
        {"name": stage.name, "status": "done", "digest": "e" * 64, "rows": {}, "metrics": {}, "tables": {}} for stage in config.stages()
    ]
    stages = {stage["name"]: stage for stage in run["stages"]}
    stages["pairs"]["tables"] = {"mixture": MIXTURE}
    stages["pairs-verbalised"]["tables"] = {"mixture": [MIXTURE[0], {**MIXTURE[2], "after": 700}]}
    stages["mine-refine"]["metrics"] = {"mined": 1400.0}
    return run


def head_of(text):
    return yaml.safe_load(text.split("---\n")[1])


def settings_of(text):
    """The settings of each stage that the card lists, by name; of the last, the backbone."""
    return {
        (re.search(r"### Stage `(.*)`", part) or ["", "backbone"])[1]: yaml.safe_load(part.split("```yaml\n")[1].split("```")[0])
        for part in re.split(r"(?=^### )", text[text.index("## Training") :], flags=re.MULTILINE)
        if "```yaml" in part
    }


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
    assert {f"{measure}, averaged over the tasks" for measure in MEASURES} <= set(values)
    assert values["R@5, averaged over the tasks"] == 0.5 and values["R@5, it->t"] == 0.75


def test_scores_are_by_split_pool_and_task_next_to_those_before_training(release, run):
    text = card(release, Stub(), LAYOUT, run)
    assert (
        text.index("### test_combination, universal pool") < text.index("### test_combination, target pool") < text.index("### validation")
    )
    assert ("it->t", "12", "0.150", "0.750") in lines(text)
    assert ("average (95 % interval)", "24", "0.100", "0.500 (0.400 to 0.600)") in lines(text)
    pools = "Universal pool: among all candidates; target pool: among the candidates of the modality that is asked for."
    assert f"R@5, averaged over the tasks. {pools}" in text


def test_a_split_that_the_headlines_measure_is_not_known_of_is_left_out(release, run):
    """How many passages are relevant is not known of a query whose answers are strings, so recall is not."""
    for entry in run["results"]:
        if entry["split"] == "validation":
            del entry["R@5"]
    text = card(release, Stub(), LAYOUT, run)
    assert "### test_combination, universal pool" in text and "### validation" not in text
    assert [result["dataset"]["name"] for result in head_of(text)["model-index"][0]["results"]] == [
        "test_combination, universal pool",
        "test_combination, target pool",
    ]


def test_the_training_section_has_data_stages_and_settings(release, run):
    text = card(release, Stub(), LAYOUT, run)
    assert "Recipe `quickstart`, run 2025-01-02 03:04:05." in text and "b" * 64 in text and "185 written" in text
    assert ("curate", "1,234", "185") in lines(text) and ("pairs", "10", "9") in lines(text)
    assert "Metrics: loss 0.25, steps 520." in text
    assert "### Stage `instruct`" not in text  # it is in the settings, and did not run
    assert settings_of(text)["adapt"] == {"max_steps": 520, "learning_rate": 0.0011, "tuning": {"towers": ["language"]}}


def test_only_tasks_that_a_training_read_are_listed(release, run):
    text = card(release, Stub(), LAYOUT, run)
    assert ("adapt", "world", "t->i", "4,321") in lines(text) and ("t->i", "Find \\| a &lt;picture>.") in lines(text)
    assert not {"instruct", "i->i", "it->t"} & {cell for line in lines(text[text.index("Training pairs:") :]) for cell in line}
    del run["stages"][-1]
    assert "Training pairs:" not in card(release, Stub(), LAYOUT, run) and "t->i" not in {
        line[0] for line in lines(card(release, Stub(), LAYOUT, run))
    }
    run["stages"].append({"name": "adapt", "status": "not run", "digest": "", "rows": {}})
    assert "### Stage `adapt`" not in card(release, Stub(), LAYOUT, run)


def test_the_card_of_an_encoder_that_was_not_trained_says_so(release, run):
    del run["settings"]["adapt"], run["settings"]["instruct"], run["stages"][-1]
    run["results"] = [{**entry, "system": "encoder"} for entry in run["results"] if entry["system"] == "trained"]
    run["headline"]["encoder"] = run["headline"].pop("trained")
    del run["headline"]["untrained"]
    text = card(release, Stub(), LAYOUT, run)
    assert "The run trained nothing: the encoder is that of the backbone below, as it came." in text
    assert "before training" not in text and "Training pairs:" not in text
    assert ("it->t", "12", "0.750") in lines(text) and len(head_of(text)["model-index"][0]["results"]) == 4
    assert ("t->i", "Find \\| a &lt;picture>.") in lines(text), "the instructions that it is served with"
    del run["headline"]
    run |= {"results": [], "unmeasured": "no score was computed: the corpus has no queries"}
    text = card(release, Stub(), LAYOUT, run)
    assert "\nNo score was computed: the corpus has no queries.\n" in text and "model-index" not in head_of(text)


def test_mining_verbalising_and_the_third_training_are_listed_if_they_ran(release, marvel_run):
    text = card(release, Stub(), LAYOUT, marvel_run)
    settings = settings_of(text)
    assert list(settings) == ["sources", "curate", "verbalise", "pairs", "mine-refine", "adapt", "instruct", "refine", "backbone"]
    assert settings["sources"] == {"path": ["webqa", "more"], "format": "webqa"}
    assert (settings["verbalise"]["wording"], settings["verbalise"]["writer"]["model"]) == ("Ask for it.", "cook/writer")
    mining = marvel().mine_refine
    assert (settings["mine-refine"]["last"], settings["mine-refine"]["balanced"]) == (mining.last, mining.balanced) and "mined 1400" in text
    assert [settings[stage]["tuning"]["towers"] for stage in ("adapt", "refine")] == [["vision", "projector"], ["text", "projector"]]
    assert settings["adapt"]["tuning"]["text_length"] == 64 and settings["refine"]["loss"]["learned_temperature"] is True
    read = [line for line in lines(text) if line[0] in ("adapt", "instruct", "refine")]
    assert read == [("adapt", "world", "t->i", "4,321"), ("instruct", "world", "it->t", "765"), ("refine", "world", "it->t", "700")]
    assert head_of(text)["base_model"] == [marvel().backbone.name, marvel().backbone.vision]
    for place in ("/home/cook", "s3://private", "10.0.0.7"):
        assert place not in text


def test_settings_of_stages_that_did_not_run_are_left_out(release, marvel_run):
    del marvel_run["settings"]["refine"], marvel_run["settings"]["mine_refine"]
    marvel_run["stages"] = [
        stage for stage in marvel_run["stages"] if stage["name"] not in ("verbalise", "pairs-verbalised", "mine-refine", "refine")
    ]
    text = card(release, Stub(), LAYOUT, marvel_run)
    assert list(settings_of(text)) == ["sources", "curate", "pairs", "adapt", "instruct", "backbone"]
    assert "Ask for it." not in text


def test_without_a_report_the_card_notes_it_and_has_the_facts_of_the_release(release):
    text = card(release, Stub(), LAYOUT, None)
    assert "model-index" not in head_of(text) and "## Scores" not in text
    assert "The report of the run was not given" in text
    for fact in ("cook", "0123abcd", "feed", "16, 64", "Find it.", "max_length 77", "It is cut.", "text and image"):
        assert fact in text


def test_its_code_and_what_it_needs_are_the_layouts(release):
    text = card(release, Stub(), LAYOUT, None)
    assert "```python\nimport torch\n```" in text and "pip install torch transformers\n" in text


def test_characters_that_would_break_a_table_are_escaped(release):
    assert ("t->i", "Find \\| a &lt;picture>.") in lines(card(release, Stub(), LAYOUT, None))


def test_a_run_without_evaluation_has_no_scores(release, run):
    del run["results"], run["headline"]
    text = card(release, Stub(), LAYOUT, run)
    assert "The run has no evaluation results." in text and "model-index" not in head_of(text)


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
def test_hub_ids_are_named_as_base_models_and_folders_are_not(backbone, ids, release, run):
    run["settings"]["backbone"] = backbone
    assert published(run) == ids
    text = card(release, Stub(), LAYOUT, run)
    assert head_of(text).get("base_model", []) == ids
    assert ("/home/cook" not in text and "name: qwen" in text) or "qwen" not in json.dumps(backbone)


def test_paths_of_the_machine_are_left_out(release, run):
    run["settings"]["sources"] = {"path": ["/home/cook/corpus"]}
    run["stages"][0]["target"] = "/home/cook/storage"
    text = card(release, Stub(), LAYOUT, run)
    assert "/home/cook" not in text and str(release.folder) not in text
