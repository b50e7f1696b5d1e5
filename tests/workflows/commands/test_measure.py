"""The command `measure` prints what trec_eval has of a run of anybody's."""

import json

import pytest

from mirepoix.workflows.__main__ import main

RUN = "q1 Q0 a 0 3.0 x\nq1 Q0 b 0 2.0 x\nq2 Q0 a 0 9.0 x\nq2 Q0 c 0 8.0 x\nq4 Q0 a 0 1.0 x\n"
QRELS = "query-id\tcorpus-id\tscore\nq1\tb\t1\nq2\ta\t1\nq3\ta\t1\n"


@pytest.fixture
def files(tmp_path):
    (tmp_path / "run.trec").write_text(RUN)
    (tmp_path / "test.tsv").write_text(QRELS)
    return str(tmp_path / "run.trec"), str(tmp_path / "test.tsv")


def test_the_means_are_printed_and_queries_of_one_file_alone_are_counted(files, capsys):
    assert main(["measure", *files, "--measures", "RR@10, R@1,Success@2"]) == 0
    said = capsys.readouterr()
    assert said.out == "RR@10      0.5000\nR@1        0.3333\nSuccess@2  0.6667\n"
    assert said.err.splitlines() == [
        "mirepoix: judged queries that are not in the run, each of which counts as 0: 1 of 3",
        "mirepoix: queries of the run without judgements, which do not count: 1",
    ]


def test_json_has_the_scores_of_every_judged_query(files, capsys):
    assert main(["measure", *files, "--measures", "RR@10", "--json", "--format", "beir"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["measures"] == {"RR@10": 0.5} and found["counts"] == {"judged": 3, "missing": 1, "unjudged": 1}
    assert found["queries"] == {"q1": {"RR@10": 0.5}, "q2": {"RR@10": 1.0}, "q3": {"RR@10": 0.0}}


def test_predictions_of_mteb_are_measured_by_their_part(files, tmp_path, capsys):
    run = {"q1": {"b": 0.9}, "q2": {"a": 0.2}, "q3": {"a": 0.1}}
    (tmp_path / "predictions.json").write_text(json.dumps({"mteb_model_meta": {}, "eng": {"test": run}, "deu": {"test": {}}}))
    assert main(["measure", str(tmp_path / "predictions.json"), files[1], "--part", "eng/test"]) == 0
    assert capsys.readouterr().out == "nDCG@10  1.0000\nRR@10    1.0000\nR@10     1.0000\nR@100    1.0000\n"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--measures", "nDCG"], "--measures has 'nDCG'; give one of nDCG@k"),
        (["--measures", ","], "--measures names none; give some, as nDCG@10,RR@10,R@10,R@100"),
        (["--format", "letor"], "the format of a run is 'letor'; give one of trec, beir, mbeir, mteb, ranx"),
        (["--format", "mbeir"], ":1: 6 columns, and a line has 7: query Q0 document rank score tag task; no id has white space in it"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(options, why, files, capsys):
    assert main(["measure", *files, *options]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1 and why in said.err
