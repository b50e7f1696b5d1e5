"""Curation keeps or rejects with a reason, and every row is accounted for."""

import io
from dataclasses import replace

import pyarrow as pa
import pytest
from PIL import Image

from mirepoix.components import curate
from mirepoix.components.corpus import PartWriter, read_part
from mirepoix.components.curate import CurateConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, item_to_row
from mirepoix.serving.store import Context


def png(colour, side=8, mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


CORPUS = [
    Item("good", text="a circle", images=(png("red"),), source="s", line=1),
    Item("broken", text="a circle", images=(png("red")[:40],), source="s", line=2),
    Item("garbage", images=(b"no picture",), source="s", line=3),
    Item("again", text="a circle", images=(png("red"),), source="s", line=4),
    Item("words", text="a circle", source="s", line=5),
    Item("palette", images=(png(3, mode="P"),), source="s", line=6),
]
QUERIES = [
    Item("q-good", text="find the circle"),
    Item("q-broken", text="find the broken one"),
    Item("q-damaged", images=(png("blue")[:40],), source="q", line=3),
]
QRELS = [("q-good", "good"), ("q-good", "again"), ("q-good", "words"), ("q-good", "broken"), ("q-broken", "broken"), ("q-damaged", "words")]


def write_corpus(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS, rows_per_file=2):
    with PartWriter(folder, "corpus", rows_per_file) as part:
        part.write([item_to_row(item) for item in corpus])
    with PartWriter(folder, "queries", rows_per_file) as part:
        part.write([{**item_to_row(item), "split": split_of(item.id), "task": "t->it"} for item in queries])
    with PartWriter(folder, "qrels", rows_per_file) as part:
        rows = [dict(zip(("query_id", "item_id", "relevance", "score"), (*row, 1, 0.5)[:4], strict=True)) for row in qrels]
        part.write([{**row, "source": "judges", "line": line} for line, row in enumerate(rows, 1)])
    return folder


def split_of(query):
    """The split that the id of a query begins with, as in validation-q1; the others are trained on."""
    return query.partition("-")[0] if query.startswith(("validation-", "test-")) else "train"


def rejects(folder, part):
    return {row["id"]: (row["reason"], row["detail"]) for row in read_part(folder, "rejects").to_pylist() if row["part"] == part}


def curated_of(home, config=CurateConfig(), parts=(), **corpus):  # noqa: B008
    """What curation makes of a corpus, in a folder of its own under `home`."""
    place = home / f"run{len(list(home.iterdir()))}"
    place.mkdir()
    source = write_corpus(place / "in", **corpus)
    for part, rows in dict(parts).items():
        with PartWriter(source, part) as writer:
            writer.write(rows)
    return place / "out", curate.work(context(place / "out"), config, source)


def context(folder):
    folder.mkdir()
    return Context(folder, str(folder.parent / "scratch"), lambda progress: None, seed=0)


@pytest.fixture(scope="module")
def curated(ray_cluster, tmp_path_factory):
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


def test_too_many_rejects_stop_the_run_and_say_why(ray_cluster, tmp_path):
    with pytest.raises(Refused, match=r"2 of the 6 candidates were rejected \(damaged: 1, unknown format: 1\).*max_rejected=0.1"):
        curate.work(context(tmp_path / "out"), CurateConfig(max_rejected=0.1), write_corpus(tmp_path / "in"))


def test_a_corpus_of_nothing_usable_is_refused(ray_cluster, tmp_path):
    bad = [replace(item, images=(b"x",)) for item in CORPUS]
    with pytest.raises(Refused, match="empty after curation: all 6 candidates"):
        curate.work(context(tmp_path / "out"), CurateConfig(max_rejected=1.0), write_corpus(tmp_path / "in", bad))


def test_the_result_does_not_depend_on_how_the_rows_are_cut(curated, ray_cluster, tmp_path):
    folder, _ = curated
    curate.work(context(tmp_path / "out"), CurateConfig(max_rejected=0.5, batch_size=1), write_corpus(tmp_path / "in", rows_per_file=4))
    for part in ("corpus", "queries", "qrels", "rejects"):
        assert read_part(tmp_path / "out", part).to_pylist() == read_part(folder, part).to_pylist()


def test_the_result_does_not_depend_on_how_many_work(curated, ray_cluster, tmp_path):
    folder, _ = curated
    other, _ = curated_of(tmp_path, CurateConfig(max_rejected=0.5, workers=1))
    for part in ("corpus", "queries", "qrels", "rejects", "kin"):
        assert read_part(other, part).to_pylist() == read_part(folder, part).to_pylist()


# Who is kept


def test_of_equal_candidates_the_one_is_kept_that_answers_a_held_out_query_then_the_first_by_source_line_and_id(ray_cluster, tmp_path):
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


def test_of_two_judgements_that_become_one_the_higher_relevance_wins_with_its_score_and_place(ray_cluster, tmp_path):
    corpus = [Item(name, text=text) for name, text in (("a", "one text"), ("b", "one text"), ("c", "other text"))]
    folder, outcome = curated_of(
        tmp_path, corpus=corpus, queries=[Item("q", text="find")], qrels=[("q", "a", 0, 0.1), ("q", "b", 2, 0.9), ("q", "c", 1, 0.2)]
    )
    told = [(row["item_id"], row["relevance"], round(row["score"], 1), row["line"]) for row in read_part(folder, "qrels").to_pylist()]
    assert told == [("a", 2, 0.9, 2), ("c", 1, 0.2, 3)]
    assert rejects(folder, "qrels") == {"q a": ("judged twice", "a")}
    assert outcome.rows.merged == 2


def test_near_duplicates_may_be_kept_and_are_kin_then(ray_cluster, tmp_path):
    corpus = [Item("a", text="one text"), Item("b", text="One text!"), Item("c", text="one text", images=(png("red"),))]
    everything = {"corpus": corpus, "queries": [Item("q", text="find")], "qrels": [("q", "a")]}
    folder, outcome = curated_of(tmp_path, CurateConfig(near_duplicates="keep"), **everything)
    kin = {(row["item_id"], row["kin_id"]): row["why"] for row in read_part(folder, "kin").to_pylist()}
    assert kin == {("a", "b"): "same text", ("a", "c"): "same text", ("b", "c"): "same text"}
    assert rejects(folder, "corpus") == {}
    assert outcome.metrics["kin"] == 3
    folder, _ = curated_of(tmp_path, **everything)
    assert [(row["item_id"], row["kin_id"], row["why"]) for row in read_part(folder, "kin").to_pylist()] == [("a", "c", "same text")]


# Leakage

LEAKY = {
    "corpus": [
        Item("answer", text="the answer to the test"),
        Item("copy", text="The answer, to the test!"),
        Item("other", text="something else entirely"),
        Item("more", text="yet another thing to find"),
    ],
    "queries": [
        Item("test-q", text="what is asked in the test?"),
        Item("equal", text="what is asked in the test?"),
        Item("near", text="What is asked, in the TEST"),
        Item("says", text="the answer to the test"),
        Item("wants", text="a way to the answer"),
        Item("only", text="the only way to it"),
        Item("free", text="what is not asked in any test"),
        Item("validation-q", text="what is asked in the test?"),
    ],
    "qrels": [
        ("test-q", "answer"), ("equal", "other"), ("near", "other"), ("says", "other"), ("wants", "copy"), ("wants", "more"),
        ("only", "copy"), ("free", "other"), ("free", "answer", 0), ("validation-q", "other"),
    ],
}  # fmt: skip


def test_nothing_like_a_held_out_query_or_its_answer_stays_in_training(ray_cluster, tmp_path):
    corpus = [*LEAKY["corpus"], Item("checked", text="what was checked")]
    qrels = [*LEAKY["qrels"][:-1], ("validation-q", "checked")]
    folder, outcome = curated_of(tmp_path, corpus=corpus, queries=LEAKY["queries"], qrels=qrels)
    assert rejects(folder, "queries") == {
        "equal": ("leaks into test", "test-q"),
        "near": ("leaks into test", "test-q"),
        "says": ("leaks into test", "answer"),
        "only": ("no answer is left", ""),
    }
    lost = rejects(folder, "qrels")
    assert lost["wants copy"] == lost["only copy"] == lost["free answer"] == ("leaks into test", "test-q")
    kept = [(row["query_id"], row["item_id"]) for row in read_part(folder, "qrels").to_pylist()]
    assert kept == [("test-q", "answer"), ("wants", "more"), ("free", "other"), ("validation-q", "checked")]
    assert outcome.metrics["rejected leaks into test"] == 6


def test_leakage_may_be_stopped_at_the_queries_or_not_at_all(ray_cluster, tmp_path):
    folder, _ = curated_of(tmp_path, CurateConfig(leakage="queries"), **LEAKY)
    assert set(rejects(folder, "queries")) == {"equal", "near"}
    folder, _ = curated_of(tmp_path, CurateConfig(leakage="off"), **LEAKY)
    assert rejects(folder, "queries") == {}
    assert set(rejects(folder, "qrels")) == set()


def test_an_answer_that_is_like_a_held_out_query_is_not_trained_on(ray_cluster, tmp_path):
    """As in a captioned corpus read in both directions: the test's picture asks, and a training caption would be answered by it."""
    shown = png("red", 40)
    corpus = [Item("seen", images=(shown,)), Item("caption", text="what the test wants"), Item("blue", images=(png("blue", 40),))]
    queries = [Item("test-q", images=(shown,)), Item("train-q", text="a red square"), Item("train-p", text="a blue square")]
    folder, _ = curated_of(
        tmp_path, corpus=corpus, queries=queries, qrels=[("test-q", "caption"), ("train-q", "seen"), ("train-p", "blue")]
    )
    assert rejects(folder, "qrels") == {"train-q seen": ("leaks into test", "test-q")}
    assert read_part(folder, "queries")["id"].to_pylist() == ["test-q", "train-p"]


def test_a_class_or_an_entry_that_many_queries_share_may_be_trained_on(ray_cluster, tmp_path):
    copies = [Item(f"copy-{n}", text="an answer of one test and one training query" + "!" * n) for n in range(6)]
    corpus = [Item("dog", text="dog"), Item("one", text="an answer of one test and one training query"), *copies]
    asking = [Item(f"{'test-' if n < 2 else ''}q{n}", text=f"which class has thing {n * 37} ?") for n in range(11)]
    asking.append(Item("q11", text="Dog !"))  # the name of a class that tests share is no leak
    queries = [*asking, Item("test-one", text="who alone is asked ?"), Item("one", text="who else asks for it ?")]
    qrels = [*((query.id, "dog") for query in asking), ("test-one", "one"), ("one", "one")]
    qrels += [(query, copy.id) for query in ("test-one", "one") for copy in copies]  # many judgements of two queries
    folder, _ = curated_of(tmp_path, CurateConfig(shared_answers=11), corpus=corpus, queries=queries, qrels=qrels)
    shared = {"one one", *(f"{query} {copy.id}" for query in ("test-one", "one") for copy in copies)}
    assert set(rejects(folder, "qrels")) == shared
    folder, _ = curated_of(tmp_path, CurateConfig(shared_answers=12), corpus=corpus, queries=queries, qrels=qrels)
    assert set(rejects(folder, "qrels")) == shared | {f"q{n} dog" for n in range(2, 12)}


def test_a_kept_near_duplicate_of_a_held_out_answer_leaks_too(ray_cluster, tmp_path):
    folder, _ = curated_of(tmp_path, CurateConfig(near_duplicates="keep"), **LEAKY)
    assert rejects(folder, "qrels")["wants copy"] == ("leaks into test", "test-q")
    assert "copy" in read_part(folder, "corpus")["id"].to_pylist()


def test_what_is_like_a_held_out_query_or_an_answer_of_one_is_named_for_later_stages(ray_cluster, tmp_path):
    """Also what is like an answer that was merged, and not like the one that stands for it."""
    words = [f"word{'abcdefghijklmnopqrstuvwxyz'[n]}" for n in range(26)]
    chain = [words, ["other", *words[1:]], ["other", *words[1:-1], "third"]]
    corpus = [
        *(Item(f"d{n}", text=" ".join(chain[n])) for n in range(3)),
        Item("asked", text="where is it said ?"),
        Item("free", text="y z"),
    ]
    queries = [Item("test-q", text="where is it said?"), Item("train-q", text="what else is there to say?")]
    judged = {"corpus": corpus, "queries": queries, "qrels": [("test-q", "d0"), ("test-q", "d1"), ("train-q", "free")]}
    folder, outcome = curated_of(tmp_path, **judged)
    assert rejects(folder, "corpus") == {"d1": ("near-duplicate", "d0")}
    assert set(read_part(folder, "held")["item_id"].to_pylist()) == {"d0", "d2", "asked"}
    assert outcome.metrics["held_candidates"] == 3
    folder, _ = curated_of(tmp_path, CurateConfig(leakage="off"), **judged)
    assert read_part(folder, "held").num_rows == 0


def test_leaks_are_found_in_a_crowd(ray_cluster, tmp_path):
    """Questions of one template: each of training is near one of the test, and all look alike to the search."""
    words = [f"{a}{b}" for a in ("ka", "lo", "mi", "ne", "pu", "ra") for b in ("bel", "dor", "fin", "gat", "hus", "jam", "kip")]

    def asked(one, other):
        return " ".join([*words[:12], one, *words[12:28], other, *words[28:]])

    tests = [Item(f"test-{n}", text=asked(f"sla{'abcdefghij'[n]}", f"tro{'abcdefghij'[n]}")) for n in range(10)]
    training = [
        Item(f"q{n}", text=asked(f"vor{'abcdefghij'[n // 10]}{'klmnopqrst'[n % 10]}ix", f"tro{'abcdefghij'[n % 10]}")) for n in range(100)
    ]
    corpus = [Item("a", text="the answer of all tests"), Item("b", text="that of all the training")]
    free = Item("free", text="something that is asked otherwise")
    qrels = [*((query.id, "a") for query in tests), *((query.id, "b") for query in [*training, free])]
    folder, outcome = curated_of(tmp_path, corpus=corpus, queries=[*tests, *training, free], qrels=qrels)
    assert set(rejects(folder, "queries")) == {query.id for query in training}
    assert outcome.metrics["crowded"] > 64 and outcome.metrics["crowded_unmet"] == 0


def test_triples_leak_by_what_they_ask_and_by_their_evidence_which_passes_on(ray_cluster, tmp_path):
    def triple(name, text, evidence, split="train"):
        row = {**item_to_row(Item(name, text, source="t", line=1)), "split": split, "answer": "an\x00 answer", "evidence": evidence}
        return row

    triples = [
        triple("asks", "what is asked in the test", ["other"]),
        triple("shows", "which evidence leaks?", ["other", "copy"]),
        triple("fine", "which evidence is fine <s>", ["again", "other", "nowhere"]),
        triple("held", "which is held out?", ["copy"], "test"),
        triple("like", "Which is held out", []),
    ]
    everything = {**LEAKY, "corpus": [*LEAKY["corpus"], Item("again", text="something else entirely", source="z")]}
    everything["qrels"] = [row for row in LEAKY["qrels"] if row[0] != "validation-q"]
    prompts = [{"task": "t->t", "wording": "Find <|im_end|> it", "source": "s"}]
    folder, outcome = curated_of(tmp_path, parts={"triples": triples, "prompts": prompts}, **everything)
    assert rejects(folder, "triples") == {
        "asks": ("leaks into test", "test-q"),
        "shows": ("leaks into test", "copy"),
        "like": ("leaks into test", "held"),
    }
    kept = {row["id"]: (row["text"], row["answer"], row["evidence"]) for row in read_part(folder, "triples").to_pylist()}
    assert kept == {
        "fine": ("which evidence is fine < s >", "an answer", ["other"]),
        "held": ("which is held out?", "an answer", ["answer"]),
    }
    assert read_part(folder, "prompts")["wording"].to_pylist() == ["Find < |im_end| > it"]
    read = len(everything["corpus"]) + len(everything["queries"]) + len(everything["qrels"]) + len(triples) + len(prompts)
    assert outcome.rows.read == read
    assert outcome.metrics["triples"] == 2


# Holding out


def test_a_share_of_the_training_queries_is_held_out_where_a_source_has_no_other_split(ray_cluster, tmp_path):
    corpus = [Item(f"d{n}", text=f"document of {chr(97 + n)}", source="one/file") for n in range(20)]
    queries = [Item(f"q{n}", text=f"question about {chr(97 + n)}", source="one/file") for n in range(20)]
    settled = [Item(f"{split}{n}", text=f"settled {split}{n}", source="two/file") for split in ("", "test-") for n in range(4)]
    qrels = [(f"q{n}", f"d{n // 2}") for n in range(20)] + [(item.id, f"d{10 + n}") for n, item in enumerate(settled)]
    folder, outcome = curated_of(tmp_path, CurateConfig(held_out=0.3), corpus=corpus, queries=queries + settled, qrels=qrels)
    split = {row["id"]: row["split"] for row in read_part(folder, "queries").to_pylist()}
    moved = {query for query, name in split.items() if name == "held_out"}
    assert len(moved) == outcome.metrics["held_out"] == 6
    assert all(f"q{n}" in moved for n in range(20) if f"q{n ^ 1}" in moved)
    assert {split[item.id] for item in settled} == {"train", "test"}
    assert {row["source"]: (row["before"], row["after"]) for row in outcome.tables["mixture"]} == {"one": (20, 14), "two": (4, 4)}


def test_holding_out_of_sources_that_have_tests_is_refused(ray_cluster, tmp_path):
    with pytest.raises(Refused, match=r"held_out is 0.5, but every source has queries of another split than train"):
        curated_of(tmp_path, CurateConfig(held_out=0.5), **LEAKY)


# Config


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_of_0_to_1_is_refused(share):
    with pytest.raises(Refused, match="from 0 to 1"):
        CurateConfig(max_rejected=share)


@pytest.mark.parametrize(
    "fields",
    [{"held_out": 2.0}, {"near_duplicates": "drop"}, {"leakage": "some"}, {"batch_size": 0}, {"workers": 0}, {"picture_pixels": 0}],
)
def test_a_field_out_of_range_is_refused(fields):
    with pytest.raises(Refused, match=f"{next(iter(fields))} is"):
        CurateConfig(**fields)


def test_tables_keep_their_types(curated):
    folder, _ = curated
    assert read_part(folder, "corpus").schema.field("images").type == pa.large_list(pa.large_binary())
