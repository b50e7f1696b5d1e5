"""What training costs beside its parts, and beside other projects: ratios of CPU time, measured interleaved in one process.

    python bench/training.py                     every part, one table: some forty CPU minutes
    python bench/training.py loop chunks         these parts: loop, chunks, loss, encode, stall
    python bench/training.py --check             exit status 1 if what is promised does not hold, or cannot be measured

loop      steps of the training loop (DeepSpeed, ZeRO 1, one worker) against the same steps in bare torch, on the same collated batches
chunks    steps in chunks with kept pictures, against gradient checkpointing, against the arithmetic floor, and beside the cached loss of
          sentence-transformers over the same model
loss      the tiled loss against the dense one and against open_clip's, time and memory at 1k, 4k and 16k pairs; the slope of its own memory
          up to 32k, where the dense one would take 23 GB
encode    items of mixed lengths and sizes, against sentence-transformers on the same exported model
stall     what a checkpoint holds a step up for, against writing it synchronously: the first one, and those after it

Every round runs all candidates once, in turn; a ratio is of two candidates of one round, and its median over the rounds is given with the
quartiles. Threads: one, but for `encode`.
"""

import argparse
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "bench")]

from ratios import Row, checked, table  # noqa: E402

PARTS = ("loop", "chunks", "loss", "encode", "stall")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="parts; all, if none is given")
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--check", action="store_true", help="exit status 1 if what is promised does not hold, or cannot be measured")
    given = parser.parse_args(arguments)
    rows: list[Row] = []
    for part in given.parts or PARTS:
        module = __import__(f"training_{part}")
        rows += module.measure(given.rounds)
        print(table(rows), flush=True)
    return checked(rows, given.check)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
