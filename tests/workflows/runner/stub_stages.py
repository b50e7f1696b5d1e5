"""Small stages for the tests of the runner: each notes its work in the file `log` of its config."""

import io
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.workflows.runner.execute import Report, execute
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.progress import Display


@dataclass(frozen=True)
class StubConfig:
    """The config of a stub stage: what it does."""

    log: str
    text: str = "letter"
    seconds: float = 0.0
    salt: int = 0  # changes the key, not the result
    workers: int = option(1, "how many work", decides=False)


def _note(config: StubConfig, what: str) -> None:
    with Path(config.log).open("a") as log:
        log.write(f"{what} {time.time()}\n")


def copy(context: Context, config: StubConfig, **inputs: Path) -> Outcome:
    """Write the text of the config after the texts of the inputs."""
    _note(config, f"begin {config.text}")
    time.sleep(config.seconds)
    before = "".join((folder / "text.txt").read_text() for _, folder in sorted(inputs.items()))
    (context.folder / "text.txt").write_text(before + config.text)
    for step in (1, 2, 3):
        context.report({"step": step, "total": 3, "loss": 1 / step})
    _note(config, f"end {config.text}")
    return Outcome(Rows(read=10, written=7, rejected=2, merged=1), {"R@10": 0.5})


def wait_for_another(context: Context, config: StubConfig, **inputs: Path) -> Outcome:
    """Wait until another stage has come too."""
    _note(config, f"begin {config.text}")
    deadline = time.monotonic() + config.seconds
    while len(logged(config.log)) < 2:
        assert time.monotonic() < deadline, "no other stage began"
        time.sleep(0.05)
    return Outcome(Rows(0, 0), {})


def fail(context: Context, config: StubConfig, **inputs: Path) -> Outcome:
    (context.folder / "half.txt").write_text("half")
    try:
        {}["salt"]
    except KeyError as error:
        raise RuntimeError("the text is lost") from error


def refuse(context: Context, config: StubConfig, **inputs: Path) -> Outcome:
    raise Refused("no text was given; give some")


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.hook = lambda: None


def fail_unpicklably(context: Context, config: StubConfig, **inputs: Path) -> Outcome:
    raise Unpicklable("bones", "scales")


def miscount(context: Context, config: StubConfig, **inputs: Path) -> Outcome:
    return Outcome(Rows(read=10, written=7, rejected=2, merged=0), {})


def return_nothing(context: Context, config: StubConfig, **inputs: Path) -> Outcome:
    return None


def die_once(context: Context, config: StubConfig, **inputs: Path) -> Outcome:
    """Die with the worker at the first attempt; the scratch knows which one it is."""
    attempt = Path(context.scratch) / "attempted"
    if not attempt.exists():
        attempt.write_text("1")
        (context.folder / "half.txt").write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)
    return copy(context, config, **inputs)


def repeat(context: Context, config: StubConfig, **inputs: Path) -> Outcome:
    """Count to ten in the scratch, a tenth of the seconds each, from where the last attempt stopped."""
    counter = Path(context.scratch) / "count"
    done = int(counter.read_text()) if counter.exists() else 0
    for count in range(done, 10):
        _note(config, f"repeat {count}")
        (context.folder / "half.txt").write_text("half")
        time.sleep(config.seconds / 10)
        counter.write_text(str(count + 1))
    (context.folder / "half.txt").unlink(missing_ok=True)
    return copy(context, config, **inputs)


def interrupt(context: Context, config: StubConfig, **inputs: Path) -> Outcome:
    """Press Ctrl-C in the middle."""
    (context.folder / "half.txt").write_text("half")
    (Path(context.scratch) / "checkpoint").write_text("1")
    raise KeyboardInterrupt


def note_process(context: Context, config: StubConfig, **inputs: Path) -> Outcome:
    """Note the process in which it runs."""
    _note(config, f"pid {os.getpid()}")
    return Outcome(Rows(0, 0), {})


def write_argument(context: Context, config: StubConfig, word: str) -> Outcome:
    """Write an argument that is not a config."""
    (context.folder / "text.txt").write_text(word)
    return Outcome(Rows(0, 0), {})


def still_there(folder: Path, config: StubConfig) -> bool:
    """Whether the result still holds."""
    return Path(config.log).with_name("held").exists()


def logged(log: Path | str) -> list[str]:
    """The lines that the stages wrote, without the times."""
    path = Path(log)
    return [line.rpartition(" ")[0] for line in path.read_text().splitlines()] if path.exists() else []


(
    COPY,
    WAIT_FOR_ANOTHER,
    FAIL,
    REFUSE,
    FAIL_UNPICKLABLY,
    MISCOUNT,
    RETURN_NOTHING,
    DIE_ONCE,
    REPEAT,
    STILL_THERE,
    INTERRUPT,
    NOTE_PROCESS,
    WRITE_ARGUMENT,
) = (
    f"{__name__}:{work.__name__}"
    for work in (
        copy,
        wait_for_another,
        fail,
        refuse,
        fail_unpicklably,
        miscount,
        return_nothing,
        die_once,
        repeat,
        still_there,
        interrupt,
        note_process,
        write_argument,
    )
)
"""How stages name them; Ray's workers import this module from the root of the checkout."""


def run(stages: list[Stage], storage: Path | str, **options) -> tuple[Report, str]:
    """Execute in this process unless `local=False`, and return the report and what was shown."""
    shown = io.StringIO()
    report = execute(stages, str(storage), display=Display(shown), **{"local": True, **options})
    return report, shown.getvalue()


def drive(storage: str, log: str, seconds: float) -> None:
    """A driver of its own process: one short stage, then a long one."""
    import ray

    ray.init(log_to_driver=False)
    stages = [Stage("copy", COPY, StubConfig(log, "copy")), Stage("repeat", REPEAT, StubConfig(log, "repeat", seconds), {"before": "copy"})]
    sys.exit(0 if execute(stages, storage).ok else 1)
