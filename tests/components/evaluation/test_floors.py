"""Floors on small corpora: their values are worked by hand, and what a ranking can tell nothing of is left out or counts as zero."""

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from mirepoix.components.evaluation import floors
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.evaluation.floors import thumbnail, unit_rows
from mirepoix.components.evaluation.floors_config import FloorsConfig
from mirepoix.components.evaluation.scoring.measuring import VALUES
from mirepoix.components.stage import Outcome
from mirepoix.models.errors import Refused
from mirepoix.serving.search.bm25 import SparseIndex, build_sparse
from tests.components.curation.corpora import png
from tests.components.fixtures import context, write_corpus

CONFIG = FloorsConfig.of(EvaluateConfig(), trained=True)


def drawn(seed: int) -> np.ndarray:
    """A picture of soft shapes, 64 pixels a side."""
    coarse = np.random.default_rng(seed).integers(40, 160, (5, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC), np.float32)


def encoded(pixels: np.ndarray, form: str = "PNG", size: tuple[int, int] | None = None) -> bytes:
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    out = BytesIO()
    (picture.resize(size) if size else picture).save(out, form)
    return out.getvalue()


def query(id: str, task: str = "t->t", **fields: Any) -> dict[str, Any]:
    return {"id": id, "split": "test", "task": task, **fields}


def judged(**answers: str) -> list[dict[str, Any]]:
    """Judgements, an answer for each query."""
    return [{"query_id": query, "item_id": item} for query, item in answers.items()]


def run(home: Path, config: FloorsConfig = CONFIG, **parts: Any) -> tuple[Outcome, Path]:
    """The outcome of the stage over a corpus of these parts, and its folder."""
    stage_context = context(home / "run")
    return floors.work(stage_context, config, write_corpus(home / "curate", **parts)), stage_context.folder


def values(folder: Path, measure: str, pool: str = "universal") -> dict[str, dict[str, float]]:
    """The values of a measure in a pool, by system and query."""
    found: dict[str, dict[str, float]] = {}
    for row in pq.read_table(folder / VALUES).to_pylist():
        if row["pool"] == pool:
            found.setdefault(row["system"], {})[row["query"]] = row[measure]
    return found


def ranked(file: Path) -> dict[str, list[str]]:
    """The items of a run, by query, in their order."""
    found: dict[str, list[str]] = {}
    for line in file.read_text().splitlines():
        found.setdefault(line.split()[0], []).append(line.split()[2])
    return found


WORDS = {
    "corpus": [{"id": "a", "text": "red star"}, {"id": "b", "text": "red disc"}, {"id": "c", "text": "blue disc, blue"}],
    "queries": [query("both", text="Blue discs? A blue disc!"), query("red", text="red"), query("none", text="the moon")],
    "qrels": judged(both="c", red="b", none="a"),
}


def test_bm25_ranks_texts_by_shared_words_and_what_shares_none_is_not_found(tmp_path):
    """`red` is in a and b, which are equally long, so ids decide; c has more of `both` than b has."""
    _, folder = run(tmp_path, **WORDS)
    assert ranked(folder / "bm25-universal.trec") == {"both": ["c", "b"], "red": ["a", "b"]}
    assert values(folder, "RR@10")["bm25"] == {"both": 1.0, "red": 0.5, "none": 0.0}
    assert values(folder, "R@1")["bm25"] == {"both": 1.0, "red": 0.0, "none": 0.0}


def test_the_texts_of_a_corpus_are_indexed_while_they_are_read(tmp_path, monkeypatch):
    texts, read, ahead = floors._texts, [], []

    def counted(folder: Path, part: str) -> Iterator[tuple[str, str]]:
        read.clear()
        for row in texts(folder, part):
            read.append(row)
            yield row

    def watched(stream: Iterator[str], ids: list[str], codes: list[int]) -> SparseIndex:
        kept = [(text, ahead.append(len(read) - place))[0] for place, text in enumerate(stream)]
        return build_sparse(kept, ids, codes)

    monkeypatch.setattr(floors, "_texts", counted)
    monkeypatch.setattr(floors, "build_sparse", watched)
    corpus = [{"id": f"d{number}", "text": "star" if number else "moon"} for number in range(9)]
    _, folder = run(tmp_path, replace(CONFIG, floors=("bm25",)), corpus=corpus, queries=[query("q", text="moon")], qrels=judged(q="d0"))
    assert ahead == [1] * 9 and values(folder, "R@1") == {"bm25": {"q": 1.0}}


def test_captions_of_pictures_are_words_too_and_a_pool_holds_bm25_as_any_other_ranking(tmp_path):
    corpus = [{"id": "picture", "text": "red disc", "images": [png("red")]}, {"id": "text", "text": "red disc"}]
    parts = {"queries": [query("q", "t->it", text="red")], "qrels": judged(q="text")}
    _, folder = run(tmp_path, corpus=corpus, **parts)
    assert ranked(folder / "bm25-universal.trec") == {"q": ["picture", "text"]}
    assert ranked(folder / "bm25-target.trec") == {"q": ["picture"]}, "the candidates of the modality that the task asks for"
    assert values(folder, "RR@10", "target")["bm25"] == {"q": 0.0}


COPIES = {
    "brightened": encoded(drawn(0) * 0.6 + 90),
    "smaller": encoded(drawn(1), size=(40, 24)),
    "compressed": encoded(drawn(2), "JPEG"),
    "noisy": encoded(drawn(3) + np.random.default_rng(9).normal(0, 12, (64, 64, 3))),
    "grey": encoded(drawn(4).mean(2)),
}


def test_nearest_pixels_finds_the_copy_of_a_picture_whatever_became_of_its_light_and_size(tmp_path):
    corpus = [{"id": f"p{seed}", "images": [encoded(drawn(seed))]} for seed in range(12)]
    queries = [query(name, "i->i", images=[picture]) for name, picture in COPIES.items()]
    queries.append(query("words", "t->i", text="which of the pictures?"))
    answers = {name: f"p{number}" for number, name in enumerate(COPIES)}
    outcome, folder = run(tmp_path, corpus=corpus, queries=queries, qrels=judged(**answers, words="p7"))
    assert values(folder, "R@1")["pixels"] == {**dict.fromkeys(COPIES, 1.0), "words": 0.0}
    assert [len(found) for found in ranked(folder / "pixels-universal.trec").values()] == [10] * len(COPIES), "as deep as the measures go"
    assert outcome.metrics == {"systems": 2} and values(folder, "R@1").keys() == {"pixels", "chance"}, "no candidate has a text"


def test_a_clip_is_its_middle_frame(tmp_path):
    other = encoded(drawn(99))
    clips = {name: [other, encoded(drawn(seed)), other] for seed, name in enumerate(("one", "two", "three"))}
    corpus = [{"id": name, "video": frames} for name, frames in clips.items()]
    queries = [query("frame", "i->v", images=[COPIES["smaller"]]), query("clip", "v->v", video=[other, COPIES["brightened"]])]
    _, folder = run(tmp_path, corpus=corpus, queries=queries, qrels=judged(frame="two", clip="one"))
    assert values(folder, "R@1", "target")["pixels"] == {"frame": 1.0, "clip": 1.0}


def row(picture: bytes) -> np.ndarray:
    """The vector of a picture."""
    return unit_rows(np.stack([thumbnail(picture)]))[0]


def test_a_thumbnail_is_the_same_for_brighter_and_opposite_for_inverted_pixels():
    picture, inverted = drawn(0), 255 - drawn(0)
    own = row(encoded(picture))
    assert own.shape == (257,) and np.linalg.norm(own) == pytest.approx(1)
    assert own @ row(encoded(picture * 0.5 + 20)) > 0.99
    assert own @ row(encoded(inverted)) < -0.99
    assert abs(own @ row(encoded(drawn(1)))) < 0.8


def test_flat_pictures_are_like_each_other_and_unlike_any_with_contrast():
    flat = row(png("red"))
    assert (flat == row(png("blue", side=30))).all() and np.linalg.norm(flat) == 1
    for seed in range(3):
        assert abs(flat @ row(encoded(drawn(seed)))) < 0.01


def test_how_many_thumbnails_become_vectors_at_a_time_decides_nothing(tmp_path, monkeypatch):
    corpus = [{"id": f"p{n}", "images": [encoded(drawn(n))]} for n in range(7)]
    asked = [query(f"q{n}", "i->i", images=[encoded(drawn(n) * 0.7 + 10)]) for n in range(7)]
    found = []
    for place, batch in enumerate((10_000, 3)):
        monkeypatch.setattr(floors, "BATCH", batch)
        _, folder = run(tmp_path / str(place), corpus=corpus, queries=asked, qrels=judged(**{f"q{n}": f"p{n}" for n in range(7)}))
        found.append(ranked(folder / "pixels-universal.trec"))
    assert found[0] == found[1] and [ranking[0] for _, ranking in sorted(found[0].items())] == [f"p{n}" for n in range(7)]


def test_a_flat_query_finds_flat_pictures_in_the_order_of_their_ids_and_then_others(tmp_path):
    corpus = [{"id": id, "images": [picture]} for id, picture in (("z", png("red")), ("m", encoded(drawn(0))), ("a", png("blue")))]
    _, folder = run(tmp_path, corpus=corpus, queries=[query("q", "i->i", images=[png("white")])], qrels=judged(q="m"))
    assert ranked(folder / "pixels-universal.trec") == {"q": ["a", "z", "m"]}
    assert values(folder, "RR@10")["pixels"] == {"q": pytest.approx(1 / 3)}


MIXED = {
    "corpus": [
        *({"id": f"t{n}", "text": f"text {n}"} for n in range(3)),
        *({"id": f"i{n}", "images": [encoded(drawn(n))]} for n in range(2)),
    ],
    "queries": [query("one", "t->i", text="x"), query("two", "t->t", text="x"), query("silent", "t->t", text="x")],
    "qrels": [*judged(one="i0", two="t0"), {"query_id": "two", "item_id": "i1"}],
}


def test_chance_is_the_exact_mean_over_all_orders_of_the_candidates(tmp_path):
    _, folder = run(tmp_path, **MIXED)
    # Of five candidates one is relevant to `one`, and two are to `two`, of which its own three candidates have one.
    assert values(folder, "R@1")["chance"] == pytest.approx({"one": 1 / 5, "two": 2 / 5 / 2, "silent": 0})
    assert values(folder, "R@1", "target")["chance"] == pytest.approx({"one": 1 / 2, "two": 1 / 3 / 2, "silent": 0})
    assert values(folder, "RR@10")["chance"]["one"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5) / 5)
    # The first relevant of two among five is first in 4 of 10 orders of their places, second in 3, third in 2, fourth in 1.
    assert values(folder, "RR@10")["chance"]["two"] == pytest.approx((4 + 3 / 2 + 2 / 3 + 1 / 4) / 10)
    assert not list(folder.glob("chance-*.trec")), "it has no ranking"


@pytest.mark.parametrize(
    ("queries", "corpus", "systems"),
    [
        ([query("q", "i->i", images=[png("red")])], [{"id": "a", "images": [png("red")], "text": "a"}], {"pixels", "chance"}),
        ([query("q", text="a")], [{"id": "a", "images": [png("red")], "text": "a"}], {"bm25", "chance"}),
        ([query("q", text="a")], [{"id": "a", "images": [png("red")]}], {"chance"}),
        ([query("q", "i->t", images=[png("red")])], [{"id": "a", "text": "a"}], {"chance"}),
        ([query("q", text=" \n")], [{"id": "a", "text": "a"}], {"chance"}),
        ([query("q", "it->it", text="a", images=[png("red")])], [{"id": "a", "images": [png("red")], "text": "a"}], {*CONFIG.floors}),
    ],
    ids=["no text asked", "no picture asked", "no text there", "no picture there", "white space", "both"],
)
def test_a_ranking_that_can_tell_nothing_of_any_query_is_left_out(queries, corpus, systems, tmp_path):
    outcome, folder = run(tmp_path, corpus=corpus, queries=queries, qrels=judged(q="a"))
    assert values(folder, "R@1").keys() == systems and outcome.metrics == {"systems": len(systems)}
    assert {file.name.partition("-")[0] for file in folder.glob("*.trec")} == systems - {"chance"}


def test_only_the_floors_that_are_named_are_measured(tmp_path):
    _, folder = run(tmp_path, FloorsConfig.of(EvaluateConfig(floors=("chance",)), trained=True), **WORDS)
    assert values(folder, "R@1").keys() == {"chance"}


@pytest.mark.parametrize(("trained", "measured"), [(True, {"held"}), (False, {"held", "learnt"})])
def test_queries_that_are_trained_on_are_not_measured(trained, measured, tmp_path):
    queries = [query("held", text="red"), query("learnt", text="red") | {"split": "train"}]
    config = replace(CONFIG, trained=trained)
    outcome, folder = run(tmp_path, config, corpus=WORDS["corpus"], queries=queries, qrels=judged(held="a", learnt="a"))
    assert values(folder, "R@1")["bm25"].keys() == values(folder, "R@1")["chance"].keys() == measured
    assert outcome.rows.read == outcome.rows.written == len(measured)


@pytest.mark.parametrize("queries", [[], [query("learnt", text="red") | {"split": "train"}]], ids=["none", "of train"])
def test_a_corpus_without_a_query_to_measure_is_not_read(queries, tmp_path):
    unread = [{"id": "a", "images": [b"no picture"]}]
    outcome, folder = run(tmp_path, corpus=unread, queries=queries, qrels=[])
    assert pq.read_table(folder / VALUES).num_rows == 0 and outcome.metrics == {"systems": 0}


def test_progress_reaches_its_total_whatever_is_left_out(tmp_path):
    for name, parts in (("words", WORDS), ("mixed", MIXED)):
        steps = []
        floors.work(context(tmp_path / name, report=steps.append), CONFIG, write_corpus(tmp_path / name / "curate", **parts))
        assert [step["step"] for step in steps] == sorted(step["step"] for step in steps)
        assert steps[-1] == {"step": 3 * 2 * 3, "total": 3 * 2 * 3}, "three queries in two pools by three rankings"


def test_a_board_that_has_none_of_the_data_sets_is_refused_at_once(tmp_path):
    config = FloorsConfig.of(EvaluateConfig(board="mbeir", measure="main"), trained=True)
    with pytest.raises(Refused) as refusal:
        run(tmp_path, config, **WORDS)
    assert str(refusal.value) == (
        "evaluate.board is 'mbeir', and no query is of one of its data sets: the corpus has made (t->t), the board visualnews (t->i), "
        "mscoco (t->i), fashion200k (t->i), webqa (t->t), edis (t->it) and 11 more; name another board, or evaluate.board=null"
    )


@pytest.mark.parametrize(
    "config",
    [
        EvaluateConfig(),
        EvaluateConfig(board="mmeb_v2", measure="main"),
        EvaluateConfig(measures=("AP@7", "P@3"), measure="P@3", pool="target"),
    ],
)
def test_the_settings_of_floors_are_those_of_their_evaluation_without_its_headline(config):
    own = FloorsConfig.of(config, trained=True)
    found = own.evaluation()
    assert (found.measured, sorted(found.measured_pools)) == (config.measured, sorted(config.measured_pools))
    assert (found.board, found.ignore_same_id, own.floors) == (config.board, config.ignore_same_id, config.floors)
