"""WebQA: snippets, pictures by their place in a TSV, questions in each of their forms, and judgements."""

import base64
import json

import pytest

from mirepoix.components.ingestion.formats import source_files as places
from mirepoix.components.ingestion.formats import webqa
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Query, RejectedRow, Unreadable
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.fixtures import write_corpus
from tests.components.ingestion.formats.format_cases import corpus_of, meaning, picture, rejected_rows, rows_of, write_files

RED, BLUE = picture(200), picture(10, "JPEG")
DOCS = [{"snippet_id": "d1_0", "fact": "A star."}, {"snippet_id": "d1_1", "fact": "A disc."}]
IMGS = [{"image_id": 30000001, "caption": "a red thing"}, {"image_id": 30000000, "caption": ""}]
ASKED = {
    "qid": "q1",
    "Q": "Which one ?",
    "txt_posFacts": [{"snippet_id": "d1_0", "fact": "A star.", "title": "t"}],
    "img_negFacts": [30000001],
}


def tsv(*lines):
    """The bytes of imgs.tsv, and of its line index."""
    made = [f"{id}\t{base64.b64encode(shown).decode() if isinstance(shown, bytes) else shown}\n" for id, shown in lines]
    return "".join(made), "".join(f"{len(''.join(made[:n]))}\n" for n in range(len(made)))


PICTURES, INDEX = tsv((30000000, RED), (30000001, BLUE))


def whole(**changes):
    files = {
        "all_docs.json": DOCS,
        "all_imgs.json": IMGS,
        "imgs.tsv": PICTURES,
        "imgs.lineidx.new": INDEX,
        "train.json": [ASKED],
        "test.json": [{**ASKED, "qid": "q2"}],
        "test_qrels.txt": "q2 0 30000000 2\nq2 0 d1_1 0\n",
    }
    return {name: content for name, content in {**files, **changes}.items() if content is not None}


def read(folder, **changes):
    return rows_of(
        webqa, write_files(folder, whole(**{name.replace("__", "."): content for name, content in changes.items()})), name="mine"
    )


def images(rows):
    return {row.item.id: row.item.images[0] for row in rows if isinstance(row, Candidate) and row.item.images}


def judged(rows):
    return [(row.query_id, row.item_id, row.relevance) for row in rows if isinstance(row, Judgement)]


def test_every_file_is_read_exactly(tmp_path):
    assert read(tmp_path) == [
        Candidate(Item("d1_0", "A star.", source="mine/all_docs.json", line=1)),
        Candidate(Item("d1_1", "A disc.", source="mine/all_docs.json", line=2)),
        Candidate(Item("30000001", "a red thing", (BLUE,), source="mine/all_imgs.json", line=1)),
        Candidate(Item("30000000", "", (RED,), source="mine/all_imgs.json", line=2)),
        Query(Item("q2", "Which one ?", source="mine/test.json", line=1), "test", dataset="webqa"),
        Query(Item("q1", "Which one ?", source="mine/train.json", line=1), "train", dataset="webqa"),
        Judgement("q1", "d1_0", 1, None, "mine/train.json", 1),
        Judgement("q1", "30000001", 0, None, "mine/train.json", 1),
        Judgement("q2", "30000000", 2, None, "mine/test_qrels.txt", 1),
        Judgement("q2", "d1_1", 0, None, "mine/test_qrels.txt", 2),
    ]


def test_without_judgements_of_its_own_the_test_has_its_facts(tmp_path):
    assert judged(read(tmp_path, test_qrels__txt=None, train__json=None)) == [("q2", "d1_0", 1), ("q2", "30000001", 0)]


def test_dev_is_the_validation_split(tmp_path):
    rows = read(tmp_path, dev__json=[{**ASKED, "qid": "q3"}])
    assert {row.item.id: row.split for row in rows if isinstance(row, Query)} == {"q1": "train", "q2": "test", "q3": "validation"}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("form", ["array", "object"])
def test_questions_may_be_one_array_or_one_object_by_their_ids(tmp_path, form, indent):
    asked = [{**ASKED, "qid": f"q{n}", "Q": f"ü {n} " + "x" * 1000, "A": ["yes"], "topic": "t", "split": "train"} for n in range(3)]
    if form == "object":
        asked = {row["qid"]: {**row, "Guid": row["qid"]} for row in asked} | {"bad": 3}
    text = json.dumps(asked, indent=indent)
    rows = read(tmp_path, train__json=text, test__json=None, test_qrels__txt=None)
    before = 1 if form == "array" and indent else 0  # the brace is on the line before the id
    lines = [1 + text[: text.index(f'"q{n}"')].count("\n") - before for n in range(3)]
    found = [(row.item.id, row.item.text[:3], row.item.line) for row in rows if isinstance(row, Query)]
    assert found == [(f"q{n}", f"ü {n}", lines[n]) for n in range(3)] and len(judged(rows)) == 6
    if form == "object":
        assert [row.reason for row in rows if isinstance(row, RejectedRow)] == ["bad JSON"]


def test_lines_of_a_large_object_are_true_and_it_is_read_in_blocks(tmp_path, monkeypatch):
    asked = {f"q{n}": {"Q": "é" * 5000, "txt_posFacts": ["d1_0"]} for n in range(300)}
    text = "{\n" + ",\n".join(f"{json.dumps(id)}: {json.dumps(row, ensure_ascii=False)}" for id, row in asked.items()) + "\n}\n"
    assert len(text.encode()) > 2 << 20
    rows = read(tmp_path, train__json=text)
    assert [(row.item.id, row.item.line) for row in rows if isinstance(row, Query)][1:] == [(f"q{n}", n + 2) for n in range(300)]


@pytest.mark.parametrize("text", ['{"q1": {"Q": "x"}', '{"q1": {"Q": "x"}, 3}', '{"q1": {"Q": '])
def test_an_object_that_is_cut_off_or_broken_is_refused(tmp_path, text):
    with pytest.raises(Refused, match=r"mine/train.json line 1 is no JSON object of questions"):
        read(tmp_path, train__json=text)


@pytest.mark.parametrize("index", [INDEX, None])
@pytest.mark.parametrize("ids", [(30000000, 30000001), (30000007, 12), ("b", "a")])
def test_pictures_are_found_by_the_number_by_the_index_or_by_a_pass(tmp_path, ids, index):
    text, its = tsv((ids[0], RED), (ids[1], BLUE))
    captions = [{"image_id": id, "caption": "x"} for id in reversed(ids)]
    rows = read(tmp_path, all_imgs__json=captions, imgs__tsv=text, **{"imgs__lineidx__new": its if index else None})
    assert images(rows) == {str(ids[0]): RED, str(ids[1]): BLUE} and not rejected_rows(rows)


def test_no_piece_of_the_captions_looks_for_its_pictures_again(tmp_path, monkeypatch):
    monkeypatch.setattr(webqa, "LINES", 2)
    captions = "".join("\n" * (n == 3) + json.dumps({"image_id": f"p{n}", "caption": f"shade {n}"}) + "\n" for n in range(5))
    text, _ = tsv(*((f"p{n}", picture(n)) for n in range(5)))
    tree = SourceFiles(str(write_files(tmp_path, whole(**{"all_imgs.json": captions, "imgs.tsv": text, "imgs.lineidx.new": None}))), "mine")
    pieces = [shard for shard in webqa.shards(tree) if shard.file == "all_imgs.json"]
    monkeypatch.setattr(webqa, "_scan_ids", None)
    monkeypatch.setattr(places.SourceFiles, "stream", _only("all_imgs.json", places.SourceFiles.stream))
    rows = [row for shard in pieces for row in webqa.read(tree, shard)]
    assert [(shard.start > 0, shard.line) for shard in pieces] == [(False, 1), (True, 3), (True, 6)]
    assert images(rows) == {f"p{n}": picture(n) for n in range(5)}
    assert [row.item.line for row in rows] == [1, 2, 3, 5, 6]


def _only(file, stream):
    def guarded(self, name, start=0):
        assert name == file
        return stream(self, name, start)

    return guarded


def test_captions_may_be_one_array(tmp_path):
    assert set(images(read(tmp_path, all_imgs__json=json.dumps(IMGS)))) == {"30000000", "30000001"}


def test_each_kind_of_bad_row_is_rejected_with_its_line(tmp_path):
    captions = [
        {"image_id": 30000009, "caption": "x"},
        {"image_id": "a b", "caption": "x"},
        {"caption": "x"},
        {"image_id": 30000002, "caption": "x"},
        {"image_id": 30000003, "caption": "x"},
        {"image_id": 30000000, "caption": 3},
        {"image_id": 30000000, "caption": "x", "audio": "x"},
        {"image_id": 30000001, "caption": "good"},
    ]
    text, index = tsv((30000000, RED), (30000001, BLUE), (30000002, "?!"), (30000003, ""))
    docs = ['{"snippet_id": "d1", "fact": ""}\n', "{\n", '{"fact": "x"}\n', *['{"snippet_id": "d1", "fact": "x"}\n'] * 2]
    asked = [
        {**ASKED, **change} for change in ({"qid": None}, {"Q": ""}, {"txt_posFacts": "d"}, {"img_posFacts": [{}]}, {"Qsound": "x"}, {})
    ]
    rows = read(
        tmp_path,
        all_docs__json="".join(docs),
        all_imgs__json="7\n" + "".join(json.dumps(row) + "\n" for row in captions),
        imgs__tsv=text,
        imgs__lineidx__new=index,
        train__json=asked,
        test_qrels__txt="q2 0\nq2 0 d1 yes\nq2 0 d1 1\n",
    )
    assert rejected_rows(rows) == [
        ("mine/all_docs.json", 1, "empty side"),
        ("mine/all_docs.json", 2, "bad JSON"),
        ("mine/all_docs.json", 3, "bad row"),
        ("mine/all_imgs.json", 1, "bad JSON"),
        ("mine/all_imgs.json", 2, "missing picture"),
        ("mine/all_imgs.json", 3, "bad id"),
        ("mine/all_imgs.json", 4, "bad row"),
        ("mine/all_imgs.json", 5, "bad row"),
        ("mine/all_imgs.json", 6, "missing picture"),
        ("mine/all_imgs.json", 7, "bad row"),
        ("mine/all_imgs.json", 8, "unread column"),
        ("mine/train.json", 1, "bad id"),
        ("mine/train.json", 2, "empty side"),
        ("mine/train.json", 3, "bad row"),
        ("mine/train.json", 4, "bad row"),
        ("mine/train.json", 5, "unread column"),
        ("mine/test_qrels.txt", 1, "bad row"),
        ("mine/test_qrels.txt", 2, "bad row"),
    ]
    assert images(rows) == {"30000001": BLUE}
    assert [row.item.id for row in rows if isinstance(row, Candidate) and not row.item.images] == [
        "d1",
        "d1",
    ]  # duplicates are handled later, when rows are joined


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b'{"q1": {"Q": "x"}}\n{"q2": {"Q": "y"}}', "goes on at line 2"),
        (b'{"q1": {"Q": "x"},\n"q2": {"Q": "\xff"}}', "line 2 is not UTF-8"),
        (b'{"q1": {"Q": "x"},\n"q2": {"Q": ' + b"[" * 100_000, "line 2 is no JSON object"),
        (b'{"q1": {"Q": "x"},\n"q2": {"Q": ' + b"9" * 5000 + b"}}", "line 2 is no JSON object"),
    ],
)
def test_an_object_of_questions_that_cannot_be_read_is_refused_with_its_line(tmp_path, text, words):
    with pytest.raises(Refused) as refused:
        read(tmp_path, train__json=text)
    assert f"mine/train.json {words}" in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("ids", [(30000000, 30000001), ("b", "a")])
def test_an_index_may_have_the_id_before_each_offset_as_marvels_has(tmp_path, monkeypatch, ids):
    text, index = tsv((ids[0], RED), (ids[1], BLUE))
    named = "".join(f"{id}\t{start}\n" for id, start in zip(ids, index.split(), strict=True))
    monkeypatch.setattr(webqa, "_scan_ids", None)
    rows = read(tmp_path, all_imgs__json=[{"image_id": id, "caption": "x"} for id in ids], imgs__tsv=text, imgs__lineidx__new=named)
    assert images(rows) == {str(ids[0]): RED, str(ids[1]): BLUE} and not rejected_rows(rows)


def test_judgements_may_have_three_columns_as_marvels_have(tmp_path):
    rows = read(tmp_path, train__json=None, test_qrels__txt="q2\t30000000\t2\nq2\td1_1\t1\n")
    assert judged(rows) == [("q2", "30000000", 2), ("q2", "d1_1", 1)] and not rejected_rows(rows)


def test_of_splits_that_are_not_read_no_file_is_opened(tmp_path, monkeypatch):
    opened = []
    stream = places.SourceFiles.stream
    monkeypatch.setattr(places.SourceFiles, "stream", lambda tree, file, start=0: opened.append(file) or stream(tree, file, start))
    tree = SourceFiles(str(write_files(tmp_path, whole(**{"dev.json": [ASKED], "dev_qrels.txt": "q1 0 d1_0 1\n"}))))
    tree.splits, tree.only_splits = {"validation": "mine"}, ("mine",)
    rows = [row for shard in webqa.shards(tree) for row in webqa.read(tree, shard)]
    assert [(row.item.id, row.split) for row in rows if isinstance(row, Query)] == [("q1", "validation")]
    assert judged(rows) == [("q1", "d1_0", 1)] and len(images(rows)) == 2
    assert {file for file in opened if "train" in file or "test" in file} == set()


def test_an_index_that_points_at_another_picture_rejects_the_caption(tmp_path):
    text, index = tsv((30000000, RED), (30000005, BLUE), (30000002, RED))
    rows = read(tmp_path, imgs__tsv=text, imgs__lineidx__new=index, all_imgs__json=[{"image_id": 30000001, "caption": "x"}])
    assert rejected_rows(rows) == [("mine/all_imgs.json", 1, "missing picture")]


@pytest.mark.parametrize("index", ["0\nx\n", "0\n99999\n", "a\t0\nb\t99999\n", "a\t0\n3\n", "a 0 3\n"])
def test_an_index_that_does_not_fit_is_refused(tmp_path, index):
    with pytest.raises(Refused, match=r"mine/imgs.lineidx.new does not fit imgs.tsv"):
        read(tmp_path, imgs__lineidx__new=index)


def test_captions_without_the_file_of_pictures_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"imgs.tsv, which holds them, is not beside it"):
        read(tmp_path, imgs__tsv=None)


def test_it_is_detected_by_its_snippets_or_captions(tmp_path):
    assert webqa.detect(SourceFiles(str(write_files(tmp_path / "both", whole()))))
    assert webqa.detect(SourceFiles(str(write_files(tmp_path / "docs", {"all_docs.json": DOCS, "train.json": [ASKED]}))))
    assert not webqa.detect(SourceFiles(str(write_files(tmp_path / "else", {"train.json": [ASKED], "imgs.tsv": PICTURES}))))


def test_what_is_written_is_read_again(tmp_path):
    rows = read(tmp_path / "in", dev__json=[{"id": "q3", "Q": "?", "img_posFacts": [30000000]}])
    assert webqa.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows)) == {}
    again = rows_of(webqa, tmp_path / "out")
    assert meaning(again) == meaning(rows) and not rejected_rows(again)
    starts = [line.split("\t") for line in (tmp_path / "out" / "imgs.lineidx.new").read_text().splitlines()]
    lines = (tmp_path / "out" / "imgs.tsv").read_bytes()
    assert [(id, lines[int(start) :].partition(b"\t")[0]) for id, start in starts] == [("30000001", b"30000001"), ("30000000", b"30000000")]
    assert (tmp_path / "out" / "test_qrels.txt").read_text() == "q2\t30000000\t2\nq2\td1_1\t0\n", "as MARVEL reads it"


@pytest.mark.parametrize(
    ("candidate", "query", "words"),
    [
        ({"images": [RED, RED]}, {}, "d has 2 pictures"),
        ({"video": [RED]}, {}, "no clips"),
        ({}, {"images": [RED]}, "q has a picture"),
        ({}, {"instruction": "Find."}, "q has one"),
        ({}, {"split": "mine"}, "q is of 'mine'"),
    ],
)
def test_what_it_cannot_hold_is_refused(tmp_path, candidate, query, words):
    corpus = write_corpus(
        tmp_path / "corpus",
        corpus=[{"id": "d", "text": "x", **candidate}],
        queries=[{"id": "q", "text": "?", "split": "train", "task": "t->t", **query}],
        qrels=[{"query_id": "q", "item_id": "d"}],
    )
    with pytest.raises(Refused) as refused:
        webqa.write(tmp_path / "out", corpus)
    assert words in str(refused.value)


def test_grades_are_kept_for_the_test_and_counted_elsewhere(tmp_path):
    corpus = write_corpus(
        tmp_path / "corpus",
        corpus=[{"id": "d", "text": "x"}],
        queries=[{"id": split, "text": "?", "split": split, "task": "t->t"} for split in ("train", "test")],
        qrels=[{"query_id": split, "item_id": "d", "relevance": 3, "score": 0.5} for split in ("train", "test")],
    )
    assert webqa.write(tmp_path / "out", corpus) == {"grades of relevance": 1, "scores of a teacher": 2}
    assert judged(rows_of(webqa, tmp_path / "out")) == [("train", "d", 1), ("test", "d", 3)]


def test_all_that_is_judged_is_given(tmp_path):
    facts = [{"snippet_id": "d1_0"}]
    asked = {"qid": "q", "Q": "why ?", "txt_posFacts": facts * 2, "txt_negFacts": facts}
    rows = read(tmp_path, train__json=[asked], test__json=None, test_qrels__txt=None)
    assert judged(rows) == [("q", "d1_0", 1), ("q", "d1_0", 1), ("q", "d1_0", 0)]


def test_captions_that_break_off_are_reported_where_they_are_read(tmp_path):
    captions = json.dumps(IMGS)[:-1] + ",\n{,}]"
    tree = SourceFiles(str(write_files(tmp_path, whole(**{"all_imgs.json": captions}))), "mine")
    (shard,) = [shard for shard in webqa.shards(tree) if shard.file == "all_imgs.json"]
    with pytest.raises(Unreadable, match=r"mine/all_imgs\.json line 2 is no JSON") as broken:
        list(webqa.read(tree, shard))
    assert broken.value.line == 2
