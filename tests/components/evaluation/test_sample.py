"""A sample has held-out queries of all tasks, their answers, and others up to a number; rankings over it are those of the encoder."""

import numpy as np
import pytest
import torch

from mirepoix.components.corpus.parts import PartWriter
from mirepoix.components.evaluation import sample
from mirepoix.components.evaluation.sample import Asked, Sample, draw, first_rank, rankings, recalls
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from mirepoix.models.vectors import Vectors
from mirepoix.serving.search.hits import Hit
from tests.components.fixtures import write_corpus

DOCUMENTS = [{"id": f"d{number}", "text": f"text {number}"} for number in range(40)]


def write_pairs(folder, queries):
    """The queries of evaluation as `pairs` writes them."""
    empty = {"images": [], "video": [], "instruction": "", "source": "made", "line": 1, "split": "test"}
    with PartWriter(folder, "queries") as part:
        part.write([{**empty, **row} for row in queries])
    return folder


@pytest.fixture
def folders(tmp_path):
    """Eight queries of one task and two of another, of which one has no answer; the answer of each is the document of its number."""
    queries = [{"id": f"q{number}", "text": f"asks {number}", "task": "t->t" if number < 8 else "t->i"} for number in range(10)]
    qrels = [{"query_id": f"q{number}", "item_id": f"d{number}"} for number in range(9)]
    qrels += [{"query_id": "q9", "item_id": "d9", "relevance": 0}, {"query_id": "q0", "item_id": "d20"}]
    corpus = write_corpus(tmp_path / "corpus", corpus=DOCUMENTS, queries=[{**row, "split": "test"} for row in queries], qrels=qrels)
    return write_pairs(tmp_path / "pairs", queries), corpus


def test_queries_are_of_all_tasks_in_turn_and_documents_are_their_answers_and_others(folders):
    found = draw(*folders, queries=4, documents=12, seed=0)
    assert [asked.task for asked in found.queries] == ["t->i", "t->t", "t->t", "t->t"]
    assert (len(found.documents), found.all_documents, found.all_queries) == (12, 40, 9)
    ids = {item.id for item in found.documents}
    assert {answer for asked in found.queries for answer in asked.answers} < ids
    assert all(asked.answers == {"q0": {"d0", "d20"}}.get(asked.item.id, {f"d{asked.item.id[1:]}"}) for asked in found.queries)
    assert found.queries[0].item.text == "asks 8"


def test_the_same_seed_draws_the_same_and_another_seed_others(folders):
    first, again, other = (draw(*folders, queries=3, documents=10, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_all_are_taken_where_there_are_no_more_and_answers_where_documents_are_fewer(folders):
    whole = draw(*folders, queries=100, documents=1000, seed=0)
    assert (len(whole.queries), len(whole.documents)) == (9, 40)
    fewest = draw(*folders, queries=100, documents=1, seed=0)
    assert {item.id for item in fewest.documents} == {*(f"d{number}" for number in range(9)), "d20"}


def test_of_many_answers_some_are_ranked_and_the_others_are_no_documents(tmp_path):
    queries = [{"id": "q", "text": "a class", "task": "t->t"}]
    qrels = [{"query_id": "q", "item_id": f"d{number}"} for number in range(30)]
    corpus = write_corpus(tmp_path / "corpus", corpus=DOCUMENTS, queries=[{**queries[0], "split": "test"}], qrels=qrels)
    found = draw(write_pairs(tmp_path / "pairs", queries), corpus, queries=1, documents=1000, seed=0)
    assert len(found.queries[0].answers) == 10 and len(found.documents) == 20


def test_other_documents_of_a_large_corpus_are_drawn_from_some_of_its_row_groups(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(sample, "GROUPS", 2)
    with PartWriter(tmp_path / "large", "corpus", rows_per_file=5) as part:
        part.write([{"images": [], "video": [], "instruction": "", "source": "", "line": 1, **row} for row in DOCUMENTS])
    for part in ("qrels", "queries"):
        (folders[1] / part).rename(tmp_path / "large" / part)
    found = draw(folders[0], tmp_path / "large", queries=1, documents=1000, seed=0)
    others = {int(item.id[1:]) // 5 for item in found.documents if item.id not in found.queries[0].answers}
    assert len(others) == 2 and 8 <= len(found.documents) <= 12


@pytest.mark.parametrize(
    ("queries", "why"),
    [
        ([], r"no query is outside the split train"),
        ([{"id": "q9", "text": "x", "task": "t->t"}], r"none of its queries outside the split train has an answer"),
    ],
)
def test_a_run_without_held_out_queries_is_refused_in_one_line(queries, why, folders, tmp_path):
    with pytest.raises(Refused, match=rf"^the run has no held-out query to try \({why}\); curate\.held_out=0\.1 holds some out, .*$"):
        draw(write_pairs(tmp_path / "others", queries), folders[1], queries=4, documents=10, seed=0)


class Rows:
    """An encoder whose vectors are given by id; a query's are marked."""

    def __init__(self, **rows):
        self.rows, self.roles = rows, []

    def encode(self, items, batch_size, report=None, role="document"):
        self.roles.append((role, len(items)))
        if report:
            report(len(items))
        return Vectors.single(torch.tensor([self.rows[item.id] for item in items], dtype=torch.float32))


def test_rankings_recall_and_first_ranks_are_those_of_the_vectors():
    asked = (Asked(Item("p", text="p"), "t->t", frozenset({"b"})), Asked(Item("q", text="q"), "t->t", frozenset({"a", "c"})))
    chosen = Sample(asked, tuple(Item(id, text=id) for id in "abc"), 2, 3)
    encoder = Rows(p=[1, 0], q=[0, 1], a=[0.6, 0.8], b=[0.0, 1.0], c=[0.8, 0.6])
    told = []
    found = rankings(encoder, chosen, 16, told.append)
    assert [[hit.id for hit in ranking] for ranking in found] == [["c", "a", "b"], ["b", "a", "c"]]
    assert np.allclose([hit.score for hit in found[0]], [0.8, 0.6, 0.0])
    assert [first_rank(ranking, each.answers) for ranking, each in zip(found, asked, strict=True)] == [3, 2]
    assert recalls(found, chosen) == {"R@1": 0.0, "R@5": 1.0, "R@10": 1.0}
    ahead = [[Hit("b", 1.0)], [Hit("a", 1.0), Hit("b", 0.5)]]
    assert recalls(ahead, chosen)["R@1"] == 0.75
    assert encoder.roles == [("document", 3), ("query", 2)] and told == [3]
