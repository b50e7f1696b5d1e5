"""Storages for the tests of upkeep: runs and results without a stage behind them, written by the store's own functions."""

import hashlib
import json
import tempfile
import time
from pathlib import Path

from mirepoix.serving.store import join, publish, read_manifest, write

NOW = 1_800_000_000.0
DAY = 86400.0


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def place(name: str, stage: str = "embed") -> str:
    return f"artefacts/{stage}/{key_of(name)[:16]}"


def target(storage: str, name: str, stage: str = "embed") -> str:
    return join(str(storage), *place(name, stage).split("/"))


def make_result(storage: str, name: str, stage: str = "embed", size: int = 1000, age: float = 30 * DAY) -> str:
    """A published result; its age is that of its manifest."""
    home = Path(tempfile.mkdtemp(dir=Path(storage).parent)) if "://" not in str(storage) else Path(tempfile.mkdtemp())
    (home / "content.bin").write_bytes(name.encode().ljust(size, b"."))
    fields = {"stage": stage, "name": stage, "key": key_of(name), "created": time.time() - age}
    publish(home, target(storage, name, stage), fields)
    return target(storage, name, stage)


def make_release(storage: str, name: str, model: str = "mirepoix", size: int = 1000, age: float = 30 * DAY, run_id: str = "") -> str:
    """A published release with its description; returns its version."""
    home = Path(tempfile.mkdtemp())
    (home / "content.bin").write_bytes(name.encode().ljust(size, b"."))
    version = hashlib.sha256(f"version of {model} {name}".encode()).hexdigest()[:12]
    (home / "release.json").write_text(json.dumps({"name": model, "version": version}))
    fields = {"stage": "release", "name": "release", "key": key_of(name), "created": time.time() - age, "run_id": run_id or None}
    publish(home, target(storage, name, "release"), fields)
    return version


def run_name(number: int, recipe: str = "search") -> str:
    return f"{recipe}-{time.strftime('%Y%m%d-%H%M%S', time.localtime(NOW - 1e6 + number * 60))}-{number:04x}"


def make_run(
    storage: str,
    number: int,
    named: dict[str, str],
    /,
    age: float = 30 * DAY,
    failed: tuple[str, ...] = (),
    report: bool = True,
    recipe: str = "search",
    **more,
) -> str:
    """A run that names results (name -> stage), which ended `age` seconds ago; returns its name. Without a report it was killed."""
    name = run_name(number, recipe)
    folder = join(str(storage), "runs", name)
    write(join(folder, "config.yaml"), b"seed: 0\n")
    ended = time.time() - age
    driver = {
        "driver": "gone",
        "work": "run",
        "host": "elsewhere",
        "machine": "m",
        "pid": 1,
        "start": "1",
        "began": ended - 60,
        "noted": ended,
    }
    write(join(folder, "run.json"), json.dumps({**driver, "targets": [target(storage, *result) for result in named.items()]}).encode())
    if report:
        stages = [stage_of(storage, result, stage, result in failed) for result, stage in named.items()]
        content = {"recipe": recipe, "run": "2027-01-01 00:00:00", "created": "2027-01-01 00:01:00", "began": ended - 60, "ended": ended}
        record = {**content, "data": {"digest": "", "rows": {}}, "settings": {"seed": 0}, "stages": stages, "facts": {}, **more}
        write(join(folder, "report.json"), json.dumps(record).encode())
    return name


def stage_of(storage: str, result: str, stage: str, failed: bool = False) -> dict:
    manifest = None if failed else read_manifest(target(storage, result, stage))
    return {
        "name": stage,
        "status": "failed" if failed else "done",
        "reason": "never ran",
        "key": key_of(result),
        "digest": manifest.digest if manifest else "",
        "target": target(storage, result, stage),
        "seconds": 62.0,
        "took": 62.0,
        "error": "the disk is full" if failed else "",
        "metrics": {},
        "rows": {"read": 1, "written": 1, "rejected": 0, "merged": 0},
        "tables": {},
    }
