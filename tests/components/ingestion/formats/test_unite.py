"""UNITE: sides of any modality, placeholders, target_modal, and bad rows rejected with their numbers."""

import json

import pytest

from mirepoix.components.ingestion.formats import unite
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, rejected_rows, rows_of, write_files
from tests.components.ingestion.formats.samples import BLUE, JPEG, RED
from tests.components.ingestion.formats.samples import unite as sample


def contents(rows, kind):
    return [(row.item.text, row.item.images, row.item.video) for row in rows if isinstance(row, kind)]


def test_rows_are_read_as_the_array_says(tmp_path):
    rows = rows_of(unite, sample(tmp_path / "s"))
    assert contents(rows, Query) == [("Find the same: sharper", (RED,), ()), ("a clip of the sea", (), ())]
    assert contents(rows, Candidate) == [("two views", (BLUE, JPEG), ()), ("", (RED,), ()), ("", (), (BLUE, RED))]
    assert [(row.item.id, row.item.line, row.split) for row in rows if isinstance(row, Query)] == [
        ("s/val.json:2", 2, "validation"),
        ("s/val.json:6", 6, "validation"),
    ]
    positive, negative, clip = (row.item.id for row in rows if isinstance(row, Candidate))
    assert [row for row in rows if isinstance(row, Judgement)] == [
        Judgement("s/val.json:2", positive, 1, None, "s/val.json", 2),
        Judgement("s/val.json:2", negative, 0, None, "s/val.json", 2),
        Judgement("s/val.json:6", clip, 1, None, "s/val.json", 6),
    ]


def test_an_array_on_one_line_gives_each_query_a_name_of_its_own(tmp_path):
    pairs = [{"query": {"text": f"q{number}"}, "candidate": {"text": "c"}} for number in range(3)]
    rows = rows_of(unite, write_files(tmp_path / "s", {"train.json": json.dumps(pairs)}))
    assert [row.item.id for row in rows if isinstance(row, Query)] == ["s/train.json:1", "s/train.json:1.2", "s/train.json:1.3"]


@pytest.mark.parametrize(
    "image", ["a.png", ["a.png"], {"type": "image", "image": "a.png"}, [{"type": "image", "image": "a.png"}], {"image": "a.png"}]
)
def test_a_picture_without_a_text_needs_no_placeholder(tmp_path, image):
    files = {"train.jsonl": [{"query": {"image": image}, "candidate": {"text": "c"}}], "a.png": RED}
    assert contents(rows_of(unite, write_files(tmp_path, files)), Query) == [("", (RED,), ())]


TEXT = {"query": {"text": "q"}, "candidate": {"text": "c"}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"query": {}}, "empty side"),
        ({"query": None}, "empty side"),
        ({"query": {"text": "<|IMAGE|>"}}, "placeholders"),
        ({"query": {"text": "q", "image": "a.png"}}, "placeholders"),
        ({"candidate": {"text": "<|IMAGE|>c", "image": ["a.png", "a.png"]}}, "placeholders"),
        ({"candidate": {"text": "<|IMAGE|>c", "video": ["a.png"]}}, "placeholders"),
        ({"candidate": {"video": ["clip.mp4"]}}, "video file"),
        ({"candidate": {"video": "clip.mp4"}}, "video file"),
        ({"candidate": {"image": "https://x/a.png"}}, "URL"),
        ({"candidate": {"image": "gone.png"}}, "missing picture"),
        ({"negative": {"image": "gone.png"}}, "missing picture"),
        ({"target_modal": "text,image"}, "unknown modality"),
        ({"target_modal": "text,audio"}, "unknown modality"),
        ({"target_modal": 3}, "bad row"),
        ({"query": "q"}, "bad row"),
        ({"query": {"text": ["q"]}}, "bad row"),
        ({"hard_negative": {"text": "n"}}, "unread column"),
        ({"candidate": {"text": "c", "audio": "a.wav"}}, "unread column"),
    ],
)
def test_each_bad_row_is_rejected_with_its_line(tmp_path, change, reason):
    text = ",\n".join(map(json.dumps, [TEXT, TEXT | change, TEXT]))
    rows = rows_of(unite, write_files(tmp_path / "s", {"train.json": f"[\n{text}\n]", "a.png": RED, "clip.mp4": b"mp4"}))
    assert rejected_rows(rows) == [("s/train.json", 3, reason)]
    assert [row.item.line for row in rows if isinstance(row, Query)] == [2, 4]


@pytest.mark.parametrize("target_modal", [["text"], 3, {"text": True}])
def test_a_target_modal_that_is_no_text_is_rejected_in_words(tmp_path, target_modal):
    (rejected,) = rows_of(unite, write_files(tmp_path, {"train.jsonl": [TEXT | {"target_modal": target_modal}]}))
    assert (rejected.reason, rejected.detail) == (
        "bad row",
        f"target_modal is a {type(target_modal).__name__} and no text such as 'text,image'",
    )


@pytest.mark.parametrize("target_modal", ["text", "text,image", "image, text", None])
def test_target_modal_may_be_missing_and_in_any_order(tmp_path, target_modal):
    candidate = {"text": "c"} if target_modal == "text" else {"text": "<|IMAGE|>c", "image": "a.png"}
    files = {"train.jsonl": [{"query": {"text": "q"}, "candidate": candidate, "target_modal": target_modal}], "a.png": RED}
    assert not rejected_rows(rows_of(unite, write_files(tmp_path, files)))


def test_what_is_written_is_unites_array(tmp_path):
    rows = [Candidate(Item("p", "p", (RED, BLUE))), Candidate(Item("n", video=(BLUE,)))]
    rows += [Query(Item("q", "q"), "train"), Judgement("q", "p"), Judgement("q", "n", 0)]
    out = tmp_path / "out"
    unite.write(out, corpus_of(tmp_path / "corpus", rows))
    [row] = json.loads((out / "train.json").read_text())
    red, blue = row["candidate"]["image"]
    assert [(out / path).read_bytes() for path in (red, blue)] == [RED, BLUE]
    assert row == {
        "query": {"text": "q"},
        "candidate": {"text": "<|IMAGE|><|IMAGE|>\np", "image": [red, blue]},
        "negative": {"text": "<|VIDEO|>", "video": [blue]},
        "target_modal": "text,image",
    }


def test_a_query_with_several_answers_or_negatives_is_counted_as_several_rows(tmp_path):
    rows = [Candidate(Item(name, name)) for name in "pno"]
    rows += [Query(Item("q", "q"), "train"), Judgement("q", "p"), Judgement("q", "n", 0), Judgement("q", "o", 0)]
    rows += [Query(Item("r", "r"), "train"), Judgement("r", "p"), Judgement("r", "n", 0)]
    assert unite.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows)) == {"queries that are written as several rows": 1}
    again = rows_of(unite, tmp_path / "out")
    assert [row.item.text for row in again if isinstance(row, Query)] == ["q", "q", "r"]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item("q", "q", instruction="Find."), "no place for an instruction"),
        (Item("q", "<|VIDEO|>"), "would read <|VIDEO|>".replace("|", r"\|")),
    ],
)
def test_what_unite_cannot_hold_is_refused(tmp_path, item, message):
    rows = [Candidate(Item("p", "p")), Query(item, "train"), Judgement("q", "p")]
    with pytest.raises(Refused, match=message):
        unite.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
