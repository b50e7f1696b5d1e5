"""What other settings against leakage would keep is counted where training queries leak."""

import pytest

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.models.item import Item
from tests.components.curation.corpora import curated_of

SUBJECTS = ("lighthouse", "harbour", "clock", "bakery", "tram", "orchard", "bridge", "library", "mill", "station")


def shared(tmp_path, **fields):
    """The table of a corpus that leaks."""
    return curated(tmp_path, **fields)[1].tables["leakage"]


def curated(tmp_path, **fields):
    """Ten texts, each the answer of a training query and of a test query; one more test query is worded as a training query is."""
    corpus = [Item(f"d{n}", text=f"the {word} of the town") for n, word in enumerate(SUBJECTS)]
    corpus.append(Item("other", text="what nobody in training is asked about"))
    queries = [Item(f"q{n}", text=f"somewhere {word} related to visit") for n, word in enumerate(SUBJECTS)]
    queries += [Item(f"test-{n}", text=f"what is worth {word} seeing") for n, word in enumerate(SUBJECTS)]
    queries.append(Item("test-same", text="somewhere mill related to visit"))
    qrels = [(f"{kind}{n}", f"d{n}") for kind in ("q", "test-") for n in range(10)] + [("test-same", "other")]
    return curated_of(tmp_path, CurateConfig(**fields), corpus=corpus, queries=queries, qrels=qrels)


def test_where_everything_leaks_each_other_setting_has_its_counts(tmp_path):
    rows = shared(tmp_path)
    assert rows[:3] == [
        {"setting": "curate.leakage=all", "training": 0, "held_out": 11},
        {"setting": "curate.leakage=queries", "training": 9, "held_out": 11},
        {"setting": "curate.leakage=off", "training": 10, "held_out": 11},
    ]
    assert rows[3] == {"setting": "sources.splits=test=train with curate.held_out=0.1", "training": 19, "held_out": 2}


@pytest.mark.parametrize(("leakage", "kept"), [("queries", 9), ("off", None)])
def test_the_setting_in_use_comes_first_and_without_a_loss_there_is_nothing_to_tell(tmp_path, leakage, kept):
    rows = shared(tmp_path, leakage=leakage)
    assert rows[:1] == ([{"setting": f"curate.leakage={leakage}", "training": kept, "held_out": 11}] if kept else [])


@pytest.mark.parametrize(("leakage", "kept"), [("all", 0), ("queries", 9), ("off", 10)])
def test_what_is_counted_for_a_setting_is_what_curation_with_it_keeps(tmp_path, leakage, kept):
    folder, _ = curated(tmp_path, leakage=leakage)
    assert read_part(folder, "queries")["split"].to_pylist().count("train") == kept
