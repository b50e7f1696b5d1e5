"""What reading and curating a source costs in memory, as it grows: the peak over all processes, and its slope.

    python bench/memory.py                     pictures with captions, 0.5, 1, 2 and 4 GB, through sources and curate
    python bench/memory.py --gigabytes 10

Pictures are JPEG noise of 512 x 512, so that no two are alike. Each size runs in a process and on a Ray cluster of its own.
"""

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
from footprint import MIB, measure
from PIL import Image

SIDE, QUALITY, AT_ONCE = 512, 92, 256


def noise(number: int) -> bytes:
    """A JPEG like no other."""
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (16, 16, 3), np.uint8)
    grain = rng.integers(0, 48, (SIDE, SIDE, 3), np.uint8)
    picture = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(np.int16) + grain - 24
    file = BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _written(folder: str, first: int) -> int:
    size = 0
    for number in range(first, first + AT_ONCE):
        data = noise(number)
        (Path(folder) / f"{number:07d}.jpg").write_bytes(data)
        size += len(data)
    return size


def grow(folder: Path, size: float) -> int:
    """Adds pictures with captions until the folder holds so many bytes; returns how many there are."""
    known = sorted(folder.glob("*.jpg"))
    held, first = sum(file.stat().st_size for file in known), len(known)
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        while held < size:
            starts = [first + AT_ONCE * place for place in range(os.cpu_count() or 1)]
            held += sum(pool.map(_written, [str(folder)] * len(starts), starts))
            first += AT_ONCE * len(starts)
    with (folder / "captions_train.jsonl").open("w") as file:
        for number in range(first):
            file.write(json.dumps({"file_name": f"{number:07d}.jpg", "text": f"noise of the number {number}"}) + "\n")
    return first


def passed(folder: str, scratch: str) -> None:
    """Reads and curates the folder, as the stages of a run do."""
    import ray.data

    from mirepoix.components import curate, sources
    from mirepoix.components.curate import CurateConfig
    from mirepoix.components.sources import SourcesConfig
    from mirepoix.serving.store import Context
    from mirepoix.workflows.cluster import private_cluster

    logging.getLogger(ray.data.__name__).setLevel(logging.ERROR)
    homes = [Path(scratch) / name for name in ("read", "kept")]
    for home in homes:
        home.mkdir()
    lent = [Context(home, f"{home}-scratch", lambda progress: None, 0) for home in homes]
    with private_cluster():
        sources.work(lent[0], SourcesConfig(path=(folder,)))
        kept = curate.work(lent[1], CurateConfig(), homes[0])
    assert kept.rows.rejected == 0, kept.tables["rejects"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.5, 1, 2, 4])
    parser.add_argument("--folder", help="where to work (default: the temporary folder)")
    parser.add_argument("--processes", action="store_true", help="tell the largest processes of the fullest moment")
    told = parser.parse_args()
    points = []
    print(f"{os.cpu_count()} cores; pictures of {SIDE} x {SIDE}, JPEG {QUALITY}, a caption each")
    with tempfile.TemporaryDirectory(dir=told.folder, prefix="memory-") as home:
        pictures = Path(home) / "pictures"
        pictures.mkdir()
        for size in sorted(told.gigabytes):
            count = grow(pictures, size * 1e9)
            with tempfile.TemporaryDirectory(dir=home) as scratch:
                found = measure([sys.executable, __file__, "--pass", str(pictures), scratch])
            if found.status:
                return found.status
            points.append((size, found.kilobytes / MIB))
            print(f"{size:6.2f} GB  {count:7d} pictures  at most {points[-1][1]:6.0f} MiB  {found.seconds:6.0f} s", flush=True)
            if told.processes:
                for kilobytes, name in found.fullest:
                    print(f"    {kilobytes / MIB:6.0f} MiB  {name}", flush=True)
        shutil.rmtree(pictures)
    if len(points) > 1:
        slope, base = np.polyfit(*zip(*points, strict=True), 1)
        print(f"slope {slope:.1f} MiB per GB from {base:.0f} MiB; at 10 GB: {base + 10 * slope:.0f} MiB")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pass"]:
        passed(*sys.argv[2:])
    else:
        sys.exit(main())
