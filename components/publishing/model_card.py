"""The card of an exported model: description, example code, measured scores, and training data and settings.

All its facts come from the release and from the report of the run that made it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from mirepoix.components.evaluation.evaluate_config import released
from mirepoix.components.evaluation.reports.wording import AMONG, averaged, measure_of
from mirepoix.models.encoder import Encoder
from mirepoix.serving.release import Release

LIBRARIES = ("torch", "transformers", "peft", "tokenizers")
TRAINED = {"adapt": "adapt", "instruct": "instruct", "refine": "instruct"}
"""The training stages, each with the store of pairs that it reads."""
PREPARED = ("sources", "curate", "passages", "verbalise", "pairs", "mine", "mine-refine")
"""The stages that prepare training data."""
MACHINE = ("url", "key_variable", "cache", "workers", "threads", "encode", "refusals")
"""Settings that do not describe the model, or that describe the machine it was made on."""


@dataclass(frozen=True)
class Layout:
    """The sections of a card that depend on the layout of the export."""

    library: str  # as hubs name it
    needs: str  # what pip installs
    opened: str  # Python that opens FOLDER, in one line
    usage: str  # Python
    limits: tuple[str, ...] = ()
    task: str = "feature-extraction"  # as hubs name it
    tags: tuple[str, ...] = ()


def card(release: Release, encoder: Encoder, layout: Layout, run: Mapping[str, Any] | None) -> str:
    """The README.md of an exported folder; without the report of a run, it has only the facts of the release."""
    head = yaml.safe_dump(_head(release, encoder, layout, run), sort_keys=False, allow_unicode=True)
    parts = [
        f"# {release.name}",
        str(encoder.__doc__).splitlines()[0],
        f"It reads {_read(encoder)}; its vectors are {encoder.dimension} wide, of unit length.",
        "## Usage",
        f"```\npip install {layout.needs}\n```",
        f"```python\n{layout.usage.strip()}\n```",
    ]
    if layout.limits:
        parts += ["### Limits", "\n".join(f"- {limit}" for limit in layout.limits)]
    tasks = {task for _, _, task, _ in _tasks(run)} if run and trains(run) else release.instructions.keys()
    if rows := [(task or "(any)", words) for task, words in release.instructions.items() if not task or task in tasks]:
        parts += [
            "## Instructions",
            "The instruction of a query goes before its text; documents have none.",
            _table(("task", "instruction"), rows),
        ]
    parts += _scores(run) if run else []
    parts += (
        _training(run)
        if run
        else ["## Training", "The report of the run was not given with the release, so data and settings are not listed here."]
    )
    parts += ["## Versions", _table(("", ""), _versions(release, encoder))]
    return f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n"


def _read(encoder: Encoder) -> str:
    """The modalities that an encoder reads, and whether an item may have several of them."""
    reads = encoder.reads
    if reads.bit_count() == 1:
        return reads.words
    return f"{reads.words}, {'one of them in an item' if encoder.refusal(reads) else 'alone or mixed'}"


def _head(release: Release, encoder: Encoder, layout: Layout, run: Mapping[str, Any] | None) -> dict[str, Any]:
    head: dict[str, Any] = {"library_name": layout.library, "pipeline_tag": layout.task}
    if bases := published(run):
        head["base_model"] = bases
    head["tags"] = ["mirepoix", encoder.architecture, "multimodal-retrieval", *layout.tags]
    if run and run.get("results"):
        head["model-index"] = [{"name": release.name, "results": [_result(entry, run["headline"]) for entry in _released(run)]}]
    return head


def published(run: Mapping[str, Any] | None) -> list[str]:
    """The hub ids of the checkpoints that a run started from; folders are left out, as readers of the card do not have them."""
    backbone = (run or {}).get("settings", {}).get("backbone", {})
    names = [backbone.get(name) for name in ("name", "vision")]
    return [name for name in names if name and name != "tiny" and name[0] not in "/.~" and not Path(name).exists()]


def trains(run: Mapping[str, Any]) -> bool:
    """Whether a run has a training; without one it releases the encoder of its backbone as it came."""
    return any(run["settings"].get(name) for name in TRAINED)


def _released(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The results of the released model that have the headline's measure, those of the headline's split and pool first."""
    headline = (run["headline"]["split"], run["headline"]["pool"])
    measured = [entry for entry in run["results"] if run["headline"]["measure"] in entry]
    found = [entry for entry in measured if entry["system"] == released(run["headline"])]
    return sorted(found, key=lambda entry: ((entry["split"], entry["pool"]) != headline, entry["split"], entry["pool"]))


def _measures(entry: Mapping[str, Any]) -> list[str]:
    return [name for name, value in entry.items() if isinstance(value, Mapping) and "average" in value]


def _result(entry: Mapping[str, Any], headline: Mapping[str, Any]) -> dict[str, Any]:
    place = f"{entry['split']}, {entry['pool']} pool"
    over = averaged(headline)
    averages = [{"type": name, "value": entry[name]["average"], "name": f"{name}, {over}"} for name in _measures(entry)]
    measure = headline["measure"]
    tasks = [{"type": measure, "value": value, "name": f"{measure}, {task}"} for task, value in entry[measure]["tasks"].items()]
    return {
        "task": {"type": "information-retrieval", "name": "Retrieval"},
        "dataset": {"type": "mirepoix", "name": place},
        "metrics": averages + tasks,
    }


def _scores(run: Mapping[str, Any]) -> list[str]:
    """Tables by split and pool: the headline's measure for every task, next to that of the model before training."""
    if not run.get("results"):
        why = run.get("unmeasured") or "the run has no evaluation results"
        return ["## Scores", f"{why[:1].upper()}{why[1:]}."]
    measure = run["headline"]["measure"]
    before = {(entry["split"], entry["pool"]): entry for entry in run["results"] if entry["system"] == "untrained"}
    entries = _released(run)
    pools = "; ".join(f"{pool} pool: {AMONG[pool]}" for pool in dict.fromkeys(entry["pool"] for entry in entries))
    parts = ["## Scores", f"{measure_of(run['headline'])}, {averaged(run['headline'])}. {pools[:1].upper()}{pools[1:]}."]
    for entry in entries:
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
        header = ("task", "queries", *(["before training"] if first else []), measure_of(run["headline"]))
        parts += [f"### {entry['split']}, {entry['pool']} pool", _table(header, rows)]
    return parts


def _done(run: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The stages that have a result, by name."""
    return {stage["name"]: stage for stage in run["stages"] if stage["digest"]}


def _tasks(run: Mapping[str, Any]) -> list[tuple[str, str, str, int]]:
    """The pairs of an epoch, as rows of training, source, task and number."""
    done, found = _done(run), []
    for training, store in TRAINED.items():
        verbalised = training == "refine" and "pairs-verbalised" in done
        pairs = done["pairs-verbalised" if verbalised else "pairs"] if training in done else {}
        rows = [row for row in pairs.get("tables", {}).get("mixture", ()) if row["stage"] == store and row["after"]]
        found += [(training, row["source"], row["task"], row["after"]) for row in rows]
    return found


def _training(run: Mapping[str, Any]) -> list[str]:
    """The data of the run, and those of its stages that have a result."""
    done, settings, data = _done(run), run["settings"], run["data"]
    parts = [
        "## Training",
        "" if trains(run) else "The run trained nothing: the encoder is that of the backbone below, as it came.",
        f"Recipe `{run['recipe']}`, run {run['run']}. Data: digest `{data['digest'] or 'none'}`; "
        + (", ".join(f"{count:,} {name}" for name, count in data["rows"].items()) or "no row counts")
        + ".",
        _table(("stage", "rows read", "rows written"), _counts(done.values())),
    ]
    if tasks := _tasks(run):
        parts += ["Training pairs:", _table(("training", "source", "task", "pairs"), tasks)]
    for name in (name for name in PREPARED if name in done):
        if fields := settings.get(name.replace("-", "_")):
            parts += [f"### Stage `{name}`", _figures(done[name]), _fields(_effective(fields))]
    for name in (name for name in TRAINED if name in done):
        parts += [f"### Stage `{name}`", _figures(done[name]), _fields(settings[name])]
    return [part for part in [*parts, "### Backbone and input", _fields(settings.get("backbone", {}))] if part]


def _figures(stage: Mapping[str, Any]) -> str:
    figures = (stage.get("metrics") or {}).items()
    numbers = ", ".join(f"{figure} {value:.4g}" for figure, value in figures if isinstance(value, int | float))
    return f"Metrics: {numbers}." if numbers else ""


def _effective(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a stage that had an effect: without those of other kinds of passages, of the generated world beside a corpus, and
    the usual reading of captions."""
    unused = {kind for kind in ("vid2r", "written") if "kind" in fields and fields["kind"] != kind}
    unused |= {"world"} if fields.get("path") else set()
    unused |= {"captions"} if fields.get("captions") == "apart" else set()
    unused |= {"uniir_texts"} if fields.get("uniir_texts") is False else set()
    return {name: value for name, value in fields.items() if name not in unused}


def _place(name: str) -> str:
    """The name of a checkpoint or a corpus; of a path or URI only the last part, as the rest describes the machine."""
    return Path(name).name if name.startswith(("/", ".", "~")) or "://" in name else name


def _public(settings: Any) -> Any:
    """Settings without empty ones and those that describe only the machine."""
    if isinstance(settings, Mapping):
        return {name: _public(value) for name, value in settings.items() if name not in MACHINE and value not in (None, [], {})}
    if isinstance(settings, list):
        return [_public(value) for value in settings]
    return _place(settings) if isinstance(settings, str) else settings


def _counts(stages: Iterable[Mapping[str, Any]]) -> list[tuple[Any, ...]]:
    return [(stage["name"], stage["rows"]["read"], stage["rows"]["written"]) for stage in stages if stage.get("rows")]


def _fields(settings: Mapping[str, Any]) -> str:
    return f"```yaml\n{yaml.safe_dump(_public(settings), sort_keys=False, allow_unicode=True)}```"


def _versions(release: Release, encoder: Encoder) -> list[tuple[str, str]]:
    parts = [("release", release.version), ("encoder", release.encoder), ("widths", ", ".join(map(str, release.widths)))]
    config = ", ".join(f"{name} {value}" for name, value in sorted(vars(encoder.config).items()))
    return [*parts, ("config", config), *((name, version(name)) for name in LIBRARIES)]


def _table(header: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
