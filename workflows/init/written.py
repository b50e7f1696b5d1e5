"""What `init` says, and the file that it writes: found, proposed, costs, then the config with its alternatives in comments."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap
from typing import Any

from mirepoix.components.ingestion.formats import folder as pictures_folder
from mirepoix.components.ingestion.formats import table as any_table
from mirepoix.components.ingestion.sources_config import FORMATS
from mirepoix.models.errors import Refused
from mirepoix.workflows.config import flow
from mirepoix.workflows.init.machine import Machine
from mirepoix.workflows.init.models import LIBRARY
from mirepoix.workflows.init.proposal import FINETUNE, Proposal
from mirepoix.workflows.init.survey import Survey
from mirepoix.workflows.init.words import counted, duration, gigabytes, plural

WIDTH = 118
SHOWN = 4  # tables, each in a line
LABEL = 10
NAMES = {"i": "pictures", "t": "texts", "it": "pictures with a text", "v": "clips", "vt": "clips with a text"}
APART = "a picture and its caption are two results, and the caption is a query for the picture"
TOGETHER = "one result of both, with which no query is made"
UNTRAINED = f"together is {TOGETHER}: a training needs queries of its own then, as a column (query=NAME in columns)"


def said(found: Survey, proposal: Proposal, machine: Machine) -> list[str]:
    """What was found, what is proposed, and what it costs here, as lines of text."""
    sections = {"found": _found(found), "proposed": _proposed(proposal), "costs": _costs(proposal, machine), "note": proposal.warnings}
    lines = []
    for label, entries in sections.items():
        for number, entry in enumerate(entries):
            head = f"{label if not number else '':<{LABEL}}"
            lines += [f"{head if not row else ' ' * LABEL}{text}".rstrip() for row, text in enumerate(wrap(entry, WIDTH - LABEL))]
    return lines


def _found(found: Survey) -> Iterator[str]:
    pictures, contents = found.pictures, found.contents
    if pictures.count:
        where = f", in {counted(pictures.folders, 'sub-folder')}" if pictures.folders else ""
        size = f", mostly of {pictures.usual} pixels, the largest of {pictures.largest}" if pictures.largest else ""
        yield f"{counted(pictures.count, 'picture')}, {gigabytes(pictures.bytes)}{where}{size}"
    for ending, count in found.sidecars.items():
        yield f"{count:,} {ending} {plural('file', count)} beside pictures, which are read as their captions"
    for table in found.tables[:SHOWN]:
        yield f"{table.file}: {counted(table.rows, 'row')}, {table.written}; columns {', '.join(table.names[:12])}"
    if (more := len(found.tables) - SHOWN) > 0:
        rows = sum(table.rows for table in found.tables[SHOWN:])
        yield f"{counted(more, 'more table')} of the same use: {counted(rows, 'row')}"
    about = "" if contents.whole else "about "
    what = ", ".join(f"{about}{_named(count, letters)}" for letters, count in sorted(contents.candidates.items()))
    known = "" if found.format in (pictures_folder.NAME, any_table.NAME) else f", {FORMATS[found.format].what}"
    yield f"read as {found.format}{known}; to search there {'is' if sum(contents.candidates.values()) == 1 else 'are'} {what or 'none'}"
    if found.others:
        others = " or ".join(name if name != any_table.NAME else "a table of named columns" for name in found.others)
        yield f"it may be {others} too; {found.format} is taken, as it comes first: another is written FORMAT+PATH"
    for split, tasks in sorted(contents.queries.items()):
        yield f"split {split}: {about}" + ", ".join(f"{count:,} queries {task}" for task, count in sorted(tasks.items()))
    if not contents.queries:
        yield "no caption and no query: it can be searched, and there is nothing to train on or to measure by"
    yield from contents.notices[:3]
    yield from (f"not read: {line}" for line in found.unread)
    yield from found.hints
    if found.table is not None:
        for column in found.table.columns:
            yield f"{column.role}: {column.why}" if column.chosen else f"not taken as {column.role}: {column.why}"
        used = {column.name for column in found.table.columns}
        if unused := [name for name in found.table.names if name not in used]:
            yield f"not used: {', '.join(unused[:12])}; sources.columns takes one as picture, text, id, query or split"
        if len({role.name for role in found.table.columns if role.role == "text"}) > 1 and len(found.table.chosen("text")) > 1:
            yield f"{' and '.join(found.table.chosen('text'))} are joined, a line each"


def _named(count: int, letters: str) -> str:
    """So many candidates of a modality."""
    names = NAMES.get(letters, letters)
    return f"{count:,} {names.replace('pictures', 'picture').replace('texts', 'text').replace('clips', 'clip') if count == 1 else names}"


def _proposed(proposal: Proposal) -> Iterator[str]:
    model = proposal.model
    yield f"recipe {proposal.recipe}: {proposal.why}"
    yield proposal.other
    size = f"{model.parameters / 1e6:.0f} million parameters"
    yield f"backbone {model.id}: {model.reads}; {proposal.why_model}; {size}, licence {model.licence}"
    if proposal.here:
        yield "it is on this machine"
    else:
        yield (
            f"it comes from the hub, huggingface.co, at the first run ({gigabytes(model.download)}); without a network give its folder as "
            "backbone.name, or set HF_HOME to a cache that has it"
        )
    if held_out := proposal.settings.get("curate", {}).get("held_out"):
        related = "what is equal or near-equal to these (by near.pictures and near.texts) and their kin stay on one side"
        yield f"{held_out:.0%} of the queries are held out to measure on; {related}"


def _costs(proposal: Proposal, machine: Machine) -> Iterator[str]:
    cost = proposal.costs
    download = f"{gigabytes(cost.download)} of download, " if cost.download else ""
    free = gigabytes(machine.memory)
    yield f"estimates: {download}{gigabytes(cost.disk)} on the disk, {gigabytes(cost.memory)} of memory ({free} are free)"
    parts = [f"reading {duration(cost.reading)}"] if cost.reading >= 1 else []
    parts.append(f"embedding {duration(cost.embedding)}")
    parts += [f"training {duration(cost.training)}"] if cost.training else []
    cores = f"{counted(machine.cpus, 'core')}, {machine.rate / 1e9:.0f} GFLOP/s measured"
    yield f"{duration(cost.seconds)} on this processor ({cores}): {', '.join(parts)}, and a minute to start"
    if machine.gpu:
        yield f"{machine.gpu} is there, {gigabytes(machine.gpu_memory)} free: embedding and training run on it, in less time than said"
    if proposal.model.vision is None and not machine.library:
        yield f'the model needs the extra: pip install "mirepoix[{LIBRARY.replace("_", "-")}]"'


def next_commands(output: Path) -> list[str]:
    """What to run after `init`."""
    file = output if output.is_absolute() else Path(os.path.relpath(output))
    return [
        f"mirepoix run {file} --plan     what would run",
        f"mirepoix run {file}            it runs; a second time, only what has changed",
        f"mirepoix serve --open{' ' * max(1, len(str(file)) - 1)}     the search page",
    ]


def written(found: Survey, proposal: Proposal, machine: Machine, output: Path) -> str:
    """The file: what is said as comments, then the config."""
    lines = [f"# Written by `mirepoix init {found.folder}`. Every field, with its help: mirepoix describe {output.name}", "#"]
    lines += [f"# {line}".rstrip() for line in said(found, proposal, machine)]
    lines += ["", f"recipe: {proposal.recipe}"]
    notes = {"name": f"{proposal.model.reads}; or the folder of a model", "held_out": "share of the queries to measure on"}
    notes |= {"threads": "CPU threads that embed", "max_steps": "steps of training", "columns": "what each column holds"}
    notes |= {"splits": "there is no split train: where something is trained, it is on this one"}
    for part, values in proposal.settings.items():
        lines += [f"{part}:", *_fields(values, "  ", notes, proposal.recipe == FINETUNE)]
    if proposal.alternative and proposal.recipe == FINETUNE:
        lines += ["", "# To search without a training, write this in place of `recipe: finetune`, `curate` and `instruct`:"]
    elif proposal.alternative:
        lines += ["", "# To train on the captions or queries, write these in place of `recipe: search`:"]
    lines += [f"# {name}: {flow(value)}" for name, value in proposal.alternative.items()]
    return "\n".join(lines) + "\n"


def _fields(values: dict[str, Any], indent: str, notes: dict[str, str], trained: bool) -> Iterator[str]:
    """The lines of a part of the config; captions that are trained on are read apart, as together they are no queries."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _fields(value, indent + "  ", notes, trained)
        elif name == "captions":
            yield f"{indent}captions: apart  # {APART}"
            alternative = f"captions: together  # {TOGETHER}, so no training; in place of the line above"
            lines = wrap(UNTRAINED, WIDTH - len(f"{indent}# ")) if trained else [alternative]
            yield from (f"{indent}# {line}" for line in lines)
        else:
            note = f"  # {notes[name]}" if name in notes else ""
            yield f"{indent}{name}: {flow(value)}{note}"


def write(text: str, output: Path, force: bool) -> None:
    """Writes the file at once and whole, or not at all."""
    refuse_present(output, force)
    draft = None
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=output.parent, prefix=".mirepoix-", delete=False) as file:
            draft = Path(file.name)
            file.write(text)
        draft.chmod(0o644)
        if force:
            draft.replace(output)
        else:
            os.link(draft, output)  # fails where it is there, unlike a rename
    except FileExistsError:
        refuse_present(output, force)
    except OSError as error:
        raise Refused(f"{output} cannot be written ({error.strerror}); give another place as --output FILE.yaml") from error
    finally:
        if draft is not None:
            draft.unlink(missing_ok=True)


def refuse_present(output: Path, force: bool) -> None:
    """Refuses to write over a file, and a name that `run` would not take for a file."""
    if ascii(str(output)) != ascii(os.fsencode(output).decode(errors="replace")):
        raise Refused(f"--output is {str(output)!a}, which is not UTF-8; give another name as --output FILE.yaml")
    if not output.name.lower().endswith((".yaml", ".yml")):
        raise Refused(f"--output is {output}; give a name that ends in .yaml, as `mirepoix run` takes it for a file then")
    if output.exists() and not force:
        raise Refused(f"{output} is there already; give --force to write it anew, or another name as --output FILE.yaml")
