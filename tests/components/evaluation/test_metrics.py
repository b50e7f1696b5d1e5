"""Measures are those of trec_eval, and an interval gives the uncertainty of a mean."""

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from mirepoix.components.evaluation.metrics import MEASURES, hit, interval, measured, ndcg, recall, reciprocal_rank

ITEMS = [f"d{n}" for n in range(30)]
TREC = {
    "recall@1": "recall_1",
    "recall@5": "recall_5",
    "recall@10": "recall_10",
    "hit@5": "success_5",
    "mrr@10": "recip_rank",
    "ndcg@10": "ndcg_cut_10",
}
rankings = st.permutations(ITEMS).flatmap(lambda order: st.integers(0, len(order)).map(lambda k: order[:k]))
answers = st.sets(st.sampled_from(ITEMS), min_size=1)


def test_every_measure_has_its_name_in_trec_eval():
    assert set(TREC) == set(MEASURES)


@given(st.dictionaries(st.text("qrs", min_size=1), st.tuples(rankings, answers), min_size=1, max_size=4))
def test_trec_eval_gives_the_same_figures(asked):
    evaluator = pytrec_eval.RelevanceEvaluator(
        {query: dict.fromkeys(relevant, 1) for query, (_, relevant) in asked.items()},
        {"recall.1,5,10", "success.5", "recip_rank", "ndcg_cut.10"},
    )
    # trec_eval's reciprocal rank looks at the whole ranking; ours, like MS MARCO's, at the first ten.
    by_trec_eval = evaluator.evaluate(
        {query: {item: -float(rank) for rank, item in enumerate(order[:10])} for query, (order, _) in asked.items()}
    )
    for query, (order, relevant) in asked.items():
        given_by_us = measured(order, relevant)
        if order:  # trec_eval leaves out a query without results
            assert given_by_us == pytest.approx({ours: by_trec_eval[query][theirs] for ours, theirs in TREC.items()})
        else:
            assert set(given_by_us.values()) == {0.0}


@given(rankings, answers)
def test_measures_are_shares_and_deeper_results_never_lower_them(order, relevant):
    for measure in (recall, hit, reciprocal_rank):
        values = [measure(order, relevant, k) for k in range(1, len(ITEMS) + 1)]
        assert values == sorted(values) and values[0] >= 0 and values[-1] <= 1
    assert 0 <= ndcg(order, relevant, 10) <= 1 + 1e-12


def test_the_best_ranking_measures_one_wherever_it_can():
    assert set(measured(ITEMS, {"d0"}).values()) == {1.0}
    assert measured(ITEMS, {"d0", "d1"}) == {**dict.fromkeys(MEASURES, 1.0), "recall@1": 0.5}


def test_a_query_without_answers_is_a_bug():
    with pytest.raises(AssertionError, match="without a relevant item"):
        measured(ITEMS, set())


groups = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=40), min_size=1, max_size=5)


@given(groups, st.integers(0, 9))
def test_an_interval_holds_the_mean_and_is_the_same_for_the_same_seed(values, seed):
    low, high = interval(values, 500, seed)
    mean = np.mean([np.mean(group) for group in values])
    assert low - 1e-9 <= mean <= high + 1e-9
    assert (low, high) == interval(values, 500, seed)


def test_another_seed_draws_others():
    values = [list(np.linspace(0, 1, 30))]
    assert interval(values, 200, 0) != interval(values, 200, 1)


def test_more_queries_make_it_narrower_as_their_root():
    random = np.random.default_rng(0)
    widths = {}
    for count in (25, 100, 400):
        low, high = interval([random.integers(0, 2, count).tolist()], 2000, 0)
        widths[count] = high - low
        assert widths[count] == pytest.approx(2 * 1.96 * 0.5 / count**0.5, rel=0.2)
    assert widths[25] > widths[100] > widths[400]


def test_equal_queries_leave_no_doubt():
    assert interval([[0.25] * 10, [0.75] * 4], 100, 0) == pytest.approx((0.5, 0.5))


def test_groups_count_alike_however_many_queries_they_have():
    low, high = interval([[1.0] * 1000, [0.0] * 10], 100, 0)
    assert (low, high) == pytest.approx((0.5, 0.5))
