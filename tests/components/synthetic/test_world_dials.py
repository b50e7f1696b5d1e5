"""Each field of the config plants exactly the flaws that it sets and removes nothing else."""

import time
from collections import defaultdict
from dataclasses import fields
from io import BytesIO

import pytest
from PIL import Image

from mirepoix.components.synthetic.drawing import DAMAGES
from mirepoix.components.synthetic.queries import TASKS
from mirepoix.components.synthetic.world import generate
from mirepoix.models.item import Modality
from tests.components.synthetic.test_world import SMALL, items_of, positives_of, small_config

REGULAR = 48 * (3 + 2 + 1 + 2)


@pytest.fixture(scope="module")
def world():
    return generate(SMALL, seed=7)


def test_missing_captions_are_exactly_those_recorded(world):
    items = items_of(world)

    assert len(set(world.planted.missing_captions)) == round(0.25 * 48)
    assert all(items[item_id].modality == Modality.IMAGE for item_id in world.planted.missing_captions)


def test_a_missing_caption_takes_nothing_else_away():
    whole, bare = (generate(small_config(missing_captions=share), seed=3) for share in (0.0, 1.0))
    lost = set(bare.planted.missing_captions)

    assert len(lost) == 48
    for one, other in zip(whole.corpus, bare.corpus, strict=True):
        assert one.images == other.images or one.id in world_copies(whole) | world_copies(bare)
        assert bool(one.text) != bool(other.text) if one.id in lost else one.text == other.text or one.id in world_copies(whole)


def world_copies(world):
    return set(world.planted.near_duplicates) | set(world.planted.exact_duplicates) | set(world.planted.corrupt_files)


def test_near_duplicates_are_exactly_those_recorded_and_differ_from_their_originals(world):
    items = items_of(world)
    planted = world.planted.near_duplicates

    assert len(planted) == round(0.1 * REGULAR) == len(set(planted.values()))
    for copy, original in planted.items():
        assert items[copy].modality == items[original].modality
        assert items[copy].text != items[original].text or not items[copy].text
        assert items[copy].images != items[original].images or not items[copy].images
        assert world.truth[copy] == world.truth[original]


def test_exact_duplicates_are_exactly_those_recorded_and_there_are_no_others(world):
    groups = defaultdict(list)
    for item in world.corpus:
        if item.id in world.truth:
            groups[item.text, item.images].append(item.id)
    doubled = {frozenset(ids) for ids in groups.values() if len(ids) > 1}

    assert len(world.planted.exact_duplicates) == round(0.05 * REGULAR)
    assert doubled == {frozenset(pair) for pair in world.planted.exact_duplicates.items()}


def test_a_copy_of_a_positive_is_a_positive(world):
    for found in positives_of(world).values():
        for copy, original in (world.planted.near_duplicates | world.planted.exact_duplicates).items():
            assert (copy in found) == (original in found)


def test_corrupt_files_are_exactly_those_that_no_decoder_reads(world):
    broken = set()
    for item in world.corpus:
        for image in item.images:
            try:
                Image.open(BytesIO(image)).load()
            except (OSError, SyntaxError):
                broken.add(item.id)

    assert broken == set(world.planted.corrupt_files)
    assert len(broken) == round(0.05 * REGULAR)
    assert set(world.planted.corrupt_files.values()) == set(DAMAGES)


def test_a_corrupt_file_is_no_positive_and_in_no_triple(world):
    used = {judgement.item_id for judgement in world.qrels} | {triple.image_id for triple in world.triples}

    assert not used & set(world.planted.corrupt_files)


def test_false_negatives_are_true_positives_of_training_that_qrels_lack():
    whole, lacking = generate(SMALL, seed=5), generate(small_config(false_negatives=0.2), seed=5)
    before = {(judgement.query_id, judgement.item_id) for judgement in whole.qrels}
    after = {(judgement.query_id, judgement.item_id) for judgement in lacking.qrels}
    training = {query.item.id for query in lacking.queries if query.split == "train"}

    assert before - after == set(lacking.planted.false_negatives)
    assert after < before
    assert len(before - after) == round(0.2 * sum(query_id in training for query_id, _ in before))
    assert {query_id for query_id, _ in before - after} <= training
    assert {query_id for query_id, _ in after} == {query_id for query_id, _ in before}


def test_leaks_are_training_copies_of_held_out_queries_with_all_their_answers():
    clean, leaking = generate(SMALL, seed=5), generate(small_config(leaks=0.1), seed=5)
    queries = {query.item.id: query for query in leaking.queries}
    positives, before = positives_of(leaking), len(clean.queries)

    assert leaking.queries[:before] == clean.queries and leaking.corpus == clean.corpus and leaking.triples == clean.triples
    assert [query.item.id for query in leaking.queries[before:]] == list(leaking.planted.leaks)
    assert len(leaking.planted.leaks) == round(0.1 * 40 * len(TASKS)) == len(set(leaking.planted.leaks.values()))
    kinds = set()
    for copy, original in leaking.planted.leaks.items():
        assert queries[copy].split == "train" and queries[original].split != "train"
        assert (queries[copy].task, queries[copy].intent) == (queries[original].task, queries[original].intent)
        assert positives[copy] == positives[original]
        kinds.add((queries[copy].item.text, queries[copy].item.images) == (queries[original].item.text, queries[original].item.images))
    assert kinds == {True, False}


def test_a_field_of_zero_plants_nothing():
    planted = generate(small_config(missing_captions=0.0, near_duplicates=0.0, exact_duplicates=0.0, corrupt_files=0.0), seed=0).planted

    assert not any(getattr(planted, field.name) for field in fields(planted))


@pytest.mark.soak
def test_generation_takes_time_in_proportion_to_the_world():
    def seconds(entities):
        config = small_config(entities=entities, train_queries=entities, evaluation_queries=10)
        started = time.process_time()
        generate(config, seed=0)
        return time.process_time() - started

    seconds(30)
    assert seconds(240) < 2 * 4 * seconds(60)


def test_a_world_without_held_out_things_has_only_the_other_splits():
    world = generate(small_config(held_out_combinations=0.0, validation_entities=0.0), seed=0)

    assert {query.split for query in world.queries} == {"train", "test_entity"}
