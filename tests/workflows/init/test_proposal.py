"""What is proposed follows from what is there and from the machine, and says why."""

from dataclasses import replace

import pytest

from mirepoix.models.errors import Refused
from mirepoix.workflows.init.machine import Machine
from mirepoix.workflows.init.pictures import Pictures
from mirepoix.workflows.init.proposal import propose
from mirepoix.workflows.init.survey import Contents, Survey

MACHINE = Machine(cpus=4, rate=1e11, memory=16 * 10**9, disk=10**12)
PICTURES = Pictures(count=500, bytes=10**9, looked=300, megapixels=2.0, seconds=0.01)
ENGLISH = ("a dog on the beach with two people",)


def folder(splits=(), texts=ENGLISH, pictures=PICTURES, candidates=None) -> Survey:
    queries = {split: {"t->i": count} for split, count in splits}
    return Survey("mine", pictures, "folder", (), (), {}, Contents(candidates or {"i": 500}, queries, texts), 500)


def test_pictures_alone_are_searched_with_the_model_as_it_is():
    found = propose(folder(texts=()), MACHINE)
    assert (found.recipe, found.model.id) == ("search", "openai/clip-vit-base-patch32")
    assert "there is nothing to train on; a training is proposed from 100 captioned pictures on" in found.why and found.alternative == {}
    assert found.settings["embed"] == {"threads": 4}


def test_enough_pairs_are_trained_on_in_no_more_steps_than_they_fill():
    found = propose(folder([("train", 640)]), MACHINE)
    assert found.recipe == "finetune" and "640 pairs" in found.why
    assert found.settings["instruct"] == {"max_steps": 100, "cpus_per_worker": 4} and found.settings["curate"] == {"held_out": 0.1}
    assert propose(folder([("train", 10_000)]), replace(MACHINE, rate=1e12)).settings["instruct"]["max_steps"] == 300
    assert propose(folder([("train", 640), ("test", 9)]), MACHINE).settings["curate"] == {"held_out": 0.0}
    assert propose(folder([("train", 640)]), MACHINE, "search").alternative["recipe"] == "finetune"


@pytest.mark.parametrize(
    ("splits", "machine", "words"),
    [
        ([("train", 199)], {}, "to train on there are 199 pairs, and a training is proposed from 200 pairs on"),
        ([("train", 5000)], {"rate": 1e9}, "training takes about 117.9 hours on 4 cores"),
        ([("train", 5000)], {"memory": 4 * 10**9}, "training takes about 4.4 GB of memory, and 4.0 GB are free"),
    ],
)
def test_a_training_that_would_not_pay_here_is_not_proposed_and_the_reason_is_said(splits, machine, words):
    found = propose(folder(splits), replace(MACHINE, **machine))
    assert found.recipe == "search" and words in found.why
    assert found.alternative["recipe"] == "finetune", "it is in the file as a comment"


def test_validation_is_trained_on_where_there_is_no_split_train_and_another_to_measure_on():
    found = propose(folder([("validation", 640), ("test", 100)]), MACHINE)
    assert found.recipe == "finetune" and found.settings["sources"]["splits"] == ["validation=train"]
    assert propose(folder([("test", 100)]), MACHINE).recipe == "search"


@pytest.mark.parametrize(
    ("texts", "machine", "model"),
    [
        (("海滩上的一只狗",), {}, "OFA-Sys/chinese-clip-vit-base-patch16"),
        (("Ein Hund am Strand mit der Frau",), {}, "google/siglip-base-patch16-256-multilingual"),
        (ENGLISH, {"gpu": "NVIDIA L4", "gpu_memory": 23 << 30}, "openai/clip-vit-large-patch14"),
        (ENGLISH, {"gpu": "NVIDIA T400", "gpu_memory": 2 << 30}, "openai/clip-vit-base-patch32"),
    ],
)
def test_the_model_follows_the_language_and_the_gpu(texts, machine, model):
    found = propose(folder(texts=texts), replace(MACHINE, **machine))
    assert found.model.id == model
    assert found.settings["embed"].get("use_gpu", False) == bool(machine.get("gpu"))


def test_texts_alone_have_a_model_of_texts_where_its_library_is_installed():
    texts = folder(candidates={"t": 900}, pictures=Pictures(), splits=[("train", 900)])
    found = propose(texts, MACHINE)
    assert found.model.id == "sentence-transformers/all-MiniLM-L6-v2"
    assert found.settings["instruct"]["tuning"] == {"towers": ["text"]} and found.settings["instruct"]["loss"] == {"temperature": 0.05}
    without = propose(texts, replace(MACHINE, library=False))
    assert without.model.id == "openai/clip-vit-base-patch32" and 'pip install "mirepoix[sentence-transformers]"' in without.why_model


def test_what_is_amiss_is_said(monkeypatch):
    pictures = replace(
        PICTURES, refused=tuple((f"{name}.jpg", "damaged") for name in "abcde"), unread=(("heic", 1200, "convert it to JPEG"),)
    )
    small = replace(MACHINE, memory=10**9, disk=10**9, offline=True)
    assert propose(folder(pictures=pictures), small).warnings == (
        "1,200 .heic: convert it to JPEG",
        "5 of the 300 pictures looked at would be rejected: a.jpg (damaged), b.jpg (damaged), c.jpg (damaged) and 2 more",
        "this takes about 2.2 GB of memory, and 1.0 GB are free",
        "this takes about 4.8 GB on the disk, and 1.0 GB are free",
        "HF_HUB_OFFLINE is set and openai/clip-vit-base-patch32 is not here: give the folder of a model as backbone.name",
    )


def test_another_recipe_than_these_two_and_a_training_without_pairs_are_refused():
    with pytest.raises(Refused, match="init writes search or finetune"):
        propose(folder(), MACHINE, "unite")
    with pytest.raises(Refused, match="has no pair to train on"):
        propose(folder(), MACHINE, "finetune")


def test_captioned_pictures_are_said_as_such_and_count_in_both_directions():
    pictures = folder()
    queries = {"train": {"t->i": 12, "i->t": 12}}
    found = propose(replace(pictures, contents=replace(pictures.contents, queries=queries)), MACHINE)
    assert found.why == (
        "the model as it is: to train on there are 12 captioned pictures, which are 24 pairs, and a training is proposed from "
        "100 captioned pictures on"
    )
    queries = {"train": {"t->i": 100, "i->t": 100}}
    found = propose(replace(pictures, contents=replace(pictures.contents, queries=queries)), MACHINE)
    assert found.recipe == "finetune" and "100 captioned pictures, which are 200 pairs" in found.why


def test_an_estimate_near_the_limit_says_that_it_is_near():
    near = propose(folder([("train", 5000)]), replace(MACHINE, rate=1.2e11))
    assert "; a training of up to 60 minutes is proposed, and the estimate of 59 minutes is not far from that: take either" in near.why
    assert "near" not in propose(folder([("train", 5000)]), replace(MACHINE, rate=1e9)).why
    assert "near" not in propose(folder([("train", 5000)]), replace(MACHINE, rate=1e12)).why
