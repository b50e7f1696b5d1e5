"""The memory for reading and curating a source, as it grows: the peak over all processes, and its slope.

    python bench/memory.py                     pictures with captions, 0.5, 1, 2 and 4 GB, through sources and curate; then short texts,
                                               which have many rows in few bytes: 100, 200 and 400 thousand
    python bench/memory.py --gigabytes 10 --texts
    python bench/memory.py --gigabytes --texts --lists 2000 6000
                                               queries that have lists of 1,000 candidates, as MMEB has 36,000 of them: judgements
    python bench/memory.py --check             exit status 1 if pictures ever take 2 GB, which is promised for a source of 10 GB

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
import pyarrow as pa
import pyarrow.parquet as pq
from footprint import MIB, measure
from PIL import Image

SIDE, QUALITY, AT_ONCE = 512, 92, 256
LISTED, IN_SET = 1000, 1000
"""Candidates in the list of a query, and queries of a data set, as in MMEB."""
PROMISED = 2_000_000_000  # bytes


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


def write_passages(folder: Path, count: int) -> int:
    """Writes so many passages of about 400 characters as BEIR, none like another, and one query; returns their bytes."""
    rng = np.random.default_rng(count)
    words = ["".join(letters) for letters in rng.choice(list("abcdefghijklmnop"), (5000, 6))]
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w") as file:
        for number in range(count):
            file.write(json.dumps({"_id": f"doc{number:09d}", "text": " ".join(words[word] for word in rng.integers(0, 5000, 56))}) + "\n")
    (folder / "queries.jsonl").write_text(json.dumps({"_id": "q0", "text": "what is it"}) + "\n")
    (folder / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nq0\tdoc000000001\t1\n")
    return (folder / "corpus.jsonl").stat().st_size


def write_lists(folder: Path, count: int) -> int:
    """Writes so many queries as MMEB, each with 1,000 of the 5,000 texts of its data set; returns the bytes."""
    rng = np.random.default_rng(count)
    size = 0
    for first in range(0, count, IN_SET):
        name, queries = f"Set{first // IN_SET}", min(IN_SET, count - first)
        texts = np.array([f"the answer {number} of {name}" for number in range(5 * LISTED)])
        listed = [rng.choice(texts, LISTED, replace=False).tolist() for _ in range(queries)]
        columns = {
            "qry_inst": [f"Find what {name} asks for."] * queries,
            "qry_text": [f"the question {number} of {name}" for number in range(queries)],
            "qry_img_path": [""] * queries,
            "tgt_inst": ["Represent the answer."] * queries,
            "tgt_text": listed,
            "tgt_img_path": [[""] * LISTED] * queries,
        }
        file = folder / name / "test-00000-of-00001.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.table(columns), file)
        size += file.stat().st_size
    return size


def curate_folder(folder: str, scratch: str) -> None:
    """Reads and curates the folder, as the stages of a run do."""
    import ray.data

    from mirepoix.components.curation import curate
    from mirepoix.components.curation.curate_config import CurateConfig
    from mirepoix.components.ingestion import sources
    from mirepoix.components.ingestion.sources_config import SourcesConfig
    from mirepoix.components.stage import Context
    from mirepoix.workflows.cluster.ray_cluster import private_cluster

    logging.getLogger(ray.data.__name__).setLevel(logging.ERROR)
    homes = [Path(scratch) / name for name in ("read", "kept")]
    for home in homes:
        home.mkdir()
    contexts = [Context(home, f"{home}-scratch", lambda progress: None, 0) for home in homes]
    with private_cluster():
        stage = ray.remote(num_cpus=0, max_calls=1)(lambda work, *given: work(*given))  # a process of its own, as in a run
        ray.get(stage.remote(sources.work, contexts[0], SourcesConfig(path=(folder,))))
        kept = ray.get(stage.remote(curate.work, contexts[1], CurateConfig(), homes[0]))
    assert kept.rows.rejected == 0, kept.tables["rejects"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="*", default=[0.5, 1, 2, 4])
    parser.add_argument("--texts", type=int, nargs="*", default=[100_000, 200_000, 400_000])
    parser.add_argument("--lists", type=int, nargs="*", default=[], help="numbers of queries that have lists of 1,000 candidates")
    parser.add_argument("--folder", help="where to work (default: the temporary folder)")
    parser.add_argument("--check", action="store_true", help="exit status 1 if pictures take 2 GB of memory or more")
    parser.add_argument("--processes", action="store_true", help="print the largest processes at the peak")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores; pictures of {SIDE} x {SIDE}, JPEG {QUALITY}, a caption each; passages of 56 words")
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="memory-") as home:
        pictures, points = Path(home) / "pictures", []
        pictures.mkdir()
        for size in sorted(arguments.gigabytes):
            count = grow(pictures, size * 1e9)
            points.append((size, peak(pictures, f"{size:6.2f} GB  {count:7d} pictures", arguments.processes)))
        if len(points) > 1:
            slope, base = np.polyfit(*zip(*points, strict=True), 1)
            print(f"slope {slope:.1f} MiB per GB from {base:.0f} MiB; at 10 GB: {base + 10 * slope:.0f} MiB")
        shutil.rmtree(pictures)
        for write, counts, rows, of in (
            (write_passages, arguments.texts, 1, "passage"),
            (write_lists, arguments.lists, LISTED, "listed judgement"),
        ):
            found = []
            for count in sorted(counts):
                source = Path(home) / f"{write.__name__}{count}"
                size = write(source, count)
                found.append((count, peak(source, f"{size / 1e9:6.2f} GB  {count * rows:8d} {of}s", arguments.processes)))
                shutil.rmtree(source)
            if len(found) > 1:
                slope, base = np.polyfit(*zip(*found, strict=True), 1)
                print(f"slope {slope / rows * MIB:.2f} KiB per {of} from {base:.0f} MiB")
    most = max((figure for _, figure in points), default=0) * MIB * MIB
    if arguments.check and most >= PROMISED:
        print(f"missed: pictures take {most / 1e9:.2f} GB, and less than {PROMISED / 1e9:.0f} GB is promised", file=sys.stderr)
        return 1
    return 0


def peak(source: Path, what: str, processes: bool) -> float:
    """Reads and curates a source in a new process, and prints the most mebibytes that this took."""
    with tempfile.TemporaryDirectory(dir=source.parent) as scratch:
        found = measure([sys.executable, __file__, "--pass", str(source), scratch])
    if found.status:
        sys.exit(found.status)
    most = found.kilobytes / MIB
    print(f"{what}  at most {most:6.0f} MiB  {found.seconds:6.0f} s", flush=True)
    for kilobytes, name in found.fullest if processes else ():
        print(f"    {kilobytes / MIB:6.0f} MiB  {name}", flush=True)
    return most


if __name__ == "__main__":
    if sys.argv[1:2] == ["--pass"]:
        curate_folder(*sys.argv[2:])
    else:
        sys.exit(main())
