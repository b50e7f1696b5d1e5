"""The key of a stage: the hash of all that its result depends on; whether the storage has that result, and if not, what changed."""

import hashlib
import importlib.metadata
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Any

from mirepoix.models.options import decides, import_named
from mirepoix.serving.store import Damaged, Manifest, Missing, cache_folder, fetch, join, list_names, read_manifest, verify
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.source_code import module_file, module_hashes


def plain(value: Any, deciding: bool = False) -> Any:
    """A config as JSON; each dataclass keeps its class name, for two methods may have the same fields and values.

    With `deciding`, the fields are left out that are marked as not deciding the result (`option`), at every depth.
    """
    if is_dataclass(value):
        kept = [entry.name for entry in fields(value) if decides(entry) or not deciding]
        return {"class": type(value).__qualname__} | {name: plain(getattr(value, name), deciding) for name in kept}
    if isinstance(value, Mapping):
        return {str(name): plain(entry, deciding) for name, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(entry, deciding) for entry in value]
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
def library_version(name: str) -> str:
    """The installed version of a distribution, or "absent"."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def ingredients(stage: Stage, digests: Mapping[str, str]) -> dict[str, Any]:
    """All that a stage's result depends on; digests are those of its inputs, by argument."""
    return {
        "stage": stage.step,
        "work": stage.work,
        "source": module_hashes(stage.work.partition(":")[0], *stage.modules),
        "config": plain(stage.config, deciding=True),
        "libraries": {name: library_version(name) for name in stage.libraries},
        "seed": stage.seed,
        "outside": dict(stage.outside),
        "inputs": dict(digests),
    }


def key_of(parts: Mapping[str, Any]) -> str:
    """The hash of the ingredients."""
    return _sha256(json.dumps(parts, sort_keys=True))


def undecisive(config: Any) -> frozenset[str]:
    """The dotted names of the fields that a key leaves out."""
    return frozenset(flatten(plain(config)).keys() - flatten(plain(config, deciding=True)).keys())


def why_rerun(
    old: Mapping[str, Any] | None, new: Mapping[str, Any], inputs: Mapping[str, str], unnamed: Collection[str] = frozenset()
) -> str:
    """Why a stage with the old ingredients would run again with the new ones; inputs are stage names by argument.

    `unnamed` are fields of the config that do not decide the result: old ingredients may have them, when they were in the key still.
    """
    if old is None:
        return "never ran"
    reasons = [f"input {inputs.get(name, name)} changed" for name in _differing(old["inputs"], new["inputs"])]
    reasons += [f"{name} changed" for name in _differing(old.get("outside", {}), new["outside"])]
    reasons += [f"work {old.get('work', 'absent')} -> {new['work']}"] if old.get("work") != new["work"] else []
    reasons += [f"source changed: {name}" for name in _differing(old["source"], new["source"])]
    before, after = flatten(old["config"]), flatten(new["config"])
    reasons += [f"config changed: {_arrow(name, before, after)}" for name in _differing(before, after) if name not in unnamed]
    reasons += [f"library {_arrow(name, old['libraries'], new['libraries'])}" for name in _differing(old["libraries"], new["libraries"])]
    reasons += [f"seed {old['seed']} -> {new['seed']}"] if old["seed"] != new["seed"] else []
    return "; ".join(reasons) or "its result is gone"


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return sorted(name for name in {*old, *new} if (name in old, old.get(name)) != (name in new, new.get(name)))


def _arrow(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    return f"{name} {old.get(name, 'absent')} -> {new.get(name, 'absent')}"


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class StageLookup:
    """A stage whose inputs are known: its key, and its result if that is up to date, or else why it would run."""

    key: str
    target: str
    parts: dict[str, Any]
    manifest: Manifest | None
    reason: str
    replace: bool  # a result that is damaged, forced or no longer valid is there already


def look_up(stage: Stage, digests: Mapping[str, str], storage: str, forced: bool) -> StageLookup:
    """Compute a stage's key and look for its result in the storage."""
    parts = ingredients(stage, digests)
    key = key_of(parts)
    target = join(storage, "artefacts", stage.step, key[:16])
    try:
        manifest = verify(target, hashes=False)
        holds = stage.valid is None or import_named(stage.valid)(fetch(target, cache_folder()), stage.config)
    except Missing:
        return StageLookup(
            key, target, parts, None, why_rerun(latest(stage, storage), parts, stage.inputs, undecisive(stage.config)), False
        )
    except Damaged as damage:
        return StageLookup(key, target, parts, None, str(damage), True)
    if forced or not stage.cached or not holds:
        reason = "forced" if forced else "runs every time" if not stage.cached else "its result no longer holds"
        return StageLookup(key, target, parts, None, reason, True)
    return StageLookup(key, target, parts, manifest, "up to date", False)


def latest(stage: Stage, storage: str) -> dict[str, Any] | None:
    """The manifest's fields of the newest result that the work of a stage made under its name, whatever its key.

    Other work has stages of the same names: `embed` of a recipe, and of an addition to a release. What was made by work of a module that
    is there no more counts, where nothing else does: the module was renamed.
    """
    home = join(storage, "artefacts", stage.step)
    made = []
    for key in list_names(home):
        with suppress(Damaged):  # a manifest that cannot be read gives no reason; an older one may
            manifest = read_manifest(join(home, key))
            if manifest and manifest.fields.get("name", stage.step) == stage.name:
                made.append(manifest.fields)
    own = [fields for fields in made if fields.get("work") == stage.work]
    renamed = [fields for fields in made if module_file(fields.get("work", "").partition(":")[0] or "absent") is None]
    return max(own or renamed, key=lambda fields: fields["created"], default=None)
