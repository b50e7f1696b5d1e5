"""What a deep evaluation costs beside bare FAISS: rankings, their measures and the run file, over synthetic vectors.

    python bench/deep_run.py                                   1M candidates, 10,000 queries, depth 1,000: some four minutes
    python bench/deep_run.py --items 100000 --queries 2000     smaller, in half a minute; beside less work of FAISS, ours is more
    python bench/deep_run.py --check                           exit status 1 if what is promised does not hold

Queries are ranked in parts. Of each part, bare FAISS (`faiss.knn`, the k best by inner product) and the evaluation (the same search, exact
scores in a fixed order of ties, twelve measures by pytrec_eval, their curves, the lines of a TREC run) are timed one after the other, the
first of them in turn. Memory is the peak of a process that evaluates all queries, beyond what it had with vectors and judgements in it, and
that of one that evaluates a fifth of them.
"""

import argparse
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "bench")]

from ratios import Row, checked, table  # noqa: E402

if TYPE_CHECKING:
    import numpy as np

    from mirepoix.components.evaluation.scoring.measuring import Measuring
    from mirepoix.components.evaluation.scoring.rankers import ByVectors

RATIO = 1.5
"""The most time that an evaluation takes, over bare FAISS."""
GROWTH_MIB = 300
"""The most memory that all queries take beyond a fifth of them."""
PARTS = 5


def vectors(count: int, width: int, seed: int) -> "np.ndarray":
    import numpy as np

    rows = np.random.default_rng(seed).standard_normal((count, width), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def evaluation(asked: argparse.Namespace, folder: Path) -> "tuple[Measuring, ByVectors, np.ndarray, np.ndarray]":
    """The evaluation with its ranker, and the rows of candidates and queries; three candidates are relevant to each query, with grades."""
    import numpy as np
    import pyarrow as pa

    from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
    from mirepoix.components.evaluation.scoring.judgements import Judged, Question
    from mirepoix.components.evaluation.scoring.measuring import Measuring
    from mirepoix.components.evaluation.scoring.rankers import ByVectors
    from mirepoix.models.ragged import RaggedRows
    from mirepoix.serving.search.dense import build
    from mirepoix.serving.search.index_config import IndexConfig

    rows_ND, queries_QD = vectors(asked.items, asked.width, 0), vectors(asked.queries, asked.width, 1)
    ids = [f"d{number:08d}" for number in range(asked.items)]
    index = build(rows_ND, ids, [1] * asked.items, IndexConfig(kind="flat"))
    depths = (10, 100, asked.depth)
    names = tuple(f"{kind}@{depth}" for kind in ("nDCG", "RR", "R", "AP") for depth in depths)
    config = EvaluateConfig(measures=names, measure=names[0], pools=("universal",), mean="queries")
    questions = [Question(f"q{number}", "test", "t->t", "synthetic") for number in range(asked.queries)]
    random = np.random.default_rng(2)
    places = np.sort(random.integers(asked.items, size=(asked.queries, 3)), axis=1).astype(np.int32)
    grades = random.integers(1, 4, places.size).astype(np.int32)
    bounds = np.arange(0, places.size + 1, 3)
    judged = Judged(pa.array(ids), np.ones(asked.items, np.int8), questions, bounds, places.ravel(), grades, folder)
    ranker = ByVectors(index, RaggedRows.single(queries_QD), np.arange(asked.queries))
    return Measuring(judged, config, folder, 0), ranker, rows_ND, queries_QD


def part_of(measuring: "Measuring", start: int, stop: int) -> "Measuring":
    """The evaluation of some of the queries."""
    from dataclasses import replace

    judged = measuring.judged
    questions, bounds = judged.questions[start:stop], judged.bounds[start : stop + 1]
    return replace(measuring, judged=replace(judged, questions=questions, bounds=bounds))


class Part:
    """A ranker of some of the queries."""

    def __init__(self, ranker: "ByVectors", start: int):
        self.ranker, self.start = ranker, start

    def rank(self, queries, k, among):  # type: ignore[no-untyped-def]
        return self.ranker.rank(queries + self.start, k, among)

    def scores(self, query, places):  # type: ignore[no-untyped-def]
        return self.ranker.scores(query + self.start, places)


def ratios(asked: argparse.Namespace) -> tuple[list[float], list[float]]:
    """For each part of the queries the time of the evaluation over that of bare FAISS, by the clock and in CPU seconds."""
    import faiss

    walls, cpus = [], []
    with tempfile.TemporaryDirectory() as folder:
        measuring, ranker, rows_ND, queries_QD = evaluation(asked, Path(folder))
        each = asked.queries // PARTS
        for number in range(PARTS):
            start, stop = number * each, (number + 1) * each
            own = part_of(measuring, start, stop)
            work = {
                "bare": lambda start=start, stop=stop: faiss.knn(
                    queries_QD[start:stop], rows_ND, asked.depth, metric=faiss.METRIC_INNER_PRODUCT
                ),
                "ours": lambda own=own, start=start: own.measure("deep", Part(ranker, start)),
            }
            took = {}
            for name in list(work)[:: -1 if number % 2 else 1]:
                began, cpu = time.perf_counter(), time.process_time()
                work[name]()
                took[name] = time.perf_counter() - began, time.process_time() - cpu
            walls.append(took["ours"][0] / took["bare"][0])
            cpus.append(took["ours"][1] / took["bare"][1])
            print(
                f"queries {start:,} to {stop:,}: evaluation {took['ours'][1]:.1f} CPU s, bare FAISS {took['bare'][1]:.1f}; over it "
                f"{cpus[-1]:.2f}, by the clock {walls[-1]:.2f}",
                flush=True,
            )
    return walls, cpus


def peak(asked: argparse.Namespace) -> float:
    """MiB that the evaluation takes at most beyond vectors and judgements; of this process."""
    with tempfile.TemporaryDirectory() as folder:
        measuring, ranker, _, _ = evaluation(asked, Path(folder))
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of what came before
        before = _kib("VmRSS")
        measuring.measure("deep", ranker)
        return (_kib("VmHWM") - before) / 1024


def _kib(name: str) -> int:
    """A figure of this process's memory."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--peak", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help=f"exit status 1 if the evaluation takes more than {RATIO} times bare FAISS")
    asked = parser.parse_args(arguments)
    if asked.peak:
        print(f"{peak(asked):.1f}")
        return 0
    print(f"{platform.machine()}, {asked.items:,} candidates of {asked.width} dimensions, {asked.queries:,} queries, depth {asked.depth:,}")
    memory = {}
    for queries in (asked.queries // PARTS, asked.queries):
        words = ["--peak", *(f"--{name}={getattr(asked, name)}" for name in ("items", "depth", "width")), f"--queries={queries}"]
        memory[queries] = float(subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True).stdout)
        print(f"memory of {queries:,} queries beyond vectors and judgements: {memory[queries]:.0f} MiB", flush=True)
    walls, cpus = ratios(asked)
    growth = memory[asked.queries] - memory[asked.queries // PARTS]
    rows = [
        Row("CPU time of the evaluation, over bare FAISS", cpus, most=RATIO),
        Row("time by the clock of the evaluation, over bare FAISS", walls, most=RATIO),
        Row("MiB of all queries beyond a fifth of them", [growth], most=GROWTH_MIB),
    ]
    print(table(rows))
    return checked(rows, asked.check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
