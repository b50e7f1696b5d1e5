"""The result of one system of a run in a storage: its report, and the files of its evaluation."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from mirepoix.models.errors import Refused

if TYPE_CHECKING:
    import pyarrow as pa


class StoredResult:
    """The values of one system of a run."""

    def __init__(self, given: str, storage: str | None):
        from mirepoix.components.evaluation.evaluate_config import released
        from mirepoix.workflows.storage import run_name_of

        run, of = _split_name(given)
        self._report, self.folder = _report(run, storage)
        self.name = f"{run_name_of(self.folder)}{':' if of else ''}{of}"
        arms = self._report.get("arms")
        arm, _, system = of.partition(".") if arms else ("", "", of)
        if arms and arm not in arms:
            raise Refused(f"{run} compares {', '.join(arms)}; give one as {run}:ARM, or ARM.SYSTEM")
        found = arms[arm] if arms else self._report
        if "headline" not in found:
            raise Refused(f"{given} has no scores: {found.get('unmeasured') or found.get('failure') or 'it was not evaluated'}")
        self.headline = found["headline"]
        self.system = system or released(self.headline)
        self.data = self._report["data"]["digest"]
        self.board: str = (found.get("board") or {}).get("name", "")
        self.measures = [name for name in found["results"][0] if "@" in name or name == self.headline["measure"]]
        self._results, self._arm = found["results"], arm

    @property
    def identity(self) -> tuple[str, str, str]:
        """What is the same for the same result, however it was given: the folder of the run, the arm and the system."""
        return self.folder, self._arm, self.system

    def _stage(self, step: str) -> str:
        """The folder of a stage of the run, or of the arm, which may share that of another."""
        from mirepoix.serving import store
        from mirepoix.workflows.config import read
        from mirepoix.workflows.dag.comparison import Comparison
        from mirepoix.workflows.storage import present

        name = step
        if self._arm:
            config = read((store.read(store.join(self.folder, "config.yaml")) or b"").decode(), Comparison)
            name = config.executed_as.get(f"{self._arm}:{step}", step)
        stages = {stage["name"]: stage for stage in self._report["stages"]}
        return present(stages[name]["target"], self.folder)

    def entries(self, pool: str) -> Iterator[dict[str, Any]]:
        """The results of the system in a pool, one for each split."""
        return (entry for entry in self._results if (entry["system"], entry["pool"]) == (self.system, pool))

    def values(self, pool: str, split: str | None = None) -> "pa.Table":
        """The rows of the system in a pool and, if that is given, a split: a row for each query."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        from mirepoix.components.evaluation.scoring.measuring import VALUES
        from mirepoix.workflows.dag.results import content

        table = pq.read_table(pa.BufferReader(content(self._stage("evaluate"), VALUES)))
        for column, value in (("system", self.system), ("pool", pool), ("split", split)):
            there = sorted(set(table[column].to_pylist()))
            table = table if value is None else table.filter(pc.equal(table[column], value))
            if not table.num_rows:
                raise Refused(f"{self.name} has no values of {column} {value!r}; it has {', '.join(there)}")
        return table

    @contextmanager
    def file(self, name: str, of_ranking: bool = False) -> Iterator[Path]:
        """A file of the evaluation, or of the floors where the system is one, on this machine."""
        from mirepoix.components.evaluation.evaluate_config import FLOORS
        from mirepoix.workflows.dag.results import content

        if of_ranking and self.system == "chance":
            raise Refused(f"{self.name} is a mean over all orders, and has no ranking; give another system")
        step = "floors" if of_ranking and self.system in FLOORS else "evaluate"
        with TemporaryDirectory() as folder:
            path = Path(folder) / name
            path.write_bytes(content(self._stage(step), name))
            yield path


def _split_name(given: str) -> tuple[str, str]:
    """The run and the system of RUN:SYSTEM; a URI or a drive is not taken apart."""
    run, colon, system = given.rpartition(":")
    return (run, system) if colon and "/" not in system else (given, "")


def _report(run: str, storage: str | None) -> tuple[dict[str, Any], str]:
    """The report of a run, by its folder or its name, and its folder."""
    from mirepoix.serving import store
    from mirepoix.workflows.storage import opened_storage
    from mirepoix.workflows.upkeep.named import is_name
    from mirepoix.workflows.upkeep.runs import find_run, read_runs

    folder = run
    if is_name(run):
        home = opened_storage(storage)
        folder = find_run(read_runs(home), run, home).folder
    text = store.read(store.join(folder, "report.json"))
    if text is None:
        raise Refused(f"{run} is no run with a report; give the folder of a run, or its name or the beginning of it")
    return json.loads(text), folder
