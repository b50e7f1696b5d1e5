"""Of every config of a stage exactly the fields named here are left out of the stage's key: what they say does not decide the result."""

import copy
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, get_args, get_type_hints

import pytest

from mirepoix.components.embedding.embed_config import EmbedConfig
from mirepoix.components.evaluation.floors_config import FloorsConfig
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.pairs.corpus_check_config import CorpusCheckConfig
from mirepoix.components.pairs.mine_config import MineConfig
from mirepoix.components.passages.passages_config import PassagesConfig, WrittenConfig
from mirepoix.components.revision.revision_config import MergeConfig, ReencodeConfig, RevisedConfig
from mirepoix.components.training.train_config import TrainConfig
from mirepoix.models.encoder_config import ARCHITECTURES, EncoderConfig, config_class
from mirepoix.serving.store import publish
from mirepoix.workflows.config import describe
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.dag.revision import Revision
from mirepoix.workflows.runner.fingerprint import ingredients, key_of, look_up
from mirepoix.workflows.runner.graph import Stage
from tests.workflows.runner.stub_stages import COPY

UNDECISIVE = {
    "CurateConfig": {"batch_size", "workers"},
    "EmbedConfig": {"batch_size", "batch_tokens", "workers", "threads", "use_gpu", "reuse"},
    "EndpointConfig": {"key_variable", "concurrency", "timeout_s", "retries", "backoff_s", "longest_wait_s"},
    "EngineConfig": {"workers", "gpus_per_worker", "batch_size"},
    "MineConfig": {"batch_size"},
    "MireTuning": {"cached_pictures"},
    "ServeConfig": {"start_timeout_s", "traces"},
    "SourcesConfig": {"workers"},
    "SpendingConfig": {"cache"},
    "TrainConfig": {
        "num_workers",
        "cpus_per_worker",
        "use_gpu",
        "max_failures",
        "dataloader_num_workers",
        "save_steps",
        "logging_steps",
        "gradient_checkpointing",
        "chunk_tokens",
        "min_workers",
        "grow_after",
        "collective_timeout",
        "keep_checkpoints",
    },
}


def classes(kinds: Iterable[Any]) -> set[type]:
    """The config classes among some annotations, with their subclasses and those of their fields."""
    found: set[type] = set()
    left = [*kinds]
    while left:
        kind = left.pop()
        if isinstance(kind, type) and is_dataclass(kind):
            if kind not in found:
                found.add(kind)
                left += [*kind.__subclasses__(), *get_type_hints(kind).values()]
        else:
            left += get_args(kind)
    return found


[config_class(name) for name in ARCHITECTURES]
CONFIGS = classes([Retrieval, Revision, CorpusCheckConfig, FloorsConfig, MergeConfig, ReencodeConfig, RevisedConfig])
ABSTRACT = {kind for kind in CONFIGS if issubclass(kind, EncoderConfig) and not hasattr(kind, "ENCODER")}
CONFIGS = {kind for kind in CONFIGS - ABSTRACT if kind.__module__.startswith("mirepoix.") and "workflows" not in kind.__module__}


def another(value: Any) -> Any:
    """Another value of the same type; of nothing, something."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return f"{value}x"
        case tuple():
            return (*value, "x")
        case Mapping():
            return {**value, "x": 1}
    return 1  # for None, and in place of a nested config, whose own fields have tests of their own


def changed(config: Any, name: str) -> Any:
    """The config with another value of a field, whether it would be refused or not."""
    other = copy.copy(config)
    object.__setattr__(other, name, another(getattr(config, name)))
    return other


def key(config: Any) -> str:
    return key_of(ingredients(Stage("stub", COPY, config), {}))


@pytest.mark.parametrize("kind", sorted(CONFIGS, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_another_value_of_a_field_changes_the_key_unless_it_does_not_decide_the_result(kind):
    config = kind()
    same = {entry.name for entry in fields(kind) if key(changed(config, entry.name)) == key(config)}
    assert same == UNDECISIVE.get(kind.__name__, set())


def test_the_configs_of_all_stages_are_among_those_tested():
    names = {kind.__name__ for kind in CONFIGS}
    assert {*UNDECISIVE} <= names
    used = {type(stage.config) for stage in Retrieval().stages()} | {TrainConfig, MineConfig, PassagesConfig, ReencodeConfig}
    assert used <= CONFIGS and len(CONFIGS) > 30


def test_a_stage_is_up_to_date_whatever_does_not_decide_its_result(tmp_path):
    made = Stage("stub", COPY, MineConfig(encode=EmbedConfig(workers=1)))
    found = look_up(made, {}, str(tmp_path), forced=False)
    (tmp_path / "draft").mkdir()
    publish(tmp_path / "draft", found.target, {**found.parts, "name": "stub", "created": 1.0})
    other = replace(
        made, config=MineConfig(batch_size=1, encode=EmbedConfig(batch_size=2, workers=3, threads=4, use_gpu=True, reuse=False))
    )
    assert look_up(other, {}, str(tmp_path), forced=False).reason == "up to date"
    third = replace(other, config=replace(other.config, negatives=3))
    assert look_up(third, {}, str(tmp_path), forced=False).reason == "config changed: negatives 2 -> 3"


def test_describe_says_which_fields_are_in_no_key():
    lines = describe(SourcesConfig()).splitlines()
    assert "workers: null  # pieces that are read at a time; null: as many as the cluster's CPUs [not in the key]" in lines
    assert [line.partition(":")[0] for line in lines if "[not in the key]" in line] == ["workers"]


def test_what_a_nested_config_does_not_decide_is_left_out_too():
    patient = PassagesConfig(written=WrittenConfig(writer=replace(WrittenConfig().writer, retries=9)))
    assert key(patient) == key(PassagesConfig())
