"""The figures are those of trec_eval, for both encoders and both pools, and can be computed again from the files."""

import json
import random

import pyarrow.parquet as pq
import pytest
import pytrec_eval

from mirepoix.components.evaluation import evaluate, floors
from mirepoix.components.evaluation.evaluate import headline_split
from mirepoix.components.evaluation.evaluate_config import MEASURES, EvaluateConfig
from mirepoix.components.evaluation.floors_config import FloorsConfig
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from tests.components.curation.corpora import png
from tests.components.fixtures import context, write_corpus, write_index, write_vectors

TEXT, IMAGE = int(Modality.TEXT), int(Modality.IMAGE)
EACH = 20
WIDTH = EACH + 2
PICTURE = png("red")
TREC = {"R@5": "recall_5", "R@10": "recall_10", "Success@5": "success_5", "RR@10": "recip_rank", "nDCG@10": "ndcg_cut_10"}


def unit(number, modality):
    """A vector of its own for each thing, with a small component for the modality in which it is shown."""
    row = [0.0] * WIDTH
    row[number], row[EACH + (modality == IMAGE)] = 1.0, 0.3
    return row


def noise(seed):
    return [random.Random(seed).gauss(0, 1) for _ in range(WIDTH)]


CANDIDATES = {f"{letter}{n}": (code, unit(n, code)) for letter, code in (("t", TEXT), ("i", IMAGE)) for n in range(EACH)}
# Thing n is queried as a text and as a picture; the first half of the things for validation, the other for the test.
ASKED = {f"q-{letter}{n}": (letter, n) for letter in "ti" for n in range(EACH)}
PERFECT = {query: (TEXT, unit(n, TEXT if letter == "t" else IMAGE)) for query, (letter, n) in ASKED.items()}
RANDOM = {query: (TEXT, noise(query)) for query in ASKED}
TEXT_ONLY = {query: (TEXT, unit(n, TEXT)) for query, (_, n) in ASKED.items()}
SAME = {query: (TEXT, unit(0, TEXT)) for query in ASKED}
CONFIG = EvaluateConfig(draws=200)


@pytest.fixture
def curate(tmp_path):
    return write_corpus(tmp_path / "curate", **corpus())


def corpus(more_queries=(), more_qrels=()):
    candidates = [
        {"id": item, "text": "x"} if code == TEXT else {"id": item, "images": [PICTURE]} for item, (code, _) in CANDIDATES.items()
    ]
    queries = [
        {"id": query, "text": "?", "split": "validation" if n < EACH // 2 else "test_combination", "task": f"t->{letter}"}
        for query, (letter, n) in ASKED.items()
    ]
    qrels = [{"query_id": query, "item_id": f"{letter}{n}"} for query, (letter, n) in ASKED.items()]
    return {
        "corpus": candidates,
        "queries": [*queries, {"id": "trained", "text": "?", "split": "train", "task": "t->t"}, *more_queries],
        "qrels": [*qrels, {"query_id": "trained", "item_id": "t0"}, *more_qrels],
    }


def system(folder, queries, candidates=CANDIDATES):
    return write_vectors(folder / "embed", corpus=candidates, queries=queries), write_index(folder / "index", candidates)


def run(tmp_path, curate, trained, untrained=RANDOM, config=CONFIG, candidates=CANDIDATES, seed=0, **more):
    """The outcome of an evaluation, its folder and its metrics.json."""
    home = tmp_path / f"run{seed}"
    (embed, index), (other_embed, other_index) = (
        system(home / name, vectors, candidates) for name, vectors in (("trained", trained), ("untrained", untrained))
    )
    stage_context = context(home, seed)
    inputs = {"embed": embed, "index": index, "untrained_embed": other_embed, "untrained_index": other_index, **more}
    outcome = evaluate.work(stage_context, config, curate=curate, **inputs)
    return outcome, stage_context.folder, json.loads((stage_context.folder / "metrics.json").read_text())


def entries(summary, **wanted):
    return [entry for entry in summary["results"] if all(entry[name] == value for name, value in wanted.items())]


def test_perfect_vectors_measure_one_everywhere(tmp_path, curate):
    _, _, summary = run(tmp_path, curate, PERFECT)
    found = entries(summary, system="trained")
    assert len(found) == 4
    for entry in found:
        for measure in MEASURES:
            tasks = {"t->i": 1.0, "t->t": 1.0}
            assert entry[measure] == {"average": 1.0, "low": 1.0, "high": 1.0, "tasks": tasks, "datasets": {"made": tasks}}


def test_random_vectors_measure_little(tmp_path, curate):
    outcome, _, summary = run(tmp_path, curate, PERFECT)
    for entry in entries(summary, system="untrained"):
        assert entry["R@1"]["average"] <= 0.2 and entry["RR@10"]["average"] < 0.4
    assert outcome.metrics["untrained R@5"] < 0.5 < outcome.metrics["trained R@5"] == 1.0


def test_the_wrong_modality_is_an_error_in_the_universal_pool_and_not_there_in_the_target_pool(tmp_path, curate):
    _, folder, summary = run(tmp_path, curate, TEXT_ONLY)
    (universal,), (target,) = (entries(summary, system="trained", pool=pool, split="validation") for pool in ("universal", "target"))
    assert universal["R@1"]["tasks"] == {"t->i": 0.0, "t->t": 1.0}
    assert target["R@1"]["tasks"] == {"t->i": 1.0, "t->t": 1.0}
    with (folder / "trained-target.trec").open() as file:
        found = pytrec_eval.parse_run(file)
    assert all({item[0] for item in ranking} == {ASKED[query][0]} for query, ranking in found.items())


def test_both_systems_are_asked_the_same_and_every_query_counts_once(tmp_path, curate):
    outcome, folder, summary = run(tmp_path, curate, PERFECT)
    rows = pq.read_table(folder / "queries.parquet").to_pylist()
    assert len({(row["system"], row["pool"], row["query"]) for row in rows}) == len(rows) == 2 * 2 * len(ASKED)
    assert {row["query"] for row in rows} == set(ASKED)
    assert all(entry["queries"] == {"t->i": 10, "t->t": 10} for entry in summary["results"])
    assert (outcome.rows.read, outcome.rows.written, outcome.rows.rejected) == (len(ASKED), len(ASKED), 0)


@pytest.mark.parametrize("pool", ["universal", "target"])
@pytest.mark.parametrize("split", ["validation", "test_combination"])
@pytest.mark.parametrize("measure", ["R@1", "nDCG@10"])
def test_the_headline_is_the_average_that_was_asked_for(tmp_path, curate, split, measure, pool):
    outcome, _, summary = run(tmp_path, curate, TEXT_ONLY, config=EvaluateConfig(split, measure, pool, draws=10))
    for name in ("trained", "untrained"):
        (entry,) = entries(summary, system=name, pool=pool, split=split)
        assert summary["headline"][name] == entry[measure]
        assert outcome.metrics[f"{name} {measure}"] == entry[measure]["average"]
    assert {name: summary["headline"][name] for name in ("split", "measure", "pool")} == {"split": split, "measure": measure, "pool": pool}


def test_the_average_is_over_tasks_and_its_interval_holds_it(tmp_path, curate):
    _, _, summary = run(tmp_path, curate, TEXT_ONLY)
    for entry in summary["results"]:
        for measure in MEASURES:
            figures = entry[measure]
            assert figures["average"] == pytest.approx(sum(figures["tasks"].values()) / 2, abs=1e-4)
            assert figures["low"] <= figures["average"] <= figures["high"]


def test_the_same_seed_gives_the_same_bytes(tmp_path, curate):
    texts = []
    for attempt in ("one", "two"):
        _, folder, _ = run(tmp_path / attempt, curate, RANDOM)
        texts.append({file.name: file.read_bytes() for file in folder.iterdir()})
    assert texts[0] == texts[1]
    _, other, _ = run(tmp_path, curate, RANDOM, seed=1)
    assert (other / "metrics.json").read_bytes() != texts[0]["metrics.json"]
    assert (other / "trained-target.trec").read_bytes() == texts[0]["trained-target.trec"]


@pytest.mark.parametrize(
    ("trained", "candidates"),
    [
        (TEXT_ONLY, CANDIDATES),
        (RANDOM, CANDIDATES),
        (SAME, CANDIDATES),
        (PERFECT, {item: (code, unit(0, TEXT)) for item, (code, _) in CANDIDATES.items()}),
        (RANDOM, {item: (code, unit(int(item[1:]) // 4, code)) for item, (code, _) in CANDIDATES.items()}),
    ],
    ids=["one modality", "random", "one query", "one vector", "groups of equal vectors"],
)
def test_trec_eval_reads_the_run_files_and_gives_the_same_figures(tmp_path, trained, candidates):
    curate = write_corpus(
        tmp_path / "curate", **corpus(more_qrels=[{"query_id": f"q-t{n}", "item_id": f"t{n + 1}"} for n in range(0, 18, 3)])
    )
    _, folder, summary = run(tmp_path, curate, trained, candidates=candidates)
    with (folder / "qrels.trec").open() as file:
        evaluator = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(file), {"recall.5,10", "success.5", "recip_rank", "ndcg_cut.10"})
    rows = pq.read_table(folder / "queries.parquet").to_pylist()
    for name in ("trained", "untrained"):
        for pool in ("universal", "target"):
            with (folder / f"{name}-{pool}.trec").open() as file:
                by_trec_eval = evaluator.evaluate(pytrec_eval.parse_run(file))
            assert set(by_trec_eval) == set(ASKED)
            for row in rows:
                if (row["system"], row["pool"]) == (name, pool):
                    theirs = {ours: by_trec_eval[row["query"]][measure] for ours, measure in TREC.items()}
                    assert {ours: row[ours] for ours in TREC} == pytest.approx(theirs), row["query"]
            for entry in entries(summary, system=name, pool=pool):
                for task in entry["queries"]:
                    own = [row["query"] for row in rows if (row["split"], row["task"]) == (entry["split"], task)]
                    for ours, measure in TREC.items():
                        mean = sum(by_trec_eval[query][measure] for query in set(own)) / len(set(own))
                        assert entry[ours]["tasks"][task] == pytest.approx(mean, abs=1e-4)


def test_queries_without_an_answer_count_as_zero_and_are_counted(tmp_path):
    silent = [{"id": f"silent{n}", "text": "?", "split": "validation", "task": "t->t"} for n in range(3)]
    curate = write_corpus(tmp_path / "curate", **corpus(silent, [{"query_id": "silent0", "item_id": "t1", "relevance": 0}]))
    vectors = PERFECT | {query["id"]: (TEXT, unit(0, TEXT)) for query in silent}
    outcome, folder, summary = run(tmp_path, curate, vectors, RANDOM | vectors)
    assert (outcome.rows.read, outcome.rows.written, outcome.rows.rejected) == (len(ASKED) + 3, len(ASKED) + 3, 0)
    assert summary["unanswered"] == outcome.metrics["unanswered"] == 3
    assert outcome.tables["notices"] == [{"detail": "3 of 43 queries have no answer in the corpus; they count as zero"}]
    (entry,) = entries(summary, system="trained", pool="universal", split="validation")
    assert entry["queries"] == {"t->i": 10, "t->t": 13}
    for measure in MEASURES:  # ten of thirteen are answered perfectly
        assert entry[measure]["tasks"]["t->t"] == pytest.approx(10 / 13, abs=1e-6)
    rows = pq.read_table(folder / "queries.parquet").to_pylist()
    assert {row[measure] for row in rows if row["query"].startswith("silent") for measure in MEASURES} == {0.0}


def floors_of(home, curate, config=CONFIG):
    """The folder of the floors of a corpus."""
    stage_context = context(home)
    floors.work(stage_context, FloorsConfig.of(config, trained=True), curate)
    return stage_context.folder


def test_floors_stand_beside_the_encoders_and_the_headline_says_which_of_them_an_encoder_is_below(tmp_path, curate):
    """No text shares a word with a query, so that BM25 finds nothing; by chance 5 of 40 candidates are the first five."""
    outcome, folder, summary = run(tmp_path, curate, RANDOM, PERFECT, floors=floors_of(tmp_path / "floors", curate))
    head = summary["headline"]
    assert {entry["system"] for entry in summary["results"]} == {"trained", "untrained", "bm25", "chance"}
    assert (head["bm25"]["average"], head["chance"]["average"], head["untrained"]["average"]) == (0.0, 0.125, 1.0)
    lost = ["chance"] * (head["trained"]["average"] < 0.125)
    assert head["below"] == {"trained": [*lost, "untrained"]} and outcome.metrics["chance R@5"] == 0.125
    (entry,) = entries(summary, system="chance", pool="target", split="validation")
    assert entry["R@5"]["tasks"] == {"t->i": 0.25, "t->t": 0.25} and entry["queries"] == {"t->i": 10, "t->t": 10}
    assert {row["system"] for row in pq.read_table(folder / "queries.parquet").to_pylist()} == {"trained", "untrained", "bm25", "chance"}


def test_floors_without_a_value_change_nothing(tmp_path, curate):
    """As where the corpus has no text, and only BM25 was asked for."""
    pictures = write_corpus(tmp_path / "pictures", corpus=[], queries=[], qrels=[])
    _, _, summary = run(tmp_path / "one", curate, PERFECT, floors=floors_of(tmp_path / "floors", pictures))
    assert summary == run(tmp_path / "other", curate, PERFECT)[2]


def test_floors_are_of_the_queries_that_are_measured_alone(tmp_path, curate):
    """Where the training of another arm reads the split train, it has no floors; the queries of another corpus are not there."""
    more = [{"id": "other", "text": "x", "split": "test_combination", "task": "t->t"}]
    larger = write_corpus(tmp_path / "larger", **corpus(more, [{"query_id": "other", "item_id": "t0"}]))
    _, folder, _ = run(tmp_path, curate, PERFECT, floors=floors_of(tmp_path / "floors", larger))
    assert {row["query"] for row in pq.read_table(folder / "queries.parquet").to_pylist()} == set(ASKED)


def test_a_board_without_a_data_set_of_the_headlines_split_is_refused(tmp_path):
    parts = corpus()
    parts["queries"] = [row | {"dataset": "mscoco"} if row["split"] == "validation" else row for row in parts["queries"]]
    curate = write_corpus(tmp_path / "curate", **parts)
    config = EvaluateConfig(board="mbeir", measure="main", draws=10, pools=("universal",))
    with pytest.raises(
        Refused, match=r"no query of the split test_combination is of one of its data sets: the corpus has made \(t->i\), made"
    ):
        run(tmp_path, curate, PERFECT, config=config)
    _, _, summary = run(
        tmp_path / "other", curate, PERFECT, config=EvaluateConfig("validation", "main", draws=10, board="mbeir", pools=("universal",))
    )
    assert summary["headline"]["called"] == "R@5 or R@10" and summary["headline"]["trained"]["tasks"] == {"t->i": 1.0}
    (table,) = summary["board"]["tables"]
    assert [row["label"] for row in table["rows"] if row["values"]] == ["MSCOCO t->i"]


@pytest.mark.parametrize(
    ("there", "split"),
    [
        (["validation"], "validation"),
        (["validation", "test_entity", "test", "dev"], "test"),
        (["validation", "test_entity", "test_combination"], "test_combination"),
        (["validation", "dev", "mytest"], "dev"),
    ],
)
def test_unless_a_split_is_named_the_headline_is_of_the_corpuss_own(there, split):
    assert headline_split(there, None) == headline_split(there[::-1], None) == split
    assert all(headline_split(there, named) == named for named in there)


def test_the_headline_names_its_split(tmp_path, curate):
    outcome, _, summary = run(tmp_path, curate, TEXT_ONLY)
    (entry,) = entries(summary, system="trained", pool="universal", split="test_combination")
    assert EvaluateConfig().split is None and summary["headline"]["split"] == "test_combination"
    assert summary["headline"]["trained"] == entry["R@5"] and outcome.metrics["trained R@5"] == entry["R@5"]["average"]
    (headline,) = outcome.tables["headline"]
    assert (headline["split"], headline["trained"]) == ("test_combination", entry["R@5"]["average"])


def test_an_unknown_split_is_refused_with_those_there_are(tmp_path, curate):
    with pytest.raises(Refused, match=r"evaluate.split is 'dev'; the corpus has queries of test_combination, validation"):
        run(tmp_path, curate, PERFECT, config=EvaluateConfig(split="dev"))


def test_a_corpus_without_a_held_out_query_is_refused(tmp_path):
    only = corpus()
    only["queries"] = [row for row in only["queries"] if row["split"] == "train"]
    with pytest.raises(Refused, match="there is nothing to evaluate"):
        run(tmp_path, write_corpus(tmp_path / "curate", **only), PERFECT)


def alone(tmp_path, curate, queries, config=CONFIG):
    """The outcome of an evaluation of one encoder, and its metrics.json."""
    embed, index = system(tmp_path / "alone", queries)
    stage_context = context(tmp_path / "run")
    outcome = evaluate.work(stage_context, config, curate=curate, embed=embed, index=index)
    return outcome, json.loads((stage_context.folder / "metrics.json").read_text())


def test_without_a_training_the_one_encoder_is_measured_under_a_name_that_speaks_of_none(tmp_path, curate):
    outcome, summary = alone(tmp_path, curate, PERFECT)
    assert {entry["system"] for entry in summary["results"]} == {"encoder"}
    assert summary["headline"]["encoder"]["average"] == outcome.metrics["encoder R@5"] == 1.0
    assert outcome.metrics["test_combination universal R@5"] == 1.0
    assert not any("trained" in name for name in (*summary["headline"], *outcome.metrics, *outcome.tables["headline"][0]))


def test_queries_of_the_split_train_are_measured_where_they_were_embedded_and_are_the_last_to_be_the_headline(tmp_path, curate):
    _, summary = alone(tmp_path, curate, {**PERFECT, "trained": (TEXT, unit(0, TEXT))})
    (entry,) = entries(summary, pool="universal", split="train")
    assert entry["queries"] == {"t->t": 1} and summary["headline"]["split"] == "test_combination"
    assert headline_split(["train", "validation", "zoo"], None) == "validation" and headline_split(["train"], None) == "train"


def test_a_corpus_without_a_query_is_not_measured_and_the_result_says_so(tmp_path):
    curate = write_corpus(tmp_path / "curate", corpus=corpus()["corpus"])
    outcome, summary = alone(tmp_path, curate, PERFECT)
    assert summary == {"results": [], "unmeasured": outcome.tables["notices"][0]["detail"]} and outcome.metrics == {}
    bring = "; bring queries, or captions that are read apart, as docs/your_pictures.md explains"
    assert summary["unmeasured"] == f"no score was computed: the corpus has no queries{bring}"
    rows = [{"id": "q", "text": "?", "split": "train", "task": "t->t"}]
    learnt = write_corpus(tmp_path / "learnt", corpus=corpus()["corpus"], queries=rows, qrels=[{"query_id": "q", "item_id": "t0"}])
    _, summary = alone(tmp_path / "other", learnt, PERFECT)
    outside = "no query outside the split 'train' has an answer in the corpus"
    assert summary["unmeasured"] == f"no score was computed: {outside}{bring}", "another arm is trained on it"
    asked = write_corpus(tmp_path / "asked", corpus=corpus()["corpus"], queries=[rows[0] | {"split": "test"}])
    _, summary = alone(tmp_path / "third", asked, PERFECT)
    assert summary["unmeasured"] == f"no score was computed: no query has an answer in the corpus{bring}"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"measure": "R@7"}, "evaluate.measure is R@7, and what is measured is R@1, R@5, .*; name it in evaluate.measures too"),
        ({"measure": "R7"}, "evaluate.measure has 'R7'; give one of nDCG@k"),
        ({"measures": ("R@5", "F@5")}, "evaluate.measures has 'F@5'; give one of nDCG@k"),
        ({"pool": "all"}, "evaluate.pools has 'all'; give some of universal, target, dataset, listed, board"),
        ({"pool": "dataset"}, "evaluate.pool is 'dataset', and the pools that are measured are universal, target"),
        ({"pools": ("board",)}, "evaluate.pools has 'board', and no board is named"),
        ({"measure": "main"}, "evaluate.measure is 'main', that of a board, and no board is named"),
        ({"board": "mteb"}, "evaluate.board is 'mteb'; give one of mbeir, mmeb, "),
        ({"floors": ("bm25", "tfidf")}, "evaluate.floors has 'tfidf'; give some of bm25, pixels, chance"),
        ({"mean": "all"}, "evaluate.mean is 'all'; give one of tasks, datasets, queries"),
        ({"draws": 0}, "evaluate.draws is 0; give 1 or more"),
    ],
)
def test_a_config_that_cannot_be_is_refused(wrong, words):
    with pytest.raises(Refused, match=words):
        EvaluateConfig(**wrong)
