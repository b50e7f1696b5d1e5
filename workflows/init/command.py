"""The command `init`: surveys a folder and this machine, writes the proposed config, and says what it holds."""

import json
from dataclasses import asdict
from pathlib import Path

from mirepoix.workflows.init.machine import this_machine
from mirepoix.workflows.init.proposal import propose
from mirepoix.workflows.init.survey import survey
from mirepoix.workflows.init.written import next_commands, refuse_present, said, write, written
from mirepoix.workflows.recipes.registry import resolve
from mirepoix.workflows.storage import default_storage


def init(folder: Path, output: Path, force: bool = False, recipe: str | None = None, as_json: bool = False) -> int:
    """Writes a config for a folder; what is there already is kept, unless `force` says otherwise."""
    folder = folder.expanduser()
    if folder.is_dir():  # else the survey says what is wrong with it, which comes first
        refuse_present(output, force)
    found = survey(folder)
    machine = this_machine(default_storage())
    proposal = propose(found, machine, recipe)
    write(written(found, proposal, machine, output), output, force)
    resolve(str(output))  # what is written can be run
    if as_json:
        named = {"file": str(output), "found": asdict(found), "proposed": asdict(proposal), "machine": asdict(machine)}
        print(json.dumps(named, indent=1, ensure_ascii=False))
        return 0
    print("\n".join(said(found, proposal, machine)))
    print(f"\nwritten   {output}\n")
    print("\n".join(next_commands(output)))
    return 0
