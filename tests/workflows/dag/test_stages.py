"""What a stage claims, where it runs, what it waits for, and which encoders' code its key holds."""

import pytest

from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.models.encoder_config import ARCHITECTURES, config_class
from mirepoix.models.retrievers.unite_config import UniteConfig
from mirepoix.workflows.dag.stages import BUSY, CHECK, ENCODING, FLOORS, LIGHT, SEARCHING, encoding_versions, make_stage


def made(name: str, work: str, inputs: dict[str, str] | None = None, encoder=None, libraries: tuple[str, ...] = SEARCHING):
    return make_stage(name, work, EvaluateConfig(), inputs or {}, libraries, encoder)


@pytest.mark.parametrize(
    ("name", "cpus", "light", "uses_ray"),
    [
        ("floors", 1, True, False),
        ("evaluate", 1, True, False),
        ("index", 1, True, False),
        ("index-untrained", 1, True, False),
        ("backbone", 1, False, False),
        ("embed-adapted", 0, True, True),
        ("sources", 0, True, False),
        ("mine", 0, False, True),
    ],
)
def test_a_stage_that_computes_in_its_own_process_claims_a_cpu_and_needs_no_ray(name, cpus, light, uses_ray):
    stage = made(name, "evaluation.floors:work")
    assert (stage.num_cpus, stage.light, stage.uses_ray, stage.retries) == (cpus, light, uses_ray, 1)


def test_what_reads_the_curated_corpus_waits_for_its_check_which_waits_for_nothing():
    work = "pairs.pairs:work"
    assert made("pairs", work, {"curate": "curate"}).requires == (CHECK,)
    assert made(FLOORS, "evaluation.floors:work", {"curate": "curate"}).requires == (CHECK,)
    assert made(CHECK, "pairs.corpus_check:work", {"curate": "curate"}).requires == ()
    assert made("index", "embedding.index:work", {"embed": "embed"}).requires == ()
    assert {CHECK, FLOORS} <= {*BUSY} & {*LIGHT}


def test_a_stage_that_opens_an_encoder_has_the_code_of_that_one_or_of_all():
    own, all_of_them = UniteConfig.ENCODER.partition(":")[0], {config_class(name).ENCODER.partition(":")[0] for name in ARCHITECTURES}
    embed = "embedding.embed:work"
    assert made("embed", embed, encoder=UniteConfig()).modules == (own,)
    assert {*made("embed", embed).modules} == all_of_them
    assert made("pairs", "pairs.pairs:work").modules == made("evaluate", "evaluation.evaluate:work").modules == ()


def test_an_embedding_knows_the_versions_of_what_encodes():
    """Its vectors are comparable with those of the same code and libraries alone."""
    stage = made("embed", "embedding.embed:work", encoder=UniteConfig(), libraries=ENCODING)
    assert stage.arguments == {"versions": encoding_versions(UniteConfig(), ENCODING)}
    assert encoding_versions(UniteConfig(), ENCODING[:1]) != encoding_versions(UniteConfig(), ENCODING)
    assert make_stage("pairs", "pairs.pairs:work", PairsConfig(), {}, ("pyarrow",)).arguments == {}
