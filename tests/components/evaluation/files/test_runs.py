"""Runs of others are read as trec_eval ranks them, ours are ranked by trec_eval as they were, and a bad line is named."""

import gzip
import json
import random

import numpy as np
import pytest
import pytrec_eval

from mirepoix.components.evaluation.files import columns
from mirepoix.components.evaluation.files.qrels import read_tasks
from mirepoix.components.evaluation.files.runs import Ranking, read_run, write_run
from mirepoix.models.errors import Refused


def written(tmp_path, text: str | bytes, name: str = "run.txt"):
    file = tmp_path / name
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


TREC = "q1 Q0 d1 1 0.9 tag\nq1 Q0 d2 2 0.8 tag\nq2 Q0 d2 1 7 tag\n"
RANKINGS = [Ranking("q1", ["d1", "d2"], [0.9, 0.8]), Ranking("q2", ["d2"], [7.0])]


@pytest.mark.parametrize(
    "text",
    [
        TREC,
        TREC.rstrip("\n"),
        TREC.replace(" ", "\t"),
        TREC.replace("d2 2", "d2  2"),
        TREC.replace("d1 1 ", "d1\t1 "),
        TREC.replace("\n", "\r\n"),
        TREC.replace("\n", "\n\n"),
        "\n" + TREC,
        "\ufeff" + TREC,
        TREC.replace("d1 1", "d1 0").replace("d2 2", "d2 0"),  # as BEIR writes it
        "".join(f"{line} 3\n" for line in TREC.splitlines()),  # as M-BEIR writes it
    ],
    ids=["plain", "no-last-end", "tabs", "two-spaces", "mixed", "windows", "empty-lines", "first-empty", "mark", "beir", "mbeir"],
)
def test_lines_of_six_or_seven_columns_are_a_run(text, tmp_path):
    assert list(read_run(written(tmp_path, text))) == RANKINGS


def test_what_gzip_made_is_read_and_a_damaged_file_is_refused(tmp_path):
    packed = gzip.compress(TREC.encode())
    assert list(read_run(written(tmp_path, packed))) == RANKINGS
    with pytest.raises(Refused, match=r"run\.txt cannot be read .*; give a file, plain or gzip's"):
        list(read_run(written(tmp_path, packed[:-12])))
    with pytest.raises(Refused, match=r"nowhere cannot be read \(No such file"):
        read_run(tmp_path / "nowhere")


@pytest.mark.parametrize("seed", range(3))
def test_the_order_is_that_of_trec_eval_whatever_ranks_and_lines_say(seed, tmp_path):
    """Each document is once the only relevant one: its reciprocal rank says where trec_eval has it. Some scores differ as doubles alone."""
    draw = random.Random(seed)
    scores = {f"d{number}": draw.choice([0.5, 0.5 + 1e-9, 0.25, -3.0, 1e-40, 0.0]) for number in range(30)}
    lines = [f"q Q0 {id} {draw.randrange(50)} {score!r} x\n" for id, score in scores.items()]
    (ranking,) = read_run(written(tmp_path, "".join(lines)))
    for rank, id in enumerate(ranking.ids, 1):
        found = pytrec_eval.RelevanceEvaluator({"q": {id: 1}}, {"recip_rank"}).evaluate({"q": scores})
        assert found["q"]["recip_rank"] == pytest.approx(1 / rank)
    assert ranking.scores == [scores[id] for id in ranking.ids]


@pytest.mark.parametrize("fill", [64, 100, 300])
def test_a_run_is_read_block_by_block_wherever_blocks_end(fill, tmp_path, monkeypatch):
    monkeypatch.setattr(columns, "BLOCK", fill)
    expected = [Ranking(f"q{q}", [f"d{d}" for d in range(q)], [float(9 - d) for d in range(q)]) for q in range(1, 9)]
    text = "".join(f"{one.query} Q0 {id} 0 {score} t\n" for one in expected for id, score in zip(one.ids, one.scores, strict=True))
    assert list(read_run(written(tmp_path, text))) == expected
    assert list(read_run(written(tmp_path, text.replace("d3 0", "d3  0")))) == expected
    with pytest.raises(Refused, match=r"run\.txt:37: 5 columns, and a line has 6: query Q0 document rank score tag; no id"):
        list(read_run(written(tmp_path, f"{text}q9 Q0 d1 1 5.0\n")))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TREC + "q3 Q0 d 9 1 2 tag\n", r":4: 7 columns, and a line has 6: query Q0 document rank score tag; no id has white space in it"),
        (TREC + "q3 Q0 d9\t1 2 tag tag\n", r":4: 7 columns"),
        (TREC + "q3 Q0 d9 1 high tag\n", r":4: 'high' stands where a number belongs"),
        (TREC + "q3 Q0 d9 1 nan tag\n", r":4: 'nan' stands where a number belongs"),
        (TREC + "q3 Q0 d9 1 1e999 tag\n", r":4: '1e999' stands where a number belongs"),
        (TREC.encode() + b"q3 Q0 d\xff 1 2 tag\n", r":4: an id is not UTF-8"),
        (TREC + "q1 Q0 d3 1 2 tag\n", r":4: query 'q1' comes again after others; bring its lines together: sort -s -k1,1"),
        (TREC + "q2 Q0 d2 2 5 tag\n", r":4: query 'q2' has document 'd2' twice"),
        ("q d 1\n", r":1: 3 columns, and the lines of a run have 6 \(trec\), 7 \(mbeir\); or give the JSON of mteb or ranx"),
        ("", r" is empty; give a file with a line for each document"),
        ("\n \n", r" is empty; give a file with a line for each document"),
    ],
)
def test_a_bad_line_is_refused_by_file_and_line(text, why, tmp_path):
    with pytest.raises(Refused, match=rf"^\S*/run\.txt{why}"):
        list(read_run(written(tmp_path, text)))


def test_a_format_that_is_named_holds(tmp_path):
    with pytest.raises(Refused, match=r"run\.txt:1: 6 columns, and a line has 7: query Q0 document rank score tag task"):
        list(read_run(written(tmp_path, TREC), "mbeir"))
    with pytest.raises(Refused, match=r"the format of a run is 'letor'; give one of trec, beir, mbeir, mteb, ranx"):
        read_run(written(tmp_path, TREC), "letor")
    with pytest.raises(Refused, match=r"part is 'default/test', and .* has no parts"):
        read_run(written(tmp_path, TREC), part="default/test")
    with pytest.raises(Refused, match=r"is no JSON \(.*\); give the predictions of mteb, or a run of ranx"):
        read_run(written(tmp_path, TREC), "ranx")


RUN = {"q1": {"d2": 0.8, "d1": 0.9}, "q2": {"d2": 7}}


def test_a_run_of_ranx_and_predictions_of_mteb_are_told_apart_by_their_depth(tmp_path):
    assert list(read_run(written(tmp_path, json.dumps(RUN)))) == RANKINGS
    one = {"mteb_model_meta": {"model_name": "a/b", "revision": "1"}, "default": {"test": RUN}}
    assert list(read_run(written(tmp_path, json.dumps(one)))) == RANKINGS
    several = one | {"deu": {"test": RUN, "dev": {"q9": {"d": 1.0}}}}
    file = written(tmp_path, json.dumps(several))
    assert list(read_run(file, "mteb", "deu/dev")) == [Ranking("q9", ["d"], [1.0])]
    with pytest.raises(Refused, match=r"has several parts; give one of default/test, deu/test, deu/dev"):
        read_run(file)
    with pytest.raises(Refused, match=r"has no part 'deu/train'; give one of default/test"):
        read_run(file, part="deu/train")


@pytest.mark.parametrize(
    ("content", "form", "why"),
    [
        ({"default": {"test": RUN}}, "ranx", r"is not \{query: \{document: score\}\}; give the predictions of mteb, or a run of ranx"),
        (RUN, "mteb", r"is not \{subset: \{split: "),
        ({"q": 1}, None, r"is not \{query: \{document: score\}\}"),
        ({"q1": {"d": 1}, "q2": {"d": "x"}}, None, r"run\.txt: the documents of query 'q2' have no numbers as scores"),
        ({"q 1": {"d": 1}}, None, r"the query id 'q 1' has white space in it, which separates columns"),
        ({"q": {"": 1}}, None, r"the document id '' is empty"),
    ],
)
def test_json_of_another_shape_is_refused(content, form, why, tmp_path):
    with pytest.raises(Refused, match=why):
        list(read_run(written(tmp_path, json.dumps(content)), form))


@pytest.mark.parametrize("name", ["run.trec", "run.trec.gz"])
def test_ties_are_written_so_that_trec_eval_ranks_them_as_they_were(name, tmp_path):
    ranked = [("q1", ["a", "z", "m", "b", "c"], [0.5, 0.5, 0.5, 0.49999999, 0.0]), ("q2", ["a", "b", "c"], [0.0, 0.0, 0.0])]
    write_run(tmp_path / name, ranked, tag="mine")
    with (gzip.open if name.endswith("gz") else open)(tmp_path / name, "rt") as file:
        lines = [line.split() for line in file]
    assert [line[3] for line in lines] == ["1", "2", "3", "4", "5", "1", "2", "3"]
    assert {(line[1], line[5]) for line in lines} == {("Q0", "mine")}
    run = {query: {line[2]: float(line[4]) for line in lines if line[0] == query} for query in ("q1", "q2")}
    for query, ids, scores in ranked:
        for rank, id in enumerate(ids, 1):
            found = pytrec_eval.RelevanceEvaluator({query: {id: 1}}, {"recip_rank"}).evaluate(run)
            assert found[query]["recip_rank"] == pytest.approx(1 / rank)
        assert list(run[query].values()) == pytest.approx(scores, abs=1e-6)
    assert [(one.query, one.ids) for one in read_run(tmp_path / name)] == [(query, ids) for query, ids, _ in ranked]


def test_scores_that_are_no_ties_are_written_as_they_are(tmp_path):
    scores = np.sort(np.random.default_rng(0).random(50, np.float32))[::-1].tolist()
    write_run(tmp_path / "run", [("q", [f"d{n}" for n in range(50)], scores)])
    assert [np.float32(score) for score in next(read_run(tmp_path / "run")).scores] == [np.float32(score) for score in scores]


def test_a_run_of_mbeir_ends_each_line_with_the_task_of_its_query(tmp_path):
    write_run(tmp_path / "run", RANKINGS, "mbeir", "mine", {"q1": 0, "q2": 8})
    assert (tmp_path / "run").read_text().splitlines()[2] == "q2 Q0 d2 1 7 mine 8"
    assert read_tasks(tmp_path / "run") == {"q1": 0, "q2": 8}
    assert [one.ids for one in read_run(tmp_path / "run")] == [one.ids for one in RANKINGS]
    with pytest.raises(Refused, match=r"query 'q2' has no id of a task"):
        write_run(tmp_path / "run", RANKINGS, "mbeir", "mine", {"q1": 0})


@pytest.mark.parametrize(
    ("rankings", "more", "why"),
    [
        ([("q 1", ["d"], [1.0])], {}, "the query id 'q 1' has white space in it"),
        ([("q", ["d\u00a01"], [1.0])], {}, "the document id 'd\\\\xa01' has white space in it"),
        ([("q", ["d"], [1.0])], {"tag": "my run"}, "the run id 'my run' has white space in it"),
        ([("q", ["d", "e"], [1.0, 2.0])], {}, "the scores of query 'q' are not best first"),
        ([("q", ["d"], [float("nan")])], {}, "a score of query 'q' is not finite"),
        ([("q", ["d"], [1.0])], {"form": "ranx"}, "a run is written as trec or mbeir, not as 'ranx'"),
    ],
)
def test_what_a_line_cannot_hold_is_not_written(rankings, more, why, tmp_path):
    with pytest.raises(Refused, match=why):
        write_run(tmp_path / "run", rankings, **more)
