"""The releases of a storage: what made each, what it measured, its size, its aliases, and who serves it."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from mirepoix.components.evaluation.evaluate_config import released
from mirepoix.models.errors import Refused
from mirepoix.serving import store
from mirepoix.serving.heartbeat import place_of
from mirepoix.workflows.storage import latest_release, storage_option
from mirepoix.workflows.upkeep.aliases import shown_by_place
from mirepoix.workflows.upkeep.runs import StoredRun, as_bytes, each, read_runs, servers

HOME = ("artefacts", "release")


@dataclass(frozen=True)
class StoredRelease:
    """A release that lies in a storage, as far as its small files say."""

    place: str  # artefacts/release/<key>
    target: str  # its folder or URI
    name: str
    version: str
    manifest: store.Manifest

    @property
    def created(self) -> float:
        return float(self.manifest.fields.get("created", 0.0))

    @property
    def bytes(self) -> int:
        return sum(int(file["size"]) for file in self.manifest.files.values())


def read_stored_release(storage: str, place: str) -> StoredRelease | None:
    """The release at a place of a storage; None where it is not there, was never committed, or its description is gone."""
    target = store.join(storage, *place.split("/"))
    with suppress(store.Damaged, ValueError, KeyError, TypeError):
        manifest = store.read_manifest(target)
        text = None if manifest is None else store.read(store.join(store.files_of(target, manifest), "release.json"))
        if manifest is not None and text is not None:
            told = json.loads(text)
            return StoredRelease(place, target, str(told["name"]), str(told["version"]), manifest)
    return None


def stored_releases(storage: str) -> list[StoredRelease]:
    """All releases that lie in a storage, the newest first."""
    keys = [key for key in store.list_names(store.join(storage, *HOME)) if store.KEY.fullmatch(key)]
    found = each(partial(read_stored_release, storage), ["/".join([*HOME, key]) for key in keys], storage)
    return sorted((release for release in found if release is not None), key=lambda release: (release.created, release.place), reverse=True)


def of_version(storage: str, given: str) -> list[StoredRelease]:
    """The releases whose version begins with a text; of several with one version, the newest."""
    found = [release for release in reversed(stored_releases(storage)) if release.version.startswith(given)]
    return list({(release.name, release.version): release for release in found}.values())


@dataclass(frozen=True)
class Maker:
    """The run that made a release, or the first that found it made; the arm is empty where the run compares none."""

    run: StoredRun
    arm: str

    @property
    def parent(self) -> str | None:
        """The release to which `add` added, or from which `remove` removed, as the run recorded it."""
        bases = (self.run.report or {}).get("bases") or []
        return str(bases[0]) if bases else None

    @property
    def score(self) -> dict[str, Any] | None:
        """The measure and the average of the headline of the run, of a comparison that of the arm."""
        report = self.run.report or {}
        headline = (report.get("arms", {}).get(self.arm, {}) if self.arm else report).get("headline")
        return {"measure": headline["measure"], "average": headline[released(headline)]["average"]} if headline else None

    def stage(self, step: str) -> Mapping[str, Any] | None:
        """A stage of the run by its step, in the arm of the release where it is of one."""
        stages = {stage["name"]: stage for stage in self.run.stages}
        return stages.get(f"{self.arm}:{step}" if self.arm else step) or stages.get(step)


def makers_of(runs: Sequence[StoredRun]) -> dict[str, Maker]:
    """What made each release, by its place: the run in which its stage was done, else the first run that names it."""
    found: dict[str, tuple[bool, Maker]] = {}
    for run in runs:  # the newest first
        if run.state == "being removed":
            continue
        done = {stage["name"]: stage["status"] == "done" for stage in run.stages}
        for name, target in run.released.items():
            place = place_of(target)
            if place is not None and not (place in found and found[place][0]):
                found[place] = done[name], Maker(run, name.rpartition(":")[0])
    return {place: maker for place, (_, maker) in found.items()}


def releases_command(storage: str, as_json: bool) -> int:
    """Prints the releases of a storage, the newest first."""
    rows = listed(storage)
    if as_json:
        print(json.dumps(rows, indent=1))
    elif not rows:
        print(f"there is no release in {storage} yet; one is made by mirepoix run, release, add or remove{storage_option(storage)}")
    else:
        print("\n".join(_table(rows)))
    return 0


def listed(storage: str) -> list[dict[str, Any]]:
    """What `releases --json` prints of each release."""
    releases = stored_releases(storage)
    makers = makers_of(read_runs(storage)) if releases else {}
    served, aliases = servers(storage), shown_by_place(storage)
    versions = {release.place: release.version for release in releases}
    latest = None
    with suppress(Refused):
        latest = place_of(latest_release(storage))
    return [
        {
            "name": release.name,
            "version": release.version,
            "folder": release.target,
            "digest": release.manifest.digest,
            "created": release.created,
            "bytes": release.bytes,
            **_made(makers.get(release.place), versions),
            "aliases": aliases.get(release.place, []),
            "served": sorted({record["url"] for record in served.get(release.place, ())}),
            "latest": release.place == latest,
            "damage": _damage(release.target),
        }
        for release in releases
    ]


def _made(maker: Maker | None, versions: Mapping[str, str]) -> dict[str, Any]:
    """The run, the recipe, the arm, the parent and the score of a release; the parent's version is None where it is gone."""
    if maker is None:
        return {"run": None, "recipe": None, "arm": "", "parent": None, "score": None}
    place = place_of(maker.parent) if maker.parent else None
    parent = None if maker.parent is None else {"folder": maker.parent, "version": versions.get(place or "")}
    return {"run": maker.run.name, "recipe": maker.run.recipe, "arm": maker.arm, "parent": parent, "score": maker.score}


def _damage(target: str) -> str:
    """Why a release cannot be served: a file is missing or has another size; empty where none is."""
    try:
        store.verify(target, hashes=False)
    except store.Damaged as damage:
        return str(damage).partition(" is damaged: ")[2].partition(";")[0] or str(damage)
    return ""


def _table(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    lines = [("version", "name", "score", "size", "when", "made by", "")]
    lines += [
        (row["version"], row["name"], _score(row["score"]), as_bytes(row["bytes"]), _moment(row["created"]), _maker(row), _notes(row))
        for row in rows
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        cells = [f"{cell:>{width}}" if at == 3 else f"{cell:<{width}}" for at, (cell, width) in enumerate(zip(line, widths, strict=True))]
        yield "  ".join(cells).rstrip()


def _score(score: Mapping[str, Any] | None) -> str:
    return "-" if score is None else f"{score['measure']} {score['average']:.3f}"


def _moment(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def _maker(row: Mapping[str, Any]) -> str:
    """The run, with its recipe where its name does not begin with that, the arm and the parent."""
    if row["run"] is None:
        return "no run that is left"
    recipe = "" if row["run"].startswith(f"{row['recipe']}-") else f", {row['recipe']}"
    arm = f" ({row['arm']})" if row["arm"] else ""
    parent = f" from {row['parent']['version'] or 'a release that is gone'}" if row["parent"] else ""
    return f"{row['run']}{recipe}{arm}{parent}"


def _notes(row: Mapping[str, Any]) -> str:
    said = [*row["aliases"], *(f"served at {url}" for url in row["served"]), *["latest"] * row["latest"]]
    return ", ".join([*said, *[f"damaged: {row['damage']}"] * bool(row["damage"])])
