"""ms-swift: messages with their pictures and clips, and bad rows rejected with their numbers."""

import json

import pytest

from mirepoix.components.ingestion.formats import msswift
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, rejected_rows, rows_of, write_files
from tests.components.ingestion.formats.samples import BLUE, JPEG, RED
from tests.components.ingestion.formats.samples import msswift as sample


def test_rows_are_read_as_the_messages_say(tmp_path):
    rows = rows_of(msswift, sample(tmp_path / "s"))
    assert [row for row in rows if isinstance(row, Query)] == [
        Query(Item("s/test.jsonl:1", "one", (RED,), instruction="Find it.", source="s/test.jsonl", line=1), "test"),
        Query(Item("s/test.jsonl:2", video=(RED, BLUE), source="s/test.jsonl", line=2), "test"),
    ]
    found = [(row.item.text, row.item.images, row.item.instruction) for row in rows if isinstance(row, Candidate)]
    assert found == [("two", (BLUE,), ""), ("three", (RED, JPEG), ""), ("four", (), ""), ("five", (), "It is said:")]
    assert [(row.query_id[-1], row.relevance) for row in rows if isinstance(row, Judgement)] == [("1", 1), ("1", 0), ("1", 0), ("2", 1)]


def user_message(text, **more):
    return [{"role": "user", "content": text, **more}]


GOOD = {
    "messages": user_message("q"),
    "positive_messages": [user_message("p")],
    "negative_messages": [user_message("n"), user_message("m")],
}
PICTURED = GOOD | {"messages": user_message("<image>q"), "images": ["a.png"]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"messages": user_message("")}, "empty side"),
        ({"messages": []}, "empty side"),
        ({"positive_messages": [user_message(" ")]}, "empty side"),
        ({"negative_messages": [user_message("n"), user_message("")]}, "empty side"),
        ({"messages": user_message("<image>q")}, "placeholders"),
        ({"images": ["a.png"]}, "placeholders"),
        ({"positive_messages": [user_message("<image><image>p")], "positive_images": [["a.png"]]}, "placeholders"),
        ({"positive_images": [["a.png"], []]}, "placeholders"),
        ({"negative_messages": [user_message("<image>n"), user_message("m")], "negative_images": [["a.png"]]}, "placeholders"),
        ({"positive_messages": []}, "bad row"),
        ({"positive_messages": [user_message("p"), user_message("o")]}, "bad row"),
        ({"messages": [{"role": "assistant", "content": "q"}]}, "bad row"),
        ({"messages": [{"role": "user", "content": ["q"]}]}, "bad row"),
        ({"messages": "q"}, "bad row"),
        ({"messages": user_message("<video>"), "videos": ["clip.mp4"]}, "video file"),
        ({"messages": user_message("<image>"), "images": ["gone.png"]}, "missing picture"),
        ({"messages": user_message("<image>"), "images": ["http://x/a.png"]}, "URL"),
        ({"messages": user_message("<audio>"), "audios": ["a.wav"]}, "audio"),
        ({"negative_audios": [["a.wav"]]}, "audio"),
        ({"label": 0}, "no answer"),
        ({"label": 0.8}, "bad row"),
        ({"rejected_response": "n"}, "unread column"),
    ],
)
def test_each_bad_row_is_rejected_with_its_line(tmp_path, change, reason):
    rows = rows_of(msswift, write_files(tmp_path / "s", {"a.jsonl": [GOOD, GOOD | change, PICTURED], "a.png": RED, "clip.mp4": b"mp4"}))
    assert rejected_rows(rows) == [("s/a.jsonl", 2, reason)]
    assert [row.item.line for row in rows if isinstance(row, Query)] == [1, 3]


def test_what_is_written_is_ms_swifts(tmp_path):
    rows = [Candidate(Item("p", "p", (RED,))), Candidate(Item("n", "n")), Candidate(Item("v", video=(RED, BLUE)))]
    rows += [Query(Item("q", "q", (BLUE, RED), instruction="Find."), "train"), Judgement("q", "p"), Judgement("q", "n", 0)]
    rows += [Judgement("q", "v", 0)]
    out = tmp_path / "out"
    msswift.write(out, corpus_of(tmp_path / "corpus", rows))
    [row] = map(json.loads, (out / "train.jsonl").read_text().splitlines())
    blue, red = row["images"]
    assert [(out / path).read_bytes() for path in (blue, red)] == [BLUE, RED]
    assert row == {
        "messages": [{"role": "system", "content": "Find."}, *user_message("<image><image>\nq")],
        "images": [blue, red],
        "positive_messages": [user_message("<image>\np")],
        "positive_images": [[red]],
        "negative_messages": [user_message("n"), user_message("<video>")],
        "negative_videos": [[], [[red, blue]]],
    }


def test_several_answers_are_several_rows(tmp_path):
    rows = [Candidate(Item(name, name)) for name in ("p", "o", "n")]
    rows += [Query(Item("q", "q"), "train"), Judgement("q", "p"), Judgement("q", "o"), Judgement("q", "n", 0)]
    left = msswift.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
    assert left == {"queries that are written as several rows": 1}
    found = [json.loads(line) for line in (tmp_path / "out/train.jsonl").read_text().splitlines()]
    sides = [(row["positive_messages"], row["negative_messages"]) for row in found]
    assert sides == [([user_message("p")], [user_message("n")]), ([user_message("o")], [user_message("n")])]


def test_a_text_with_a_tag_of_its_own_is_refused(tmp_path):
    rows = [Candidate(Item("p", "write <video> here")), Query(Item("q", "q"), "train"), Judgement("q", "p")]
    with pytest.raises(Refused, match="would read <video> in the text of p"):
        msswift.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
