"""`results` writes what a run measured as files that others read."""

import json

import pytest
import pytrec_eval

from mirepoix.workflows.__main__ import main
from tests.workflows.commands.stored_runs import BEFORE, stored, two_runs


@pytest.fixture
def storage(tmp_path):
    return two_runs(tmp_path / "storage")


def test_results_are_written_as_files_that_trec_eval_reads(storage, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["results", "first-1", str(out), "--storage", str(storage)]) == 0
    printed = capsys.readouterr().out.splitlines()
    files = ["model-index.json", "mteb/a.json", "qrels/test.trec", "runs/trained-target.trec"]
    assert printed == [str(out / name) for name in files]
    with (out / "qrels/test.trec").open() as qrels, (out / "runs/trained-target.trec").open() as run:
        evaluator = pytrec_eval.RelevanceEvaluator(pytrec_eval.parse_qrel(qrels), {"recip_rank"})
        assert {each["recip_rank"] for each in evaluator.evaluate(pytrec_eval.parse_run(run)).values()} == {1.0}
    scores = json.loads((out / "mteb/a.json").read_text())["scores"]["test"][0]
    # Eight of eight and two of four queries.
    assert scores["recall_at_5"] == scores["main_score"] == pytest.approx(10 / 12, abs=1e-6)
    index = json.loads((out / "model-index.json").read_text())
    assert index[0]["name"] == "first-1" and index[0]["results"][0]["metrics"][0]["type"] == "recall_at_5"


def test_results_of_m_beir_and_beir_have_their_own_columns(storage, tmp_path):
    assert main(["results", "first-1:bm25", str(tmp_path / "out"), "--storage", str(storage), "--to", "mbeir", "--to", "beir"]) == 0
    assert (tmp_path / "out/runs/bm25-target.txt").read_text().splitlines()[0] == "0:1 Q0 0:1 1 0.5 bm25-target 0"
    assert (tmp_path / "out/qrels/test_qrels.txt").read_text().splitlines()[8] == "8:1 0 8:1 2 3", "i->t is task 3"
    assert (tmp_path / "out/qrels/test.tsv").read_text().splitlines()[:2] == ["query-id\tcorpus-id\tscore", "0:1\t0:1\t2"]


def test_a_task_that_a_board_has_in_a_row_of_its_own_is_a_subset(storage, tmp_path):
    stored(storage, "board-3", {"encoder": BEFORE}, board="mbeir", dataset="mscoco")
    assert main(["results", "board-3", str(tmp_path / "out"), "--storage", str(storage), "--to", "mteb", "--to", "model-index"]) == 0
    subsets = json.loads((tmp_path / "out/mteb/mscoco.json").read_text())["scores"]["test"]
    # Of t->i none of eight queries is found, of i->t two of four.
    assert {each["hf_subset"]: each["main_score"] for each in subsets} == {"t->i": 0, "i->t": 0.5}
    found = json.loads((tmp_path / "out/model-index.json").read_text())[0]["results"]
    assert {each["dataset"]["config"]: each["metrics"][0]["value"] for each in found} == {"t->i": 0, "i->t": 0.5}


def test_where_answers_are_strings_no_judgements_are_written(storage, tmp_path):
    stored(storage, "strings-4", {"encoder": BEFORE}, judged=False)
    assert main(["results", "strings-4", str(tmp_path / "out"), "--storage", str(storage), "--to", "trec"]) == 0
    assert [path.name for path in (tmp_path / "out").rglob("*.trec")] == ["encoder-target.trec"]


def test_results_are_written_whole_or_not_at_all(storage, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    assert main(["results", "first-1", str(tmp_path / "full"), "--storage", str(storage)]) == 2
    assert "full is there already; give a folder that is not, or an empty one" in capsys.readouterr().err
    stored(storage, "odd-5", {"chance": BEFORE, "encoder": BEFORE})
    assert main(["results", "odd-5:chance", str(tmp_path / "new"), "--storage", str(storage)]) == 2
    assert "odd-5:chance is a mean over all orders, and has no ranking" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "storage"]
