"""The card of an exported model: what it is, the code that uses it, its measured scores, what trained it on what. It invents nothing:
its facts are those of the release and of the report of the run that made it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from mirepoix.models.encoder import Encoder
from mirepoix.serving.release import Release

LIBRARIES = ("torch", "transformers", "peft", "tokenizers")


@dataclass(frozen=True)
class Layout:
    """What a card says of the form in which a model was exported."""

    library: str  # as hubs name it
    needs: str  # what pip installs
    opened: str  # Python that opens FOLDER, in one line
    usage: str  # Python
    limits: tuple[str, ...] = ()
    task: str = "feature-extraction"  # as hubs name it
    tags: tuple[str, ...] = ()


def card(release: Release, encoder: Encoder, layout: Layout, run: Mapping[str, Any] | None) -> str:
    """README.md of an exported folder; without the report of a run it says only what the release knows."""
    head = yaml.safe_dump(_head(release, encoder, layout, run), sort_keys=False, allow_unicode=True)
    parts = [
        f"# {release.name}",
        str(encoder.__doc__).splitlines()[0],
        f"It reads {encoder.READS.words}, alone or mixed; its vectors are {encoder.dimension} wide, of unit length.",
        "## Usage",
        f"```\npip install {layout.needs}\n```",
        f"```python\n{layout.usage.strip()}\n```",
    ]
    if layout.limits:
        parts += ["### What to know", "\n".join(f"- {limit}" for limit in layout.limits)]
    if release.instructions:
        rows = [(task or "(any)", words) for task, words in release.instructions.items()]
        parts += [
            "## Instructions",
            "Queries were trained with an instruction before their text; documents have none.",
            _table(("task", "instruction"), rows),
        ]
    parts += _scores(run) if run else []
    parts += (
        _training(run)
        if run
        else ["## Training", "The report of the run was not given with the release, so nothing is said here of data and settings."]
    )
    parts += ["## Versions", _table(("", ""), _versions(release, encoder))]
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _head(release: Release, encoder: Encoder, layout: Layout, run: Mapping[str, Any] | None) -> dict[str, Any]:
    head: dict[str, Any] = {"library_name": layout.library, "pipeline_tag": layout.task}
    if bases := published(run):
        head["base_model"] = bases
    head["tags"] = ["mirepoix", encoder.architecture, "multimodal-retrieval", *layout.tags]
    if run and run.get("results"):
        head["model-index"] = [{"name": release.name, "results": [_result(entry, run["headline"]) for entry in _trained(run)]}]
    return head


def published(run: Mapping[str, Any] | None) -> list[str]:
    """The hub ids of the checkpoints that a run started from; folders are nobody else's to find."""
    told = (run or {}).get("settings", {}).get("backbone", {})
    names = [told.get(name) for name in ("name", "vision")]
    return [name for name in names if name and name != "tiny" and name[0] not in "/.~" and not Path(name).exists()]


def _trained(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results of the trained model, the headline's split and pool first."""
    ahead = (run["headline"]["split"], run["headline"]["pool"])
    found = [entry for entry in run["results"] if entry["system"] == "trained"]
    return sorted(found, key=lambda entry: ((entry["split"], entry["pool"]) != ahead, entry["split"], entry["pool"]))


def _measures(entry: Mapping[str, Any]) -> list[str]:
    return [name for name, value in entry.items() if isinstance(value, Mapping) and "average" in value]


def _result(entry: Mapping[str, Any], headline: Mapping[str, Any]) -> dict[str, Any]:
    place = f"{entry['split']}, {entry['pool']} pool"
    averages = [{"type": name, "value": entry[name]["average"], "name": f"{name}, average over tasks"} for name in _measures(entry)]
    measure = headline["measure"]
    tasks = [{"type": measure, "value": value, "name": f"{measure}, {task}"} for task, value in entry[measure]["tasks"].items()]
    return {
        "task": {"type": "information-retrieval", "name": "Retrieval"},
        "dataset": {"type": "mirepoix", "name": place},
        "metrics": averages + tasks,
    }


def _scores(run: Mapping[str, Any]) -> list[str]:
    """By split and pool: the headline's measure of every task, beside the model before training."""
    if not run.get("results"):
        return ["## Scores", "The run measured none."]
    measure = run["headline"]["measure"]
    before = {(entry["split"], entry["pool"]): entry for entry in run["results"] if entry["system"] == "untrained"}
    pools = "in the universal pool all candidates are searched, in the target pool those of the modality that a query wants"
    parts = ["## Scores", f"{measure}; {pools}."]
    for entry in _trained(run):
        first = before.get((entry["split"], entry["pool"]))
        rows = [
            (task, entry["queries"][task], *([f"{first[measure]['tasks'][task]:.3f}"] if first else []), f"{value:.3f}")
            for task, value in entry[measure]["tasks"].items()
        ]
        whole = entry[measure]
        spread = f"{whole['average']:.3f} ({whole['low']:.3f} to {whole['high']:.3f})"
        rows.append(
            ("average (95 % interval)", sum(entry["queries"].values()), *([f"{first[measure]['average']:.3f}"] if first else []), spread)
        )
        header = ("task", "queries", *(["before training"] if first else []), measure)
        parts += [f"### {entry['split']}, {entry['pool']} pool", _table(header, rows)]
    return parts


def _training(run: Mapping[str, Any]) -> list[str]:
    """What the run told of its data and its stages."""
    stages = {stage["name"]: stage for stage in run["stages"]}
    trainings = {name: told for name, told in run["settings"].items() if isinstance(told, Mapping) and "tuning" in told and name in stages}
    data = run["data"]
    parts = [
        "## Training",
        f"Recipe `{run['recipe']}`, run {run['run']}. Data: digest `{data['digest'] or 'none'}`; "
        + (", ".join(f"{count:,} {name}" for name, count in data["rows"].items()) or "no rows told")
        + ".",
        _table(("stage", "rows read", "rows written"), _counts(stages.values())),
    ]
    for name, stage in stages.items():
        if mixture := (stage.get("tables") or {}).get("mixture"):
            parts += [f"Mixture ({name}):", _table(tuple(mixture[0]), [tuple(row.values()) for row in mixture])]
    for name, told in trainings.items():
        figures = (stages[name].get("metrics") or {}).items()
        ended = ", ".join(f"{figure} {value:.4g}" for figure, value in figures if isinstance(value, int | float))
        parts += [f"### Stage `{name}`", f"Ended with {ended}." if ended else "", _fields(told)]
    backbone = run["settings"].get("backbone", {})
    parts += [
        "### Backbone and reading",
        _fields({**backbone, "name": _place(backbone.get("name")), "vision": _place(backbone.get("vision")), "fingerprint": None}),
    ]
    return [part for part in parts if part]


def _place(name: str | None) -> str | None:
    """A checkpoint's name; of a folder only its own name, as its place says something of a machine and nothing of the model."""
    return Path(name).name if name and name[0] in "/.~" else name


def _counts(stages: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [(stage["name"], stage["rows"]["read"], stage["rows"]["written"]) for stage in stages if stage.get("rows")]


def _fields(told: Mapping[str, Any]) -> str:
    plain = yaml.safe_dump({name: value for name, value in told.items() if value is not None}, sort_keys=False, allow_unicode=True)
    return f"```yaml\n{plain}```"


def _versions(release: Release, encoder: Encoder) -> list[tuple[str, str]]:
    parts = [("release", release.version), ("encoder", release.encoder), ("widths", ", ".join(map(str, release.widths)))]
    config = ", ".join(f"{name} {value}" for name, value in sorted(vars(encoder.config).items()))
    return [*parts, ("reads as", config), *((name, version(name)) for name in LIBRARIES)]


def _table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    said = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(said.replace("|", "\\|").replace("<", "&lt;").split())
