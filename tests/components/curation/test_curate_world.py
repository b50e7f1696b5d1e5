"""Exactly the flaws that were planted in a world are rejected; the result is the same for every cut into tasks and after killed workers."""

import os
import signal
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest

from mirepoix.components import ray_tasks
from mirepoix.components.corpus.parts import PARTS, read_part
from mirepoix.components.curation import curate
from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.curation.row_checks import RowCheck, is_small
from mirepoix.components.synthetic import world
from mirepoix.components.synthetic.drawing import DAMAGES
from mirepoix.components.synthetic.world_config import WorldConfig
from tests.components.fixtures import context

SPOILT = WorldConfig(
    entities=60,
    passages_per_entity=2,
    image_size=28,
    train_queries=25,
    evaluation_queries=12,
    near_duplicates=0.15,
    exact_duplicates=0.1,
    corrupt_files=0.08,
    missing_captions=0.25,
    leaks=0.15,
)
REASON = dict(zip(DAMAGES, ("damaged", "unknown format", "empty"), strict=True))


def written(home: Path, config: WorldConfig, seed: int) -> tuple[Path, world.World]:
    stage_context, made = context(home, seed), world.generate(config, seed)
    with patch.object(world, "generate", lambda *_: made):
        world.work(stage_context, config)
    return stage_context.folder, made


def curated(home: Path, source: Path, config: CurateConfig) -> Path:
    stage_context = context(home)
    curate.work(stage_context, config, source)
    return stage_context.folder


def clusters(pairs):
    """The groups that pairs of things tie together."""
    group: dict[str, set[str]] = {}
    for one, other in pairs:
        joined = group.get(one, {one}) | group.get(other, {other})
        group.update(dict.fromkeys(joined, joined))
    return {frozenset(members) for members in group.values()}


def assert_recovered(folder: Path, made: world.World) -> None:
    lost = defaultdict(dict)
    for row in read_part(folder, "rejects").to_pylist():
        lost[row["part"]][row["id"]] = (row["reason"], row["detail"])
    merged = {item: detail for item, (reason, detail) in lost["corpus"].items() if "duplicate" in reason}
    broken = {item: reason for item, (reason, _) in lost["corpus"].items() if "duplicate" not in reason}
    planted = made.planted
    splits = {query.item.id: query.split for query in made.queries}
    assert broken == {item: REASON[damage] for item, damage in planted.corrupt_files.items()}
    assert clusters(merged.items()) == clusters([*planted.near_duplicates.items(), *planted.exact_duplicates.items()])
    assert len(merged) == len(planted.near_duplicates) + len(planted.exact_duplicates)
    assert sum(reason == "exact duplicate" for reason, _ in lost["corpus"].values()) == len(planted.exact_duplicates)
    assert lost["queries"] == {copy: (f"leaks into {splits[original]}", original) for copy, original in planted.leaks.items()}
    assert lost["triples"] == {}
    assert {reason for reason, _ in lost["qrels"].values()} <= {"judged twice", "query was rejected"}
    kept = set(read_part(folder, "corpus")["id"].to_pylist())
    assert kept == {item.id for item in made.corpus} - set(merged) - set(broken)


@pytest.mark.parametrize(("seed", "side"), [(0, 28), (1, 56), (2, 28)])
def test_corrupt_files_duplicates_and_leaks_are_recovered_to_the_item(tmp_path, seed, side):
    source, made = written(tmp_path / "world", replace(SPOILT, image_size=side), seed)
    assert_recovered(curated(tmp_path / "curate", source, CurateConfig()), made)


@pytest.mark.soak
def test_entities_in_the_number_of_the_quickstart_are_distinguished(ray_cluster, tmp_path):
    config = WorldConfig(entities=800, train_queries=300, leaks=0.02)
    source, made = written(tmp_path / "world", config, seed=0)
    assert_recovered(curated(tmp_path / "curate", source, CurateConfig()), made)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    return written(tmp_path_factory.mktemp("spoilt"), SPOILT, 5)[0]


@pytest.fixture(scope="module")
def usual(spoilt, tmp_path_factory):
    return curated(tmp_path_factory.mktemp("usual"), spoilt, CurateConfig())


def assert_same(one: Path, other: Path) -> None:
    for part in PARTS:
        assert read_part(one, part).equals(read_part(other, part)), part
    files = [{file.relative_to(folder): file.read_bytes() for file in folder.rglob("*") if file.is_file()} for folder in (one, other)]
    assert files[0] == files[1]


def test_a_small_corpus_is_curated_in_this_process_and_a_large_one_by_ray(spoilt, usual, tmp_path, monkeypatch):
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, None)
    assert is_small(spoilt)
    assert_same(curated(tmp_path / "small", spoilt, CurateConfig()), usual)
    monkeypatch.setattr(ray_tasks, "SMALL_BYTES", 1000)
    assert not is_small(spoilt)
    with pytest.raises(ImportError, match="ray"):
        curated(tmp_path / "large", spoilt, CurateConfig())


@pytest.mark.parametrize("fields", [{"workers": 1, "batch_size": 100}, {"workers": 2, "batch_size": 37}, {}])
def test_the_result_is_the_same_for_any_workers_and_any_size_of_pieces_and_again(by_ray, spoilt, usual, tmp_path, fields):
    assert_same(curated(tmp_path / "again", spoilt, CurateConfig(**fields)), usual)


def test_the_result_is_the_same_when_a_worker_is_killed(by_ray, spoilt, usual, tmp_path, monkeypatch):
    mark = tmp_path / "killed"

    class Mortal(RowCheck):
        def checked(self, table, place=0):
            if place >= 300 and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().checked(table, place)

    monkeypatch.setattr(curate, "RowCheck", Mortal)
    assert_same(curated(tmp_path / "again", spoilt, CurateConfig(batch_size=100)), usual)
    assert mark.exists()


def test_the_result_is_the_same_when_a_search_for_duplicates_is_killed(by_ray, spoilt, usual, tmp_path, monkeypatch):
    from mirepoix.components.curation import near_duplicates

    mark, driver, bucketed = tmp_path / "killed", os.getpid(), near_duplicates._pairs_in_buckets

    def mortal(*given):
        assert os.getpid() != driver, "several tables are searched in tasks"
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return bucketed(*given)

    monkeypatch.setattr(near_duplicates, "_pairs_in_buckets", mortal)
    monkeypatch.setattr(near_duplicates, "KEYS_AT_ONCE", 1000)
    assert_same(curated(tmp_path / "again", spoilt, CurateConfig()), usual)
    assert mark.exists()


def test_no_scratch_is_left_in_what_is_published(usual):
    assert sorted(child.name for child in usual.iterdir()) == ["corpus", "held", "kin", "qrels", "queries", "rejects", "triples"]
