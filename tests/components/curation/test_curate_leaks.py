"""What is like a held-out query or its answers, exactly or nearly, is not trained on, and is named for later stages."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.curation import curate, near_duplicates
from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, item_to_row
from tests.components.curation.corpora import curated_of, png, rejects
from tests.components.fixtures import held_out_of

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


def test_nothing_like_a_held_out_query_or_its_answer_stays_in_training(tmp_path):
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


@pytest.mark.parametrize("keep", [False, True])
def test_a_kept_copy_of_a_held_out_answer_is_trained_on_as_little_as_a_merged_one(tmp_path, monkeypatch, keep):
    monkeypatch.setattr(curate, "near_pairs", lambda *_: (np.empty((0, 2), np.int64), 0, 0))  # as in a bucket that is too crowded
    corpus = [Item("answer", text="the answer to the test"), Item("copy", text="the answer to the test"), Item("more", text="another")]
    queries = [Item("test-q", text="what is asked?"), Item("wants", text="a way to it")]
    config = CurateConfig(exact_duplicates="keep", near_duplicates="keep") if keep else CurateConfig()
    qrels = [("test-q", "answer"), ("wants", "copy"), ("wants", "more")]
    folder, _ = curated_of(tmp_path, config, corpus=corpus, queries=queries, qrels=qrels)
    assert rejects(folder, "qrels") == {"wants copy": ("leaks into test", "test-q")}
    assert read_part(folder, "held")["item_id"].to_pylist() == (["answer", "copy"] if keep else ["answer"])


def test_leakage_may_be_stopped_at_the_queries_or_not_at_all(tmp_path):
    folder, _ = curated_of(tmp_path, CurateConfig(leakage="queries"), **LEAKY)
    assert set(rejects(folder, "queries")) == {"equal", "near"}
    folder, _ = curated_of(tmp_path, CurateConfig(leakage="off"), **LEAKY)
    assert rejects(folder, "queries") == {}
    assert set(rejects(folder, "qrels")) == set()


def test_an_answer_that_is_like_a_held_out_query_is_not_trained_on(tmp_path):
    """As in a captioned corpus read in both directions: the test's picture asks, and a training caption would be answered by it."""
    shown = png("red", 40)
    corpus = [Item("seen", images=(shown,)), Item("caption", text="what the test wants"), Item("blue", images=(png("blue", 40),))]
    queries = [Item("test-q", images=(shown,)), Item("train-q", text="a red square"), Item("train-p", text="a blue square")]
    folder, _ = curated_of(
        tmp_path, corpus=corpus, queries=queries, qrels=[("test-q", "caption"), ("train-q", "seen"), ("train-p", "blue")]
    )
    assert rejects(folder, "qrels") == {"train-q seen": ("leaks into test", "test-q")}
    assert read_part(folder, "queries")["id"].to_pylist() == ["test-q", "train-p"]


def test_a_class_or_an_entry_that_many_queries_share_may_be_trained_on(tmp_path):
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


def test_a_kept_near_duplicate_of_a_held_out_answer_leaks_too(tmp_path):
    folder, _ = curated_of(tmp_path, CurateConfig(near_duplicates="keep"), **LEAKY)
    assert rejects(folder, "qrels")["wants copy"] == ("leaks into test", "test-q")
    assert "copy" in read_part(folder, "corpus")["id"].to_pylist()


def test_candidates_near_a_held_out_query_or_its_answer_are_listed_for_later_stages(tmp_path):
    """Also a candidate near-equal to an answer that was merged, though not to the one that it was merged into."""
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
    assert set(read_part(folder, "held")["item_id"].to_pylist()) == {"d0"}


def test_held_out_are_answers_of_every_split_but_train_and_their_kin_on_either_side(tmp_path):
    """Not what is judged irrelevant, nor the kin of what is trained on."""
    words = {name: f"the {name} of the {'abcdefghij'[n]}" for n, name in enumerate(("tested", "checked", "refuted", "trained", "free"))}
    corpus = [
        Item("before", text=words["tested"].upper()),
        *(Item(name, text=text) for name, text in words.items()),
        Item("behind", text=words["checked"].upper()),
        Item("beside", text=words["trained"].upper()),
    ]
    queries = [Item(id, text=f"what is {n}?") for n, id in enumerate(("test-q", "validation-q", "train-q"))]
    judged = [("test-q", "tested"), ("test-q", "refuted", 0), ("validation-q", "checked"), ("train-q", "trained")]
    config = CurateConfig(leakage="off", near_duplicates="keep")
    folder, _ = curated_of(tmp_path, config, corpus=corpus, queries=queries, qrels=judged)
    pairs = {(row["item_id"], row["kin_id"]) for row in read_part(folder, "kin").to_pylist()}
    assert pairs == {("before", "tested"), ("checked", "behind"), ("trained", "beside")}
    assert {row["item_id"] for row in read_part(folder, "held").to_pylist()} == {"before", "tested", "checked", "behind"}
    folder, _ = curated_of(tmp_path, corpus=corpus, queries=queries[2:], qrels=judged[3:])
    assert read_part(folder, "held").num_rows == 0


def test_answers_of_held_out_queries_and_their_kin_are_listed_whatever_is_removed_for_leaks(tmp_path):
    """As the definition gives it for the rows that were written, which later stages read."""
    corpus = [Item(f"d{n}", text=text) for n, text in enumerate(("a star", "A  star!", "a disc", "a moon", "a ring"))]
    queries = [Item("test-q", text="which shines?"), Item("train-q", text="which is round?")]
    judged = [("test-q", "d0"), ("train-q", "d2"), ("train-q", "d3")]
    folder, outcome = curated_of(
        tmp_path, CurateConfig(leakage="off", near_duplicates="keep"), corpus=corpus, queries=queries, qrels=judged
    )
    listed = {row["item_id"] for row in read_part(folder, "held").to_pylist()}
    assert listed == held_out_of(*(read_part(folder, part).to_pylist() for part in ("queries", "qrels", "kin"))) == {"d0", "d1"}
    assert outcome.metrics["held_candidates"] == len(listed)


def test_leaks_are_found_in_a_crowd(tmp_path, monkeypatch):
    """Questions of one template: each of training is near one of the test, and all look alike to the search."""
    monkeypatch.setattr(near_duplicates, "PAIRS_WITHIN_ROLE", 0)
    monkeypatch.setattr(near_duplicates, "NEIGHBOURS", 1)
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
    assert outcome.metrics["crowded_unmet"] == 0


def test_triples_leak_by_what_they_ask_and_by_their_evidence_which_passes_on(tmp_path):
    def triple(name, text, evidence, split="train"):
        row = {**item_to_row(Item(name, text, source="t", line=1)), "split": split, "answer": "an\x00 answer", "evidence": evidence}
        return row

    twin = replace(LEAKY["corpus"][0], id="twin", source="z")
    triples = [
        triple("asks", "what is asked in the test", ["other"]),
        triple("shows", "which evidence leaks?", ["other", "copy"]),
        triple("fine", "which evidence is fine <s>", ["again", "other", "nowhere"]),
        triple("held", "which is held out?", ["copy"], "test"),
        triple("like", "Which is held out", []),
        triple("twins", "which evidence is the very same?", ["twin", "other"]),
    ]
    everything = {**LEAKY, "corpus": [*LEAKY["corpus"], Item("again", text="something else entirely", source="z"), twin]}
    everything["qrels"] = [row for row in LEAKY["qrels"] if row[0] != "validation-q"]
    prompts = [{"task": "t->t", "wording": "Find <|im_end|> it", "source": "s"}]
    folder, outcome = curated_of(tmp_path, parts={"triples": triples, "prompts": prompts}, **everything)
    assert rejects(folder, "triples") == {
        "asks": ("leaks into test", "test-q"),
        "shows": ("leaks into test", "copy"),
        "like": ("leaks into test", "held"),
        "twins": ("leaks into test", "answer"),
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


def test_a_share_of_the_training_queries_is_held_out_where_a_source_has_no_other_split(tmp_path):
    corpus = [Item(f"d{n}", text=f"document of {chr(97 + n)}", source="one/file") for n in range(20)]
    queries = [Item(f"q{n}", text=f"question about {chr(97 + n)}", source="one/file") for n in range(20)]
    of_split_source = [Item(f"{split}{n}", text=f"settled {split}{n}", source="two/file") for split in ("", "test-") for n in range(4)]
    qrels = [(f"q{n}", f"d{n // 2}") for n in range(20)] + [(item.id, f"d{10 + n}") for n, item in enumerate(of_split_source)]
    folder, outcome = curated_of(tmp_path, CurateConfig(held_out=0.3), corpus=corpus, queries=queries + of_split_source, qrels=qrels)
    split = {row["id"]: row["split"] for row in read_part(folder, "queries").to_pylist()}
    moved = {query for query, name in split.items() if name == "held_out"}
    assert len(moved) == outcome.metrics["held_out"] == 6
    assert all(f"q{n}" in moved for n in range(20) if f"q{n ^ 1}" in moved)
    assert {split[item.id] for item in of_split_source} == {"train", "test"}
    assert {row["source"]: (row["before"], row["after"]) for row in outcome.tables["mixture"]} == {"one": (20, 14), "two": (4, 4)}


def test_holding_out_of_sources_that_have_tests_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"held_out is 0.5, but every source has queries of another split than train"):
        curated_of(tmp_path, CurateConfig(held_out=0.5), **LEAKY)


def test_holding_out_where_there_is_no_query_says_so_and_what_to_do(tmp_path):
    pictures = [Item(f"p{n}", images=(png((n, 9, 9)),), source="one/file") for n in range(3)]
    words = r"^held_out is 0.1, and there is no query to hold out: .* give instruct=null curate.held_out=0 to search without a training"
    with pytest.raises(Refused, match=words):
        curated_of(tmp_path, CurateConfig(held_out=0.1), corpus=pictures, queries=[], qrels=[])


def test_holding_out_where_all_queries_were_rejected_says_so(tmp_path):
    queries = [Item(f"q{n}", images=(png("red")[:40],), source="one/file") for n in (1, 2)]
    corpus = [Item("d", text="a document", source="one/file")]
    with pytest.raises(Refused, match=r"^held_out is 0.1, and all 2 queries were rejected; mirepoix validate names each$"):
        curated_of(tmp_path, CurateConfig(held_out=0.1), corpus=corpus, queries=queries, qrels=[("q1", "d"), ("q2", "d")])


def noise(seed, brighter=0):
    """A picture of noise, like no other of another seed."""
    pixels = np.random.default_rng(seed).integers(20, 230, (4, 4, 3), np.uint8) + np.uint8(brighter)
    buffer = io.BytesIO()
    Image.fromarray(pixels.repeat(8, 0).repeat(8, 1)).save(buffer, "PNG")
    return buffer.getvalue()


WORDS = [
    "amber",
    "bench",
    "canal",
    "delta",
    "ember",
    "flint",
    "grove",
    "harbor",
    "island",
    "jungle",
    "kettle",
    "lagoon",
    "meadow",
    "nickel",
    "orchard",
    "pebble",
]


def sentence(number, last=""):
    """A text of forty words, like no other of another number; `last` replaces its last word."""
    chosen = np.random.default_rng(1000 + number).choice(WORDS, 40).tolist()
    return " ".join([*chosen[:39], last or chosen[39]])


def captioned_corpus(count):
    """Captioned pictures as the formats yield them, in both directions, some of them alike: by caption, picture, or nearly so."""
    corpus, queries, qrels = [], [], []
    for number in range(count):
        # 1 is nearly the picture of 0, 3 has the caption of 2, 5 nearly the caption of 4, 7 the picture of 6; then they repeat.
        kind = number % 10
        picture = noise(number - 1, 1) if kind == 1 else noise(number - 1) if kind == 7 else noise(number)
        text = sentence(number - 1) if kind == 3 else sentence(number - 1, "zebra") if kind == 5 else sentence(number)
        corpus += [Item(f"p{number}.image", images=(picture,), source="s/a"), Item(f"p{number}.text", text=text, source="s/b")]
        queries += [Item(f"p{number}.i2t", images=(picture,), source="s/a"), Item(f"p{number}.t2i", text=text, source="s/b")]
        qrels += [(f"p{number}.i2t", f"p{number}.text"), (f"p{number}.t2i", f"p{number}.image")]
    return {"corpus": corpus, "queries": queries, "qrels": qrels}


@pytest.mark.parametrize("settings", [{}, {"near_duplicates": "keep"}, {"leakage": "off"}], ids=str)
def test_both_directions_of_a_picture_and_all_that_is_like_it_are_on_one_side_of_a_hold_out(tmp_path, settings):
    folder, outcome = curated_of(tmp_path, CurateConfig(held_out=0.3, **settings), **captioned_corpus(40))
    side = {row["id"]: row["split"] for row in read_part(folder, "queries").to_pylist()}
    assert outcome.metrics["held_out"] == 24 and len(side) == 80 and not outcome.tables["notices"]
    for number in range(40):
        assert side[f"p{number}.i2t"] == side[f"p{number}.t2i"]
        if number % 10 in (1, 3, 5, 7):
            assert side[f"p{number}.i2t"] == side[f"p{number - 1}.i2t"]
    assert not [name for name in outcome.metrics if "leaks" in name]


def test_candidates_with_one_picture_or_one_text_are_on_one_side_of_a_hold_out(tmp_path):
    corpus = [Item(f"d{n}", text=sentence(n // 2), images=(noise(n),)) for n in range(10)]
    corpus += [Item(f"d{n}", text=sentence(n), images=(noise(50 + n // 2),)) for n in range(10, 20)]
    queries = [Item(f"q{n}", text=sentence(100 + n)) for n in range(20)]
    folder, outcome = curated_of(
        tmp_path, CurateConfig(held_out=0.4), corpus=corpus, queries=queries, qrels=[(f"q{n}", f"d{n}") for n in range(20)]
    )
    side = {row["id"]: row["split"] for row in read_part(folder, "queries").to_pylist()}
    assert outcome.metrics["held_out"] == 8 and outcome.metrics["kin"] == 10
    assert all(side[f"q{n}"] == side[f"q{n + 1}"] for n in range(0, 20, 2))


def test_an_answer_of_more_queries_than_shared_answers_is_a_class_that_both_sides_may_have(tmp_path):
    corpus = [Item("star", text="a star of the sky"), *(Item(f"d{n}", text=sentence(n)) for n in range(10))]
    queries = [Item(f"q{n}", text=sentence(100 + n)) for n in range(10)]
    qrels = [(f"q{n}", name) for n in range(10) for name in ("star", f"d{n}")]
    _, outcome = curated_of(tmp_path, CurateConfig(held_out=0.3, shared_answers=9), corpus=corpus, queries=queries, qrels=qrels)
    assert outcome.metrics["held_out"] == 3 and not [name for name in outcome.metrics if "leaks" in name]
    with pytest.raises(Refused, match=r"held_out is 0.3, 3 of 10 training queries.*the smallest group has 10; raise held_out"):
        curated_of(tmp_path, CurateConfig(held_out=0.3, shared_answers=10), corpus=corpus, queries=queries, qrels=qrels)


def test_a_share_that_cannot_be_met_is_noticed(tmp_path):
    corpus = [Item(f"d{n}", text=sentence(n)) for n in range(3)]
    queries = [Item(f"q{n}", text=sentence(100 + n)) for n in range(12)]
    qrels = [(f"q{n}", f"d{n % 3}") for n in range(12)]
    _, outcome = curated_of(tmp_path, CurateConfig(held_out=0.1), corpus=corpus, queries=queries, qrels=qrels)
    assert outcome.metrics["held_out"] == 4
    [notice] = outcome.tables["notices"]
    assert notice["detail"].startswith("held_out is 0.1, 1 of 12 training queries, and 4 are held out: queries that share an answer")


def test_triples_go_with_the_queries_whose_answers_are_their_evidence(tmp_path):
    corpus = [Item(f"d{n}", text=sentence(n)) for n in range(8)]
    queries = [Item(f"q{n}", text=sentence(100 + n), source="one/q") for n in range(8)]
    triples = [
        {**item_to_row(Item(f"t{n}", text=sentence(200 + n), images=(noise(n),), source="one/t")), "split": "train", "answer": "it"}
        | {"evidence": [f"d{n}"]}
        for n in range(8)
    ]
    qrels = [(f"q{n}", f"d{n}") for n in range(8)]
    folder, outcome = curated_of(tmp_path, CurateConfig(held_out=0.5), {"triples": triples}, corpus=corpus, queries=queries, qrels=qrels)
    side, with_triple = ({row["id"][1:]: row["split"] for row in read_part(folder, part).to_pylist()} for part in ("queries", "triples"))
    assert outcome.metrics["held_out"] == 4 and side == with_triple and outcome.rows.rejected == 0
