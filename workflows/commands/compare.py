"""The command `compare`: whether the results of runs differ by more than the queries that were asked would explain."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mirepoix.models.errors import Refused
from mirepoix.workflows.commands.stored_result import StoredResult

EXAMPLES = """examples:
  mirepoix compare mbeir-20261130 mbeir-20261201            the released encoder of each run, by every measure of the headline's pool
  mirepoix compare quickstart-2026:untrained quickstart-2026   before and after a training; also :bm25, :pixels
  mirepoix compare quickstart_all-2026:unite quickstart_all-2026:mire     arms of a comparison; ARM.SYSTEM, as :unite.untrained
"""


def add_compare(commands: Any) -> None:
    """The arguments of the command, among the commands of the command line."""
    compare = commands.add_parser(
        "compare",
        help="compare results of runs query by query: differences with intervals, paired tests, corrected for their number",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = (
        "folder of a run, its name or the beginning of it; after a colon the arm or the system; the first is what others are compared with"
    )
    compare.add_argument("runs", nargs="+", metavar="RUN[:SYSTEM]", help=what)
    compare.add_argument("--measures", metavar="M,...", help="measures by ir-measures' names (default: all that the runs have)")
    compare.add_argument("--pool", help="pool of candidates (default: that of the first run's headline)")
    compare.add_argument("--split", help="split of the queries (default: that of the first run's headline)")
    compare.add_argument("--by", choices=("all", "task", "dataset"), default="all", help="what is compared apart (default: %(default)s)")
    compare.add_argument("--draws", type=int, default=10_000, help="random draws of each test and interval (default: %(default)s)")
    compare.add_argument("--seed", type=int, default=0, help="seed of the draws (default: %(default)s)")
    compare.add_argument("--storage", help="the storage that names of runs are looked up in")
    compare.add_argument("--json", action="store_true", help="print the comparison as JSON")


def compare_command(arguments: argparse.Namespace) -> int:
    """Prints a table with a line for each measure and pair."""
    from mirepoix.components.evaluation.boards.board import MAIN
    from mirepoix.components.evaluation.boards.registry import BOARDS
    from mirepoix.components.evaluation.scoring.comparing import compare
    from mirepoix.components.evaluation.scoring.measures import measures as parsed

    if len(arguments.runs) < 2:
        raise Refused("one result is given; give two or more, such as RUN:untrained RUN for before and after a training")
    if arguments.draws < 100:
        raise Refused(f"--draws is {arguments.draws}; give 100 or more")
    found = [StoredResult(name, arguments.storage) for name in arguments.runs]
    first, same = found[0], {each.identity: each for each in reversed(found)}
    if twice := next((each for each in found if same[each.identity] is not each), None):
        raise Refused(f"{twice.name} is the same result as {same[twice.identity].name}; give two results that differ")
    pool, split = arguments.pool or first.headline["pool"], arguments.split or first.headline["split"]
    if len({each.data for each in found}) > 1:
        other = next(each for each in found if each.data != first.data)
        said = f"{other.name} has other data than {first.name} (digests {other.data[:12]} and {first.data[:12]}): candidates may differ"
        print(f"mirepoix: {said}", file=sys.stderr)
    values = {each.name: each.values(pool, split) for each in found}
    names = values[first.name].schema.names
    shared = [name for name in names if name in first.measures and all(name in table.schema.names for table in values.values())]
    board = BOARDS.get(first.board)
    # The board's own measure is left out where it is one of the others: it would be a second test of the same.
    chosen = [name for name in shared if name != MAIN or len({row.measure for row in board.rows} if board else ()) > 1]
    if arguments.measures:
        chosen = [each.name for each in parsed(arguments.measures.split(","), "--measures")]
        if lacking := [name for name in chosen if name not in shared]:
            raise Refused(f"--measures has {lacking[0]}, which not all results have; they share {', '.join(shared)}")
    compared = compare(values, chosen, first.headline["mean"], arguments.by, arguments.draws, arguments.seed, board)
    if not compared:
        raise Refused(f"nothing is compared: some queries have no value of {', '.join(chosen) or 'any measure that the results share'}")
    if arguments.json:
        about = {"pool": pool, "split": split, "mean": first.headline["mean"], "draws": arguments.draws, "first": first.name}
        print(json.dumps(about | {"compared": [asdict(each) for each in compared]}, indent=1))
        return 0
    print(f"{first.name} and others on {split}, {pool} pool; means over {first.headline['mean']}, {arguments.draws:,} draws")
    _print([asdict(each) for each in compared])
    tests = f"of {len(compared)} tests" if len(compared) > 1 else "of one test"
    print(f"p by a paired randomisation test; corrected by Holm's method for the family {tests}; below 0.05 the difference is marked *")
    return 0


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    of, systems = max((len(row["of"]) for row in rows), default=0), max((len(row["system"]) for row in rows), default=0)
    width = max((len(row["measure"]) for row in rows), default=7)
    head = f"{'':<{of}}  " if of else ""
    figures = f"{'queries':>8} {'first':>8} {'other':>8} {'difference':>11}   {'95 % interval':<19}       p  corrected"
    print(f"{head}{'measure':<{width}}  {'with':<{systems}} {figures}")
    for row in rows:
        part = f"{row['of']:<{of}}  " if of else ""
        mark = " *" if row["p_corrected"] < 0.05 else ""
        print(
            f"{part}{row['measure']:<{width}}  {row['system']:<{systems}} {row['queries']:>8,} {row['first']:>8.4f} {row['other']:>8.4f} "
            f"{row['difference']:>+11.4f}   {row['low']:+.4f} to {row['high']:+.4f}  {row['p']:.4f}  {row['p_corrected']:.4f}{mark}"
        )
