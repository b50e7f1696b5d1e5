"""What bench/serving.py measures beside the server: run from a checkout of the revision that is the base, by its interfaces.

python bench/serving_peer.py releases DIR            two small releases, DIR/one and DIR/two, of one corpus
python bench/serving_peer.py plain RELEASE PORT      the HTTP application in one process: uvicorn, the encoder and the index
python bench/serving_peer.py cluster RELEASE PORT    as `mirepoix serve`; each line `swap RELEASE` serves another one in its place
python bench/serving_peer.py encode RELEASE          for each line, `texts` or `pictures` and a number of seconds, the items a second of
                                                     a loop over `encode`, of what clients of the server send
python bench/serving_peer.py encode RELEASE plain    the same with the allocator as Python has it
"""

import asyncio
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

from serving_load import png, text

sys.path.remove(str(Path(__file__).resolve().parent))  # Ray gives the rest to its workers, where names such as `data` are others'
DOCUMENTS = 600, 200
"""Texts and pictures of the corpus."""
BATCH = 32


def texts(count: int) -> list[str]:
    sizes, colours, shapes = (
        ("two small", "a large", "the", "some tiny"),
        ("red", "blue", "green", "yellow", "grey"),
        ("stars", "disc", "bar"),
    )
    return [f"{sizes[n % 4]} {colours[n % 5]} {shapes[n % 3]} at night, on snow, number {n}" for n in range(count)]


def releases(home: Path) -> None:
    """Two releases whose encoders have the sizes of the quickstart's; they differ in their weights."""
    import pyarrow.parquet as pq

    from mirepoix.models.backbones.twin_config import Tiny
    from mirepoix.models.backbones.twins import make_twin
    from mirepoix.models.item import Item, items_to_table
    from mirepoix.models.retrievers.unite import Unite
    from mirepoix.models.retrievers.unite_config import UniteConfig
    from mirepoix.serving.golden import Golden
    from mirepoix.serving.release import assemble, folder_digest
    from mirepoix.serving.search.dense import build
    from mirepoix.serving.store import publish

    count, pictures = DOCUMENTS
    items = [Item(f"text-{n}", text) for n, text in enumerate(texts(count))]
    items += [Item(f"picture-{n}", images=(png(320, 240, n),)) for n in range(pictures)]
    corpus = home / "corpus"
    corpus.mkdir(parents=True)
    pq.write_table(items_to_table(items), corpus / "part-00000.parquet")
    for seed, name in enumerate(("one", "two")):
        made, draft = home / f"parts-{name}", home / f"draft-{name}"
        draft.mkdir()
        checkpoints = make_twin(made / "backbone", "qwen2_vl", texts(count), Tiny(), seed=seed)
        encoder = Unite.build(checkpoints, UniteConfig())
        encoder.save(made / "encoder")
        vectors = encoder.encode(items).ragged()
        digest = folder_digest(made / "encoder")
        build(vectors, [item.id for item in items], [item.modality for item in items], encoder=digest).save(made / "index")
        golden = Golden.encode(encoder, [items[0], items[count]])
        folders = {"encoder_folder": made / "encoder", "index_folder": made / "index", "corpus_folder": corpus}
        assemble(draft, "bench", golden=golden, instructions={}, widths=(), **folders)
        publish(draft, home / name, {})


class OneProcess:
    """A backend that encodes each request on its own, in a thread."""

    def __init__(self, release: Any):
        from mirepoix.serving.replicas import Counted
        from mirepoix.serving.searcher import Searcher

        self.encoder, self.searcher = release.open_encoder(), Searcher(release)
        self.encoder.collator = self.counted = Counted(self.encoder.collator)
        self.free = asyncio.Lock()  # a model is run by one thread at a time

    async def encode(self, items: Any, role: Any) -> Any:
        from mirepoix.serving.http.api import Encoded

        async with self.free:
            vectors = (await asyncio.to_thread(self.encoder.encode, items, role=role)).ragged()
            return [Encoded(rows_TD, self.counted.tokens[item.id], len(items)) for item, rows_TD in zip(items, vectors, strict=True)]

    async def search(self, rows_TD: Any, k: int, target: Any) -> Any:
        return await asyncio.to_thread(self.searcher.search, rows_TD, k, target)

    async def thumbnail(self, id: str) -> bytes | None:
        return self.searcher.thumbnail(id)

    async def ready(self) -> None:
        """It is ready once it is made."""


def plain(target: str, port: int) -> None:
    import uvicorn

    from mirepoix.serving.http.api import About, build_app
    from mirepoix.serving.http.limits_config import Limits
    from mirepoix.serving.release import open_release

    release = open_release(target)
    about = About(release.name, release.version, release.widths, release.instructions)
    uvicorn.run(build_app(OneProcess(release), about, Limits()), port=port, log_level="warning", access_log=False)


def cluster(target: str, port: int) -> None:
    from mirepoix.serving.app import start
    from mirepoix.serving.serve_config import ServeConfig
    from mirepoix.workflows.cluster.ray_cluster import private_cluster

    with private_cluster():
        server = start(target, ServeConfig(port=port))
        try:
            for line in sys.stdin:
                start(line.split(maxsplit=1)[1].strip(), ServeConfig(port=port))
        finally:
            server.stop()


def encode(target: str, allocator: str = "") -> None:
    from mirepoix.models.item import Item
    from mirepoix.serving.engine.freeing import keep_freed_memory
    from mirepoix.serving.release import open_release

    if allocator != "plain":
        keep_freed_memory()
    encoder, numbers = open_release(target).open_encoder(), itertools.count()

    pictures = [png(320, 240, number) for number in range(BATCH)]

    def item(kind: str, number: int) -> Item:
        return Item(f"item-{number}", text(number)) if kind == "texts" else Item(f"item-{number}", "", (pictures[number % BATCH],))

    print("ready", flush=True)
    for line in sys.stdin:
        kind, seconds = line.split()
        done, began = 0, time.perf_counter()
        while time.perf_counter() - began < float(seconds):
            encoder.encode([item(kind, number) for number in itertools.islice(numbers, BATCH)], batch_size=BATCH)
            done += BATCH
        print(json.dumps(done / (time.perf_counter() - began)), flush=True)


def main(arguments: list[str]) -> int:
    role, target, *rest = arguments
    if role == "releases":
        releases(Path(target))
    elif role == "encode":
        encode(target, *rest)
    else:
        {"plain": plain, "cluster": cluster}[role](target, int(rest[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
