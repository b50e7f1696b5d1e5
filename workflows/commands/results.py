"""The command `results`: the rankings, judgements and scores of a run as files that others read."""

import argparse
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirepoix.models.errors import Refused
from mirepoix.workflows.commands.stored_result import StoredResult

if TYPE_CHECKING:
    import pyarrow as pa

    from mirepoix.components.evaluation.boards.board import BoardRow
    from mirepoix.components.evaluation.files.results import Scored

FORMS = ("trec", "beir", "mbeir", "mteb", "model-index")
ABOUT = """what is written into FOLDER:
  trec           runs/SYSTEM-POOL.trec, qrels/SPLIT.trec        for trec_eval, ir_measures, ranx
  beir           runs/SYSTEM-POOL.trec, qrels/SPLIT.tsv         for beir
  mbeir          runs/SYSTEM-POOL.txt, qrels/SPLIT_qrels.txt    with M-BEIR's ids of tasks, for UniIR
  mteb           mteb/TASK.json                                 a TaskResult for each data set, for mteb's leaderboard tools
  model-index    model-index.json                               the `model-index` of a model card
"""


def add_results(commands: Any) -> None:
    """The arguments of the command, among the commands of the command line."""
    results = commands.add_parser(
        "results",
        help="write a run's rankings, judgements and scores as files of TREC, BEIR, M-BEIR, mteb and model cards",
        epilog=ABOUT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = "folder of a run, its name or the beginning of it; after a colon its arm or system (default: the released encoder)"
    results.add_argument("run", metavar="RUN[:SYSTEM]", help=what)
    results.add_argument("folder", type=Path, metavar="FOLDER", help="a folder that is not there yet, or is empty")
    results.add_argument("--to", action="append", choices=FORMS, help="what is written; may be repeated (default: trec, mteb, model-index)")
    results.add_argument("--pool", help="pool of candidates (default: that of the headline)")
    results.add_argument("--name", help="name of the model in the model-index (default: that of the run)")
    results.add_argument("--storage", help="the storage that names of runs are looked up in")


def results_command(arguments: argparse.Namespace) -> int:
    """Writes the files, all or none, and prints their paths."""
    found = StoredResult(arguments.run, arguments.storage)
    folder: Path = arguments.folder
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder} is there already; give a folder that is not, or an empty one")
    pool = arguments.pool or found.headline["pool"]
    writer = _Writer(found, pool, arguments.name or found.name)
    forms = arguments.to or ["trec", "mteb", "model-index"]
    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        for form in forms:
            writer.forms[form](draft)
        if folder.exists():
            folder.rmdir()
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        print(file)
    return 0


class _Writer:
    """Writes the files of a result."""

    def __init__(self, found: StoredResult, pool: str, name: str):
        self.found, self.pool, self.name = found, pool, name
        self.table: pa.Table = found.values(pool)
        self.forms: dict[str, Callable[[Path], None]] = {
            "trec": lambda folder: self._rankings(folder, "trec"),
            "beir": lambda folder: self._rankings(folder, "beir"),
            "mbeir": lambda folder: self._rankings(folder, "mbeir"),
            "mteb": self._mteb,
            "model-index": self._model_index,
        }

    def _rankings(self, folder: Path, form: str) -> None:
        from mirepoix.components.evaluation.files.qrels import read_qrels, write_qrels
        from mirepoix.components.evaluation.files.runs import read_run, write_run

        tasks = self._tasks() if form == "mbeir" else None
        for part in ("runs", "qrels"):
            (folder / part).mkdir(exist_ok=True)
        with self.found.file(f"{self.found.system}-{self.pool}.trec", of_ranking=True) as run:
            end = "txt" if form == "mbeir" else "trec"
            tag = f"{self.found.system}-{self.pool}"
            rankings = ((ranking.query, ranking.ids, ranking.scores) for ranking in (read_run(run, "trec") if run.stat().st_size else ()))
            write_run(folder / "runs" / f"{tag}.{end}", rankings, "mbeir" if form == "mbeir" else "trec", tag, tasks)
        splits = dict(zip(self.table["query"].to_pylist(), self.table["split"].to_pylist(), strict=True))
        with self.found.file("qrels.trec") as judged:
            qrels = read_qrels(judged, "trec") if judged.stat().st_size else {}
        for split in sorted(set(splits.values())):
            if not (own := {query: grades for query, grades in qrels.items() if splits.get(query) == split}):
                continue  # relevance is by answers that are strings
            name = {"trec": f"{split}.trec", "beir": f"{split}.tsv", "mbeir": f"{split}_qrels.txt"}[form]
            write_qrels(folder / "qrels" / name, own, form, tasks)

    def _tasks(self) -> dict[str, int]:
        """M-BEIR's ids of tasks by query; refused where it has no such task."""
        from mirepoix.components.ingestion.formats.mbeir import TASKS

        queries, tasks = self.table["query"].to_pylist(), self.table["task"].to_pylist()
        if unknown := sorted(set(tasks) - set(TASKS)):
            raise Refused(f"M-BEIR has no task {unknown[0]}, which queries of {self.found.name} have; it has {', '.join(TASKS)}")
        return {query: TASKS.index(task) for query, task in zip(queries, tasks, strict=True)}

    def _scored(self) -> "Iterator[Scored]":
        """The scores of each data set and split, by the measures of the run; a task that a board has in a row of its own is a subset."""
        from mirepoix.components.evaluation.boards.registry import BOARDS
        from mirepoix.components.evaluation.files.results import Scored

        board = BOARDS.get(self.found.board)
        for entry in self.found.entries(self.pool):
            for dataset, tasks in entry["datasets"].items():
                rows: dict[BoardRow | None, dict[str, int]] = {}
                for task, count in tasks.items():
                    rows.setdefault(board.row(dataset, task) if board else None, {})[task] = count
                for row, counts in rows.items():
                    means = {}
                    for name in (name for name in self.found.measures if "@" in name and name in entry):
                        of = entry[name]["datasets"][dataset]
                        means[name] = sum(of[task] * count for task, count in counts.items()) / sum(counts.values())
                    main = row.measure if row else self.found.headline["measure"]
                    if main in means:
                        task, subset = (row.mteb if row else "") or dataset, (row.task if row else "") or "default"
                        yield Scored(task, dataset, entry["split"], means, main, subset=subset)

    def _mteb(self, folder: Path) -> None:
        from mirepoix.components.evaluation.files.results import write_task_results

        write_task_results(folder / "mteb", list(self._scored()))

    def _model_index(self, folder: Path) -> None:
        from mirepoix.components.evaluation.files.results import model_index

        (folder / "model-index.json").write_text(json.dumps(model_index(self.name, self._scored()), indent=1) + "\n")
