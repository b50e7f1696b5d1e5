"""Passages that are added answer queries of the training split, each has its provenance, and every dropped row has a reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.ingestion.formats import vid2r as formats_vid2r
from mirepoix.components.passages import passages
from mirepoix.components.passages.passages_config import PassagesConfig, outside
from mirepoix.components.passages.vid2r import apply_rules, content_words
from mirepoix.components.passages.vid2r_config import Vid2rConfig
from mirepoix.models.encoder import load_encoder
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.vectors import maxsim
from mirepoix.serving.release import read_release
from mirepoix.serving.store import read_manifest
from tests.components.fixtures import Made, context, made, write_corpus
from tests.components.ingestion.formats.format_cases import corpus_of, picture, rows_of, write_files
from tests.components.passages.dialogues import KNOWLEDGE, PICTURES, TRIPLES, adds_up, corpus, dialogues, rows, triple


@pytest.fixture
def curate(tmp_path) -> Path:
    return dialogues(tmp_path / "curate")


def vid2r(home: Path, curate: Path, **changes: Any) -> Made:
    return made(home, passages.work, PassagesConfig(kind="vid2r", vid2r=Vid2rConfig(**{"found_within": 1, **changes})), curate=curate)


def test_answers_of_the_training_split_become_passages_with_their_questions(curate, tmp_path):
    found = vid2r(tmp_path / "out", curate)
    adds_up(found)
    (first, _) = rows(found, "queries")
    given = read_part(curate, "triples").to_pylist()[0]
    assert (first["id"], first["split"], first["task"]) == ("vid2r/t1", "train", "it->t")
    assert all(first[name] == given[name] for name in ("text", "images", "source", "line"))
    passage = rows(found, "corpus")[0]
    assert passage["text"] == (
        "Lighthouses guide ships along the coast. Their lamps are strong. It guides passing ships safely along the rocky coast at night. "
        "A lighthouse tower is often white. It stands on rocks. Ships carry goods. They cross oceans."
    )
    assert passage["images"] == [] and (passage["source"], passage["line"]) == ("made/triples", 1)


def test_each_drop_is_written_down_with_its_reason_and_its_place(curate, tmp_path):
    found = vid2r(tmp_path / "out", curate)
    lost = {row["id"]: (row["part"], row["reason"], row["source"], row["line"]) for row in rows(found, "rejects")}
    assert lost == {
        "t3": ("triples", "how many", "made/triples", 3),
        "t4": ("triples", "too short", "made/triples", 4),
        "t5": ("triples", "found by text", "made/triples", 5),
    }
    assert found.outcome.metrics["rejected found by text"] == found.outcome.metrics["rejected how many"] == 1
    assert found.outcome.rows.read == 5  # those of another split are not read


def test_the_neural_filter_is_really_applied_and_reports_its_figures(curate, tmp_path):
    with_filter, without = vid2r(tmp_path / "with", curate), vid2r(tmp_path / "without", curate, found_within=0)
    assert {row["id"] for row in rows(without, "queries")} - {row["id"] for row in rows(with_filter, "queries")} == {"vid2r/t5"}
    metrics = with_filter.outcome.metrics
    assert (metrics["filter_questions"], metrics["filter_found"], metrics["filter_found_first"]) == (3, 1, 1)
    assert metrics["filter_answers"] == 3 and metrics["filter_mean_reciprocal_rank"] == pytest.approx(1 / 3)
    assert "rank 1" in next(row["detail"] for row in rows(with_filter, "rejects") if row["id"] == "t5")


def test_the_filter_drops_by_rank_and_not_by_chance(tmp_path):
    """Three answers share the question's words better than a sample's own: among the first three it is not found, among four it is."""
    shared = "the harbour of the northern town holds"
    given = [triple("own", f"What of {shared}?", "something of the harbour that one must see in the picture")]
    given += [triple(f"o{n}", "Who?", f"{shared} {'boats ' * n}and gulls") for n in (1, 2, 3)]
    folder = corpus(tmp_path / "curate", given)
    three, four = (vid2r(tmp_path / str(most), folder, found_within=most) for most in (3, 4))
    assert "vid2r/own" in {row["id"] for row in rows(three, "queries")}
    assert {row["id"]: row["detail"] for row in rows(four, "rejects")}["own"].startswith("rank 4")


def test_the_concise_answer_and_what_went_in_are_kept_beside(curate, tmp_path):
    provenance = rows(vid2r(tmp_path / "out", curate), "passages")[0]
    assert provenance["answer"] == TRIPLES[0][2] and provenance["model"] == "bm25" and provenance["kind"] == "vid2r"
    assert provenance["sources"] == ["t1", "k1", "k2", "k3"] and provenance["prompt"] is None and not provenance["cached"]


def test_the_knowledge_base_is_the_texts_alone(curate, tmp_path):
    found = vid2r(tmp_path / "out", curate, neighbours=9)
    assert found.outcome.metrics["knowledge_base"] == len(KNOWLEDGE)
    assert not {"c1", "c2"} & {id for row in rows(found, "passages") for id in row["sources"]}


def test_what_answers_a_held_out_query_is_in_no_passage(tmp_path):
    given = [triple(*TRIPLES[0], evidence=["k1"])]
    asked = [{"id": split, "text": "x", "split": split, "task": "t->t"} for split in ("train", "test")]
    judged = [{"query_id": "test", "item_id": "k1"}, {"query_id": "train", "item_id": "k2"}]
    found = vid2r(tmp_path / "out", corpus(tmp_path / "curate", given, queries=asked, qrels=judged))
    adds_up(found)
    ((provenance,), (passage,)) = rows(found, "passages"), rows(found, "corpus")
    assert "k1" not in provenance["sources"] and "k2" in provenance["sources"]
    assert "Lighthouses guide ships" not in passage["text"] and "A lighthouse tower is often white." in passage["text"]
    assert found.outcome.metrics["held_out_answers"] == 1 and found.outcome.metrics["knowledge_base"] == len(KNOWLEDGE) - 1


def test_pictures_of_the_folder_that_is_left_out_are_counted_from_the_file_on(tmp_path):
    folders = ("images/VG_100K", "VG_100K_2", "coco")
    records = [
        {"question": f"What is in {folder}?", "image": f"{folder}/1.png", "doc": KNOWLEDGE[f"k{n}"], "answer": f"{TRIPLES[1][2]} {n}"}
        for n, folder in enumerate(folders, 1)
    ]
    files = {f"{folder}/1.png": picture(n) for n, folder in enumerate(folders)}
    given = rows_of(
        formats_vid2r, write_files(tmp_path / "mine", {"ViD2R.json": "[" + ",\n".join(map(json.dumps, records)) + "]", **files})
    )
    found = vid2r(tmp_path / "out", corpus_of(tmp_path / "curate", given), found_within=0)
    adds_up(found)
    lost = [(row["reason"], row["source"], row["line"]) for row in rows(found, "rejects")]
    assert lost == [("excluded folder", "mine/ViD2R.json", line) for line in (1, 2)]
    assert found.outcome.metrics["rejected excluded folder"] == 2 and found.outcome.rows.written == 1


def test_the_settings_reach_the_rules_and_the_form(curate, tmp_path):
    found = vid2r(tmp_path / "out", curate, neighbours=1, sentences=1, form="titled", min_characters=4, few_words=0)
    assert rows(found, "corpus")[0]["text"].startswith("Title: It guides passing ships safely along the rocky coast at night. content:")
    assert "t4" in {row["id"] for row in rows(found, "rejects")}  # nothing is left of a bare yes
    assert found.outcome.metrics["nouns_by_spacy"] == 0


def test_answers_about_one_picture_can_be_each_others_negatives(tmp_path):
    given = [triple(f"t{n}", "What is there?", f"there is object number {n} of this picture", images=[PICTURES[0]]) for n in (1, 2)]
    given.append(triple("t3", "What is there?", "there is object number three of another picture", images=[PICTURES[1]]))
    found = vid2r(tmp_path / "out", corpus(tmp_path / "curate", given), negatives=True, found_within=0)
    adds_up(found)
    own = {row["query_id"]: row["item_id"] for row in rows(found, "qrels") if row["relevance"] == 1}
    others = {(row["query_id"], row["item_id"]) for row in rows(found, "qrels") if row["relevance"] == 0}
    assert others == {("vid2r/t1", own["vid2r/t2"]), ("vid2r/t2", own["vid2r/t1"])}


def test_equal_passages_are_one_candidate_for_all_their_queries(tmp_path):
    given = [triple(f"t{n}", f"What is thing {n}?", "the very same answer about the lighthouse on the rocks") for n in (1, 2)]
    found = vid2r(tmp_path / "out", corpus(tmp_path / "curate", given), found_within=0)
    adds_up(found)
    assert len(rows(found, "corpus")) == 1 and len(rows(found, "qrels")) == 2 and found.outcome.metrics["passages"] == 1


def test_a_releases_encoder_can_be_the_text_retriever(curated, released, tmp_path):
    config = PassagesConfig(kind="vid2r", vid2r=Vid2rConfig(retriever=str(released.folder), found_within=2, min_characters=1))
    assert outside(config) == {"release": read_manifest(released.folder).digest}
    found = made(tmp_path / "out", passages.work, config, curate=curated.folder)
    adds_up(found)
    encoder, wording = load_encoder(released.folder / "encoder"), read_release(released.folder).instructions["t->t"]
    given = [row for row in read_part(curated.folder, "triples").to_pylist() if row["split"] == "train"]
    cleaned = [apply_rules(row["text"], row["answer"], True, "", config.vid2r, content_words).text for row in given]
    answers = list(dict.fromkeys(cleaned))
    asked = encoder.encode([Item("", row["text"], instruction=wording) for row in given])
    first = maxsim(asked, encoder.encode([Item("", text) for text in answers])).topk(2).indices.tolist()
    expected = {row["id"] for row, text, ranks in zip(given, cleaned, first, strict=True) if text in [answers[n] for n in ranks]}
    assert {row["id"] for row in rows(found, "rejects") if row["reason"] == "found by text"} == expected
    assert all(row["model"] != "bm25" and len(row["sources"]) == 4 for row in rows(found, "passages"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.parquet")}


def test_the_same_comes_out_again_and_progress_ends_at_its_total(curate, tmp_path):
    first, steps = vid2r(tmp_path / "first", curate), []
    again = context(tmp_path / "again", report=steps.append)
    passages.work(again, PassagesConfig(kind="vid2r", vid2r=Vid2rConfig(found_within=1)), curate=curate)
    assert files(first.folder) == files(again.folder)
    assert steps[-1] == {"step": 10, "total": 10}
    assert sorted(path.name for path in again.folder.iterdir()) == ["corpus", "passages", "qrels", "queries", "rejects"]


def test_the_generated_world_becomes_passages_that_state_its_facts(curated, tmp_path):
    """Its answers are single words, which the rules of visual curate would drop; the sentences around each are facts of other things."""
    found = vid2r(tmp_path / "out", curated.folder, min_characters=1, found_within=3)
    adds_up(found)
    given = {row["id"]: row for row in read_part(curated.folder, "triples").to_pylist()}
    training = {id for id, row in given.items() if row["split"] == "train"}
    assert 0 < found.outcome.rows.read == len(training) < len(given)
    provenance = {row["item_id"]: row for row in rows(found, "passages")}
    for row in rows(found, "corpus"):
        assert provenance[row["id"]]["answer"] in row["text"].lower() + row["text"]
    assert {row["query_id"].removeprefix("vid2r/") for row in provenance.values()} <= training


def test_when_no_answer_becomes_a_passage_the_refusal_counts_the_reasons(tmp_path):
    folder = corpus(tmp_path / "curate", [triple("t1", "Is it?", "Yes."), triple("t2", "How many?", "42")])
    with pytest.raises(Refused, match=r"none of 2 triples gave a passage \(too short: 1, only digits: 1\)"):
        vid2r(tmp_path / "out", folder)


@pytest.mark.parametrize("kind", ["vid2r", "written"])
def test_a_corpus_without_triples_or_without_trained_ones_is_refused(tmp_path, kind):
    bare, held = write_corpus(tmp_path / "bare"), corpus(tmp_path / "held", [triple(*TRIPLES[0], split="validation")])
    with pytest.raises(Refused, match=r"the corpus has no triples .* set passages.kind=none"):
        made(tmp_path / "one", passages.work, PassagesConfig(kind=kind), curate=bare)
    with pytest.raises(Refused, match="no triple is of the split train; there are validation: check the splits"):
        made(tmp_path / "two", passages.work, PassagesConfig(kind=kind), curate=held)


def test_a_corpus_without_texts_is_refused(tmp_path):
    bare = corpus(tmp_path / "bare", [triple(*TRIPLES[0])], corpus=[{"id": "c", "images": [PICTURES[0]]}])
    with pytest.raises(Refused, match="no text-only candidate"):
        vid2r(tmp_path / "out", bare)
