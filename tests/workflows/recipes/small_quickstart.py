"""The quickstart in small, for tests: the same stages on the same parts, with less of everything."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, fields
from pathlib import Path

from mirepoix.workflows.cluster.ray_cluster import PREFIX
from mirepoix.workflows.dag.comparison import Comparison
from tests.workflows.cluster.ray_heads import plain_environment

ROOT = Path(__file__).resolve().parents[3]
WORLD = ["sources.world.entities=48", "sources.world.train_queries=40", "sources.world.evaluation_queries=12"]
MODEL = [
    "backbone.tiny.hidden_size=64",
    "backbone.tiny.intermediate_size=128",
    "backbone.tiny.vision_width=32",
    "backbone.tiny.vocabulary=600",
]
TRAINING = [
    f"{stage}.{field}"
    for stage in ("adapt", "instruct")
    for field in ("max_steps=12", "global_batch_size=16", "save_steps=6", "logging_steps=2", "cpus_per_worker=1")
]
SMALL = [*WORLD, *MODEL, *TRAINING, "evaluate.draws=50", "embed.threads=1"]


def of_arm(name: str, settings: list[str]) -> list[str]:
    """Overrides of a single run, prefixed for an arm of a comparison."""
    shared = tuple(f"{field.name}." for field in fields(Comparison))
    return [setting if setting.startswith(shared) else f"arms.{name}.{setting}" for setting in settings]


# The quickstart as SMALL makes it, and beside it another retriever in one training.
ONE_TRAINING = [f"arms.univldr.{stage}=null" for stage in ("adapt", "mine_refine", "refine")]
BESIDE = [
    "quickstart_all",
    "only=unite,univldr",
    "serve=univldr",
    *of_arm("unite", SMALL),
    *(setting for setting in of_arm("univldr", SMALL) if ".adapt." not in setting),
    *ONE_TRAINING,
]


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str
    seconds: float

    def stages(self, ending: str) -> set[str]:
        """The stages whose line has this ending."""
        return set(re.findall(rf"^(\S+) +{ending}\b", self.out + self.err, re.MULTILINE))


def environment(**variables: str) -> dict[str, str]:
    """An environment without variables of Ray, MLflow or our storage."""
    kept = {name: value for name, value in plain_environment().items() if not name.startswith(("MIREPOIX_", "MLFLOW_"))}
    return kept | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MLFLOW_DISABLE_TELEMETRY": "true", **variables}


def start(*words: str, cwd: Path = ROOT, **variables: str) -> subprocess.Popen:
    """The command line in a process of its own."""
    command = [sys.executable, "-m", "mirepoix.workflows", *words]
    return subprocess.Popen(command, cwd=cwd, env=environment(**variables), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen, began: float, timeout: float = 400) -> Ended:
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
    return Ended(process.returncode, out, err, time.monotonic() - began)


def mirepoix(*words: str, cwd: Path = ROOT, timeout: float = 400, **variables: str) -> Ended:
    """Runs the command line to its end."""
    began = time.monotonic()
    return finish(start(*words, cwd=cwd, **variables), began, timeout)


def processes_of_ours() -> set[int]:
    """Processes that belong to a private cluster of this test session: they name its folder in their command line or their environment."""
    ours, found = str(Path(tempfile.gettempdir()) / PREFIX).encode(), set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if ours in text:
                found.add(int(entry.name))
    return found


def folders_of_ours() -> set[Path]:
    """Folders of private clusters of this test session."""
    return set(Path(tempfile.gettempdir()).glob(f"{PREFIX}*"))
