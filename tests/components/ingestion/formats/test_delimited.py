"""Text tables are recognised by their beginning: encoding, delimiter, header."""

import gzip

import pytest

from mirepoix.components.ingestion.formats import delimited
from mirepoix.components.ingestion.formats.delimited import Delimited, encoding_of, recognise, records
from mirepoix.components.ingestion.formats.rows import RowError, Unreadable
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from tests.components.ingestion.formats.format_cases import write_files


def tree_with(folder, content, file="a.csv"):
    return SourceFiles(str(write_files(folder, {file: content})), "mine")


def read(folder, content, file="a.csv"):
    tree = tree_with(folder, content, file)
    form = recognise(tree, file)
    return form, list(records(tree, file, form))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize(
    ("encoding", "mark", "name"),
    [
        ("utf-8", b"", "UTF-8"),
        ("utf-8", b"\xef\xbb\xbf", "UTF-8"),
        ("utf-16-le", b"\xff\xfe", "UTF-16"),
        ("utf-16-be", b"\xfe\xff", "UTF-16"),
        ("utf-16-le", b"", "UTF-16"),
        ("utf-16-be", b"", "UTF-16"),
        ("utf-32-le", b"\xff\xfe\0\0", "UTF-32"),
        ("cp1252", b"", "Windows-1252"),
    ],
)
def test_every_delimiter_is_recognised_in_every_encoding(tmp_path, delimiter, encoding, mark, name):
    text = f"Datei{delimiter}Wörter\r\nä.png{delimiter}Ein Bär: grün.\r\nb.png{delimiter}zwei\r\n"
    form, rows = read(tmp_path, mark + text.encode(encoding))
    assert (form.delimiter, form.header, form.encoding_name) == (delimiter, ("Datei", "Wörter"), name)
    assert form.rows == (("ä.png", "Ein Bär: grün."), ("b.png", "zwei"))
    assert rows == [(2, {"Datei": "ä.png", "Wörter": "Ein Bär: grün."}), (3, {"Datei": "b.png", "Wörter": "zwei"})]
    assert bool(form.notice) == (name != "UTF-8") and name in (form.notice or "UTF-8")


def test_a_delimiter_of_few_cells_in_the_text_does_not_win(tmp_path):
    form, rows = read(tmp_path, "picture;caption, in words\na.png;red, green, blue\nb.png;one\n")
    assert (form.delimiter, form.header) == (";", ("picture", "caption, in words"))
    assert [row["caption, in words"] for _, row in rows] == ["red, green, blue", "one"]


def test_a_cell_may_have_line_breaks_and_delimiters_in_quotes_and_lines_are_counted_on(tmp_path):
    form, rows = read(tmp_path, 'a;b\n1;"one; ""two""\nthree"\n\n2;x\n3\n')
    assert form.delimiter == ";" and rows[0] == (2, {"a": "1", "b": 'one; "two"\nthree'}) and rows[1] == (5, {"a": "2", "b": "x"})
    [(line, error)] = rows[2:]
    assert line == 6 and isinstance(error, RowError) and error.detail == "1 cells for 2 columns"


def test_excels_line_that_names_the_delimiter_is_no_row(tmp_path):
    form, rows = read(tmp_path, "sep=;\r\na,b;c\r\n1,2;3\r\n")
    assert (form.delimiter, form.header) == (";", ("a,b", "c")) and rows == [(3, {"a,b": "1,2", "c": "3"})]


def test_a_space_after_each_delimiter_is_left_out_where_the_header_has_it(tmp_path):
    _, rows = read(tmp_path, 'image_name| number| comment\n1.jpg| 0| A man says "hi".\n')
    assert rows == [(2, {"image_name": "1.jpg", "number": "0", "comment": 'A man says "hi".'})]
    _, rows = read(tmp_path, "a,b\n1, x\n")
    assert rows == [(2, {"a": "1", "b": " x"})]


def test_tabs_are_not_quoted_in_a_tsv_and_are_elsewhere(tmp_path):
    text = 'file\tcaption\na.png\t"one"\n'
    assert read(tmp_path, text, "a.tsv")[1] == [(2, {"file": "a.png", "caption": '"one"'})]
    assert read(tmp_path, text, "a.csv")[1] == [(2, {"file": "a.png", "caption": "one"})]


def test_a_table_of_one_column_and_an_empty_file_have_a_header_too(tmp_path):
    assert recognise(tree_with(tmp_path, "file\na.png\n"), "a.csv").header == ("file",)
    assert recognise(tree_with(tmp_path, ""), "a.csv").header == ()


def test_a_packed_table_is_read(tmp_path):
    assert read(tmp_path, gzip.compress(b"a;b\n1;2\n"), "a.csv.gz")[1] == [(2, {"a": "1", "b": "2"})]


def test_letters_beyond_ascii_after_the_sample_decide_on_the_encoding(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "SAMPLE", 10)
    monkeypatch.setattr(delimited, "BLOCK", 16)
    text = "a,b\n" + "1,plain\n" * 9 + "2,grün\n"
    assert read(tmp_path, text.encode("cp1252"))[1][-1] == (11, {"a": "2", "b": "grün"})
    assert recognise(tree_with(tmp_path, text), "a.csv").encoding_name == "UTF-8"


def test_a_row_that_the_sample_cuts_is_no_sample_row(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "SAMPLE", 14)
    assert recognise(tree_with(tmp_path, "a;b\n1;x\n2;a long text\n"), "a.csv").rows == (("1", "x"),)


def test_few_wrong_bytes_do_not_make_utf8_another_encoding():
    assert encoding_of("größer, schöner".encode() + b"\xfc") == "utf-8-sig"
    assert encoding_of(b"gr\xf6\xdfer") == "cp1252" and encoding_of(b"\x81 gr\xf6") == "latin-1"
    assert encoding_of("一二三\n四五六\n".encode("utf-16-le")) == "utf-16-le" and encoding_of("größ".encode()[:-1]) == "utf-8-sig"


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"a\0;\0b"])
def test_what_is_no_text_is_refused_in_one_line(tmp_path, content):
    with pytest.raises(Unreadable, match=r"^mine/a\.csv is no text table: it has control characters or is cut off; leave it out$"):
        recognise(tree_with(tmp_path, content), "a.csv")


def test_a_quote_that_is_not_closed_is_named_with_its_line(tmp_path):
    with pytest.raises(Unreadable, match=r"mine/a\.csv cannot be read after line 2") as refused:
        read(tmp_path, 'a,b\n1,2\n3,"x')
    assert refused.value.line == 3


def test_a_header_is_enough():
    assert Delimited("utf-8-sig", ",", ("a",)).notice == ""
