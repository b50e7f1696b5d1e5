"""How much CPU the command line takes before it answers, and the stages of a run before they work.

    python bench/startup.py                          all figures, as tables, with the settings
    python bench/startup.py commands --repeats 9     the commands alone
    python bench/startup.py --checkout OTHER         of another checkout, with the Python that runs this one
    python bench/startup.py --check                  exit status 1 if what is promised does not hold

commands    user and system CPU seconds of each command, and the ratio to the imports that every config needs (`import pydantic, yaml,
            pyarrow.fs`), in turn with them in every round. `--plan` reads a local storage in which nothing was made yet; cold, it has no
            cache of hashed sources, warm it has. Checks: what `--plan` adds to find what config and machine show to be impossible, where
            it asks most: a cluster and a hub at which nothing answers
stages      CPU seconds that the processes of the quickstart's stages spend on imports, Ray's included, from their start to their end. The
            actors, training workers and replicas that a stage starts are not counted, nor is the driver. A hook around the import system
            of every process writes them down
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
YARDSTICK = "import pydantic, yaml, pyarrow.fs"
PROMISED = {
    "list": 2.5,
    "describe": 2.5,
    "unknown recipe": 2.5,
    "unknown field": 2.5,
    "bad value": 2.5,
    "plan, warm": 4.0,
    "plan, cold": 8.0,
}
"""The most that each command may take, as a multiple of the yardstick."""
EXPECTED = dict.fromkeys(("unknown recipe", "unknown field", "bad value", "plan, checked"), 2)
"""The exit status of each command that does not end with 0."""
VALIDATE_SECONDS, STAGE_SECONDS, CHECK_SECONDS = 3.0, 15.0, 1.0
UNCHECKED = """
import sys
from mirepoix.workflows import run
from mirepoix.workflows.__main__ import main
run._problems = lambda *_: []
sys.exit(main(sys.argv[1:]))
"""
"""The command line without its checks of config and machine."""
SMALL = (
    "sources.world.entities=48",
    "sources.world.train_queries=40",
    "sources.world.evaluation_queries=12",
    "backbone.tiny.hidden_size=64",
    "backbone.tiny.intermediate_size=128",
    "backbone.tiny.vocabulary=600",
    "adapt.max_steps=4",
    "instruct.max_steps=4",
    "adapt.global_batch_size=16",
    "instruct.global_batch_size=16",
    "evaluate.draws=50",
)
"""The quickstart with less of everything: its stages import what those of the whole one import."""
HOOK = """
import importlib._bootstrap as bootstrap, os, sys, threading, time
_found, _state = bootstrap._find_and_load, threading.local()
def _timed(name, import_):
    if getattr(_state, "inside", False):
        return _found(name, import_)
    _state.inside, began = True, time.thread_time()
    try:
        return _found(name, import_)
    finally:
        _state.inside = False
        with open(os.path.join(os.environ["IMPORT_TIMES"], str(os.getpid())), "a") as file:
            file.write(f"{time.thread_time() - began:.6f} {name}\\n")
bootstrap._find_and_load = _timed
"""
STAGE_MODULES = ("mirepoix.workflows.runner.task", "mirepoix.workflows.work")
"""What the process of a stage imports and no other one of the cluster does; the second in checkouts before the first was there."""


def cpu_seconds(command: Sequence[str], cwd: Path, env: dict[str, str]) -> tuple[float, int]:
    """User and system seconds of a command and all that it waited for, and its exit status."""
    process = subprocess.Popen(command, cwd=cwd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    return usage.ru_utime + usage.ru_stime, os.waitstatus_to_exitcode(status)


def corpus_of_fifty(folder: Path) -> Path:
    """Forty-nine pictures and a file with their captions: fifty files."""
    from PIL import Image

    folder.mkdir()
    names = [f"{number:02d}.jpg" for number in range(49)]
    for number, name in enumerate(names):
        Image.effect_noise((64, 48), number + 1).convert("RGB").save(folder / name)
    rows = [json.dumps({"file_name": name, "text": f"picture number {number} of the corpus"}) for number, name in enumerate(names)]
    (folder / "metadata.jsonl").write_text("\n".join(rows) + "\n")
    return folder


def measure_commands(checkout: Path, repeats: int) -> dict[str, Any]:
    """CPU seconds of each command and their ratio to the yardstick, every one of them once in each round."""
    mirepoix = [sys.executable, "-m", "mirepoix.workflows"]
    with tempfile.TemporaryDirectory() as home:
        corpus = corpus_of_fifty(Path(home) / "corpus")
        plan = [*mirepoix, "run", "quickstart", "--plan", "--storage", f"{home}/storage"]
        asking = ["run", "search", f"sources.path={corpus}", "--plan", "--storage", f"{home}/storage", "--address", "127.0.0.1:9"]
        commands = {
            "yardstick": [sys.executable, "-c", YARDSTICK],
            "list": [*mirepoix, "list"],
            "describe": [*mirepoix, "describe", "quickstart"],
            "unknown recipe": [*mirepoix, "describe", "quickstrat"],
            "unknown field": [*mirepoix, "describe", "quickstart", "instruct.max_step=3"],
            "bad value": [*mirepoix, "describe", "quickstart", "instruct.max_steps=many"],
            "plan, cold": plan,
            "plan, warm": plan,
            "plan, unchecked": [sys.executable, "-c", UNCHECKED, *asking],
            "plan, checked": [*mirepoix, *asking],
            "validate": [*mirepoix, "validate", str(corpus)],
        }
        seconds: dict[str, list[float]] = defaultdict(list)
        for round_ in range(repeats + 1):
            env = os.environ | {"XDG_CACHE_HOME": f"{home}/cache-{round_}", "HF_HOME": f"{home}/hub", "HF_ENDPOINT": "http://127.0.0.1:9"}
            env.pop("HF_HUB_OFFLINE", None)
            for name, command in commands.items():
                spent, status = cpu_seconds(command, checkout, env)
                assert status == EXPECTED.get(name, 0), f"{name} ended with status {status}"
                if round_:  # the first one warms the file system up
                    seconds[name].append(spent)
    ratios = {name: [one / base for one, base in zip(spent, seconds["yardstick"], strict=True)] for name, spent in seconds.items()}
    return {name: {"seconds": spread(spent), "ratio": spread(ratios[name])} for name, spent in seconds.items()}


def measure_stages(checkout: Path) -> dict[str, Any]:
    """CPU seconds of imports by process of a stage, over one run of the small quickstart."""
    with tempfile.TemporaryDirectory() as home:
        times = Path(home) / "times"
        times.mkdir()
        (Path(home) / "sitecustomize.py").write_text(HOOK)
        env = os.environ | {"PYTHONPATH": home, "IMPORT_TIMES": str(times), "DS_ACCELERATOR": "cpu"}
        command = [sys.executable, "-m", "mirepoix.workflows", "run", "quickstart", "--storage", f"{home}/storage", *SMALL]
        done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        found = []
        for file in times.iterdir():
            rows = [line.split() for line in file.read_text().splitlines()]
            names = {name for _, name in rows}
            driver = "mirepoix.workflows.run" in names
            if not driver and any(name in names for name in STAGE_MODULES):
                works = sorted(name.rpartition(".")[2] for name in names if name.startswith("mirepoix.components."))
                found.append({"seconds": sum(float(spent) for spent, _ in rows), "imports": works})
    return {"processes": sorted(found, key=lambda each: -each["seconds"]), "seconds": sum(each["seconds"] for each in found)}


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def shown(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['least']:.2f} to {values['most']:.2f})"


def table(figures: dict[str, Any]) -> str:
    lines = [figures["machine"]]
    if "commands" in figures:
        lines.append(f"{'command':<16} {'CPU seconds':<24} x `{YARDSTICK}`")
        lines += [f"{name:<16} {shown(each['seconds']):<24} {shown(each['ratio'])}" for name, each in figures["commands"].items()]
    if "stages" in figures:
        found = figures["stages"]
        lines.append(f"imports of {len(found['processes'])} stage processes: {found['seconds']:.1f} CPU seconds")
        lines += [f"  {each['seconds']:5.2f}  {', '.join(each['imports'][:6])}" for each in found["processes"]]
    return "\n".join(lines)


def missed(figures: dict[str, Any]) -> list[str]:
    """What is promised and does not hold, a line each."""
    lines = []
    for name, most in PROMISED.items() if "commands" in figures else ():
        ratio = figures["commands"][name]["ratio"]["median"]
        if ratio > most:
            lines.append(f"{name} takes {ratio:.2f} times the yardstick, and at most {most} is promised")
    if "commands" in figures and (spent := figures["commands"]["validate"]["seconds"]["median"]) > VALIDATE_SECONDS:
        lines.append(f"validate of fifty files takes {spent:.2f} CPU seconds, and at most {VALIDATE_SECONDS} are promised")
    if "commands" in figures:
        checked, unchecked = (figures["commands"][f"plan, {name}"]["seconds"]["median"] for name in ("checked", "unchecked"))
        if checked - unchecked > CHECK_SECONDS:
            lines.append(f"checks add {checked - unchecked:.2f} CPU seconds to a plan, and at most {CHECK_SECONDS} is promised")
    if "stages" in figures and (spent := figures["stages"]["seconds"]) > STAGE_SECONDS:
        lines.append(f"the processes of the stages import for {spent:.1f} CPU seconds, and at most {STAGE_SECONDS} are promised")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=[], help="commands, stages; both by default")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--checkout", type=Path, default=HERE, help="the checkout that is measured (default: this one)")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a median misses what is promised")
    given = parser.parse_args()
    what = given.what or ["commands", "stages"]
    if unknown := set(what) - {"commands", "stages"}:
        parser.error(f"{', '.join(unknown)} is nothing to measure; give commands or stages")
    figures: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"}
    if "commands" in what:
        figures["commands"] = measure_commands(given.checkout, given.repeats)
    if "stages" in what:
        figures["stages"] = measure_stages(given.checkout)
    print(table(figures))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    lines = missed(figures) if given.check else []
    for line in lines:
        print(f"missed: {line}", file=sys.stderr)
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
