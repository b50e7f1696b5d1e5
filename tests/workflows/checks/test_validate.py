"""`validate` names every row that training would not use, by file and line, and why a run would stop."""

import csv
import gzip
import json
import logging
import warnings
from pathlib import Path

import pytest

from mirepoix.components import ray_tasks
from mirepoix.components.curation import row_checks
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.components.ingestion.sources_config import FORMATS, SourcesConfig
from mirepoix.components.ray_tasks import worker_count
from mirepoix.models.errors import Refused
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.checks import reading
from mirepoix.workflows.checks import validate as validation
from mirepoix.workflows.recipes.benchmarks import BENCHMARKS
from mirepoix.workflows.recipes.registry import RECIPES, recipe
from tests.components.ingestion.formats.format_cases import write_files
from tests.workflows.corpora import TEXTS, lines, picture


@pytest.fixture(scope="module")
def invalid_corpus(tmp_path_factory):
    """An M-BEIR folder with one rejected row of each kind."""
    home = tmp_path_factory.mktemp("validate") / "M-BEIR"
    for name in ("a", "b", "c"):
        (home / "mbeir_images").mkdir(parents=True, exist_ok=True)
        (home / "mbeir_images" / f"{name}.png").write_bytes(picture(name))
    (home / "mbeir_images" / "broken.png").write_bytes(picture("x")[:200])
    (home / "mbeir_images" / "huge.png").write_bytes(_claims(60_000))

    def candidate(number, text=None, image=None, modality="text"):
        return {
            "did": f"9:{number}",
            "txt": text,
            "img_path": image and f"mbeir_images/{image}.png",
            "modality": modality,
            "src_content": None,
        }

    def query(number, positives, text="Something that is asked.", modality="text", task=0):
        row = {"qid": f"9:{number}", "query_txt": text, "query_img_path": None, "query_modality": modality, "query_src_content": None}
        return {**row, "pos_cand_list": positives, "neg_cand_list": [], "task_id": task}

    lines(
        home / "cand_pool" / "local" / "mbeir_mscoco_task0_cand_pool.jsonl",
        [
            candidate(1, image="a", modality="image"),
            candidate(2, image="b", modality="image"),
            candidate(3, image="gone", modality="image"),
            candidate(4, image="broken", modality="image"),
            candidate(5, image="huge", modality="image"),
            candidate(6, modality="text"),
            candidate(1, image="c", modality="image"),
            candidate(8, text="A text.", modality="smell"),
            "{no json",
        ],
    )
    lines(
        home / "query" / "train" / "mbeir_mscoco_task0_train.jsonl",
        [query(1, ["9:1"]), query(2, ["9:999"]), query(3, ["9:2"], text=None), query(4, ["9:2"], "Another thing.")],
    )
    return home


def _claims(side):
    """A PNG whose header claims more pixels than it has bytes."""
    import struct
    import zlib

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def validated(invalid_corpus):
    """The ended command over it, run as a user would."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "mirepoix.workflows", "validate", str(invalid_corpus)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_every_rejected_row_is_printed_with_its_file_and_line_and_the_status_is_1(invalid_corpus, validated):
    pool = invalid_corpus / "cand_pool" / "local" / "mbeir_mscoco_task0_cand_pool.jsonl"
    asked = invalid_corpus / "query" / "train" / "mbeir_mscoco_task0_train.jsonl"
    printed = {}
    for line in validated.stdout.splitlines():
        place, _, rest = line.partition(": ")
        printed.setdefault(place, []).append(rest)
    expected = {
        f"{pool}:3": "missing picture",
        f"{pool}:4": "damaged",
        f"{pool}:5": "too many pixels",
        f"{pool}:6": "empty side",
        f"{pool}:7": "duplicate id",
        f"{pool}:8": "unknown modality",
        f"{pool}:9": "bad JSON",
        f"{asked}:2": "unknown item",
        f"{asked}:3": "empty side",
    }
    for place, reason in expected.items():
        assert any(rest.startswith(reason) for rest in printed.get(place, [])), (place, reason, validated.stdout)
    assert set(printed) <= set(expected), "nothing else is rejected"
    assert validated.returncode == 1


def test_the_summary_counts_by_modality_task_and_reason(validated):
    for line in ("M-BEIR: mbeir", "candidates  i 2", "queries     train: t->i 2", "rejected    1 of corpus: missing picture"):
        assert line in validated.stderr, validated.stderr


def test_the_summary_counts_dependent_rows_apart_and_states_why_a_run_would_stop(validated):
    # The dependent row is the query whose only answer is missing.
    assert "10 rows would be rejected: 9 for reasons of their own, 1 because they refer to these\n" in validated.stderr
    assert "a run would stop: 2 of the 4 candidates were rejected" in validated.stderr and "curate.max_rejected=0.2" in validated.stderr


def test_a_corpus_without_a_training_pair_has_status_1_and_the_reason_why_a_run_would_stop(beir, capsys):
    assert main(["validate", str(beir(TEXTS, test="ab"))]) == 1
    out, err = capsys.readouterr()
    assert out == "" and "nothing would be rejected" in err
    assert (
        "a training would stop: no pair is left to train on: no judgement above 0 is of a query of the split train (of test there are 2)"
        in err
    )
    assert main(["validate", str(beir(TEXTS, test="ab", train="cd"))]) == 0
    assert "would stop" not in "".join(capsys.readouterr())


def test_what_stops_trainings_alone_is_said_as_that_and_that_a_search_needs_none(beir, capsys):
    home = str(beir(TEXTS, test="ab"))
    hint = "hint        this concerns recipes that train; search and benchmarks do not: --recipe search validates by its rules\n"
    assert main(["validate", home, "evaluate.split=dev"]) == 1
    err = capsys.readouterr().err
    assert "a run would stop: evaluate.split is 'dev'" in err and "a training would stop: no pair is left" in err and err.endswith(hint)
    assert main(["validate", home, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["of_trainings"] == found["refusals"] and len(found["refusals"]) == 1
    assert main(["validate", home, "--recipe", "finetune", "curate.held_out=0"]) == 1
    assert "a run would stop: no pair is left to train on" in (err := capsys.readouterr().err) and hint not in err
    assert main(["validate", home, "--recipe", "search"]) == 0
    trains = {name: any(pairs.trained_tasks for pairs in recipe(name).corpus_check.pairs.values()) for name in RECIPES}
    assert [name for name, trained in trains.items() if not trained] == ["search", *(made.__name__ for made in BENCHMARKS)]


def test_with_a_recipe_its_splits_and_its_tasks_are_those_that_count(beir, capsys):
    """nlvr calls validation train; mire adapts on questions about pictures, of which a corpus of texts has none, and mimic on nothing."""
    home = str(beir(TEXTS, validation="ab", test="c"))
    assert main(["validate", home]) == 1
    assert main(["validate", home, "--recipe", "nlvr", "--format", "beir"]) == 0
    capsys.readouterr()
    (Path(home) / "qrels/validation.tsv").unlink()
    assert home == str(beir(TEXTS, train="cd", test="a"))
    assert main(["validate", home, "--recipe", "mire"]) == 1
    assert "a run would stop: no pair to train on has a task of pairs.adapt_tasks=it->t; name some of t->t" in capsys.readouterr().err
    assert main(["validate", home, "--recipe", "marvel"]) == 1
    assert "a run would stop: pairs.adapt_captions is on, and no picture" in capsys.readouterr().err
    assert main(["validate", home, "--recipe", "mimic"]) == 0
    assert main(["validate", home]) == 0


def test_with_a_recipe_a_corpus_without_a_query_to_measure_by_is_told_so(beir, capsys):
    home = str(beir(TEXTS, train="cd", dev="a"))
    assert main(["validate", home, "--recipe", "nlvr", "--format", "beir"]) == 1  # which calls validation train, and measures by test
    err = capsys.readouterr().err
    assert "a run would stop: no held-out query is left to measure by: all 3 queries with an answer are of the split train; " in err
    assert "curate.held_out=0.1 holds out a tenth of the training queries, and sources.splits=OLD=NEW renames a split" in err


def test_a_large_corpus_is_validated_by_workers_of_ray_with_the_same_findings(beir, ray_cluster, monkeypatch):
    import ray.data  # whose import sets the level of its logger

    home = beir({**TEXTS, "x": "IMG_0001.jpg", "e": ""}, train=["a", "b", "x", "e"], test=["c"])
    plan = validation.ValidationPlan(SourcesConfig(path=(str(home),)))
    small = validation.validate(plan)
    assert [(rejected.part, rejected.reason) for rejected in small.rejected], "there are rejected rows to compare"
    monkeypatch.setattr(ray_tasks, "SMALL_BYTES", 10)
    level = logging.getLogger(ray.data.__name__).level
    calls = []
    monkeypatch.setattr(row_checks, "worker_count", lambda workers: calls.append(workers) or worker_count(workers))
    assert validation.validate(plan) == small
    assert calls, "rows were checked by workers"
    assert logging.getLogger(ray.data.__name__).level == level


def test_a_warning_of_ray_about_few_rows_is_not_printed(tmp_path, recwarn):
    def work(context):
        warnings.warn("The maximum number of concurrent tasks for 'MapBatches(Check)' is set to 2, but", stacklevel=1)
        warnings.warn("a disk is nearly full", stacklevel=1)

    reading.run_stage("curating", tmp_path / "kept", work, 0)
    assert [str(warning.message) for warning in recwarn] == ["a disk is nearly full"]


def test_judgements_of_0_alone_make_no_pair(beir, capsys):
    home = beir(TEXTS, test="ab", train="c")
    (home / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\nq-train-c\tc\t0\n")
    assert main(["validate", str(home)]) == 1
    assert "a training would stop: no pair is left to train on" in capsys.readouterr().err


def test_with_triples_alone_the_refusal_names_the_setting_that_makes_passages(tmp_path, capsys):
    from tests.components.passages.dialogues import TRIPLES, corpus, triple

    folder = corpus(tmp_path / "dialogues", [triple(*row) for row in TRIPLES])
    assert main(["validate", f"canonical+{folder}"]) == 1
    printed = capsys.readouterr().err
    assert "a training would stop: no pair is left to train on" in printed
    assert f"of the {len(TRIPLES)} triples of train passages can be made: set passages.kind to vid2r or written" in printed


def test_too_many_rejected_candidates_are_all_printed_and_would_stop_a_run(beir, capsys):
    named = {f"x{n}": f"IMG_{n:04}.jpg" for n in range(2)}
    home = beir({**TEXTS, **named}, train=["a", "b", "x0"])
    assert main(["validate", str(home)]) == 1
    out, err = capsys.readouterr()
    assert [line.partition(": ")[2] for line in out.splitlines() if "corpus.jsonl" in line] == [
        "file name (corpus x0); 2 rows refer to it",
        "file name (corpus x1)",
    ]
    stop = "a run would stop: 2 of the 6 candidates were rejected (file name: 2), more than the share curate.max_rejected=0.2; "
    assert stop in err
    assert "4 rows would be rejected: 2 for reasons of their own, 2 because they refer to these" in err
    (home / "corpus.jsonl").write_text((home / "corpus.jsonl").read_text().replace("IMG_0001.jpg", "A tram stops."))
    assert main(["validate", str(home)]) == 1
    err = capsys.readouterr().err
    assert "3 rows would be rejected: 1 for reasons of their own, 2 because they refer to these" in err and "a run would stop" not in err


def test_a_corpus_without_a_usable_row_is_printed_row_by_row(beir, capsys):
    home = beir({"a": "IMG_0001.jpg", "b": "IMG_0002.jpg"}, train=["a", "b"])
    assert main(["validate", str(home)]) == 1
    out, err = capsys.readouterr()
    assert {line.partition(": ")[2] for line in out.splitlines()} >= {
        "file name (corpus a); 2 rows refer to it",
        "file name (corpus b); 2 rows refer to it",
    }
    assert "a run would stop: 2 of the 2 candidates were rejected (file name: 2)" in err
    assert "nothing would be rejected" not in err


def test_judgements_of_rejected_rows_are_dependent_and_those_of_missing_rows_are_not(beir, capsys):
    home = beir({**TEXTS, "e": ""}, train=["a", "e"], test=["b"])
    with (home / "qrels" / "test.tsv").open("a") as qrels:
        qrels.write("q-test-b\tnowhere\t1\n")
    assert main(["validate", "--json", str(home)]) == 1
    found = json.loads(capsys.readouterr().out)
    reasons = sorted((rejected["part"], rejected["reason"]) for rejected in found["rejected"])
    assert reasons == [("corpus", "empty side"), ("qrels", "unknown item"), ("qrels", "unknown item"), ("queries", "no answer")]
    assert found["dependent"] == 2 and found["refusals"] == []


def test_rejected_examples_are_printed_with_their_line_too(tmp_path, capsys):
    (tmp_path / "a.png").write_bytes(picture("a"))

    def example(query, positive, **more):
        return {"messages": [{"role": "user", "content": query}], "positive_messages": [[{"role": "user", "content": positive}]], **more}

    path = lines(
        tmp_path / "train.jsonl",
        [
            example("<image>what is it ?", "noise", images=[str(tmp_path / "a.png")]),
            example("<image><image>what is it ?", "noise", images=[str(tmp_path / "a.png")]),
            example("<image>where ?", "here", images=["https://example.org/a.png"]),
            example("<video>when ?", "now", videos=["clip.mp4"]),
            example("", "nothing asks for this"),
            example("why ?", "because", audios=["a.wav"]),
        ],
    )
    assert main(["validate", str(path)]) == 1
    printed = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    reasons = {2: "placeholders", 3: "URL", 4: "video file", 5: "empty side", 6: "audio"}
    assert {place: rest.partition(":")[0].partition(" (")[0] for place, rest in printed.items()} == {
        f"{path}:{line}": reason for line, reason in reasons.items()
    }


def test_a_corpus_without_a_rejected_row_has_status_0_and_copies_lists_its_duplicates(tmp_path, capsys):
    rows = [{"query": "who is it ?", "pos": ["It is he."], "neg": []}, {"query": "who was it ?", "pos": ["It is he !"], "neg": []}]
    path = lines(tmp_path / "train.jsonl", rows)
    assert main(["validate", str(path), "--copies"]) == 0
    out = capsys.readouterr().out
    assert "near-duplicate" in out and "nothing would be rejected" in out and "merged      1 of corpus: near-duplicate" in out
    assert main(["validate", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rejected"] == [] and [copy["line"] for copy in found["copies"]] == [2]


def test_a_column_that_is_left_aside_is_a_notice_and_rejects_nothing(tmp_path, capsys):
    home = tmp_path / "pictures"
    home.mkdir()
    (home / "a.png").write_bytes(picture("a"))
    lines(home / "captions.jsonl", [{"file_name": "a.png", "text": "noise", "width": 48}])
    assert main(["validate", str(home)]) == 0
    assert "left aside  pictures/captions.jsonl: the column width is not read; the rows are read without it" in capsys.readouterr().out


def test_a_corpus_without_a_usable_row_prints_its_rejected_rows_and_why_a_run_would_stop(tmp_path, capsys):
    path = lines(tmp_path / "train.jsonl", ["{oops", {"query": "", "pos": ["x"], "neg": []}])
    assert main(["validate", "--format", "flagembedding", str(path)]) == 1
    out, err = capsys.readouterr()
    assert f"{path}:1: bad JSON" in out and f"{path}:2: empty side" in out and "a run would stop: the corpus at" in err


def test_a_file_that_breaks_off_hides_no_rejected_row_elsewhere(tmp_path, capsys):
    home = tmp_path / "mbeir"
    for name, content in (("good", picture("good")), ("broken", picture("broken")[:200]), ("huge", _claims(60_000))):
        (home / f"{name}.png").parent.mkdir(exist_ok=True)
        (home / f"{name}.png").write_bytes(content)
    shown = [{"did": f"9:{n}", "img_path": f"{name}.png", "modality": "image"} for n, name in enumerate(("good", "broken", "huge"))]
    pool = lines(home / "cand_pool" / "local" / "a.jsonl", shown)
    rows = b"".join(json.dumps({"did": f"9:{n}", "txt": f"text {n}", "modality": "text"}).encode() + b"\n" for n in range(3, 500))
    (home / "cand_pool" / "local" / "b.jsonl.gz").write_bytes(gzip.compress(rows)[:-40])
    shared = {"query_modality": "text", "neg_cand_list": []}
    asked = [(1, "a dark picture", "9:0", 0), (2, "noise", "9:1", 0), (3, "a late text", "9:499", 1), (4, "", "9:0", 0)]
    asked = [{**shared, "qid": f"9:{n}", "query_txt": text, "pos_cand_list": [name], "task_id": task} for n, text, name, task in asked]
    queries = lines(home / "query" / "train" / "t.jsonl", asked)
    assert main(["validate", str(home)]) == 1
    out, err = capsys.readouterr()
    found = sorted(line.partition(": ")[::2] for line in out.splitlines())
    (torn,) = [place for place, reason in found if reason.startswith("unreadable")]
    assert torn.startswith(f"{home}/cand_pool/local/b.jsonl.gz:")
    reasons = {(place, reason.partition(":")[0].partition(" (")[0]) for place, reason in found if place != torn}
    assert reasons == {
        (f"{pool}:2", "damaged"),
        (f"{pool}:3", "too many pixels"),
        (f"{queries}:4", "empty side"),
    }
    assert (
        "a run would stop: mbeir/cand_pool/local/b.jsonl.gz cannot be unpacked after line" in err and "queries     train: t->i 1\n" in err
    )


def test_the_formats_are_listed_with_a_line_each(capsys):
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    for name, form in FORMATS.items():
        assert f"{name}{' *' if form.written else ''}" in out and form.what in out


def test_a_place_that_is_not_there_is_refused_by_name():
    with pytest.raises(Refused, match="there is no corpus at '/no/such/place'"):
        SourceFiles("/no/such/place").files()


@pytest.fixture(scope="module")
def leaking(tmp_path_factory):
    """A corpus of three hundred texts, each the answer of a training query and of a test query: everything leaks."""
    return leaky(tmp_path_factory.mktemp("leaking"), 300)


def leaky(home, count):
    """Writes it with so many texts, none near-equal to another."""
    words = ("amber", "basil", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty")
    texts = {f"d{n:05}": f"{words[n % 10]} {words[n // 10 % 10]} {words[n // 100 % 10]} number {n} of the collection" for n in range(count)}
    asked = [(split, n) for split in ("train", "test") for n in range(count)]
    queries = [{"_id": f"{split}{n:05}", "text": f"{split} asks {n} {words[n % 7]}{n}?"} for split, n in asked]
    lines(home / "corpus.jsonl", [{"_id": name, "text": text} for name, text in texts.items()])
    lines(home / "queries.jsonl", queries)
    for split in ("train", "test"):
        (home / "qrels").mkdir(exist_ok=True)
        judged = [f"{split}{n:05}\td{n:05}\t1" for n in range(count)]
        (home / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    return str(home)


PLAIN = ("curate.near.texts=null", "curate.near.pictures=null")


def test_a_corpus_where_everything_leaks_takes_a_screen_and_says_what_each_setting_would_keep(leaking, capsys):
    assert main(["validate", leaking, *PLAIN]) == 1
    out, err = capsys.readouterr()
    printed = [*out.splitlines(), *(line for line in err.splitlines() if not line.startswith(("reading", "curating")))]
    assert len(printed) <= 40
    (leaks,) = out.splitlines()
    assert "300 lines like this: 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 and 290 more; 300 rows refer to them" in leaks
    assert "leaks into test" in leaks
    assert "600 rows would be rejected: 300 for reasons of their own, 300 because they refer to these" in err
    (stop,) = [line for line in err.splitlines() if line.startswith("a training would stop")]
    assert "all 300 training queries leak" in stop and "(curate.leakage=all)" in stop
    assert "curate.leakage=queries would leave 300 to train on and 300 to measure by" in stop
    assert "curate.leakage=off would leave 300 to train on and 300 to measure by" in stop
    assert "sources.splits=test=train with curate.held_out=0.1 would leave 540 to train on and 60 to measure by" in stop


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        (["curate.leakage=queries"], {"train": 300, "test": 300}),
        (["curate.leakage=off"], {"train": 300, "test": 300}),
        (["sources.splits=test=train", "curate.held_out=0.1"], {"train": 540, "held_out": 60}),
    ],
)
def test_what_validate_said_that_a_setting_would_keep_is_what_it_keeps(leaking, capsys, settings, left):
    assert main(["validate", leaking, *PLAIN, *settings, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {split: sum(tasks.values()) for split, tasks in found["queries"].items()} == left and found["rejected"] == []


def test_overrides_may_come_anywhere_and_a_source_may_have_a_name_of_its_own(beir, capsys):
    home = beir(TEXTS, dev="ab", test="cd")
    assert main(["validate", "sources.splits=validation=train", f"mine=beir+{home}", "--json", "seed=3"]) == 0
    assert set(json.loads(capsys.readouterr().out)["queries"]) == {"train", "test"}
    assert main(["validate", str(home), "evaluate.split=test2", "sources.splits=validation=train"]) == 1
    assert "a run would stop: evaluate.split is 'test2', and the corpus has answered queries of test" in capsys.readouterr().err
    assert main(["validate", str(home), "--recipe", "mimic", "curate.leakag=off"]) == 2
    assert "there is no 'curate.leakag' here; did you mean curate.leakage" in capsys.readouterr().err


def test_a_file_of_a_recipe_is_validated_by_its_sources_and_its_rules(beir, tmp_path, capsys):
    home = beir(TEXTS, dev="ab", test="cd")
    file = tmp_path / "mine.yaml"
    file.write_text(f"recipe: mimic\nsources:\n  path: [{home}]\n  splits: [validation=train]\n")
    assert main(["validate", str(file), "evaluate.split=null"]) == 0
    assert main(["validate", str(file), "evaluate.split=dev"]) == 1
    assert "evaluate.split is 'dev'" in capsys.readouterr().err
    assert main(["validate", str(file), "--recipe", "mire"]) == 2
    assert "give one recipe, or one file of one" in capsys.readouterr().err


def test_what_a_file_says_of_reading_holds_for_other_paths_unless_the_command_line_says_otherwise(tmp_path, capsys):
    for name in ("one", "other"):
        table = {"a.csv": "file;words;more\np.png;a boat;a long boat\n", "p.png": picture(1)}
        write_files(tmp_path / name, table)
    file = tmp_path / "mine.yaml"
    columns = "columns: [picture=file, text=words]\n  captions: together"
    file.write_text(f"recipe: search\nsources:\n  path: [{tmp_path / 'one'}]\n  {columns}\n")

    def candidates(*words):
        assert main(["validate", str(tmp_path / "other"), "--recipe", str(file), "--json", *words]) == 0
        return json.loads(capsys.readouterr().out)["candidates"]

    assert candidates() == {"it": 1}
    assert candidates("--captions", "apart") == {"i": 1, "t": 1}
    assert candidates("--columns", "picture=file") == {"i": 1}


def test_without_a_corpus_there_is_nothing_to_validate(capsys):
    assert main(["validate"]) == 2
    assert "there is no corpus to validate; give a PATH" in capsys.readouterr().err
    assert main(["validate", "--recipe", "search"]) == 2


def test_all_findings_are_written_into_a_file_and_another_ending_is_refused_before_anything_is_read(leaking, tmp_path, capsys):
    assert main(["validate", leaking, *PLAIN, "--out", str(tmp_path / "all.txt")]) == 2
    assert capsys.readouterr().err == f"mirepoix: --out is {tmp_path}/all.txt; give a file that ends in .json or .csv\n"
    assert main(["validate", leaking, *PLAIN, "--out", str(tmp_path / "all.csv")]) == 1
    assert f"all findings are in {tmp_path}/all.csv" in capsys.readouterr().err
    written = list(csv.reader((tmp_path / "all.csv").open(newline="")))
    assert [row[0] for row in written] == ["what", *["rejected"] * 600, "refusal"]
    assert written[-1][5] == "a training would stop" and "all 300 training queries leak" in written[-1][6]


def test_one_damaged_picture_is_told_once_with_a_count_of_what_hangs_on_it(tmp_path, capsys):
    home = tmp_path / "pictures"
    home.mkdir()
    for name in "abcdef":
        (home / f"{name}.png").write_bytes(picture(name)[: None if name != "c" else 300])
    lines(home / "metadata.jsonl", [{"file_name": f"{name}.png", "text": f"the picture that is called {name}"} for name in "abcdef"])
    assert main(["validate", str(home)]) == 1
    out = capsys.readouterr().out
    assert out == f"{home}/c.png:1: damaged (corpus c.png.image); 4 rows refer to it\n", "the query by the picture and three judgements"


def test_damaged_files_of_equal_content_are_one_line_on_the_screen_and_are_all_in_the_file(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "good.png").write_bytes(picture("good"))
    names = [f"bad{number:02}.png" for number in range(14)]
    for name in names:
        (tmp_path / "pictures" / name).write_bytes(picture("bad")[:300])
    assert main(["validate", str(tmp_path / "pictures"), "--recipe", "search", "--copies", "--out", str(tmp_path / "rows.csv")]) == 1
    out = capsys.readouterr().out
    assert out == f"{tmp_path}/pictures/bad00.png:1: damaged (corpus bad00.png.image); 13 more have the same picture\n"
    rows = list(csv.DictReader((tmp_path / "rows.csv").open(newline="")))
    assert [row["file"] for row in rows if row["what"] == "rejected"] == [f"{tmp_path}/pictures/{name}" for name in names]


def test_where_more_notices_are_found_than_are_kept_a_notice_says_so(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mirepoix.components.ingestion.sources.NOTICES", 2)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(picture("a"))
    for name in "xyz":
        lines(tmp_path / "in" / name / "captions.jsonl", [{"file_name": "../a.png", "text": f"noise {name}", "width": 48}])
    main(["validate", str(tmp_path / "in"), "--out", str(tmp_path / "all.csv")])
    rows = list(csv.DictReader((tmp_path / "all.csv").open(newline="")))
    details = [row["detail"] for row in rows if row["what"] == "notice"]
    assert len(details) == 3 and details[-1] == "of 2 notices or more the first 2 are kept", details


def test_a_run_over_such_a_corpus_ends_straight_after_curation_with_what_validate_says(beir, ray_cluster, tmp_path, capsys):
    home = beir(TEXTS, test="ab")
    words = [f"sources.path={home}", "evaluate.split=null", "backbone.tiny.hidden_size=32"]
    assert main(["validate", str(home), "--recipe", "quickstart", "evaluate.split=null"]) == 1
    said = capsys.readouterr().err.partition("a run would stop: ")[2].strip()
    assert main(["run", "quickstart", *words, "--storage", str(tmp_path / "storage"), "--json", "--local"]) == 1
    stages = {event["stage"]: event for line in capsys.readouterr().out.splitlines() if (event := json.loads(line))["event"] == "stage"}
    assert stages["curate"]["state"] == "done" and stages["check"]["state"] == "failed"
    assert said.startswith("no pair is left to train on") and said in stages["check"]["error"]
    assert {name for name, event in stages.items() if event["state"] == "not run"} == set(stages) - {"sources", "curate", "check"}
    assert sorted(each.name for each in (tmp_path / "storage" / "artefacts").iterdir()) == ["curate", "sources"]


def test_a_run_that_evaluates_nothing_asks_for_no_query_to_measure_by_and_trusts_a_check_that_asked_for_more(beir, tmp_path, monkeypatch):
    from mirepoix.workflows import run
    from mirepoix.workflows.dag.retrieval import CHECK
    from mirepoix.workflows.runner.execute import execute
    from mirepoix.workflows.runner.executors import LocalExecutor

    monkeypatch.setattr(LocalExecutor, "prepare", lambda self, stage: None)  # the corpus is small
    words = (f"sources.path={beir(TEXTS, train='ab', test='cd')}", "evaluate.split=null")

    def asked(until):
        request = run.RunRequest("quickstart", words, storage=str(tmp_path / "storage"), until=until)
        stages, planned = run._graph(request, request.resolved())
        (check,) = [stage for stage in stages if stage.name == CHECK]
        return check.config.evaluated, stages, planned.stages[CHECK].status

    assert [asked(until)[0] for until in ("check", "adapt", "evaluate", None)] == [False, False, True, True]
    execute(asked(None)[1], str(tmp_path / "storage"), until="check", local=True)
    assert asked("adapt")[::2] == (True, "skipped")
