"""Equal findings are one line, what hangs on a row is a count beside it, and a file has them all."""

import csv
import json

import pytest

from mirepoix.models.errors import Refused
from mirepoix.workflows.checks.findings import Finding, Findings, find_causes, grouped, write_findings


def rejected(line, part="corpus", id="", reason="damaged", detail="", file="pool.jsonl"):
    return Finding(file, line, part, id or f"c{line}", reason, detail)


def found(*findings, **more):
    empty = {"formats": {}, "candidates": {}, "queries": {}, "judgements": {}, "same_picture": {}}
    empty |= {name: [] for name in ("notices", "refusals", "hints", "copies")}
    return Findings(list(findings), len(find_causes(findings)), **{**empty, **more})


PICTURE = rejected(3, id="p")
HANGING = [
    rejected(1, "qrels", "q p", "answer was rejected", "damaged", "test.tsv"),
    rejected(2, "qrels", "r p", "answer was rejected", "damaged", "test.tsv"),
    rejected(7, "queries", "q", "no answer is left", file="queries.jsonl"),
    rejected(2, "qrels", "q d", "query was rejected", "no answer is left", "other.tsv"),
]


def test_what_refers_to_a_rejected_row_is_a_count_beside_it():
    rows = found(*HANGING, PICTURE).rows()
    assert rows == ["pool.jsonl:3: damaged (corpus p); 4 rows refer to it"]


def test_each_row_that_hangs_on_another_has_the_one_that_it_hangs_on():
    assert find_causes([PICTURE, *HANGING]) == {1: 0, 2: 0, 3: 0, 4: 0}


def test_a_query_that_loses_its_answer_by_a_judgement_hangs_on_that():
    leak = rejected(1, "qrels", "q d", "leaks into test", "t", "train.tsv")
    lost = rejected(4, "queries", "q", "no answer is left", file="queries.jsonl")
    assert find_causes([leak, lost]) == {1: 0}
    assert found(leak, lost).rows() == ["train.tsv:1: leaks into test: t (qrels q d); 1 row refers to it"]


def test_a_judgement_of_a_row_that_is_missing_hangs_on_nothing():
    assert find_causes([rejected(1, "qrels", "q gone", "unknown item")]) == {}


def test_what_hangs_on_a_row_that_is_not_listed_is_told_by_itself():
    alone = rejected(1, "qrels", "q p", "answer was rejected")
    assert find_causes([alone]) == {0: None} and len(found(alone).rows()) == 1


def test_rows_with_the_picture_of_another_row_hang_on_that_with_all_that_hangs_on_them():
    asked = rejected(5, "queries", "asked", file="metadata.jsonl")
    judged = rejected(6, "qrels", "asked d", "query was rejected", file="metadata.jsonl")
    rows = found(PICTURE, asked, judged, same_picture={"queries asked": "corpus p"}).rows()
    assert rows == ["pool.jsonl:3: damaged (corpus p); 2 rows refer to it"]


def test_rows_with_equal_pictures_are_counted_as_such_and_not_as_rows_that_refer_to_the_first():
    files = [rejected(1, file=f"bad{number:02}.png", id=f"b{number:02}") for number in range(14)]
    equal = {f"corpus b{number:02}": "corpus b00" for number in range(1, 14)}
    alone = "bad00.png:1: damaged (corpus b00); 13 more have the same picture"
    assert found(*files, same_picture=equal).rows() == [alone]
    assert found(*files[:2], same_picture=equal).rows() == ["bad00.png:1: damaged (corpus b00); 1 more has the same picture"]
    judged = [rejected(number, "qrels", f"q b{number:02}", "answer was rejected", file="test.tsv") for number in (3, 5)]
    assert found(*files, *judged, same_picture=equal).rows() == [f"{alone}; 2 rows refer to them"]
    equal = {f"corpus b{number:02}": f"corpus b{number % 4:02}" for number in range(4, 14)}
    (line,) = found(*files, same_picture=equal).rows()
    assert line.endswith("; 4 files like this: bad00.png, bad01.png, bad02.png, bad03.png; 10 more have one of these pictures")


def test_up_to_three_equal_findings_are_told_one_by_one_and_more_in_one_line():
    assert len(found(*map(rejected, (3, 9, 11))).rows()) == 3
    numbers = [3, 9, 11, 12, 20, 21, 22, 30, 31, 40, 50, 51]
    rows = found(*map(rejected, numbers), rejected(13, reason="too many pixels")).rows()
    assert rows == [
        "pool.jsonl:3: damaged (corpus c3); 12 lines like this: 3, 9, 11, 12, 20, 21, 22, 30, 31, 40 and 2 more",
        "pool.jsonl:13: too many pixels (corpus c13)",
    ]


def test_files_that_are_rejected_for_one_reason_are_one_line_with_their_names():
    files = [rejected(1, file=f"/data/pictures/{name}.jpg", id=name) for name in "abcd"]
    assert found(*files).rows() == ["/data/pictures/a.jpg:1: damaged (corpus a); 4 files like this: a.jpg, b.jpg, c.jpg, d.jpg"]


def test_the_counts_of_a_group_are_summed():
    pictures = [rejected(n, id=f"p{n}") for n in range(1, 6)]
    judged = [rejected(n, "qrels", f"q{n} p{n}", "answer was rejected", file="test.tsv") for n in range(1, 6)]
    (group,) = grouped([*pictures, *judged])
    assert str(group).endswith("; 5 lines like this: 1, 2, 3, 4, 5; 5 rows refer to them")


def test_a_screen_has_so_many_lines_and_says_how_to_get_the_rest():
    many = [rejected(1, file=f"file-{n:03}.jsonl", reason=f"reason {n}") for n in range(40)]
    rows = found(*many).rows()
    assert len(rows) == 26 and rows[-1] == "and 15 more, in 15 further lines like these; --out FILE.csv or FILE.json writes them all"
    written = found(*many).rows(written=True)
    assert len(written) == 11 and written[-1] == "and 30 more, in 30 further lines like these"


def test_notices_are_cut_off_too():
    text = found(notices=[{"source": f"s{n}", "detail": "left"} for n in range(20)]).text()
    assert text.count("left aside") == 9 and "left aside  and 12 more" in text


def test_a_file_has_all_findings_as_json_or_as_csv(tmp_path):
    copy = rejected(9, reason="exact duplicate")
    notices = [{"source": f"s/{n}.csv", "detail": "not read"} for n in range(9)]
    stops = {"refusals": ["too many", "no pair"], "of_trainings": ("no pair",)}
    everything = found(PICTURE, *HANGING, copies=[copy], hints=["a hint"], notices=notices, **stops)
    write_findings(everything, tmp_path / "all.json")
    written = json.loads((tmp_path / "all.json").read_text())
    assert len(written["rejected"]) == 5 and written["hints"] == ["a hint"] and written["copies"][0]["line"] == 9
    assert written["notices"] == notices and written["refusals"] == ["too many", "no pair"]
    write_findings(everything, tmp_path / "all.csv")
    rows = list(csv.reader((tmp_path / "all.csv").open(newline="")))
    assert rows[0] == ["what", "file", "line", "part", "id", "reason", "detail"]
    assert rows[1] == ["rejected", "pool.jsonl", "3", "corpus", "p", "damaged", ""]
    assert rows[6] == ["merged", "pool.jsonl", "9", "corpus", "c9", "exact duplicate", ""]
    assert rows[7:10] == [
        ["refusal", "", "", "", "", "a run would stop", "too many"],
        ["refusal", "", "", "", "", "a training would stop", "no pair"],
        ["hint", "", "", "", "", "", "a hint"],
    ]
    assert rows[10:] == [["notice", f"s/{n}.csv", "", "", "", "left aside", "not read"] for n in range(9)]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["all.csv", "all.json"]


def test_a_file_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"--out .*file/all\.csv cannot be written"):
        write_findings(found(), tmp_path / "file" / "all.csv")
