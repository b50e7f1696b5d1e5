"""The index of words: BM25 over texts, with the interface of the index of vectors and the same order of ties.

A folder holds bm25/ (the scores of words in items, as bm25s writes them), items.parquet (id and modality of each item) and index.json
(the description). Items are sorted by id and words by the alphabet, so the files do not depend on the order in which the texts came.
"""

import json
import logging
import re
import sys
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import bm25s
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.search.bm25_config import KIND, SparseConfig
from mirepoix.serving.search.hits import Hit, position
from mirepoix.serving.search.scripts import HANGUL, spaceless

_WITH_SPACES = (
    "Tibetan",
    "Tai Le, New Tai Lue",
    "Burmese, extended",
    "Han radicals",
    "kana repeat marks",
    "kana, half width",
    "kana, historic",
)
"""Scripts without spaces whose runs are indexed as whole words; NFKC maps radicals and half-width kana to others."""
_UNSPACED = re.compile(f"[{spaceless(*_WITH_SPACES)}{HANGUL}]")


@dataclass(frozen=True)
class SparseDescription:
    """The content of index.json: the kind of index, and the parameters of BM25."""

    config: SparseConfig
    items: int
    kind: str = KIND
    encoder: str = ""  # none; a release needs one and refuses this index
    bm25s: str = bm25s.__version__


class SparseIndex:
    """Texts of items, ranked by BM25; an item that shares no word with the query is never returned."""

    def __init__(self, scorer: bm25s.BM25, items: pa.Table, description: SparseDescription):
        self.description = description
        self.ids: pa.ChunkedArray = items["id"]
        self.modalities_N = items["modality"].to_numpy()
        self._items, self._scorer = items, scorer

    def __len__(self) -> int:
        return self.description.items

    def position(self, id: str) -> int | None:
        """The place of an item in the order of ids; None if it is not in the index."""
        return position(self.ids, id)

    def save(self, folder: str | Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._scorer.save(folder / "bm25", show_progress=False)
        pq.write_table(self._items, folder / "items.parquet")
        (folder / "index.json").write_text(json.dumps(asdict(self.description), indent=2, sort_keys=True) + "\n")

    def search(
        self,
        queries: Sequence[str],
        k: int,
        modalities: Collection[Modality] | None = None,
        exclude: Sequence[Collection[str]] | None = None,
    ) -> list[list[Hit]]:
        """The k best items of each query, best first, ties by id; only items of exactly these modalities, without the excluded ids."""
        if k < 1:
            raise Refused(f"k is {k}; ask for at least one result")
        if isinstance(queries, str | RaggedRows):
            raise Refused(f"queries are {type(queries).__name__}, and a {KIND} index searches words; give a list of texts")
        if exclude is not None and len(exclude) != len(queries):
            raise Refused(f"exclude has {len(exclude)} entries for {len(queries)} queries; give one collection of ids a query")
        allowed_N = None if modalities is None else np.isin(self.modalities_N, [int(code) for code in modalities])
        hits = []
        for query, out in zip(queries, exclude or [()] * len(queries), strict=True):
            scores_N = self.scores(query)
            scores_N[[place for id in out if (place := self.position(id)) is not None]] = 0
            positions_K, scores_K = _best(scores_N, k, allowed_N)
            found = zip(self.ids.take(positions_K).to_pylist(), scores_K.tolist(), strict=True)
            hits.append([Hit(id, score) for id, score in found])
        return hits

    def rank(self, queries: Iterable[str], k: int, among: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The positions and scores of the k best items of each query, as `search` orders them; `among` has those that are searched."""
        allowed_N = None
        if among is not None:
            allowed_N = np.zeros(len(self), bool)
            allowed_N[among] = True
        for query in queries:
            yield _best(self.scores(query), k, allowed_N)

    def scores(self, query: str) -> np.ndarray:
        """The score of every item; 0 of one that shares no word with the query."""
        known = self._scorer.get_tokens_ids(bm25_terms(query))
        if not known:
            return np.zeros(len(self), np.float32)
        found: np.ndarray = self._scorer.get_scores_from_ids(known)
        return found


def _best(scores_N: np.ndarray, k: int, allowed_N: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The positions of the k highest scores above 0 of those allowed, ties in rising order, and these scores."""
    if allowed_N is not None:
        scores_N = np.where(allowed_N, scores_N, 0)
    found_C = np.flatnonzero(scores_N > 0)
    if len(found_C) > k:
        floor = np.partition(scores_N[found_C], -k)[-k]
        found_C = found_C[scores_N[found_C] >= floor]
    best_C = found_C[np.lexsort((found_C, -scores_N[found_C]))[:k]]
    return best_C, scores_N[best_C]


def bm25_terms(text: str) -> list[str]:
    """The words of a text in any script, folded in case and width; in scripts without spaces, single characters and pairs of them."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    if folded.isascii():
        return _PLAIN.findall(folded)
    found = []
    for run in _runs().findall(folded):
        found += [*run, *(a + b for a, b in pairwise(run))] if _UNSPACED.match(run) else [run]
    return found


_PLAIN = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


@cache
def _runs() -> re.Pattern[str]:
    """Matches runs of words or of characters without spaces. Combining marks, which \\w leaves out, belong to the letter before."""
    everything = map(chr, range(sys.maxunicode + 1))
    marks = "".join(sign for sign in everything if unicodedata.category(sign) in ("Mn", "Mc") and not _UNSPACED.match(sign))
    unspaced = _UNSPACED.pattern[1:-1]
    word = f"(?:[^\\W_{unspaced}]+|[{marks}]+)+"
    return re.compile(f"[{unspaced}]+|{word}(?:'{word})*")


def build_sparse(texts: Iterable[str], ids: Sequence[str], modalities: Sequence[int], config: SparseConfig | None = None) -> SparseIndex:
    """An index over the given texts; an iterator of texts is read one at a time."""
    config = config or SparseConfig()
    seen: dict[str, int] = {}
    items_NT = [[seen.setdefault(word, len(seen)) for word in bm25_terms(text)] for text in texts]
    if not len(items_NT) == len(ids) == len(modalities):
        raise Refused(f"there are {len(items_NT)} texts, {len(ids)} ids and {len(modalities)} modalities; give one of each an item")
    if not items_NT:
        raise Refused("there is no text to index; give at least one")
    order_N = sorted(range(len(ids)), key=ids.__getitem__)
    twice = next((ids[a] for a, b in pairwise(order_N) if ids[a] == ids[b]), None)
    if twice is not None:
        raise Refused(f"the id {twice!r} is given to two items; give each item an id of its own")
    vocabulary = {word: number for number, word in enumerate(sorted(seen))}
    renumbered = [vocabulary[word] for word in seen]
    ordered_NT = [[renumbered[word] for word in items_NT[n]] for n in order_N]
    scorer = _scorer(config)
    with np.errstate(invalid="ignore"):  # where no text has a word, the mean length is zero
        scorer.index((ordered_NT, vocabulary), create_empty_token=False, show_progress=False)
    items = pa.table(
        {
            "id": pa.array([ids[n] for n in order_N], pa.string()),
            "modality": pa.array([int(modalities[n]) for n in order_N], pa.int8()),
        }
    )
    return SparseIndex(scorer, items, SparseDescription(config, len(ids)))


def _scorer(config: SparseConfig) -> bm25s.BM25:
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # its default level logs every step
    return bm25s.BM25(k1=config.k1, b=config.b, method="lucene", backend="numpy")


def open_sparse(folder: str | Path) -> SparseIndex:
    """The index that `SparseIndex.save` wrote, its scores memory-mapped."""
    folder = Path(folder)
    plain = json.loads((folder / "index.json").read_text())
    description = SparseDescription(**{**plain, "config": SparseConfig(**plain["config"])})
    items = pq.read_table(folder / "items.parquet")
    scorer = bm25s.BM25.load(folder / "bm25", mmap=True, load_corpus=False)
    for name, number in {"items.parquet": items.num_rows, "bm25": scorer.scores["num_docs"]}.items():
        if number != description.items:
            raise Refused(f"{folder} says items {description.items} and {name} holds {number}; build the index again")
    return SparseIndex(scorer, items, description)
