"""What a stage's result depends on: hashed to its key, looked up in the storage, and compared to say why it would run again."""

import ast
import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from mirepoix.serving.store import Damaged, Manifest, Missing, fetch, join, list_names, read_manifest, verify
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.lease import cache_folder

CARRIERS = {"mirepoix.models.errors", "mirepoix.serving.store"}
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def plain(value: Any) -> Any:
    """A config as JSON; each dataclass keeps its class name, for two methods may have the same fields and values."""
    if is_dataclass(value):
        return {"class": type(value).__qualname__} | {entry.name: plain(getattr(value, entry.name)) for entry in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(entry) for entry in value]
    assert value is None or isinstance(value, (bool, int, float, str)), f"a config holds plain values, not {type(value).__name__}"
    return value


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings by dotted name."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for name, entry in value.items():
        flat |= flatten(entry, f"{prefix}.{name}" if prefix else str(name))
    return flat


@cache
def source_hash(source: str) -> str:
    """The hash of what a source does: comments, layout and docstrings do not count."""
    tree = ast.parse(textwrap.dedent(source))
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return _sha256(ast.dump(tree))


def module_hash(name: str) -> str:
    """The source hash of a module, which is found but not imported."""
    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.origin is not None, f"module {name}, on which a stage says it depends, cannot be found"
    return source_hash(Path(spec.origin).read_text())


def source_modules(*roots: str) -> tuple[str, ...]:
    """Modules of ours that the given ones consist of: themselves and all that they import, but for what only carries results."""
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found and name not in CARRIERS:
            found.add(name)
            waiting += _imported(name)
    return tuple(sorted(found))


def _imported(module: str) -> Iterator[str]:
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None, f"module {module} cannot be found"
    for home, names in _imports(Path(spec.origin).read_text()):
        found = importlib.util.find_spec(home)
        package = found is not None and found.submodule_search_locations is not None
        yield from (f"{home}.{name}" for name in names) if package else (home,)


@cache
def _imports(source: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What a source imports of ours: modules, and the names that it takes from them."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    return tuple((node.module, tuple(alias.name for alias in node.names)) for node in nodes if (node.module or "").startswith("mirepoix."))


def library_version(name: str) -> str:
    """The installed version of a distribution, or "absent"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def ingredients(stage: Stage, digests: Mapping[str, str]) -> dict[str, Any]:
    """Everything that decides a stage's result; digests are those of its inputs, by argument."""
    source = {name: module_hash(name) for name in stage.modules}
    source[f"{stage.work.__module__}.{stage.work.__qualname__}"] = source_hash(inspect.getsource(stage.work))
    return {
        "stage": stage.step,
        "source": source,
        "config": plain(stage.config),
        "libraries": {name: library_version(name) for name in stage.libraries},
        "seed": stage.seed,
        "inputs": dict(digests),
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """The hash of the ingredients."""
    return _sha256(json.dumps(parts, sort_keys=True))


def why_rerun(old: Mapping[str, Any] | None, new: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """Why a stage with the old ingredients would run again with the new ones; inputs are stage names by argument."""
    if old is None:
        return "never ran"
    said = [f"input {inputs.get(name, name)} changed" for name in _differing(old["inputs"], new["inputs"])]
    said += [f"source changed: {name}" for name in _differing(old["source"], new["source"])]
    before, after = flatten(old["config"]), flatten(new["config"])
    said += [f"config changed: {_arrow(name, before, after)}" for name in _differing(before, after)]
    said += [f"library {_arrow(name, old['libraries'], new['libraries'])}" for name in _differing(old["libraries"], new["libraries"])]
    said += [f"seed {old['seed']} -> {new['seed']}"] if old["seed"] != new["seed"] else []
    return "; ".join(said) or "its result is gone"


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*old, *new} if (name in old, old.get(name)) != (name in new, new.get(name)))


def _arrow(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return f"{name} {old.get(name, 'absent')} -> {new.get(name, 'absent')}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Prospect:
    """A stage whose inputs are known: its key, and its result if that stands, or else why it would run."""

    key: str
    target: str
    parts: dict[str, Any]
    manifest: Manifest | None
    reason: str
    replace: bool  # something is there that must give way


def look_up(stage: Stage, digests: Mapping[str, str], storage: str, forced: bool) -> Prospect:
    """Whether a stage's result stands, and where."""
    parts = ingredients(stage, digests)
    key = key_of(parts)
    target = join(storage, "artefacts", stage.step, key[:16])
    try:
        manifest = verify(target, hashes=False)
        holds = stage.stands is None or stage.stands(fetch(target, cache_folder()), stage.config)
    except Missing:
        return Prospect(key, target, parts, None, why_rerun(latest(stage, storage), parts, stage.inputs), False)
    except Damaged as damage:
        return Prospect(key, target, parts, None, str(damage), True)
    if forced or not stage.cached or not holds:
        reason = "forced" if forced else "runs every time" if not stage.cached else "its result no longer holds"
        return Prospect(key, target, parts, None, reason, True)
    return Prospect(key, target, parts, manifest, "stands", False)


def latest(stage: Stage, storage: str) -> dict[str, Any] | None:
    """The fields of the most recent result that was made under a stage's name, whatever its key."""
    home = join(storage, "artefacts", stage.step)
    made = []
    for key in list_names(home):
        with suppress(Damaged):  # it explains nothing; the others may
            manifest = read_manifest(join(home, key))
            if manifest and manifest.fields.get("name", stage.step) == stage.name:
                made.append(manifest.fields)
    return max(made, key=lambda fields: fields["created"], default=None)
