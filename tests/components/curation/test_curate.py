"""Curation keeps or rejects with a reason, and every row is accounted for."""

import io
from dataclasses import replace

import pyarrow as pa
import pytest
from PIL import Image

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.curation import curate
from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.ingestion import sources
from mirepoix.components.ingestion.formats import beir, canonical, mbeir, webqa
from mirepoix.components.ingestion.formats.rows import Judgement
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, item_to_row
from tests.components.curation.corpora import CORPUS, QRELS, QUERIES, context, curated_of, png, rejects, write_corpus
from tests.components.fixtures import made
from tests.components.fixtures import write_corpus as write_whole
from tests.components.ingestion.formats.format_cases import rows_of


@pytest.fixture(scope="module")
def curated(tmp_path_factory):
    home = tmp_path_factory.mktemp("curate")
    outcome = curate.work(context(home / "out"), CurateConfig(max_rejected=0.5), write_corpus(home / "in"))
    return home / "out", outcome


def test_what_cannot_be_decoded_is_rejected_with_a_reason_and_its_place(curated):
    folder, _ = curated
    lost = [row for row in read_part(folder, "rejects").to_pylist() if row["part"] == "corpus"]
    assert [(row["id"], row["reason"], row["detail"], row["source"], row["line"]) for row in lost] == [
        ("broken", "damaged", "", "s", 2),
        ("garbage", "unknown format", "", "s", 3),
        ("again", "exact duplicate", "good", "s", 4),
    ]


def test_the_first_of_exact_duplicates_is_kept_and_answers_for_the_others(curated):
    folder, outcome = curated
    assert read_part(folder, "corpus")["id"].to_pylist() == ["good", "words", "palette"]
    judged = {(row["query_id"], row["item_id"], row["relevance"]) for row in read_part(folder, "qrels").to_pylist()}
    assert judged == {("q-good", "good", 1), ("q-good", "words", 1)}
    assert outcome.metrics["exact_duplicates"] == 1


def test_queries_without_an_answer_or_with_a_damaged_picture_go(curated):
    folder, _ = curated
    queries = read_part(folder, "queries")
    assert queries["id"].to_pylist() == ["q-good"]
    assert queries["task"].to_pylist() == ["t->it"]
    assert rejects(folder, "queries") == {"q-broken": ("no answer is left", ""), "q-damaged": ("damaged", "")}
    assert rejects(folder, "qrels") == {
        "q-good again": ("judged twice", "good"),
        "q-good broken": ("answer was rejected", "damaged"),
        "q-broken broken": ("answer was rejected", "damaged"),
        "q-damaged words": ("query was rejected", "damaged"),
    }


def test_every_row_is_accounted_for(curated):
    folder, outcome = curated
    written = sum(read_part(folder, part).num_rows for part in ("corpus", "queries", "qrels"))
    assert outcome.rows.read == len(CORPUS) + len(QUERIES) + len(QRELS)
    assert outcome.rows.written == written
    assert outcome.rows.rejected + outcome.rows.merged == read_part(folder, "rejects").num_rows
    assert outcome.rows.merged == 2
    assert {(row["reason"], row["part"], row["count"]) for row in outcome.tables["rejects"]} == {
        ("damaged", "corpus", 1), ("unknown format", "corpus", 1), ("exact duplicate", "corpus", 1), ("damaged", "queries", 1),
        ("no answer is left", "queries", 1), ("answer was rejected", "qrels", 2), ("query was rejected", "qrels", 1),
        ("judged twice", "qrels", 1),
    }  # fmt: skip
    examples = {(row["part"], row["reason"], row["place"], row["id"], row["detail"]) for row in outcome.tables["examples"]}
    assert (
        len(examples) == 9
        and {
            ("corpus", "damaged", "s:2", "broken", ""),
            ("corpus", "exact duplicate", "s:4", "again", "good"),
            ("qrels", "answer was rejected", "judges:4", "q-good broken", "damaged"),
            ("qrels", "answer was rejected", "judges:5", "q-broken broken", "damaged"),
        }
        < examples
    )
    assert outcome.metrics["rejected damaged"] == 2
    assert outcome.tables["mixture"] == [
        {"source": "", "task": "t->it", "before": 5, "after": 2},
        {"source": "q", "task": "t->it", "before": 1, "after": 0},
    ]
    assert sorted(child.name for child in folder.iterdir()) == ["corpus", "held", "kin", "qrels", "queries", "rejects"]


def test_pictures_come_out_upright_and_plain(curated):
    folder, _ = curated
    rows = {row["id"]: row for row in read_part(folder, "corpus").to_pylist()}
    assert Image.open(io.BytesIO(rows["palette"]["images"][0])).mode == "RGB"
    assert rows["good"]["images"][0] == CORPUS[0].images[0]


def test_too_many_rejects_stop_the_run_and_say_why(tmp_path):
    with pytest.raises(Refused, match=r"2 of the 6 candidates were rejected \(damaged: 1, unknown format: 1\).*max_rejected=0.1"):
        curate.work(context(tmp_path / "out"), CurateConfig(max_rejected=0.1), write_corpus(tmp_path / "in"))


def test_a_corpus_without_a_usable_candidate_is_refused(tmp_path):
    bad = [replace(item, images=(b"x",)) for item in CORPUS]
    with pytest.raises(Refused, match="empty after curation: all 6 candidates"):
        curate.work(context(tmp_path / "out"), CurateConfig(max_rejected=1.0), write_corpus(tmp_path / "in", bad))


def test_the_result_does_not_depend_on_how_the_rows_are_cut(by_ray, curated, tmp_path):
    folder, _ = curated
    curate.work(context(tmp_path / "out"), CurateConfig(max_rejected=0.5, batch_size=1), write_corpus(tmp_path / "in", rows_per_file=4))
    for part in ("corpus", "queries", "qrels", "rejects"):
        assert read_part(tmp_path / "out", part).to_pylist() == read_part(folder, part).to_pylist()


def test_the_result_does_not_depend_on_how_many_work(by_ray, curated, tmp_path):
    folder, _ = curated
    other, _ = curated_of(tmp_path, CurateConfig(max_rejected=0.5, workers=1))
    for part in ("corpus", "queries", "qrels", "rejects", "kin"):
        assert read_part(other, part).to_pylist() == read_part(folder, part).to_pylist()


# Who is kept


def test_of_equal_candidates_the_one_is_kept_that_answers_a_held_out_query_then_the_first_by_source_line_and_id(tmp_path):
    corpus = [
        Item("c", text="one text", source="b", line=1),
        Item("b", text="one text", source="a", line=7),
        Item("a", text="One text!", source="a", line=7),
        Item("z", text="another text", source="a", line=1),
        Item("y", text="another text", source="z", line=9),
    ]
    queries = [Item("q1", text="find one"), Item("test-q2", text="find another")]
    folder, outcome = curated_of(tmp_path, corpus=corpus, queries=queries, qrels=[("q1", "c"), ("test-q2", "y")])
    assert rejects(folder, "corpus") == {"c": ("exact duplicate", "a"), "b": ("near-duplicate", "a"), "z": ("exact duplicate", "y")}
    assert {(row["query_id"], row["item_id"]) for row in read_part(folder, "qrels").to_pylist()} == {("q1", "a"), ("test-q2", "y")}
    assert (outcome.metrics["exact_duplicates"], outcome.metrics["near_duplicates"]) == (2, 1)


def test_of_two_judgements_that_become_one_the_higher_relevance_wins_with_its_score_and_place(tmp_path):
    corpus = [Item(name, text=text) for name, text in (("a", "one text"), ("b", "one text"), ("c", "other text"))]
    folder, outcome = curated_of(
        tmp_path, corpus=corpus, queries=[Item("q", text="find")], qrels=[("q", "a", 0, 0.1), ("q", "b", 2, 0.9), ("q", "c", 1, 0.2)]
    )
    judgements = [(row["item_id"], row["relevance"], round(row["score"], 1), row["line"]) for row in read_part(folder, "qrels").to_pylist()]
    assert judgements == [("a", 2, 0.9, 2), ("c", 1, 0.2, 3)]
    assert rejects(folder, "qrels") == {"q a": ("judged twice", "a")}
    assert outcome.rows.merged == 2


@pytest.mark.parametrize("ahead", [False, True])
def test_of_two_judgements_of_one_relevance_that_of_the_first_source_and_line_wins_in_whatever_order_they_come(ahead, tmp_path):
    judged = [{"query_id": "q", "item_id": name, "relevance": 1, "score": score} for name, score in (("a", 0.9), ("b", 0.1))]
    rows = [{**judged[0], "source": "s", "line": 7}, {**judged[1], "source": "s", "line": 3}]
    corpus = [Item(name, text="one text") for name in "ab"]
    parts = {"qrels": rows[::-1] if ahead else rows}
    folder, _ = curated_of(tmp_path, corpus=corpus, queries=[Item("q", text="find")], qrels=[], parts=parts)
    judgements = [(row["item_id"], round(row["score"], 1), row["line"]) for row in read_part(folder, "qrels").to_pylist()]
    assert judgements == [("a", 0.1, 3)]


def test_near_duplicates_may_be_kept_and_are_kin_then(tmp_path):
    corpus = [Item("a", text="one text"), Item("b", text="One text!"), Item("c", text="one text", images=(png("red"),))]
    everything = {"corpus": corpus, "queries": [Item("q", text="find")], "qrels": [("q", "a")]}
    folder, outcome = curated_of(tmp_path, CurateConfig(near_duplicates="keep"), **everything)
    kin = {(row["item_id"], row["kin_id"]): row["why"] for row in read_part(folder, "kin").to_pylist()}
    assert kin == {("a", "b"): "same text", ("a", "c"): "same text", ("b", "c"): "same text"}
    assert rejects(folder, "corpus") == {}
    assert outcome.metrics["kin"] == 3
    folder, _ = curated_of(tmp_path, **everything)
    assert [(row["item_id"], row["kin_id"], row["why"]) for row in read_part(folder, "kin").to_pylist()] == [("a", "c", "same text")]


BENCHMARK = {
    "corpus": [Item("a", text="one text"), Item("b", text="one text"), Item("c", text="another text"), Item("torn", images=(b"png",))],
    "queries": [Item("q", text="find"), Item("test-q", text="what is one?"), Item("test-lost", text="what is torn?")],
    "qrels": [("q", "c"), ("test-q", "b", 3), ("test-lost", "torn"), ("test-lost", "c", 0)],
}
MEMBERS = [{"pool": pool, "item_id": item} for pool, item in (("p", "a"), ("p", "b"), ("q", "b"), ("q", "torn"), ("q", "c"))]


def members(folder):
    return [(row["pool"], row["item_id"]) for row in read_part(folder, "pools").to_pylist()]


def test_members_of_pools_follow_their_candidates_and_are_accounted_for(tmp_path):
    folder, outcome = curated_of(tmp_path, CurateConfig(max_rejected=0.5), parts={"pools": MEMBERS}, **BENCHMARK)
    assert members(folder) == [("p", "b"), ("q", "b"), ("q", "c")], "b answers a test query, so a is merged into it"
    counts = {row["reason"]: row["count"] for row in outcome.tables["rejects"] if row["part"] == "pools"}
    assert counts == {"member twice": 1, "candidate was rejected": 1} and outcome.metrics["pools"] == 3
    assert outcome.rows.read == 4 + 3 + 4 + 5


def test_a_benchmark_may_keep_equal_candidates_each_with_its_own_judgements_and_places(tmp_path):
    config = CurateConfig(exact_duplicates="keep", near_duplicates="keep", max_rejected=0.5)
    folder, outcome = curated_of(tmp_path, config, parts={"pools": MEMBERS}, **BENCHMARK)
    assert read_part(folder, "corpus")["id"].to_pylist() == ["a", "b", "c"]
    assert members(folder) == [("p", "a"), ("p", "b"), ("q", "b"), ("q", "c")]
    assert [(row["query_id"], row["item_id"], row["relevance"]) for row in read_part(folder, "qrels").to_pylist()] == [
        ("q", "c", 1),
        ("test-q", "b", 3),
    ]
    assert [(row["item_id"], row["kin_id"], row["why"]) for row in read_part(folder, "kin").to_pylist()] == [("a", "b", "same text")]
    assert read_part(folder, "held")["item_id"].to_pylist() == ["a", "b"], "a copy of an answer is held out too"
    assert outcome.metrics["exact_duplicates"] == 0


def test_many_equal_candidates_that_are_kept_are_no_kin(tmp_path):
    config = CurateConfig(exact_duplicates="keep", near_duplicates="keep", largest_kin=4)
    corpus = [Item(f"d{n}", text="one text") for n in range(5)]
    folder, outcome = curated_of(tmp_path, config, corpus=corpus, queries=[Item("q", text="find")], qrels=[("q", "d0")])
    assert (read_part(folder, "kin").num_rows, outcome.metrics["large_kin_groups"], outcome.metrics["corpus"]) == (0, 1, 5)


def test_a_query_without_an_answer_may_stay_outside_of_training(tmp_path):
    corpus, queries = BENCHMARK["corpus"], [*BENCHMARK["queries"], Item("none", text="what else?"), Item("test-none", text="and what?")]
    for config, kept in (({}, ["q", "test-q"]), ({"unanswered": "keep"}, ["q", "test-q", "test-lost", "test-none"])):
        rules = CurateConfig(max_rejected=0.5, **config)
        folder, _ = curated_of(tmp_path, rules, corpus=corpus, queries=queries, qrels=BENCHMARK["qrels"])
        assert read_part(folder, "queries")["id"].to_pylist() == kept
    assert {(row["query_id"], row["item_id"]) for row in read_part(folder, "qrels").to_pylist()} >= {("test-lost", "c")}


def test_a_query_with_answers_as_texts_needs_no_judgement_and_keeps_what_benchmarks_ask_of_it(tmp_path):
    about = {"dataset": "okvqa", "pool": "p", "answers": ["a star", "stars"]}
    asked = [{**item_to_row(Item(name, text=f"which is {name} ?")), "split": "test", "task": "t->t"} for name in ("told", "untold")]
    folder, _ = curated_of(
        tmp_path, CurateConfig(), {"queries": [asked[0] | about, asked[1]]}, corpus=BENCHMARK["corpus"][:3], queries=[], qrels=[]
    )
    (row,) = read_part(folder, "queries").to_pylist()
    assert row["id"] == "told" and {name: row[name] for name in about} == about
    assert rejects(folder, "queries") == {"untold": ("no answer is left", "")}


def test_grades_are_the_same_from_the_sources_to_the_formats_that_have_them(tmp_path):
    corpus = write_whole(
        tmp_path / "in",
        corpus=[{"id": f"9:{n}", "text": f"text number {n}"} for n in range(3)],
        queries=[{"id": "9:7", "text": "which ?", "split": "test", "task": "t->t"}],
        qrels=[{"query_id": "9:7", "item_id": f"9:{n}", "relevance": n + 1} for n in range(3)],
    )
    read = made(tmp_path / "read", sources.work, SourcesConfig(path=(str(corpus),)))
    kept = made(tmp_path / "kept", curate.work, CurateConfig(), sources=read.folder).folder
    for module in (canonical, beir, mbeir, webqa):
        assert module.write(tmp_path / module.NAME, kept) == {}
        judged = [(row.item_id, row.relevance) for row in rows_of(module, tmp_path / module.NAME) if isinstance(row, Judgement)]
        assert judged == [("9:0", 1), ("9:1", 2), ("9:2", 3)], module.NAME


# Config


def test_equal_candidates_are_kept_only_where_near_equal_ones_are(tmp_path):
    with pytest.raises(
        Refused, match="exact_duplicates is keep, and near_duplicates is merge, which merges equal candidates too; give keep"
    ):
        CurateConfig(exact_duplicates="keep")


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_of_0_to_1_is_refused(share):
    with pytest.raises(Refused, match="from 0 to 1"):
        CurateConfig(max_rejected=share)


@pytest.mark.parametrize(
    "fields",
    [
        {"held_out": 2.0},
        {"near_duplicates": "drop"},
        {"exact_duplicates": "drop"},
        {"unanswered": "zero"},
        {"leakage": "some"},
        {"batch_size": 0},
        {"workers": 0},
        {"picture_pixels": 0},
    ],
)
def test_a_field_out_of_range_is_refused(fields):
    with pytest.raises(Refused, match=f"{next(iter(fields))} is"):
        CurateConfig(**fields)


def test_tables_keep_their_types(curated):
    folder, _ = curated
    assert read_part(folder, "corpus").schema.field("images").type == pa.large_list(pa.large_binary())
