"""All six retrievers through the real stages, from nothing to their releases, with two steps for every training."""

import pytest

from mirepoix.models.encoder_config import ARCHITECTURES
from mirepoix.models.item import Item
from mirepoix.serving.release import open_release
from mirepoix.serving.store import local_path
from mirepoix.workflows.dag import results
from mirepoix.workflows.recipes.registry import recipe, resolve
from mirepoix.workflows.runner.execute import execute
from tests.models.conftest import picture
from tests.workflows.recipes.small_quickstart import MODEL, of_arm

pytestmark = [pytest.mark.soak, pytest.mark.timeout(5400)]
WORLD = ["sources.world.entities=24", "sources.world.train_queries=8", "sources.world.evaluation_queries=4", "evaluate.draws=10"]
TRAINING = ("max_steps=2", "global_batch_size=8", "cpus_per_worker=1")


def brief() -> list[str]:
    """Every arm on a tiny model and a tiny world, each of its trainings of two steps."""
    settings = list(WORLD)
    for name, arm in recipe("quickstart_all").arms.items():
        own = [*MODEL, "embed.threads=1", *(f"{stage}.{field}" for stage in arm.trainings for field in TRAINING)]
        settings += of_arm(name, own + ["mine_refine.encode.threads=1"] * (arm.mine_refine is not None))
    return settings


COMPARED = set(ARCHITECTURES) - {"adopted"}


@pytest.fixture(scope="module")
def ran(ray_cluster, tmp_path_factory):
    """The config and the report of the whole."""
    config = resolve("quickstart_all", brief())
    report = execute(config.stages(), str(tmp_path_factory.mktemp("arms")))
    assert report.ok, {name: stage.error for name, stage in report.stages.items() if stage.status == "failed"}
    return config, report


def test_every_training_of_every_arm_came_to_an_end(ran):
    config, report = ran
    assert set(config.arms) == COMPARED
    for name, arm in config.arms.items():
        assert all(report.stages[f"{name}:{stage}"].metrics["step"] == 2 for stage in arm.trainings), name


def test_six_headlines_are_in_one_table_of_six_columns(ran):
    config, report = ran
    gathered = results.gather(config, report)
    assert set(results.figures(gathered)) == {f"{name} R@5" for name in COMPARED}
    title, header, *rows = results.results_table(gathered).splitlines()
    assert title == "R@5 on test_combination, target pool" and header.split() == ["task", "queries", *config.arms]
    averages = [row.split()[-len(config.arms) :] for row in rows if row.lstrip().startswith("average")]
    assert len(averages) == 2 and all(0 <= float(cell) <= 1 for row in averages for cell in row)


@pytest.mark.parametrize("name", sorted(COMPARED))
def test_the_release_of_every_arm_opens_and_encodes(name, ran):
    encoder = open_release(local_path(ran[1].stages[f"{name}:release"].target)).open_encoder()
    assert encoder.architecture == name
    items = [Item("a", text="a small red circle"), Item("b", images=(picture(),)), Item("c", text="red", images=(picture(),))]
    vectors = encoder.encode(items)
    norms = vectors.rows_NTD.norm(dim=-1)[vectors.mask_NT]
    assert vectors.mask_NT.any(1).all() and (norms - 1).abs().max() < 1e-5
