"""Texts that are searched by text alone: by their words, or by the encoder of a release; both through the index that is served."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa

from mirepoix.components.embedding.vectors import arrow_to_vectors, rows_to_arrow
from mirepoix.models.encoder import Role
from mirepoix.models.item import Item, Modality
from mirepoix.models.vectors import Vectors
from mirepoix.serving import store
from mirepoix.serving.release import open_release
from mirepoix.serving.search.bm25 import SparseIndex, build_sparse
from mirepoix.serving.search.dense import Hit, Index, build

_SHARD = 2048  # texts that are encoded between two saves: what a kill can cost at most
_SCHEMA = pa.schema([pa.field("text", pa.large_string(), nullable=False)])


class Texts:
    """Texts by their ids, in a file that is mapped and not read; of an id that comes again, the first text stands."""

    def __init__(self, file: Path, texts: Iterable[tuple[str, str]]):
        self._rows: dict[str, int] = {}
        rest = iter(texts)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            while some := list(islice(rest, 1000)):
                fresh: dict[str, str] = {}
                for id, text in some:
                    if id not in self._rows:
                        fresh.setdefault(id, text)
                self._rows |= {id: row for row, id in enumerate(fresh, len(self._rows))}
                writer.write_batch(pa.record_batch([pa.array(fresh.values(), pa.large_string())], _SCHEMA))
        self._texts = pa.ipc.open_file(pa.memory_map(str(file))).read_all()["text"]

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, id: str) -> bool:
        return id in self._rows

    def __getitem__(self, id: str) -> str:
        return self._texts[self._rows[id]].as_py()

    def __iter__(self) -> Iterator[str]:
        return (text.as_py() for text in self._texts)

    @property
    def ids(self) -> list[str]:
        return list(self._rows)


class WordRetriever:
    """Searches by words."""

    name = "bm25"

    def index(self, texts: Texts, scratch: str) -> "TextSearch":
        """The texts, ready to be searched; it is built anew after a kill."""
        return TextSearch(build_sparse(texts, texts.ids, [Modality.TEXT] * len(texts)), list)


class ReleaseRetriever:
    """Searches by the encoder of a release."""

    def __init__(self, target: str, batch_size: int = 64):
        release = open_release(target)
        self.encoder = release.open_encoder()
        release.verify(self.encoder)
        self.name = f"{release.name} {release.version}"
        self.identity, self.batch_size = release.encoder, batch_size
        self.instruction = release.instructions.get("t->t", "")

    def index(self, texts: Texts, scratch: str) -> "TextSearch":
        """The texts, ready to be searched; what was encoded before a kill is kept in `scratch`."""
        vectors = Vectors.cat(list(self._shards(texts, scratch)))
        index = build(vectors, texts.ids, [Modality.TEXT] * len(texts), encoder=self.identity)
        return TextSearch(index, lambda asked: self._encoded(asked, "query", self.instruction))

    def _shards(self, texts: Texts, scratch: str) -> Iterator[Vectors]:
        rest = iter(texts)
        for number in range(0, len(texts), _SHARD):
            place = store.join(scratch, f"vectors-{number:09d}.arrow")
            some, kept = list(islice(rest, _SHARD)), store.read(place)
            if kept is None:
                table = pa.table({"rows": rows_to_arrow(self._encoded(some, "document", ""))})
                sink = pa.BufferOutputStream()
                with pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table)
                kept = sink.getvalue().to_pybytes()
                store.write(place, kept)
            yield arrow_to_vectors(pa.ipc.open_file(pa.BufferReader(kept)).read_all()["rows"])

    def _encoded(self, texts: Sequence[str], role: Role, instruction: str) -> Vectors:
        items = [Item(str(n), text, instruction=instruction) for n, text in enumerate(texts)]
        return self.encoder.encode(items, self.batch_size, role=role)


class TextSearch:
    """An index of texts, and what makes of a question that which it is searched with."""

    def __init__(self, index: Index | SparseIndex, asked: Callable[[Sequence[str]], Sequence[str] | Vectors]):
        self._index, self._asked = index, asked

    def __call__(self, questions: Sequence[str], k: int) -> list[list[Hit]]:
        """The k best texts for each question; none for one that is empty."""
        found = iter(self._index.search(self._asked(full), k) if (full := [each for each in questions if each.strip()]) else ())
        return [next(found) if each.strip() else [] for each in questions]


def open_retriever(name: str) -> WordRetriever | ReleaseRetriever:
    """What `vid2r.retriever` names."""
    return WordRetriever() if name == WordRetriever.name else ReleaseRetriever(name)
