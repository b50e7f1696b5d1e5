"""Each benchmark is one command on its published layout, and its scores are those worked by hand.

A published model that was never trained is measured on miniatures of the benchmarks. Its scores say nothing, so the values are worked for
vectors that are made for the test: each candidate has a direction of its own, and a query points the more towards one the earlier that is
to be found.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.evaluation import evaluate
from mirepoix.components.evaluation.boards.registry import BOARDS
from mirepoix.models.backbones.twins import make_twin
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.dag.benchmark import Benchmark
from mirepoix.workflows.recipes.benchmarks import BENCHMARKS
from mirepoix.workflows.recipes.registry import RECIPES, recipe
from tests.components.fixtures import SIZES, context, write_index, write_vectors
from tests.components.ingestion.formats import miniatures

NAMES = [made.__name__ for made in BENCHMARKS]
FILES = {"webqa_plus": "webqa", "evqa_plus": "evqa"}
"""Benchmarks that have the files of another."""
SOAKED = (*FILES, "infoseek")
"""Benchmarks that are run whole in the soak: their files are read as those of webqa or evqa, which are run whole here."""
CLIPS = ("mmeb_v2",)
"""Benchmarks with clips, which a CLIP does not read."""
log2 = math.log2


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("benchmarks")
    for name in NAMES:
        if name not in FILES:
            getattr(miniatures, name)(home / name)
    make_twin(home / "clip", "clip", ["two small red stars"] * 10, SIZES, seed=0)
    return home


@pytest.fixture(scope="module")
def made():
    """The benchmarks that were run, by name."""
    return {}


@pytest.fixture
def cli(ray_cluster, home, capsys, made):
    """Runs a benchmark, once, with its stages in this process; returns its status, its output, and the report of its run.

    With `until` it ends with that stage, as vectors are made by hand where scores are worked by hand.
    """

    def run(name, until=None):
        if name not in made:
            last = ["--until", until] if until else []
            model = [f"backbone.name={home / 'clip'}"] if name not in CLIPS else ["backbone.encoder=UniteConfig", "backbone.name=tiny"]
            corpus = f"sources.path={home / FILES.get(name, name)}"
            status = main(["run", name, corpus, *model, *last, "--local", "--storage", str(home / "storage")])
            out = capsys.readouterr().out
            folder = Path(next(line.split()[-1] for line in out.splitlines() if line.startswith("report ")))
            made[name] = status, out.splitlines(), json.loads((folder.parent / "report.json").read_text()), folder.read_text()
        return made[name]

    return run


def test_every_benchmark_is_a_recipe_with_a_board_and_makes_no_release():
    assert {*NAMES} <= {*RECIPES} and {*NAMES} == {*BOARDS}
    for name in NAMES:
        config = recipe(name)
        assert isinstance(config, Benchmark) and config.evaluate.board == name and config.served is None and not config.trainings


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.soak) if name in SOAKED else name for name in NAMES])
def test_a_model_that_was_never_trained_is_measured_by_one_command_beside_the_floors(name, cli):
    status, said, report, page = cli(name)
    assert status == 0
    board = BOARDS[name]
    for pool, table in zip(board.pools, report["board"]["tables"], strict=True):
        assert table["pool"] == pool and {"encoder", "chance"} <= {*table["systems"]}
        assert said.count(f"{board.title} on test, {pool} pool") == 1
        measured = [row for row in table["rows"] if row["values"]]
        assert measured and all(0 <= value <= 1 for row in measured for value in row["values"].values())
    assert {stage["name"] for stage in report["stages"]} >= {"floors", "evaluate"} and not report["releases"]
    assert {stage["status"] for stage in report["stages"]} <= {"done", "skipped"}
    assert f"<h2>{board.title}" in page and board.source in page


class Asked(NamedTuple):
    """A query, its answers by falling grade, the candidates that are judged irrelevant, and all others."""

    id: str
    dataset: str
    number: int  # among those of its data set
    answers: list[str]
    refuted: list[str]
    others: list[str]

    def at(self, rank: int) -> list[str]:
        """A ranking with the answers from this rank on."""
        return [*self.others[: rank - 1], *self.answers]


def asked_of(curate: Path) -> list[Asked]:
    """The queries of a corpus, in the order of their ids."""
    corpus = read_part(curate, "corpus", ["id", "text"]).to_pylist()
    ids, found, numbers = sorted(row["id"] for row in corpus), [], {}
    judged: dict[str, list[tuple[int, str]]] = {}
    for row in read_part(curate, "qrels").to_pylist():
        judged.setdefault(row["query_id"], []).append((row["relevance"], row["item_id"]))
    for row in sorted(read_part(curate, "queries").to_pylist(), key=lambda row: row["id"]):
        own = sorted(judged.get(row["id"], []), key=lambda each: (-each[0], each[1]))
        answers = [item for grade, item in own if grade > 0]
        answers += [each["id"] for each in corpus for answer in row["answers"] or () if answer.lower() in each["text"].lower()]
        number = numbers[row["dataset"]] = numbers.get(row["dataset"], -1) + 1
        refuted = [item for grade, item in own if grade <= 0]
        found.append(Asked(row["id"], row["dataset"], number, answers, refuted, [id for id in ids if id not in answers]))
    return found


def scored(cli, name: str, tmp_path: Path, ranking: Callable[[Asked], list]) -> dict[str, Any]:
    """The metrics of the benchmark where each query has a ranking; ids in a tuple have equal scores."""
    stages = {stage["name"]: Path(stage["target"]) for stage in cli(name, until="check" if name in SOAKED else None)[2]["stages"]}
    curate = stages.get("captions", stages["curate"])
    rows = read_part(curate, "corpus").to_pylist()
    codes = {row["id"]: 1 * bool(row["text"]) + 2 * bool(row["images"]) + 4 * bool(row["video"]) for row in rows}
    basis = np.eye(len(codes))
    vectors = {id: (code, basis[place].tolist()) for place, (id, code) in enumerate(sorted(codes.items()))}
    queries = {}
    for asked in asked_of(curate):
        wanted = ranking(asked)
        row = np.zeros(len(codes))
        for weight, ids in zip(range(len(wanted), 0, -1), wanted, strict=True):
            for id in ids if isinstance(ids, tuple) else (ids,):
                row += weight * np.array(vectors[id][1])
        queries[asked.id] = (1, row.tolist())
    embed, index = write_vectors(tmp_path / "embed", corpus=vectors, queries=queries), write_index(tmp_path / "index", vectors)
    to = context(tmp_path / "run")
    evaluate.work(to, recipe(name).evaluate, curate, embed, index)
    return json.loads((to.folder / "metrics.json").read_text())


def rows_of(metrics: dict[str, Any], pool: str) -> dict[str, float]:
    """The values of the rows of a board's table."""
    table = next(table for table in metrics["board"]["tables"] if table["pool"] == pool)
    return {row["label"]: row["values"]["encoder"] for row in table["rows"] if row["values"]}


def means_of(metrics: dict[str, Any], pool: str) -> dict[str, float]:
    table = next(table for table in metrics["board"]["tables"] if table["pool"] == pool)
    return {mean["name"]: mean["value"] for mean in table["means"]}


def columns_of(metrics: dict[str, Any], pool: str) -> dict[str, float]:
    """The values of the measures that a board prints of its one row."""
    table = next(table for table in metrics["board"]["tables"] if table["pool"] == pool)
    (row,) = (row for row in table["rows"] if row["values"])
    return {column["name"]: column["values"]["encoder"] for column in row["columns"]}


def near(values: dict[str, float]) -> Any:
    return pytest.approx(values, abs=1e-6)


def test_m_beirs_local_and_union_pools_worked_by_hand(cli, tmp_path):
    """Of each set's two queries the first finds its answer at once; for the second five candidates of other sets are better.

    In the union that is rank six: no hit at 5, a hit at 10, which FashionIQ has. In the local pool it is rank one, but for NIGHTS', whose
    own candidate is better too.
    """

    def ranking(asked: Asked) -> list:
        dataset, place = asked.id.split(":")
        own = [id for id in asked.others if id.split(":")[0] == dataset and (int(id.split(":")[1]) - 1) // 10 == (int(place) - 1) // 10]
        elsewhere = [id for id in asked.others if id not in own]
        before = [] if asked.id.endswith("1") else elsewhere[:5]
        return [*before, *(own[:1] if asked.id == "4:42" else []), *asked.answers]

    metrics = scored(cli, "mbeir", tmp_path, ranking)
    labels = ["MSCOCO t->i", "WebQA t->t", "WebQA t->it", "MSCOCO i->t", "NIGHTS i->i", "OVEN it->t", "OVEN it->it"]
    assert rows_of(metrics, "universal") == dict.fromkeys(labels, 0.5) | {"FashionIQ it->i": 1.0}
    assert means_of(metrics, "universal") == near({"Average": (7 * 0.5 + 1) / 8})
    assert rows_of(metrics, "dataset") == dict.fromkeys([*labels, "FashionIQ it->i"], 1.0)
    local = next(entry for entry in metrics["results"] if entry["pool"] == "dataset")
    assert local["Success@1"]["average"] == pytest.approx((7 * 1 + 0.5) / 8) and local["Success@1"]["datasets"]["nights"] == {"i->i": 0.5}
    assert metrics["headline"]["encoder"]["average"] == 1.0, "the headline is of the local pools"


def test_mmebs_lists_and_ties_worked_by_hand(cli, tmp_path):
    """In each set but RefCOCO the answer of the second query has the score of another of its list, which counts as a miss."""

    def ranking(asked: Asked) -> list:
        if asked.number == 1 and asked.dataset != "RefCOCO":
            return [(asked.answers[0], asked.refuted[0])]
        elsewhere = next(id for id in asked.others if id not in asked.refuted)
        return [elsewhere, asked.answers[0], *asked.refuted]  # what is better is in no list of the query

    metrics = scored(cli, "mmeb", tmp_path, ranking)
    assert rows_of(metrics, "listed") == {"ImageNet-1K": 0.5, "OK-VQA": 0.5, "MSCOCO_t2i": 0.5, "RefCOCO": 1.0}
    groups = {"Classification": 0.5, "VQA": 0.5, "Retrieval": 0.5, "Grounding": 1.0}
    assert means_of(metrics, "listed") == groups | {"IND": 0.5, "OOD": 1.0, "Overall": 0.625}


def test_mmeb_v2s_pictures_clips_and_pages_worked_by_hand(cli, tmp_path):
    """All answers are found at once but for a tie in ImageNet-1K, one of three in MSR-VTT, and pages of ArxivQA at ranks 1, 2 and 6."""

    def ranking(asked: Asked) -> list:
        match asked.dataset, asked.number:
            case "ImageNet-1K", 0:
                return [(asked.answers[0], asked.refuted[0])]
            case "MSR-VTT", 1:
                return [own["MSR-VTT"], *asked.answers]
            case "ViDoRe_arxivqa", place:
                pages = [id for id in pool if id not in asked.answers]
                return [*pages[: (0, 1, 5)[place]], *asked.answers]
        return asked.answers

    curate = Path(next(stage["target"] for stage in cli("mmeb_v2")[2]["stages"] if stage["name"] == "curate"))
    members = read_part(curate, "pools").to_pylist()
    pool = sorted(row["item_id"] for row in members if row["pool"] == "ViDoRe_arxivqa")
    first = next(asked for asked in asked_of(curate) if asked.dataset == "MSR-VTT")
    own = {"MSR-VTT": first.answers[0]}  # an answer of another query of the same set
    metrics = scored(cli, "mmeb_v2", tmp_path, ranking)
    pages = (1 + 1 / log2(3) + 0) / 3
    found = rows_of(metrics, "board")
    assert {label: value for label, value in found.items() if value != 1} == near(
        {"ImageNet-1K": 0.5, "MSR-VTT": 2 / 3, "ViDoRe_arxivqa": pages}
    )
    means = means_of(metrics, "board")
    expected = {"I-CLS": 0.5, "Image": 3.5 / 4, "V-RET": (2 / 3 + 2) / 3, "Video": (2 / 3 + 11) / 12, "VDRv1": pages, "VR": 1.0}
    assert {name: means[name] for name in expected} == near(expected) and len(found) == 18
    assert means["All"] == pytest.approx((0.5 + 2 / 3 + pages + 15) / 18, abs=1e-6)
    assert metrics["headline"]["encoder"]["average"] == pytest.approx(means["All"], abs=1e-6)


def test_webqas_snippets_and_pictures_worked_by_hand(cli, tmp_path):
    def ranking(asked: Asked) -> list:
        match asked.id:
            case "q0":
                return ["d0"]
            case "q1":  # answers d1 and d2, at ranks 2 and 3
                return ["d3", "d1", "d2"]
            case "q2":  # its picture after all nine others, three of which are pictures
                return asked.at(10)
        return ["d0", *asked.answers]  # its picture after a snippet

    metrics = scored(cli, "webqa", tmp_path, ranking)
    two = (1 / log2(3) + 1 / log2(4)) / (1 + 1 / log2(3))
    ndcg = (1 + two + 1 / log2(11) + 1 / log2(3)) / 4
    everywhere = {"MRR@10": (1 + 1 / 2 + 1 / 10 + 1 / 2) / 4, "MRR@20": (1 + 1 / 2 + 1 / 10 + 1 / 2) / 4}
    assert columns_of(metrics, "universal") == near(everywhere | {"NDCG@10": ndcg, "NDCG@20": ndcg, "Rec@20": 1, "Rec@100": 1})
    # Among snippets alone, or pictures alone.
    own = {"MRR@10": (1 + 1 / 2 + 1 / 4 + 1) / 4, "MRR@20": (1 + 1 / 2 + 1 / 4 + 1) / 4}
    ndcg = (1 + two + 1 / log2(5) + 1) / 4
    assert columns_of(metrics, "target") == near(own | {"NDCG@10": ndcg, "NDCG@20": ndcg, "Rec@20": 1, "Rec@100": 1})


def test_webqa_plus_worked_by_hand(cli, tmp_path):
    ranks = {"0": 1, "0.25": 2, "0.5": 4, "0.75": 5, "1": 6}

    def ranking(asked: Asked) -> list:
        snippets = [id for id in asked.others if id.startswith("d")]  # which are in the pool of every rate
        before = ranks[asked.id.partition("#")[2]] - 1
        return [*(snippets * 2)[: min(before, len(snippets))], *asked.answers]

    metrics = scored(cli, "webqa_plus", tmp_path, ranking)
    # q1 has four snippets that are no answers, so at the last two rates its first answer is at rank five.
    last = {"75% without caption": 1 / 5, "100% without caption": (3 / 6 + 1 / 5) / 4}
    expected = {"0% without caption": 1, "25% without caption": 1 / 2, "50% without caption": 1 / 4, **last}
    assert rows_of(metrics, "dataset") == near(expected)
    assert means_of(metrics, "dataset") == near({"Mean": sum(expected.values()) / 5})


@pytest.mark.parametrize(
    ("name", "ranks", "expected"),
    [
        ("okvqa", (1, 2, 3, 6), {"MRR@5": (1 + 1 / 2 + 1 / 3 + 0) / 4, "P@5": 3 / 5 / 4, "PRRecall@5": 3 / 4}),
        ("remuq", (1, 2, 6), {"MRR@5": (1 + 1 / 2 + 0) / 3, "P@5": 2 / 5 / 3, "R@5": 2 / 3}),
        ("evqa", (1, 4, 6), {"MRR@5": (1 + 1 / 4 + 0) / 3, "P@5": 2 / 5 / 3, "PRRecall@5": 2 / 3}),
        ("infoseek", (5, 6, 7), {"MRR@5": 1 / 5 / 3, "P@5": 1 / 5 / 3, "PRRecall@5": 1 / 3}),
    ],
)
def test_passages_that_answer_questions_about_pictures_worked_by_hand(name, ranks, expected, cli, tmp_path):
    """Of each question one passage is right, by its answer or by its id, and found at the given rank."""

    def ranking(asked: Asked) -> list:
        assert len(asked.answers) == 1
        return asked.at(ranks[asked.number])

    assert columns_of(scored(cli, name, tmp_path, ranking), BOARDS[name].pools[0]) == near(expected)


def test_evqa_plus_worked_by_hand(cli, tmp_path):
    ranks = {"0": 1, "0.25": 1, "0.5": 2, "0.75": 6, "1": 7}
    metrics = scored(cli, "evqa_plus", tmp_path, lambda asked: asked.at(ranks[asked.id.partition("#")[2]]))
    shares = dict(zip((0, 25, 50, 75, 100), (1, 1, 1, 0, 0), strict=True))
    assert rows_of(metrics, "dataset") == {f"{share}% without caption": value for share, value in shares.items()}
    assert means_of(metrics, "dataset") == near({"Mean": 3 / 5})


def test_vidores_pages_with_grades_worked_by_hand(cli, tmp_path):
    """Of version 1 the pages are at ranks 1, 2, and 3 with 4; of the others one query has pages of grades 2 and 1, the lesser first."""

    def ranking(asked: Asked) -> list:
        if asked.dataset == "DocVQA":
            own = [id for id in asked.others if ":" not in id]  # the pages of the others are called FOLDER:NUMBER
            return [*own[: asked.number], *asked.answers]
        if len(asked.answers) == 2:
            return asked.answers[::-1]
        return asked.answers

    metrics = scored(cli, "vidore", tmp_path, ranking)
    first = (1 + 1 / log2(3) + (1 / log2(4) + 1 / log2(5)) / (1 + 1 / log2(3))) / 3
    graded = ((1 + 2 / log2(3)) / (2 + 1 / log2(3)) + 3) / 4
    assert rows_of(metrics, "dataset") == near({"DocVQA": first, "ESG Reports": graded, "HR": graded})
    expected = {"ViDoRe v1": first, "ViDoRe v2": graded, "ViDoRe v3": graded, "All": (first + 2 * graded) / 3}
    assert means_of(metrics, "dataset") == near(expected)
