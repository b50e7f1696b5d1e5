"""What an encoder gains on a CPU where freed memory is kept, as `serving/engine/freeing.py` has it: items a second, kept over not kept.

    python bench/allocator.py                 texts and pictures, 7 rounds
    python bench/allocator.py --check         exit status 1 if what is promised does not hold

A loop over `encode`, batches of 32, in a process with the setting and in one without, one after the other in every round. The release has
the sizes of the quickstart, whose encoder is small: of a large one the matrix products take more, and the gain is less.
"""

import argparse
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "bench")]

from ratios import Row, checked, table  # noqa: E402
from serving_servers import Encoder, releases  # noqa: E402

PROMISED = {"texts": 1.05, "pictures": 1.0}
"""The least gain; how much the kernel takes to clear pages differs between machines."""


def measured(release: Path, rounds: int, seconds: float, threads: int) -> list[Row]:
    """The gain for each kind of items."""
    encoders = [Encoder(HERE, release, threads), Encoder(HERE, release, threads, "plain")]
    try:
        found = []
        for kind, least in PROMISED.items():
            gains = []
            for number in range(rounds):
                rates = {at: encoders[at].rate(seconds, kind) for at in ((0, 1) if number % 2 else (1, 0))}
                gains.append(rates[0] / rates[1])
            found.append(Row(f"{kind} a second, freed memory kept over not kept", gains, least=least))
        return found
    finally:
        for encoder in encoders:
            encoder.stop()


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=2, help="of one measurement (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch in every process (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if what is promised does not hold")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="mb") as folder:
        release, _ = releases(HERE, Path(folder))
        rows = measured(release, given.rounds, given.seconds, given.threads)
    print(table(rows))
    return checked(rows, given.check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
