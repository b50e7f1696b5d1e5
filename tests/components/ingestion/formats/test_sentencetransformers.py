"""sentence-transformers: the order of columns, labels, scores, cells of every kind, and bad rows rejected with their numbers."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mirepoix.components.ingestion.formats import sentencetransformers
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, meaning, rejected_rows, rows_of, write_files
from tests.components.ingestion.formats.samples import BLUE, RED, sentence_transformers


def judgements(rows):
    """Judgements by content: query, candidate, relevance, score."""
    queries = {row.item.id: row.item.text or row.item.images for row in rows if isinstance(row, Query)}
    items = {row.item.id: row.item.text or row.item.images for row in rows if isinstance(row, Candidate)}
    return [(queries[row.query_id], items[row.item_id], row.relevance, row.score) for row in rows if isinstance(row, Judgement)]


def read(folder, rows, **files):
    return rows_of(sentencetransformers, write_files(folder, {"train.jsonl": rows, "a.png": RED, "b.png": BLUE, **files}))


def test_columns_are_read_by_their_order(tmp_path):
    assert judgements(rows_of(sentencetransformers, sentence_transformers(tmp_path / "one"))) == [
        ("the red one", (RED,), 1, None),
        ("the red one", (BLUE,), 0, None),
        ("the red one", "a rose", 0, None),
    ]
    assert judgements(read(tmp_path / "two", [{"positive": "q", "anchor": "p"}, {"anchor": "p2", "positive": "q2"}])) == [
        ("q", "p", 1, None),
        ("q2", "p2", 1, None),
    ]


def test_labelled_pairs_with_equal_anchors_are_one_query(tmp_path):
    pairs = [("q", "a", 1), ("r", "b", 1.0), ("q", "c", 0), ("q", "d", True)]
    rows = read(tmp_path, [{"anchor": anchor, "text": text, "label": label} for anchor, text, label in pairs])
    assert judgements(rows) == [("q", "a", 1, None), ("r", "b", 1, None), ("q", "c", 0, None), ("q", "d", 1, None)]
    assert len({row.item.id for row in rows if isinstance(row, Query)}) == 2
    assert not any(row.named for row in rows if isinstance(row, Query))


def test_labelled_pairs_of_another_file_are_queries_of_their_own(tmp_path):
    rows = [{"anchor": "q", "text": "a", "label": 1}]
    found = rows_of(sentencetransformers, write_files(tmp_path, {"train.jsonl": rows, "test.jsonl": rows}))
    assert sorted({(row.item.id.split(":")[0][-10:], row.split) for row in found if isinstance(row, Query)}) == [
        ("rain.jsonl", "train"),
        ("test.jsonl", "test"),
    ]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"anchor": "q", "texts": ["a", "b"], "labels": [0, 1]}, [("b", 1, None), ("a", 0, None)]),
        ({"anchor": "q", "texts": ["a", "b"], "labels": [0, 1], "scores": [0.25, 2]}, [("b", 1, 2.0), ("a", 0, 0.25)]),
        ({"anchor": "q", "positive": "a", "negative": "b", "score": [2, 0.5]}, [("a", 1, 2.0), ("b", 0, 0.5)]),
        ({"anchor": "q", "positive": "a", "negative": "b", "label": [2, 0.5]}, [("a", 1, 2.0), ("b", 0, 0.5)]),
        ({"anchor": "q", "text": "a", "label": 1, "score": 0.75}, [("a", 1, 0.75)]),
        ({"anchor": "q", "text": "a", "score": 1}, [("a", 1, None)]),
        ({"anchor": "q", "positive": ["a", "b"], "negative": "c"}, [("a", 1, None), ("b", 1, None), ("c", 0, None)]),
        ({"anchor": "q", "positives": ["a", "b"]}, [("a", 1, None), ("b", 1, None)]),
        ({"anchor": "q", "positive": ["a", "b"], "negative": "c", "score": [3, 2, 1]}, [("a", 1, 3.0), ("b", 1, 2.0), ("c", 0, 1.0)]),
        ({"score": [3.0, 1.0], "anchor": "q", "positive": "a", "negative_1": "b", "negative_2": None}, [("a", 1, 3.0), ("b", 0, 1.0)]),
    ],
)
def test_labels_say_what_answers_and_scores_are_a_teachers(tmp_path, row, expected):
    assert [rest for _, *rest in judgements(read(tmp_path, [row]))] == [list(one) for one in expected]


@pytest.mark.parametrize(
    ("cell", "item"),
    [
        ("a text that ends in .png", Item("", "a text that ends in .png")),
        ("a.png", Item("", images=(RED,))),
        ({"path": "a.png"}, Item("", images=(RED,))),
        ({"text": "t", "image": "a.png"}, Item("", "t", (RED,))),
        ({"text": "t", "image": {"path": "a.png"}}, Item("", "t", (RED,))),
        ({"text": None, "image": ["a.png", "b.png"]}, Item("", images=(RED, BLUE))),
        ({"video": ["a.png", "b.png"]}, Item("", video=(RED, BLUE))),
        ([{"role": "user", "content": "t"}], Item("", "t")),
        (
            [
                {"role": "system", "content": "Find."},
                {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "t"}]},
            ],
            Item("", "t", (RED,), instruction="Find."),
        ),
        ([{"role": "user", "content": [{"type": "video", "video": ["a.png"]}]}], Item("", video=(RED,))),
    ],
)
def test_a_cell_is_a_text_a_picture_an_object_or_messages(tmp_path, cell, item):
    for row in ({"anchor": cell, "positive": "p"}, {"anchor": "q", "positive": cell}):
        rows = read(tmp_path, [row])
        kind = Query if row["positive"] == "p" else Candidate
        [found] = [row.item for row in rows if isinstance(row, kind)]
        assert (found.text, found.images, found.video, found.instruction) == (item.text, item.images, item.video, item.instruction)


GOOD = {"anchor": "q", "positive": "p", "negative": "n"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"anchor": ""}, "empty side"),
        ({"anchor": None}, "empty side"),
        ({"positive": " "}, "empty side"),
        ({"positive": {"text": "", "image": None}}, "empty side"),
        ({"negative": "  "}, "empty side"),
        ({"negative": ["n", ""]}, "empty side"),
        ({"negative": {"text": " "}}, "empty side"),
        ({"anchor": ["q", "r"]}, "bad row"),
        ({"anchor": 3}, "bad row"),
        ({"positive": "gone.png"}, "missing picture"),
        ({"positive": "http://x/a.png"}, "URL"),
        ({"positive": {"audio": "a.wav"}}, "audio"),
        ({"positive": {"video": "clip.mp4"}}, "video file"),
        ({"positive": {"text": "t", "depth": "a.png"}}, "unread column"),
        ({"positive": [{"role": "assistant", "content": "t"}]}, "bad row"),
        ({"positive": [{"role": "user", "content": [{"type": "audio", "audio": "x"}]}]}, "audio"),
        ({"id": 7}, "unread column"),
    ],
)
def test_each_bad_row_is_rejected_with_its_number(tmp_path, change, reason):
    rows = read(tmp_path / "s", [GOOD, GOOD | change, GOOD])
    assert rejected_rows(rows) == [("s/train.jsonl", 2, reason)]
    assert [row.item.line for row in rows if isinstance(row, Query)] == [1, 3]


@pytest.mark.parametrize(
    "row",
    [
        {"sentence1": "q", "sentence2": "p", "score": 0.35},
        {"anchor": "q", "positive": "p", "negative": "n", "label": 0.7},
        {"anchor": "q", "positive": "p", "negative": "n", "score": [1.0]},
        {"anchor": "q", "texts": ["a", "b"], "labels": [1]},
        {"anchor": "q", "texts": ["a", "b"], "labels": [2.5, 0.5]},
        {"anchor": "q", "texts": ["a", "b"], "scores": [2.5, 0.5]},
        {"anchor": "q", "score": 1},
    ],
)
def test_a_row_without_a_clear_positive_is_rejected(tmp_path, row):
    assert rejected_rows(read(tmp_path / "s", [row])) == [("s/train.jsonl", 1, "bad row")]


def corpus(tmp_path, *negatives, split="train", score=None):
    rows = [Candidate(Item("p", images=(RED,))), *map(Candidate, negatives)]
    rows += [Query(Item("q", "q"), split), Judgement("q", "p", 1, score)]
    return corpus_of(tmp_path / "corpus", [*rows, *(Judgement("q", item.id, 0, score) for item in negatives)])


def test_what_is_written_are_columns_that_datasets_knows(tmp_path):
    negatives = [Item("n1", "n"), Item("n2", "m"), Item("n3", "o", (BLUE,))]
    sentencetransformers.write(tmp_path / "out", corpus(tmp_path, *negatives, score=0.5))
    table = pq.read_table(tmp_path / "out/train-t-i-2t-it-scored-00000.parquet")
    assert table.schema.names == ["anchor", "positive", "negative_1", "negative_2", "negative_3", "scores"]
    [row] = table.to_pylist()
    assert (row["anchor"], row["negative_1"], row["scores"]) == ("q", "n", [0.5] * 4)
    assert row["positive"] == {"bytes": RED, "path": "p.png"}
    assert row["negative_3"] == {"text": "o", "image": {"bytes": BLUE, "path": "n3.png"}}
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["anchor"] == {"dtype": "string", "_type": "Value"}
    assert features["positive"] == {"_type": "Image"}
    assert features["negative_3"] == {"text": {"dtype": "string", "_type": "Value"}, "image": {"_type": "Image"}}


def test_examples_of_other_columns_are_other_files_and_few_are_held(tmp_path, monkeypatch):
    monkeypatch.setattr(sentencetransformers, "HELD_BYTES", 1)
    rows = [Candidate(Item("p", "p")), Candidate(Item("n", "n"))]
    for name in "abc":
        rows += [Query(Item(name, name), "test"), Judgement(name, "p")]
    rows.append(Judgement("c", "n", 0))
    sentencetransformers.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert files == ["test-t-t-00000.parquet", "test-t-t-00001.parquet", "test-t-t-t-00000.parquet"]
    again = rows_of(sentencetransformers, tmp_path / "out")
    assert meaning(again, ids=False) == meaning(rows, ids=False)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item("n", "photo.png"), "would read the text of n as the path of a picture"),
        (Item("n", images=(RED, BLUE)), "one picture an item"),
        (Item("n", video=(RED,)), "holds no clips"),
    ],
)
def test_what_columns_cannot_hold_is_refused(tmp_path, item, message):
    with pytest.raises(Refused, match=message):
        sentencetransformers.write(tmp_path / "out", corpus(tmp_path, item))


def test_the_order_of_columns_in_parquet_is_the_files(tmp_path):
    columns = {"scores": [[2.0, 1.0]], "b": ["q"], "a": ["p"], "c": ["n"]}
    pq.write_table(pa.table(columns), tmp_path / "dev.parquet")
    assert judgements(rows_of(sentencetransformers, tmp_path)) == [("q", "p", 1, 2.0), ("q", "n", 0, 1.0)]


def test_the_order_of_columns_is_that_of_the_first_object(tmp_path):
    rows = read(tmp_path / "s", '{broken\n{"anchor": "q", "positive": "p"}\n{"anchor": "r", "positive": "o"}\n')
    assert rejected_rows(rows) == [("s/train.jsonl", 1, "bad JSON")] and judgements(rows) == [("q", "p", 1, None), ("r", "o", 1, None)]


def test_a_query_with_several_answers_is_counted_as_several_rows(tmp_path):
    rows = [Candidate(Item("p", "p")), Candidate(Item("o", "o")), Query(Item("q", "q"), "train"), Judgement("q", "p"), Judgement("q", "o")]
    left = sentencetransformers.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
    assert left == {"queries that are written as several rows": 1}
