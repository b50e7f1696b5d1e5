"""A folder of pictures: captions in CSV, TSV or JSON lines, or none at all."""

import json

import pytest

from mirepoix.components.ingestion.formats import folder, listed_pictures
from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Notice, Query, Unreadable, unnamed_candidate
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles
from mirepoix.components.ingestion.readers import FORMAT_MODULES
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item
from tests.components.ingestion.formats.format_cases import corpus_of, meaning, picture, rejected_rows, rows_of, write_files

RED, BLUE = picture(200), picture(10, "JPEG")
SHOWN = {"a.png": RED, "x/b.jpg": BLUE}


def read(path, files, **settings):
    return rows_of(folder, write_files(path, files), name="mine", **settings)


def candidates(rows):
    return [row.item.id for row in rows if isinstance(row, Candidate) and row.item.images]


def asked(rows):
    """Each caption with the picture that answers it, in their order."""
    texts = {row.item.id: row.item.text for row in rows if isinstance(row, Query)}
    return [(row.item_id.removesuffix(".image"), texts[row.query_id]) for row in rows if isinstance(row, Judgement) and texts[row.query_id]]


def test_a_captioned_picture_is_read_exactly(tmp_path):
    at = {"source": "mine/captions.csv", "line": 2}
    text = unnamed_candidate("a star", **at)
    assert read(tmp_path, {"a.png": RED, "captions.csv": "file,caption\na.png,a star\n"}) == [
        Candidate(Item("a.png.image", images=(RED,), source="mine/a.png", line=1)),
        Query(Item("a.png.i2t", images=(RED,), **at), "train", "i->t", named=False),
        text,
        Judgement("a.png.i2t", text.item.id, 1, None, *at.values()),
        Query(Item("a.png.t2i-91aeee11", "a star", **at), "train", "t->i", named=False),
        Judgement("a.png.t2i-91aeee11", "a.png.image", 1, None, *at.values()),
    ]


def test_pictures_alone_are_candidates(tmp_path):
    rows = read(tmp_path, {**SHOWN, "two words.webp": RED, "README.md": "about", ".hidden.png": RED})
    assert candidates(rows) == ["a.png.image", "two_words.webp.image", "x/b.jpg.image"] and len(rows) == 3


@pytest.mark.parametrize("path", folder.PATHS)
@pytest.mark.parametrize("text", ["text", "caption", "captions", "texts"])
def test_columns_may_have_any_of_their_names(tmp_path, path, text):
    rows = read(tmp_path, {**SHOWN, "captions.tsv": f"{text}\t{path}\none\ta.png\n"})
    assert asked(rows) == [("a.png", "one")] and not rejected_rows(rows)


def test_csv_is_quoted_and_counted_by_its_lines_and_tsv_is_not_quoted(tmp_path):
    text = '\ufefffile,caption\r\na.png,"one, ""two""\nthree"\r\n\r\nnowhere.png,x\r\n'
    rows = read(tmp_path / "csv", {**SHOWN, "captions.csv": text})
    assert asked(rows) == [("a.png", 'one, "two"\nthree')] and rejected_rows(rows) == [("mine/captions.csv", 5, "missing picture")]
    assert asked(read(tmp_path / "tsv", {**SHOWN, "captions.tsv": 'file\tcaption\na.png\t"one" two\n'})) == [("a.png", '"one" two')]


def test_json_lines_have_captions_and_labels_as_texts_or_lists(tmp_path):
    lines = [{"file_name": "a.png", "text": ["one", "two"]}, {"file_name": "x/b.jpg", "label": "star"}]
    rows = read(tmp_path, {**SHOWN, "captions_val.jsonl": lines})
    assert asked(rows) == [("a.png", "one"), ("a.png", "two")]
    assert [(row.task, row.split) for row in rows if isinstance(row, Query)] == [
        ("i->t", "validation"),
        ("t->i", "validation"),
        ("t->i", "validation"),
        ("i->t", "validation"),
    ]


def test_lines_in_a_row_on_one_picture_are_one_query_and_others_join_it_by_its_id(tmp_path):
    lines = "file,caption\na.png,one\na.png,two\nx/b.jpg,three\na.png,four\n"
    rows = read(tmp_path, {**SHOWN, "captions.csv": lines})
    shown = [(row.item.id, row.item.line) for row in rows if isinstance(row, Query) and row.task == "i->t"]
    assert shown == [("a.png.i2t", 2), ("x/b.jpg.i2t", 4), ("a.png.i2t", 5)]
    assert candidates(rows) == ["a.png.image", "x/b.jpg.image"]


def test_each_caption_has_its_own_line(tmp_path):
    rows = read(tmp_path, {**SHOWN, "captions.csv": "file,caption\na.png,one\na.png,two\na.png,one\n"})
    texts = [row.item for row in rows if isinstance(row, (Candidate, Query)) and row.item.text]
    assert [(item.text, item.line) for item in texts] == [("one", 2), ("two", 3)] * 2
    assert [row.line for row in rows if isinstance(row, Judgement)] == [2, 3] * 2


def test_paths_are_relative_to_the_captions_or_else_to_the_source(tmp_path):
    files = {"test/1.png": RED, "2.png": BLUE, "test/metadata.csv": "file_name,text\n./1.png,one\n2.png,two\n"}
    assert asked(read(tmp_path, files)) == [("test/1.png", "one"), ("2.png", "two")]


def test_pictures_may_lie_elsewhere_and_are_then_those_with_captions(tmp_path):
    write_files(tmp_path / "pictures", SHOWN)
    lines = [{"path": path, "caption": text} for path, text in (("x/b.jpg", "one"), ("a.png", "two"), ("x/b.jpg", "three"))]
    rows = read(tmp_path / "captions", {"captions.jsonl": lines}, images=str(tmp_path / "pictures"))
    assert asked(rows) == [("x/b.jpg", "one"), ("a.png", "two"), ("x/b.jpg", "three")]
    assert [(row.item.id, row.named) for row in rows if isinstance(row, Candidate) and row.item.images] == [
        ("x/b.jpg.image", False),
        ("a.png.image", False),
        ("x/b.jpg.image", False),
    ]


def test_each_kind_of_bad_row_is_rejected_with_its_line(tmp_path):
    lines = [
        {"file": "nowhere.png", "text": "x"},
        {"file": "nowhere.png", "text": "y"},
        {"text": "x"},
        {"file": 3, "text": "x"},
        {"file": "a.png", "text": 3},
        {"file": "http://x/a.png", "text": "x"},
        {"file": "clip.mp4", "text": "x"},
        {"file": "../a.png", "text": "x"},
        {"file": "/etc/passwd", "text": "x"},
        {"file": "a.png", "text": "good"},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines) + "{\n"
    rows = read(tmp_path, {**SHOWN, "x/clip.mp4": b"x", "x/said.mp3": b"x", "y.png": b"", "captions.jsonl": text})
    reasons = [*["missing picture"] * 2, *["bad row"] * 3, "URL", "video file", *["bad row"] * 2]
    assert sorted(rejected_rows(rows)) == [
        *[("mine/captions.jsonl", line, reason) for line, reason in enumerate(reasons, 1)],
        ("mine/captions.jsonl", 11, "bad JSON"),
        ("mine/x/clip.mp4", 1, "video file"),
        ("mine/x/said.mp3", 1, "audio"),
        ("mine/y.png", 1, "missing picture"),
    ]
    assert asked(rows) == [("a.png", "good")]


def test_a_line_of_csv_with_another_count_of_cells_is_rejected(tmp_path):
    rows = read(tmp_path, {**SHOWN, "captions.csv": "file,caption\na.png\na.png,one\na.png,two,three\n"})
    assert rejected_rows(rows) == [("mine/captions.csv", 2, "bad row"), ("mine/captions.csv", 4, "bad row")] and asked(rows) == [
        ("a.png", "one")
    ]


def test_a_line_that_is_not_utf8_in_a_file_that_is_is_rejected(tmp_path):
    rows = read(tmp_path, {**SHOWN, "captions.csv": "file,caption\na.png,größe\n".encode() + b"a.png,t\xfcr\na.png,two\n"})
    assert rejected_rows(rows) == [("mine/captions.csv", 3, "bad row")] and [text for _, text in asked(rows)] == ["größe", "two"]


@pytest.mark.parametrize(
    ("encoding", "name"), [("cp1252", "Windows-1252"), ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-16-be", "UTF-16")]
)
def test_captions_in_another_encoding_and_delimiter_are_read_and_a_notice_names_the_encoding(tmp_path, encoding, name):
    text = "file;caption\na.png;Ein Bär, grün\nx/b.jpg;zwei\n"
    rows = read(tmp_path, {**SHOWN, "captions.csv": text.encode(encoding)})
    assert asked(rows) == [("a.png", "Ein Bär, grün"), ("x/b.jpg", "zwei")] and not rejected_rows(rows)
    [notice] = [row for row in rows if isinstance(row, Notice)]
    assert notice.source == "mine/captions.csv" and notice.detail.startswith(f"read as {name}, since it is not UTF-8")


def test_columns_that_nothing_reads_are_named_once_and_cost_nothing(tmp_path):
    lines = [{"file": "a.png", "text": "one", "width": 4}, {"file": "x/b.jpg", "text": "two", "width": 4, "by": "me"}]
    rows = read(tmp_path, {**SHOWN, "captions.jsonl": lines})
    notices = [(row.source, row.detail.partition(";")[0]) for row in rows if isinstance(row, Notice)]
    assert (
        notices == [("mine/captions.jsonl", "the column width is not read"), ("mine/captions.jsonl", "the column by is not read")]
        and len(asked(rows)) == 2
        and not rejected_rows(rows)
    )


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("captions.csv", "", "mine/captions.csv has the columns none"),
        ("captions.csv", "a.png,a star\n", "has the columns a.png, a star; its first line is to name one of file, file_name"),
        ("captions.tsv", "file\n", "has the columns file;"),
        ("metadata.csv", "file_name,width\n", "and one of text, caption"),
        ("captions.csv", 'file,caption\na.png,"x', "cannot be read after line 1"),
    ],
)
def test_files_of_captions_that_cannot_be_understood_are_refused(tmp_path, file, content, words):
    with pytest.raises(Refused) as refused:
        read(tmp_path, {**SHOWN, file: content})
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_a_folder_without_pictures_is_refused(tmp_path):
    with pytest.raises(Refused, match="neither pictures"):
        read(tmp_path, {"README.md": "x"})


def test_the_list_of_pictures_is_cut_by_count_and_by_bytes(tmp_path, monkeypatch):
    files = {f"{n}.png": picture(n) for n in range(7)}
    whole = read(tmp_path, files)
    for name, most in (("PICTURES", 3), ("SHARD_BYTES", 200)):
        with monkeypatch.context() as patch:
            patch.setattr(listed_pictures, name, most)
            pieces = folder.shards(SourceFiles(str(tmp_path), "mine"))
            assert [len(json.loads(piece.part)) for piece in pieces] in ([3, 3, 1], [2, 2, 2, 1])
            assert read(tmp_path, {}) == whole


def test_it_is_detected_by_its_captions_or_by_pictures_alone(tmp_path):
    def known(name, files, **settings):
        return folder.detect(SourceFiles(str(write_files(tmp_path / name, files)), **settings))

    assert known("bare", {**SHOWN, "README.md": "x"}) and known("captions", {**SHOWN, "captions.csv": "x"})
    assert known("hub", {"train/1.png": RED, "train/metadata.jsonl": "x"}) and known("apart", {"captions.tsv": "x"}, images="elsewhere")
    assert not known("examples", {**SHOWN, "train.json": "[]"}) and not known("tars", {"a.tar": b""}) and not known("empty", {"x.md": "x"})


TOGETHER = {
    **SHOWN,
    "c.gif": picture(3, "GIF"),
    "captions.csv": "file,caption,label\na.png,one,\nx/b.jpg,,star\na.png,two,\nx/b.jpg, ,\nnowhere.png,x,\n",
    "more.jsonl": [{"path": "a.png", "text": "three"}],
}


def test_captions_together_with_their_picture_are_one_candidate_wherever_the_lines_are_and_no_query(tmp_path):
    rows = read(tmp_path, TOGETHER, captions="together")
    assert [
        (row.item.id, row.item.text, len(row.item.images), row.item.source, row.item.line) for row in rows if isinstance(row, Candidate)
    ] == [
        ("a.png.image", "one\ntwo\nthree", 1, "mine/a.png", 1),
        ("c.gif.image", "", 1, "mine/c.gif", 1),
        ("x/b.jpg.image", "star", 1, "mine/x/b.jpg", 1),
    ]
    assert not [row for row in rows if isinstance(row, (Query, Judgement))]
    assert rejected_rows(rows) == [("mine/captions.csv", 6, "missing picture"), ("mine/captions.csv", 5, "empty side")]


def test_captions_together_with_pictures_that_lie_elsewhere_are_those_of_the_tables_alone(tmp_path):
    write_files(tmp_path / "pictures", SHOWN)
    rows = read(tmp_path / "in", {"captions.csv": "file,caption\nx/b.jpg,one\n"}, images=str(tmp_path / "pictures"), captions="together")
    assert rows == [Candidate(Item("x/b.jpg.image", "one", (BLUE,), source="mine/captions.csv", line=2))]


def test_a_path_is_found_with_the_separators_of_windows_and_from_the_root(tmp_path):
    rows = read(tmp_path, {**SHOWN, "captions.csv": f"file,caption\nx\\b.jpg,one\n{tmp_path}/a.png,two\n"})
    assert asked(rows) == [("x/b.jpg", "one"), ("a.png", "two")] and not rejected_rows(rows)


def test_what_is_written_is_read_again(tmp_path):
    files = {
        **SHOWN,
        "bare.gif": picture(3, "GIF"),
        "l/c d.png": picture(4),
        "captions.csv": 'file,caption\na.png,one\na.png,"two\nlines"\n',
        "captions_test.jsonl": [{"file": "x/b.jpg", "text": "one"}, {"file": "l/c d.png", "label": ["star", "disc"]}],
    }
    rows = read(tmp_path / "in", files)
    assert folder.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows)) == {}
    again = rows_of(folder, tmp_path / "out")
    assert meaning(again) == meaning(rows)
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")) == [
        *("a.png", "bare.gif", "captions_test.jsonl", "captions_train.jsonl", "l/c_d.png", "x/b.jpg"),
    ]


def test_keys_that_are_no_safe_names_are_numbered(tmp_path):
    from mirepoix.components.ingestion.formats.captions import Captioned

    made = [Captioned(key, RED, (f"from {key}",)) for key in ("../a.png", "train.parquet:1", "good.png")]
    rows = [row for example in made for row in (example.candidate("s", 1), *example.pairs("train", "s", 1))]
    folder.write(tmp_path / "out", corpus_of(tmp_path / "corpus", rows))
    assert asked(rows_of(folder, tmp_path / "out")) == [
        ("pictures/000000000.png", "from ../a.png"),
        ("pictures/000000001.png", "from train.parquet:1"),
        ("good.png", "from good.png"),
    ]


@pytest.mark.parametrize("cell", ["", " "])
def test_a_caption_that_is_empty_is_rejected_and_its_picture_is_a_candidate(tmp_path, cell):
    rows = read(tmp_path, {**SHOWN, "captions.csv": f"file,text\na.png,{cell}\nx/b.jpg,one\nx/b.jpg,{cell}\n"})
    assert rejected_rows(rows) == [("mine/captions.csv", 2, "empty side"), ("mine/captions.csv", 4, "empty side")]
    assert candidates(rows) == ["a.png.image", "x/b.jpg.image"] and asked(rows) == [("x/b.jpg", "one")]


def test_a_label_is_read_where_the_caption_is_empty(tmp_path):
    rows = read(tmp_path, {**SHOWN, "captions.csv": "file,text,label\na.png,,star\n"})
    assert not rejected_rows(rows) and [row.task for row in rows if isinstance(row, Query)] == ["i->t"]


@pytest.mark.parametrize(("text", "line"), [('file,caption\na.png,one\na.png,"x', 3), ("a.png,a star\n", 1)])
def test_captions_that_cannot_be_read_say_from_which_line_on(tmp_path, text, line):
    tree = SourceFiles(str(write_files(tmp_path, {**SHOWN, "captions.csv": text})))
    with pytest.raises(Unreadable) as broken:
        list(folder.read(tree, Shard("captions.csv")))
    assert broken.value.line == line


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("labels.csv", "image,caption\na.png,one\n"),
        ("x/Labels.TSV", "path\ttext\nb.jpg\tone\n"),
        ("train.jsonl", [{"image": "a.png", "text": "one", "width": 4}]),
        ("CAPTIONS.CSV", "file,text\na.png,one\n"),
    ],
)
def test_captions_under_another_name_are_detected_by_their_columns(tmp_path, name, content):
    assert [text for _, text in asked(read(tmp_path, {**SHOWN, name: content}))] == ["one"]
    assert [form for form, module in FORMAT_MODULES.items() if module.detect(SourceFiles(str(tmp_path)))] == ["folder"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sizes.csv", "image,width\na.png,4\n"),
        ("said.csv", "caption\none\n"),
        ("cut.csv", 'image,caption,"x'),
        ("train.jsonl", [{"docid": "a", "text": "one", "image": "a.png"}]),
        ("train.jsonl", [{"anchor": "one", "image": "a.png", "text": "two"}]),
    ],
)
def test_a_table_without_captions_or_of_another_format_is_no_caption_file(tmp_path, name, content):
    tree = SourceFiles(str(write_files(tmp_path, {**SHOWN, name: content})))
    assert not folder.detect(tree) and name not in {shard.file for shard in folder.shards(tree)}
    captions = write_files(tmp_path, {"captions.csv": "file,text\na.png,one\n"})
    assert len(asked(rows_of(folder, captions))) == 1 and folder.detect(SourceFiles(str(captions)))


def test_a_table_without_pictures_is_not_taken_for_their_captions(tmp_path):
    assert not folder.detect(SourceFiles(str(write_files(tmp_path, {"labels.csv": "image,caption\na.png,one\n"}))))
