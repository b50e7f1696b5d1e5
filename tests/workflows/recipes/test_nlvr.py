"""Real human sentences over real pictures become pairs, in which one picture in six orders is one; in `make soak` they are searched.

The folder with dev.parquet and test.parquet is named by NLVR; else it is looked for in shared/data/nlvr beside this checkout. Every run of
the tests takes a third of the sentences with all their pictures, some 4,000, as far as the pairs; `make soak` takes all the whole way.
"""

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from mirepoix.components.corpus.parts import read_part

FOLDER = Path(os.environ.get("NLVR") or Path(__file__).resolve().parents[4] / "shared" / "data" / "nlvr")
SMALL = (
    "backbone.tiny.layers=1",
    "backbone.tiny.hidden_size=32",
    "backbone.tiny.heads=2",
    "backbone.tiny.intermediate_size=64",
    "adapt=null",
    "instruct.max_steps=3",
    "embed.threads=1",
    "evaluate.draws=10",
)

pytestmark = pytest.mark.skipif(not (FOLDER / "dev.parquet").is_file(), reason=f"NLVR is not at {FOLDER}; set NLVR to its folder")


@pytest.fixture(scope="module", params=[pytest.param(3, id="third"), pytest.param(1, id="whole", marks=pytest.mark.soak)])
def examples(request, tmp_path_factory) -> Path:
    """A folder with every third sentence, or all, by the number that the data set gives it."""
    folder = tmp_path_factory.mktemp("examples")
    for split in ("dev", "test"):
        table = pq.read_table(FOLDER / f"{split}.parquet")
        taken = [int(identifier.split("-")[0]) % request.param == 1 % request.param for identifier in table["identifier"].to_pylist()]
        pq.write_table(table.filter(taken), folder / f"{split}.parquet")
    return folder


def nlvr(verb: str, examples: Path, storage: Path, *words: str) -> str:
    """What the recipe prints, with a small model and few steps."""
    command = [sys.executable, "-m", "mirepoix.workflows", verb, "nlvr", f"sources.path={examples}", *SMALL, "--storage", str(storage)]
    ended = subprocess.run([*command, *words], capture_output=True, text=True, timeout=580)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


@pytest.fixture(scope="module")
def storage(examples, tmp_path_factory) -> Path:
    """The storage of a run as far as the pairs."""
    storage = tmp_path_factory.mktemp("nlvr") / "storage"
    nlvr("run", examples, storage, "--until", "pairs")
    return storage


@pytest.fixture(scope="module")
def curated(storage):
    (folder,) = (storage / "artefacts" / "curate").iterdir()
    return folder


@pytest.fixture(scope="module")
def content(examples):
    """The objects of each picture by the data set's own annotation, whatever the order of its three boxes."""
    found = {}
    for split in ("dev", "test"):
        for row in pq.read_table(examples / f"{split}.parquet", columns=["image_name", "identifier", "structured_rep"]).to_pylist():
            boxes = sorted(
                json.dumps(sorted(json.dumps(thing, sort_keys=True) for thing in box)) for box in json.loads(row["structured_rep"])
            )
            found[row["image_name"].removesuffix(".png")] = (f"{split} {row['identifier']}", tuple(boxes))
    return found


@pytest.fixture(scope="module")
def kept_picture(curated, content):
    """The picture that each picture was merged into, or the picture itself if it was kept."""
    merged = {row["id"]: row["detail"] for row in read_part(curated, "rejects").to_pylist() if row["part"] == "corpus"}
    return {picture: merged.get(picture, picture) for picture in content}


def test_the_six_orders_of_a_picture_are_found_and_nothing_else_is_merged(curated, content, kept_picture):
    kept = set(read_part(curated, "corpus", ["id"])["id"].to_pylist())
    assert set(kept_picture.values()) == kept
    by_identifier, by_content = defaultdict(set), defaultdict(set)
    for picture, (identifier, boxes) in content.items():
        by_identifier[identifier].add(kept_picture[picture])
        by_content[boxes].add(kept_picture[picture])
    assert len(by_content) < len(by_identifier), "some content is in two examples"
    assert {len(found) for found in by_identifier.values()} == {1}, "the permutations of an example are one"
    assert {len(found) for found in by_content.values()} == {1} and len(by_content) == len(kept), "and so is what is in two examples alike"


def test_nothing_that_is_in_the_test_split_is_trained_on(curated, content):
    of_split = {split: {boxes for identifier, boxes in content.values() if identifier.startswith(split)} for split in ("dev", "test")}
    assert of_split["dev"] & of_split["test"], "some content is in both splits of the data set"
    queries = {row["id"]: row["split"] for row in read_part(curated, "queries", ["id", "split"]).to_pylist()}
    assert set(queries.values()) == {"train", "test"}
    seen = defaultdict(set)
    for row in read_part(curated, "qrels").to_pylist():
        if row["relevance"] > 0:
            seen[queries[row["query_id"]]].add(content[row["item_id"]][1])
    assert seen["train"] and seen["test"] and not seen["train"] & seen["test"]


def test_pictures_of_which_a_sentence_is_false_are_hard_negatives(storage):
    (manifest,) = (storage / "artefacts" / "pairs").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["fields"]["metrics"]["hard_negatives"] > 100


@pytest.mark.soak
@pytest.mark.parametrize("examples", [pytest.param(1, id="whole")], indirect=True)
def test_a_sentence_is_searched_for_among_pictures(examples, storage):
    shown = nlvr("demo", examples, storage)
    assert "search with a text" in shown and "target i" in shown and "3 results in" in shown
