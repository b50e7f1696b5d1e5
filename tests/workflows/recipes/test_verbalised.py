"""A third training on a verbalised corpus, through the real stages: UniVL-DR's, from the mining of its negatives to its figures."""

import pytest

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.pairs.store import PairStore
from mirepoix.models.item import Modality, table_to_items
from mirepoix.serving.search.open import open_index
from mirepoix.serving.store import local_path
from mirepoix.workflows.dag.results import read
from mirepoix.workflows.recipes.registry import resolve
from mirepoix.workflows.runner.execute import execute
from tests.components.generation.endpoints import Answer, endpoint
from tests.workflows.recipes.small_quickstart import MODEL, of_arm

pytestmark = [pytest.mark.soak, pytest.mark.timeout(1800)]
ARM = [
    *MODEL,
    *(f"{stage}.{field}" for stage in ("instruct", "refine") for field in ("max_steps=2", "global_batch_size=8", "cpus_per_worker=1")),
    "embed.threads=1",
    "mine_refine.encode.threads=1",
    "verbalise.kind=written",
    "verbalise.writer.model=writer",
]
WORLD = ["sources.world.entities=24", "sources.world.train_queries=8", "sources.world.evaluation_queries=4", "evaluate.draws=10"]


@pytest.fixture(scope="module")
def folders(ray_cluster, tmp_path_factory):
    """The folders of the stages up to the evaluation, by their steps."""
    home = tmp_path_factory.mktemp("verbalised")
    with endpoint(lambda body, times: Answer("Where is such a thing to be seen?")) as writer:
        own = of_arm("univldr", [*ARM, f"verbalise.writer.url={writer.url}", f"verbalise.spending.cache={home}/cache"])
        stages = resolve("quickstart_all", ["only=univldr", *WORLD, *own]).stages()
        report = execute(stages, str(home / "storage"), until="evaluate")
    assert report.ok, {name: stage.error for name, stage in report.stages.items() if stage.status == "failed"}
    return {name.rpartition(":")[2]: local_path(stage.target) for name, stage in report.stages.items()}


def items(folder):
    return {item.id: item for item in table_to_items(read_part(folder, "corpus"))}


def test_captions_grow_and_a_picture_without_one_stays_what_it_was_for_mining_training_and_search(folders):
    before, after = items(folders["curate"]), items(folders["verbalise"])
    grown = {id for id in before if after[id].text != before[id].text}
    assert grown == {id for id, item in before.items() if item.modality == Modality.IMAGE | Modality.TEXT}
    assert Modality.IMAGE in {item.modality for item in before.values()}
    assert {id: item.modality for id, item in after.items()} == {id: item.modality for id, item in before.items()}
    index = open_index(folders["index"])
    assert dict(zip(index.ids.to_pylist(), index.modalities_N.tolist(), strict=True)) == {id: item.modality for id, item in before.items()}


def test_the_third_training_reads_mined_negatives_as_they_are_called_now(folders):
    store, after = PairStore(folders["mine-refine"] / "instruct"), items(folders["verbalise"])
    pairs = store.pairs(range(len(store)))
    assert any(pair.negatives for pair in pairs)
    assert all(item.text == after[item.id].text for pair in pairs for item in (pair.positive, *pair.negatives))


def test_queries_for_pictures_find_pictures_alone_in_the_target_pool(folders):
    before = items(folders["curate"])
    asked = {row["id"]: row["task"] for row in read_part(folders["curate"], "queries", ["id", "task"]).to_pylist()}
    found = [line.split() for line in (folders["evaluate"] / "trained-target.trec").read_text().splitlines()]
    pictures = {row[2] for row in found if asked[row[0]] == "t->i"}
    assert pictures and {before[id].modality for id in pictures} == {Modality.IMAGE}
    assert read(str(folders["evaluate"]), "metrics.json")["headline"]["split"] == "test_combination"
