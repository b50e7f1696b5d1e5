"""The command `keys`: makes, lists and revokes the keys of a served release."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from mirepoix.serving.http.keys import LIMITS, KeyEntry, add_key, read_entries, revoke_key

WHAT = {
    "requests_per_minute": "most embeddings requests and searches a minute",
    "inputs_per_minute": "most inputs of these a minute; a search is one",
    "in_flight": "most of these requests at once",
}


def add_arguments(commands: Any) -> None:
    """The arguments of the command, among the commands of the command line."""
    keys = commands.add_parser("keys", help="make, list and revoke keys for `serve --keys FILE`; the file has their hashes alone")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    add = actions.add_parser("add", help="make a key, and print it: this once, as it is kept nowhere")
    add.add_argument("name", metavar="NAME", help="what the key is called in the file: whom it is for")
    for name in LIMITS:
        add.add_argument(f"--{name.replace('_', '-')}", type=int, metavar="N", help=f"{WHAT[name]} (default: no limit)")
    listed = actions.add_parser("list", help="list the keys of a file, with their limits")
    listed.add_argument("--json", action="store_true", help="print the list as JSON")
    revoke = actions.add_parser("revoke", help="take a key out of a file; servers refuse it a second later")
    revoke.add_argument("name", metavar="NAME", help="the name of the key")
    for action in (add, listed, revoke):
        action.add_argument("--file", type=Path, required=True, metavar="FILE", help="the file of keys; `add` makes it where there is none")


def keys_command(arguments: argparse.Namespace) -> int:
    """Does what is asked for, and prints it."""
    file = arguments.file.expanduser()
    if arguments.action == "add":
        key = add_key(file, arguments.name, {name: getattr(arguments, name) for name in LIMITS})
        print(key)
        note = f"the key {arguments.name} is shown this once; requests send it as Authorization: Bearer KEY, to `serve --keys {file}`"
        print(f"mirepoix: {note}", file=sys.stderr)
    elif arguments.action == "revoke":
        revoke_key(file, arguments.name)
        print(f"the key {arguments.name} is revoked; servers with {file} refuse it from the next second on")
    elif arguments.json:
        print(json.dumps([{"name": entry.name, "created": entry.created, **_limits(entry)} for entry in read_entries(file)], indent=1))
    else:
        for entry in read_entries(file):
            said = ", ".join(f"{name.replace('_', ' ')} {limit}" for name, limit in _limits(entry).items()) or "no limits"
            print(f"{entry.name:<24} {entry.created:<26} {said}")
    return 0


def _limits(entry: KeyEntry) -> dict[str, int]:
    return {name: limit for name in LIMITS if (limit := getattr(entry, name)) is not None}
