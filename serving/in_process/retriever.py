"""A retriever in this process: an encoder, and where it is of a release, the index and the documents that it searches.

It opens what a replica of the endpoint opens, and searches as the endpoint does, so that both give the same results.

Shapes: N items, Q queries, D width.
"""

import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, get_args, overload

import numpy as np

from mirepoix.models.encoder_config import Role
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, Modality
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.in_process.items import ItemLike, read_items, refuse_surrogates
from mirepoix.serving.in_process.ranking import RankedDocument, Ranking
from mirepoix.serving.in_process.searcher import Searcher, instruction_for

if TYPE_CHECKING:
    from mirepoix.models.encoder import Encoder
    from mirepoix.models.vectors import Vectors
    from mirepoix.serving.release import Release

BATCH_SIZE = 32
LETTERS = "the letters are t text, i picture, v video; it is a picture with a text"


class Retriever:
    """An encoder that was opened, by itself or with the release that it searches."""

    def __init__(self, encoder: "Encoder", name: str, release: "Release | None" = None):
        self.encoder = encoder
        self.release = release
        self.name = name
        self._searcher = Searcher(release) if release else None

    def __repr__(self) -> str:
        about = f"{self.encoder.architecture}, width {self.encoder.dimension}, on {self.encoder.device}"
        if self.release is None or self._searcher is None:
            return f"<model {self.name}: {about}>"
        return f"<release {self.name} {self.release.version}: {len(self._searcher.documents)} documents, {about}>"

    @overload
    def encode(
        self, items: ItemLike, *, role: Role = "document", instruction: str | None = None, batch_size: int = BATCH_SIZE
    ) -> np.ndarray: ...

    @overload
    def encode(
        self, items: Iterable[ItemLike], *, role: Role = "document", instruction: str | None = None, batch_size: int = BATCH_SIZE
    ) -> np.ndarray | RaggedRows: ...

    def encode(
        self,
        items: ItemLike | Iterable[ItemLike],
        *,
        role: Role = "document",
        instruction: str | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> np.ndarray | RaggedRows:
        """The vectors of items, as float32 of unit norm: of a list an array (N, D), of one item an array (D,).

        An encoder with several rows an item, MIRe, gives of a list `RaggedRows`, and of one item the array of its rows.
        `role` is how items are encoded: some retrievers encode queries and documents differently. `instruction` is for items that have
        none of their own; None: of a query the general one of the release, as a search without a target has it; of a document none.
        """
        found, single = read_items(items, "items")
        rows = self._encode(found, "items", role, instruction, batch_size).ragged()
        several = (rows.counts_N > 1).any()  # with such an encoder every item has several rows, else every one has one
        if single:
            return rows.rows_RD if several else rows.rows_RD[0]
        return rows if several else rows.rows_RD

    # A text is a list of texts too, to a type checker.
    @overload
    def search(  # type: ignore[overload-overlap]
        self, query: ItemLike, k: int = 10, target: str | Modality | None = None, *, instruction: str | None = None
    ) -> Ranking: ...

    @overload
    def search(
        self, query: Iterable[ItemLike], k: int = 10, target: str | Modality | None = None, *, instruction: str | None = None
    ) -> list[Ranking]: ...

    def search(
        self,
        query: ItemLike | Iterable[ItemLike],
        k: int = 10,
        target: str | Modality | None = None,
        *,
        instruction: str | None = None,
    ) -> Ranking | list[Ranking]:
        """The k best documents of the release for a query, or for each of a list of queries; of fewer documents, all.

        `target` is what the documents are to consist of: "t" (text), "i" (picture), "it" (picture with text); None: whatever they are.
        `instruction` None: the one that the encoder was trained with for this kind of query and target, as the endpoint picks it.
        """
        if self.release is None or self._searcher is None:
            raise Refused(
                f"{self.name} is a model, and a search has a corpus too; make a release with `mirepoix release {self.name} --corpus DIR`, "
                "and open that"
            )
        count, modality = _count(k, "k"), self._target(target)
        found, single = read_items(query, "query")
        rows = self._encode(found, "query", "query", instruction, BATCH_SIZE, modality).ragged()
        rankings = [self._ranking(self._searcher, rows_TD, count, modality) for rows_TD in rows]
        return rankings[0] if single else rankings

    def similarity(
        self,
        a: ItemLike | Iterable[ItemLike],
        b: ItemLike | Iterable[ItemLike],
        *,
        instruction: str | None = None,
        batch_size: int = BATCH_SIZE,
    ) -> np.ndarray:
        """The scores of `a` as queries with `b` as documents, an array (Q, N); one item counts as a list of one.

        A score is the cosine of two vectors; of several rows, MaxSim: the sum over the query's rows of the best cosine. Queries are
        encoded as for a search without a target, so that a document has the score that it has there.
        """
        from mirepoix.models.vectors import maxsim

        queries, documents = read_items(a, "a").items, read_items(b, "b").items
        scores_QN: np.ndarray = maxsim(
            self._encode(queries, "a", "query", instruction, batch_size), self._encode(documents, "b", "document", None, batch_size)
        ).numpy()
        return scores_QN

    def _encode(
        self,
        items: Sequence[Item],
        name: str,
        role: Role,
        instruction: str | None,
        batch_size: int,
        target: Modality | None = None,
    ) -> "Vectors":
        if role not in get_args(Role):
            raise Refused(f"role is {role!r}; give {' or '.join(map(repr, get_args(Role)))}")
        if instruction is not None and not isinstance(instruction, str):
            raise Refused(f"instruction is of the type {type(instruction).__name__}; give a text, or None")
        refuse_surrogates(instruction or "", "instruction", "text")
        size = _count(batch_size, "batch_size")
        for item in items:
            if why := self.encoder.refusal(item.modality):
                raise Refused(f"{item.id} has {item.modality.words}, and {why}")
        return self.encoder.encode([self._worded(item, role, instruction, target) for item in items], size, role=role)

    def _worded(self, item: Item, role: Role, instruction: str | None, target: Modality | None) -> Item:
        """The item with an instruction, where it has none of its own."""
        if item.instruction:
            return item
        if instruction is None and role == "query" and self.release is not None:
            instruction = instruction_for(self.release.instructions, item.modality, target)
        return Item(item.id, item.text, item.images, item.video, instruction or "")

    def _target(self, target: str | Modality | None) -> Modality | None:
        """The modality of the documents to find; refused where the release has no such document."""
        if target is None:
            return None
        assert self._searcher is not None
        codes, numbers = np.unique(self._searcher.index.modalities_N, return_counts=True)
        counts = {Modality(code): number for code, number in zip(codes.tolist(), numbers.tolist(), strict=True)}
        try:
            modality = target if isinstance(target, Modality) else Modality.of_letters(target) if isinstance(target, str) else None
        except ValueError:
            modality = None
        if modality not in counts:
            there = ", ".join(f"{code.letters!r} ({number})" for code, number in sorted(counts.items()))
            letters = "" if modality is not None else f" ({LETTERS})"
            given = target.letters if isinstance(target, Modality) else target
            raise Refused(
                f"target is {given!r}, and of {self.name} there are documents of {there}; give one of these, or None for all{letters}"
            )
        return modality

    def _ranking(self, searcher: Searcher, rows_TD: np.ndarray, k: int, target: Modality | None) -> Ranking:
        found = searcher.search(rows_TD, k, target)
        return Ranking(
            RankedDocument(
                rank, one.score, one.id, one.modality, one.text, searcher.thumbnail(one.id) if one.pictured else None, one.source
            )
            for rank, one in enumerate(found, start=1)
        )


def _count(given: Any, name: str) -> int:
    try:
        count = 0 if isinstance(given, bool) else operator.index(given)
    except TypeError:
        count = 0
    if count < 1:
        raise Refused(f"{name} is {given!r}; give a whole number from 1")
    return count
