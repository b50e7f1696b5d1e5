"""Text search with the index classes that are also served: by words (BM25) here, by an encoder in `release_search.py`."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from mirepoix.models.item import Modality

if TYPE_CHECKING:
    from mirepoix.models.ragged import RaggedRows
    from mirepoix.serving.search.bm25 import SparseIndex
    from mirepoix.serving.search.dense import Index
    from mirepoix.serving.search.hits import Hit

_SCHEMA = pa.schema([pa.field("text", pa.large_string(), nullable=False)])


class Texts:
    """Texts by their ids, in a memory-mapped file; of a repeated id, the first text counts."""

    def __init__(self, file: Path, texts: Iterable[tuple[str, str]]):
        self._rows: dict[str, int] = {}
        rest = iter(texts)
        with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
            while batch := list(islice(rest, 1000)):
                fresh: dict[str, str] = {}
                for id, text in batch:
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
    """Searches texts by words."""

    name = "bm25"

    def index(self, texts: Texts, scratch: str) -> "TextSearch":
        """An index of the texts; a restarted run builds it again."""
        from mirepoix.serving.search.bm25 import build_sparse

        return TextSearch(build_sparse(texts, texts.ids, [Modality.TEXT] * len(texts)), list)


class TextSearch:
    """An index of texts, and the function that turns questions into its queries: words, or vectors."""

    def __init__(self, index: "Index | SparseIndex", queries: "Callable[[Sequence[str]], Sequence[str] | RaggedRows]"):
        self._index: Any
        self._index, self._queries = index, queries

    def __call__(self, questions: Sequence[str], k: int) -> list[list["Hit"]]:
        """The k best texts for each question; none for an empty question."""
        found = iter(self._index.search(self._queries(full), k) if (full := [each for each in questions if each.strip()]) else ())
        return [next(found) if each.strip() else [] for each in questions]
