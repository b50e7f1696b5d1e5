"""Helpers of the tests of curation: a small corpus with a rejected row of each kind, and corpora written, curated and read back."""

import io

from PIL import Image

from mirepoix.components.corpus.parts import PartWriter, read_part
from mirepoix.components.curation import curate
from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.stage import Context
from mirepoix.models.item import Item, item_to_row


def png(colour, side=8, mode="RGB"):
    buffer = io.BytesIO()
    Image.new(mode, (side, side), colour).save(buffer, "PNG")
    return buffer.getvalue()


CORPUS = [
    Item("good", text="a circle", images=(png("red"),), source="s", line=1),
    Item("broken", text="a circle", images=(png("red")[:40],), source="s", line=2),
    Item("garbage", images=(b"no picture",), source="s", line=3),
    Item("again", text="a circle", images=(png("red"),), source="s", line=4),
    Item("words", text="a circle", source="s", line=5),
    Item("palette", images=(png(3, mode="P"),), source="s", line=6),
]
QUERIES = [
    Item("q-good", text="find the circle"),
    Item("q-broken", text="find the broken one"),
    Item("q-damaged", images=(png("blue")[:40],), source="q", line=3),
]
QRELS = [("q-good", "good"), ("q-good", "again"), ("q-good", "words"), ("q-good", "broken"), ("q-broken", "broken"), ("q-damaged", "words")]


def write_corpus(folder, corpus=CORPUS, queries=QUERIES, qrels=QRELS, rows_per_file=2):
    with PartWriter(folder, "corpus", rows_per_file) as part:
        part.write([item_to_row(item) for item in corpus])
    with PartWriter(folder, "queries", rows_per_file) as part:
        part.write([{**item_to_row(item), "split": split_of(item.id), "task": "t->it"} for item in queries])
    with PartWriter(folder, "qrels", rows_per_file) as part:
        rows = [dict(zip(("query_id", "item_id", "relevance", "score"), (*row, 1, 0.5)[:4], strict=True)) for row in qrels]
        part.write([{**row, "source": "judges", "line": line} for line, row in enumerate(rows, 1)])
    return folder


def split_of(query):
    """The split that the id of a query begins with, as in validation-q1; the others are trained on."""
    return query.partition("-")[0] if query.startswith(("validation-", "test-")) else "train"


def rejects(folder, part):
    return {row["id"]: (row["reason"], row["detail"]) for row in read_part(folder, "rejects").to_pylist() if row["part"] == part}


def curated_of(home, config=CurateConfig(), parts=(), **corpus):  # noqa: B008
    """Curates a corpus into a folder of its own under `home`."""
    place = home / f"run{len(list(home.iterdir()))}"
    place.mkdir()
    source = write_corpus(place / "in", **corpus)
    for part, rows in dict(parts).items():
        with PartWriter(source, part) as writer:
            writer.write(rows)
    return place / "out", curate.work(context(place / "out"), config, source)


def context(folder):
    folder.mkdir()
    return Context(folder, str(folder.parent / "scratch"), lambda progress: None, seed=0)
