"""The endpoint under load, before and after: the server of a base revision, that of the working tree, the same application in one process.

    python bench/serving.py                      every part, one table: an hour
    python bench/serving.py cost fair --rounds 2 these parts: cost, saturated, fair, bodies, overload, swap, kill, disconnects, pictures
    python bench/serving.py --before main        another base
    python bench/serving.py --check              exit status 1 if what is promised does not hold, or cannot be measured

The base is checked out to a worktree in a temporary folder. All servers run at once, from their own checkouts and with the same
environment; each figure is measured of each in turn, in every round, while the others are stopped. `one process` is the base's application
under uvicorn with the encoder and the index in that process, one request after the other; the encoder in process is a loop over `encode`,
of what the clients send, with the allocator of an encoder that serves (serving/engine/freeing.py).
The release has the sizes of the quickstart. Requests come from a process of their own (bench/serving_load.py), on the same cores. CPU time
is of all processes of a server, Ray's among them (bench/serving_keeper.py). Linux.
"""

import argparse
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "bench")]

from ratios import Row, checked, table  # noqa: E402
from serving_parts import PARTS, Bench  # noqa: E402
from serving_servers import Encoder, checkout, releases, served, variants  # noqa: E402

BASE = "1705570"
"""The last revision before requests were scheduled: one replica each for ingress, encoder and index."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    # Without any part, argparse looks for the empty list among the choices.
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="parts; all, if none is given")
    parser.add_argument("--before", default=BASE, metavar="REV", help="the base (default: %(default)s)")
    parser.add_argument("--servers", nargs="+", metavar="NAME", help="these servers alone, as 'before', 'after', 'one process'")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4, help="of one measurement (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch in every process (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if what is promised does not hold, or cannot be measured")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="mb") as folder, checkout(given.before, Path(folder)) as before:
        home = Path(folder)
        one, two = releases(before, home)
        chosen = [each for each in variants(before, HERE) if not given.servers or each.name in given.servers]
        encoder = Encoder(HERE, one, given.threads)
        try:
            with served(chosen, one, home, given.threads) as servers:
                bench = Bench(servers, encoder, two, given.rounds, given.seconds)
                for part in given.parts or PARTS:
                    rows += PARTS[part](bench)
                    print(table(rows), flush=True)
        finally:
            encoder.stop()
    return checked(rows, given.check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
