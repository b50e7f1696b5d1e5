"""Small stages for the tests of the runner: each notes that it worked in the file `log` of its config.

Ray's workers of the test session do not find this module; it travels by value.
"""

import io
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ray import cloudpickle

from mirepoix.models.errors import Refused
from mirepoix.serving.store import Context, Outcome, Rows
from mirepoix.workflows.progress import Display
from mirepoix.workflows.stage import Report, Stage, execute

cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass(frozen=True)
class Dish:
    """What a test stage does."""

    log: str
    text: str = "carrot"
    seconds: float = 0.0
    salt: int = 0  # changes the key, not the result


def _note(config: Dish, what: str) -> None:
    with Path(config.log).open("a") as log:
        log.write(f"{what} {time.time()}\n")


def chop(context: Context, config: Dish, **inputs: Path) -> Outcome:
    """Write the text of the config after the texts of the inputs."""
    _note(config, f"begin {config.text}")
    time.sleep(config.seconds)
    before = "".join((folder / "dish.txt").read_text() for _, folder in sorted(inputs.items()))
    (context.folder / "dish.txt").write_text(before + config.text)
    for step in (1, 2, 3):
        context.report({"step": step, "total": 3, "loss": 1 / step})
    _note(config, f"end {config.text}")
    return Outcome(Rows(read=10, written=7, rejected=2, merged=1), {"recall@10": 0.5})


def meet(context: Context, config: Dish, **inputs: Path) -> Outcome:
    """Wait until another stage has come too."""
    _note(config, f"begin {config.text}")
    deadline = time.monotonic() + config.seconds
    while len(worked(config.log)) < 2:
        assert time.monotonic() < deadline, "nobody came"
        time.sleep(0.05)
    return Outcome(Rows(0, 0), {})


def burn(context: Context, config: Dish, **inputs: Path) -> Outcome:
    (context.folder / "half.txt").write_text("half")
    try:
        {}["salt"]
    except KeyError as error:
        raise RuntimeError("the soup is burnt") from error


def refuse(context: Context, config: Dish, **inputs: Path) -> Outcome:
    raise Refused("no carrots in the pantry; buy some")


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.hook = lambda: None


def choke(context: Context, config: Dish, **inputs: Path) -> Outcome:
    raise Unpicklable("bones", "scales")


def miscount(context: Context, config: Dish, **inputs: Path) -> Outcome:
    return Outcome(Rows(read=10, written=7, rejected=2, merged=0), {})


def forget(context: Context, config: Dish, **inputs: Path) -> Outcome:
    return None


def faint_once(context: Context, config: Dish, **inputs: Path) -> Outcome:
    """Die with the worker at the first attempt; the scratch knows which one it is."""
    attempt = Path(context.scratch) / "attempted"
    if not attempt.exists():
        attempt.write_text("1")
        (context.folder / "half.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    return chop(context, config, **inputs)


def simmer(context: Context, config: Dish, **inputs: Path) -> Outcome:
    """Count to ten in the scratch, a tenth of the seconds each, from where the last attempt stopped."""
    counter = Path(context.scratch) / "count"
    done = int(counter.read_text()) if counter.exists() else 0
    for count in range(done, 10):
        _note(config, f"simmer {count}")
        (context.folder / "half.txt").write_text("half")
        time.sleep(config.seconds / 10)
        counter.write_text(str(count + 1))
    (context.folder / "half.txt").unlink(missing_ok=True)
    return chop(context, config, **inputs)


def cold(folder: Path, config: Dish) -> bool:
    """Whether the served dish is still on the table."""
    return Path(config.log).with_name("table").exists()


def worked(log: Path | str) -> list[str]:
    """What the stages noted, without the times."""
    path = Path(log)
    return [line.rpartition(" ")[0] for line in path.read_text().splitlines()] if path.exists() else []


def run(stages: list[Stage], storage: Path | str, **options) -> tuple[Report, str]:
    """Execute, and return the report and what was shown."""
    shown = io.StringIO()
    report = execute(stages, str(storage), display=Display(shown), **options)
    return report, shown.getvalue()


def drive(storage: str, log: str, seconds: float) -> None:
    """A driver of its own process: one short stage, then a long one."""
    import ray

    ray.init(log_to_driver=False)
    stages = [Stage("chop", chop, Dish(log, "chop")), Stage("simmer", simmer, Dish(log, "simmer", seconds), {"vegetables": "chop"})]
    sys.exit(0 if execute(stages, storage).ok else 1)
