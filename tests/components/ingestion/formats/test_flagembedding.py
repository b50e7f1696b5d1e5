"""FlagEmbedding: texts, scores, prompts, the pool, and bad rows rejected with their numbers."""

import json

import pytest

from mirepoix.components.ingestion.formats import flagembedding
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, picture, rejected_rows, rows_of, write_files
from tests.components.ingestion.formats.samples import flagembedding as sample


def test_rows_are_read_as_the_lines_say(tmp_path):
    rows = rows_of(flagembedding, sample(tmp_path / "s"))
    texts = {row.item.id: row.item.text for row in rows if isinstance(row, Candidate)}
    file = "s/toy_no_in_batch_neg.jsonl"
    assert [row for row in rows if isinstance(row, Query)] == [
        Query(Item(f"{file}:1", "q one", instruction="Find it: ", source=file, line=1), "train"),
        Query(Item(f"{file}:2", "q two", source=file, line=2), "train"),
    ]
    assert [(row.query_id[-1], texts[row.item_id], row.relevance, row.score) for row in rows if isinstance(row, Judgement)] == [
        ("1", "p one", 1, 0.75),
        ("1", "p two", 1, 0.5),
        ("1", "n one", 0, -1.0),
        ("2", "p two", 1, None),
    ]
    assert set(texts.values()) == {"p one", "p two", "n one", "in the pool alone"}
    assert not any(row.named for row in rows if isinstance(row, Candidate))


def test_the_mark_of_a_file_without_negatives_of_its_batch_stays_in_the_source_of_its_rows(tmp_path):
    rows = rows_of(flagembedding, write_files(tmp_path / "s", {"a_no_in_batch_neg/x.jsonl": [{"query": "q", "pos": ["p"]}]}))
    assert {row.item.source for row in rows if isinstance(row, Query)} == {"s/a_no_in_batch_neg/x.jsonl"}


GOOD = {"query": "q", "pos": ["p"], "neg": ["n"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query": ""}, "empty side"),
        ({"pos": ["p", " "]}, "empty side"),
        ({"neg": [""]}, "empty side"),
        ({"pos": []}, "no answer"),
        ({"pos": None}, "no answer"),
        ({"pos": "p"}, "bad row"),
        ({"neg": "n"}, "bad row"),
        ({"neg": [3]}, "bad row"),
        ({"pos_scores": [1.0, 2.0]}, "bad row"),
        ({"neg_scores": ["high"]}, "bad row"),
        ({"teacher": "x"}, "unread column"),
    ],
)
def test_each_bad_row_is_rejected_with_its_line(tmp_path, change, reason):
    rows = rows_of(flagembedding, write_files(tmp_path / "s", {"a.jsonl": [GOOD, GOOD | change, GOOD]}))
    assert rejected_rows(rows) == [("s/a.jsonl", 2, reason)]
    assert [row.item.line for row in rows if isinstance(row, Query)] == [1, 3]


def test_a_bad_line_of_the_pool_is_rejected(tmp_path):
    rows = rows_of(flagembedding, write_files(tmp_path / "s", {"pool.jsonl": [{"text": ""}, {"text": "t", "id": 3}, {"text": "t"}]}))
    assert rejected_rows(rows) == [("s/pool.jsonl", 1, "empty side"), ("s/pool.jsonl", 2, "unread column")]


def corpus(tmp_path, query, *judgements):
    rows = [Candidate(Item(name, name)) for name in ("p", "n", "pool")]
    return corpus_of(tmp_path / "corpus", [*rows, Query(query, "train"), *judgements])


def test_what_is_written_is_flagembeddings_to_the_letter(tmp_path):
    query = Item("q", "q", instruction="Find: ")
    flagembedding.write(tmp_path / "out", corpus(tmp_path, query, Judgement("q", "p", 1, 2.0), Judgement("q", "n", 0, 0.5)))
    [line] = (tmp_path / "out/train.jsonl").read_text().splitlines()
    assert json.loads(line) == {"query": "q", "pos": ["p"], "pos_scores": [2.0], "neg": ["n"], "neg_scores": [0.5], "prompt": "Find: "}
    assert (tmp_path / "out/candidate_pool/pool.jsonl").read_text() == '{"text": "pool"}\n'


def test_scores_of_some_documents_and_pictures_are_refused(tmp_path):
    some = corpus(tmp_path / "some", Item("q", "q"), Judgement("q", "p", 1, 2.0), Judgement("q", "n", 0))
    with pytest.raises(Refused, match="has them of some"):
        flagembedding.write(tmp_path / "out", some)
    with pytest.raises(Refused, match="holds no pictures"):
        flagembedding.write(tmp_path / "out", corpus(tmp_path / "seen", Item("q", "q", (picture(1),)), Judgement("q", "p")))


def test_all_that_is_judged_is_given(tmp_path):
    rows = rows_of(flagembedding, write_files(tmp_path, {"train.jsonl": [{"query": "a", "pos": ["b", "b"], "neg": ["b", "c", "c"]}]}))
    texts = {row.item.id: row.item.text for row in rows if isinstance(row, Candidate)}
    judgements = [(texts[row.item_id], row.relevance) for row in rows if isinstance(row, Judgement)]
    assert judgements == [("b", 1), ("b", 1), ("b", 0), ("c", 0), ("c", 0)] and len(texts) == 2
