"""The cost of curation beside plain tools that do the same on the same data in the same run, and how it grows.

    python bench/data.py                       all figures, as a table, with the settings
    python bench/data.py pictures --pictures 4000 --repeats 9 --json figures.json
    python bench/data.py --check               exit status 1 if a median misses what is promised: 0.8 of the pool's pictures, the speed of
                                               datasketch and of imagehash with the same pairs, a slope of at most 1.1

pictures    pictures per second and core: the checking pass on Ray Data, and a process pool that opens, decodes and turns upright each
            with Pillow, read from the same Parquet files, by workers as nice as Ray makes its own; both are timed in turn, from the first
            task to the last result. The pool's workers are started before the clock; Ray's within it, as in a run
near        near-duplicate search: signatures and pairs, beside datasketch's MinHashLSH with the same bands and the same verification, and
            beside imagehash with all pairs of its hashes compared at once
growth      seconds of the whole stage over ever more items, half of them texts and half pictures, 5 % of each near-duplicates; the slope of
            log time on log items; and the most memory over all processes of the run, in proportional set size
"""

import argparse
import json
import logging
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from footprint import MIB, kilobytes, tree
from PIL import Image, ImageOps

from mirepoix.components import ray_tasks
from mirepoix.components.corpus.parts import PARTS, PartWriter, part_files
from mirepoix.components.corpus.text import split_words
from mirepoix.components.curation import curate
from mirepoix.components.curation.curate_config import CurateConfig, NearRules
from mirepoix.components.curation.near_duplicates import near_pairs
from mirepoix.components.curation.row_checks import RowCheck, checked
from mirepoix.components.curation.row_features import RowFeatures
from mirepoix.components.curation.signatures import PERMUTATIONS, banding
from mirepoix.components.curation.text_rules import TextRules
from mirepoix.components.stage import Context
from mirepoix.models.item import Item, item_to_row
from mirepoix.serving.pictures_config import PictureLimits
from mirepoix.workflows.cluster.ray_cluster import private_cluster

LIMITS, ROWS = PictureLimits(), CurateConfig().batch_size
SHARE = 0.05  # of near-duplicates
PROMISED_RATIO, PROMISED_SLOPE = 0.8, 1.1


def photograph(number: int, width: int, height: int, grain: int = 12) -> Image.Image:
    """Smooth random colours with grain, as a camera gives them; no two are alike."""
    rng = np.random.default_rng(number)
    smooth = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, np.int16) + rng.integers(-grain, grain + 1, (height, width, 3), np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    file = BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def passage(number: int, length: int = 40) -> str:
    rng = np.random.default_rng(number)
    return " ".join(
        f"{'bcdfgklmnprstvz'[one]}{'aeiou'[two]}{'lnrst'[three]}" for one, two, three in rng.integers(0, (15, 5, 5), (length, 3))
    )


def texts(count: int) -> list[Item]:
    """Passages, some of which are others in capitals."""
    copies = int(SHARE * count)
    originals = [passage(number) for number in range(count - copies)]
    return [Item(f"t{number}", text) for number, text in enumerate(originals + [text.upper() + "." for text in originals[:copies]])]


def pictures(count: int, width: int, height: int) -> Iterator[Item]:
    """Pictures, some of which are others encoded anew."""
    copies = int(SHARE * count)
    for number in range(count):
        original = number if number < count - copies else number - (count - copies)
        yield Item(f"p{number}", images=(jpeg(photograph(original, width, height), 90 if original == number else 85),))


def write(folder: Path, items: Iterator[Item] | list[Item], **other: list[dict[str, Any]]) -> Path:
    with PartWriter(folder, "corpus") as writer:
        for item in items:
            writer.write([item_to_row(item)])
    for part in ("queries", "qrels"):
        with PartWriter(folder, part) as writer:
            writer.write(other.get(part, []))
    return folder


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


# Pictures per second


def plain(file: str, group: int) -> int:
    """The task of the process pool: each picture of a row group within limits, decoded, upright, in RGB."""
    count = 0
    for row in pq.ParquetFile(file).read_row_group(group, ["images"])["images"].to_pylist():
        for data in row:
            if len(data) > LIMITS.max_bytes:
                continue
            picture = Image.open(BytesIO(data), formats=["JPEG", "PNG", "WEBP", "GIF"])
            if picture.width * picture.height <= LIMITS.max_pixels:
                picture.load()
                ImageOps.exif_transpose(picture).convert("RGB")
                count += 1
    return count


def _nice(level: int) -> None:
    os.nice(level - os.nice(0))


def measure_pictures(home: Path, count: int, width: int, height: int, workers: int, repeats: int) -> dict[str, Any]:
    corpus = write(home / "pictures", pictures(count, width, height))
    groups = [(file, group) for file in part_files(corpus, "corpus") for group in range(pq.read_metadata(file).num_row_groups)]
    check = RowCheck(LIMITS, TextRules(), 64, None)
    rates: dict[str, list[float]] = {"curation": [], "pool": []}
    nice = ray.get(ray.remote(lambda: os.nice(0)).remote())
    with ProcessPoolExecutor(workers, initializer=_nice, initargs=(nice,)) as pool:

        def ours() -> int:
            return sum(table.num_rows for table in checked(corpus, check, ROWS, workers))

        def theirs() -> int:
            return sum(pool.map(plain, *zip(*groups, strict=True)))

        for turn in range(repeats + 1):
            for name, work in (("curation", ours), ("pool", theirs)):
                began = time.perf_counter()
                assert work() == count
                if turn:  # the first time starts the pool and fills caches
                    rates[name].append(count / (time.perf_counter() - began) / workers)
    ratios = [one / other for one, other in zip(rates["curation"], rates["pool"], strict=True)]
    size = sum(Path(file).stat().st_size for file in part_files(corpus, "corpus"))
    settings = {"pictures": count, "width": width, "height": height, "bytes": size, "workers": workers, "nice": nice, "repeats": repeats}
    return {"settings": settings, **{name: spread(found) for name, found in rates.items()}, "ratio": spread(ratios)}


# Near-duplicates


def search(folder: Path, items: list[Item], check: RowCheck) -> set[tuple[str, str]]:
    """Signatures and pairs, as curation finds them."""
    folder.mkdir()
    features = RowFeatures(folder)
    table = pa.Table.from_pylist([item_to_row(item) for item in items], schema=PARTS["corpus"])
    for first in range(0, len(items), ROWS):
        features.add(check.checked(table.slice(first, ROWS)))
    features.finish()
    places, _, _ = near_pairs(features, np.arange(len(items)), np.zeros(len(items), np.int64), np.ones((1, 1), bool), NearRules())
    return {(items[one].id, items[other].id) for one, other in places.tolist()}


def search_with_datasketch(items: list[Item]) -> set[tuple[str, str]]:
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=0.9, num_perm=PERMUTATIONS, params=banding(0.9))
    cut, found, order = {}, set(), {}
    for item in items:
        tokens = split_words(item.text)
        pairs = {f"{one} {other}".encode() for one, other in pairwise(tokens)}
        signature = MinHash(num_perm=PERMUTATIONS)
        signature.update_batch(pairs)
        for other in index.query(signature):
            if len(pairs & cut[other]) >= 0.9 * len(pairs | cut[other]):
                found.add((other, item.id))
        index.insert(item.id, signature)
        cut[item.id], order[item.id] = pairs, len(order)
    return found


def search_with_imagehash(items: list[Item], signs: int) -> set[tuple[str, str]]:
    import imagehash

    rows = [imagehash.phash(Image.open(BytesIO(item.images[0])).convert("RGB")).hash.ravel() for item in items]
    hashes = np.packbits(np.array(rows), axis=1).view(np.uint64)[:, 0]
    found = set()
    for place in range(len(items) - 1):
        near = np.flatnonzero(np.bitwise_count(hashes[place + 1 :] ^ hashes[place]) <= signs)
        found |= {(items[place].id, items[place + 1 + other].id) for other in near.tolist()}
    return found


def measure_near(home: Path, count: int, width: int, height: int, repeats: int) -> dict[str, Any]:
    check, made = RowCheck(LIMITS, TextRules(), 64, None), {"texts": texts(count), "pictures": list(pictures(count, width, height))}
    signs = NearRules().pictures or 0
    others: dict[str, Callable[[], set[tuple[str, str]]]] = {
        "texts": lambda: search_with_datasketch(made["texts"]),
        "pictures": lambda: search_with_imagehash(made["pictures"], signs),
    }
    figures: dict[str, Any] = {"settings": {"items": count, "width": width, "height": height, "near": SHARE, "repeats": repeats}}
    for kind, items in made.items():
        seconds: dict[str, list[float]] = {"curation": [], "other": []}
        for turn in range(repeats + 1):
            results = []
            for name, work in (("curation", lambda: search(home / f"{kind}{turn}", items, check)), ("other", others[kind])):  # noqa: B023
                began = time.perf_counter()
                results.append(work())
                if turn:
                    seconds[name].append(time.perf_counter() - began)
        speed = [other / one for one, other in zip(seconds["curation"], seconds["other"], strict=True)]
        counts = {"pairs": len(results[0]), "planted": int(SHARE * count), "same": results[0] == results[1]}
        figures[kind] = {**counts, **{name: spread(found) for name, found in seconds.items()}, "speed": spread(speed)}
    return figures


# Growth


@contextmanager
def watched() -> Iterator[list[int]]:
    """The most kilobytes that this process and all below it held while the block ran, once it is over."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while True:
            most[0] = max(most[0], sum(map(kilobytes, tree(os.getpid()))))
            if over.wait(0.5):
                return

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()


def measure_growth(home: Path, sizes: list[int], repeats: int) -> dict[str, Any]:
    runs = []
    for size in sizes:
        items = [*texts(size // 2), *pictures(size // 2, 64, 48)]
        query = {**item_to_row(Item("q", "find the first")), "split": "test", "task": "t->t"}
        source = write(home / f"in{size}", items, queries=[query], qrels=[{"query_id": "q", "item_id": items[0].id, "relevance": 1}])
        seconds, kib = [], 0
        for turn in range(repeats):
            folder = home / f"out{size}-{turn}"
            folder.mkdir()
            with watched() as most:
                began = time.perf_counter()
                outcome = curate.work(Context(folder, str(home), lambda progress: None, 0), CurateConfig(), source)
                seconds.append(time.perf_counter() - began)
            kib = max(kib, most[0])
            assert outcome.metrics["near_duplicates"] == 2 * int(SHARE * (size // 2)), outcome.metrics
        runs.append({"items": size, "seconds": spread(seconds), "mebibytes": kib / MIB})
    slope = np.polyfit(*(np.log([run["items"] for run in runs]), np.log([run["seconds"]["median"] for run in runs])), 1)[0]
    return {"settings": {"sizes": sizes, "width": 64, "height": 48, "near": SHARE, "repeats": repeats}, "runs": runs, "slope": float(slope)}


def table(figures: dict[str, Any]) -> str:
    def cell(found: dict[str, float], digits: int = 2) -> str:
        return f"{found['median']:.{digits}f} ({found['least']:.{digits}f} to {found['most']:.{digits}f})"

    lines = [f"on {figures['machine']}"]
    if "pictures" in figures:
        found = figures["pictures"]
        lines += [f"pictures per second and core, {found['settings']}"]
        lines += [f"  curation {cell(found['curation'], 0)}   pool {cell(found['pool'], 0)}   ratio {cell(found['ratio'])}"]
    if "near" in figures:
        lines += [f"near-duplicate search, {figures['near']['settings']}"]
        for kind, other in (("texts", "datasketch"), ("pictures", "imagehash")):
            found = figures["near"][kind]
            pairs = f"{found['pairs']} pairs, {found['planted']} planted, {'the same' if found['same'] else 'NOT the same'}"
            lines += [f"  {kind}: {pairs}; seconds {cell(found['curation'])}, {other} {cell(found['other'])}, speed {cell(found['speed'])}"]
    if "growth" in figures:
        lines += [f"growth of the stage, {figures['growth']['settings']}"]
        lines += [
            f"  {run['items']:7d} items   {cell(run['seconds'], 1)} s   {run['mebibytes']:.0f} MiB" for run in figures["growth"]["runs"]
        ]
        lines += [f"  slope of log time on log items {figures['growth']['slope']:.2f}"]
    return "\n".join(lines)


def missed(figures: dict[str, Any]) -> list[str]:
    """The promises that do not hold, a line each."""
    lines = []
    if "pictures" in figures and (ratio := figures["pictures"]["ratio"]["median"]) < PROMISED_RATIO:
        lines.append(f"pictures per second and core are {ratio:.2f} of the pool's, and {PROMISED_RATIO} is promised")
    for kind in ("texts", "pictures") if "near" in figures else ():
        found = figures["near"][kind]
        if not found["same"]:
            lines.append(f"the near-duplicates among the {kind} are not the same")
        if found["speed"]["median"] < 1:
            lines.append(f"the search among the {kind} has {found['speed']['median']:.2f} of the other's speed, and 1 is promised")
    if "growth" in figures and (slope := figures["growth"]["slope"]) > PROMISED_SLOPE:
        lines.append(f"the slope is {slope:.2f}, and at most {PROMISED_SLOPE} is promised")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=[], help="pictures, near, growth; all by default")
    parser.add_argument("--pictures", type=int, default=12_000)
    parser.add_argument("--side", type=int, nargs=2, default=(500, 375), metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--items", type=int, default=4000, help="texts, and pictures, of the near-duplicate search")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 20_000, 40_000, 80_000])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--check", action="store_true", help="exit status 1 if a median misses what is promised")
    given = parser.parse_args()
    unknown = set(given.what) - {"pictures", "near", "growth"}
    if unknown:
        parser.error(f"{', '.join(unknown)} is nothing to measure; give pictures, near or growth")
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray_tasks.SMALL_ROWS = 0  # Ray's work is measured, however small the sizes are
    what = given.what or ["pictures", "near", "growth"]
    figures: dict[str, Any] = {"machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"}
    with tempfile.TemporaryDirectory() as folder, private_cluster():
        home = Path(folder)
        if "pictures" in what:
            figures["pictures"] = measure_pictures(home, given.pictures, *given.side, given.workers, given.repeats)
        if "near" in what:
            figures["near"] = measure_near(home, given.items, *given.side, min(given.repeats, 5))
        if "growth" in what:
            figures["growth"] = measure_growth(home, given.sizes, min(given.repeats, 3))
    print(table(figures))
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1) + "\n")
    lines = missed(figures) if given.check else []
    for line in lines:
        print(f"missed: {line}", file=sys.stderr)
    return bool(lines)


if __name__ == "__main__":
    sys.exit(main())
