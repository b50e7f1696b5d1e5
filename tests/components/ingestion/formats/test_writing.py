"""Writers write each picture once, report what a format cannot represent, and refuse what they would change."""

from collections import Counter

import pytest

from mirepoix.components.ingestion.formats.fields import Document
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Prompt, Query
from mirepoix.components.ingestion.formats.writing import (
    Example,
    Files,
    examples,
    fits,
    has_scores,
    picture_suffix,
    split_file,
    with_placeholders,
)
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, picture

RED, BLUE = picture(250), picture(1)


@pytest.mark.parametrize(
    ("kind", "name"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp"), ("GIF", "gif"), ("BMP", "bmp"), ("TIFF", "tif")]
)
def test_the_extension_of_a_picture_is_that_of_its_format(kind, name):
    assert picture_suffix(picture(9, kind)) == name
    assert picture_suffix(b"none of them") == "img"


def test_a_picture_is_written_once_under_its_hash(tmp_path):
    with Files(tmp_path) as files:
        first, again, other = (files.picture(data) for data in (RED, RED, BLUE))
    assert first == again != other
    assert (tmp_path / first).read_bytes() == RED
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_a_file_is_begun_anew_and_then_appended_to(tmp_path):
    (tmp_path / "a.jsonl").write_text("old\n")
    with Files(tmp_path) as files:
        assert "a.jsonl" not in files
        files.row("a.jsonl", {"a": "ü"})
        files.row("a.jsonl", {"a": "\n"})
        assert "a.jsonl" in files
    assert (tmp_path / "a.jsonl").read_text() == '{"a": "ü"}\n{"a": "\\n"}\n'


def test_examples_count_what_formats_of_examples_have_no_place_for(tmp_path):
    rows = [
        Candidate(Item("a", "a", instruction="Said:")),
        Candidate(Item("b", "b")),
        Candidate(Item("c", "nobody names it")),
        Query(Item("q", "q"), "train", "t->t"),
        Query(Item("r", "r"), "train", "t->t"),
        Judgement("q", "a", 2, 0.5),
        Judgement("q", "b", 0),
        Judgement("r", "b"),
        Prompt("t->t", "Find it."),
    ]
    corpus, left = corpus_of(tmp_path, rows), Counter()
    found = list(examples(corpus, left))
    assert [(example.query.id, len(example.positives), len(example.negatives)) for example in found] == [("q", 1, 1), ("r", 1, 0)]
    assert found[0].positives[0].item.instruction == ""
    assert +left == {
        "candidates that no query names": 1,
        "grades of relevance": 1,
        "instructions of candidates": 1,
        "prompts": 1,
        "scores of a teacher": 1,
    }
    kept: Counter[str] = Counter()
    assert next(examples(corpus, kept, keep_scores=True, keep_instructions=True)).positives[0].item.instruction == "Said:"
    assert not kept["scores of a teacher"] and not kept["instructions of candidates"]


def shown(*scores):
    return [Document(Item(str(number), "x"), score) for number, score in enumerate(scores)]


def test_an_example_as_single_pairs_has_each_document_in_it():
    example = Example(Item("q", "q"), "train", "t->t", shown(None, None), shown(None, None, None))
    pairs = [(positive.item.id, negative and negative.item.id) for positive, negative in example.singles()]
    assert pairs == [("0", "0"), ("1", "1"), ("0", "2")]
    example = Example(Item("q", "q"), "train", "t->t", shown(None, None), shown(None))
    assert [negative and negative.item.id for _, negative in example.singles()] == ["0", None]


def test_scores_are_of_all_documents_or_of_none():
    assert has_scores(Example(Item("q"), "train", "", shown(1.0), shown(0.0)), "any")
    assert not has_scores(Example(Item("q"), "train", "", shown(None), shown(None)), "any")
    with pytest.raises(Refused, match="any takes scores of all documents of a query or of none, and q has them of some"):
        has_scores(Example(Item("q"), "train", "", shown(1.0), shown(None)), "any")


def test_the_split_is_in_the_name_of_its_file():
    assert split_file("validation", "any", "json") == "validation.json"
    with pytest.raises(Refused, match="split 'test_seen' cannot be expressed in the name of a any file"):
        split_file("test_seen", "any", "json")


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (Item("x", images=(RED,)), "holds no pictures, and x has a picture"),
        (Item("x", video=(RED,)), "holds no clips"),
        (Item("x", "t", instruction="Find."), "no place for an instruction"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(item, message):
    with pytest.raises(Refused, match=message):
        fits(item, "any", images=0)
    assert fits(item, "any", images=1, video=True, instruction=True) is item
    with pytest.raises(Refused, match="holds one picture an item, and x has 2 pictures"):
        fits(Item("x", images=(RED, BLUE)), "any", images=1)


def test_a_text_with_a_placeholder_of_its_own_is_refused():
    with pytest.raises(Refused, match="would read <image> in the text of x as a placeholder"):
        with_placeholders(Item("x", "say <image>"), "any", "<image>")
