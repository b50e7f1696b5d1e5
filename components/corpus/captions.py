"""The stage `captions`: a corpus in which a share of the pictures has lost its captions, at several rates side by side.

Every query is asked once for each rate, in a data set of that rate. Where documents lose captions, the corpus has each captioned picture
twice, whole and bare, and the pool of a rate has one of the two. Which lose theirs is drawn by the seed and the id: what has lost its
caption at one rate has at every higher one, so that the rates differ by nothing else.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mirepoix.components.corpus.captions_config import CaptionsConfig, at_rate
from mirepoix.components.corpus.parts import PartWriter, modality_codes, part_files, part_tables, source_name
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality

BARE = "#bare"
"""The end of the id of a picture without its caption."""
ROWS = 64
"""Rows that are read at a time: pictures are large."""


def work(context: Context, config: CaptionsConfig, curate: Path) -> Outcome:
    """Writes the corpus with its queries at every rate; queries of train are left out, for nothing is trained on them."""
    corpus = _Captions(context, config, curate)
    corpus.write_documents()
    read, asked = corpus.write_queries()
    if not corpus.captioned:
        what = "candidate" if config.of == "documents" else "query"
        raise Refused(f"no {what} has a text beside a picture, so there is no caption to remove; give captions.of={_OTHER[config.of]}")
    lost = [{"rate": f"{rate:g}", "without": config.of, "count": count} for rate, count in corpus.lost.items()]
    return Outcome(Rows(read, asked, rejected=read - asked), {"captioned": float(len(corpus.captioned))}, {"captions": lost})


class _Captions:
    """The corpus while it is written."""

    def __init__(self, context: Context, config: CaptionsConfig, curate: Path):
        self.folder, self.rates, self.curate, self.seed = context.folder, config.rates, curate, context.seed
        self.of_documents = config.of == "documents"
        self.captioned: set[str] = set()  # ids of documents, or of queries, with a text beside a picture
        self.lost = dict.fromkeys(config.rates, 0)  # how many of these have no caption, by rate

    def write_documents(self) -> None:
        """Writes corpus/ and pools/, and copies what belongs to them."""
        copied = ["prompts", "kin", "held"] if self.of_documents else ["corpus", "pools", "prompts", "kin", "held"]
        for part in (part for part in copied if part_files(self.curate, part)):
            with PartWriter(self.folder, part) as writer:
                for table in part_tables(self.curate, part):
                    writer.write(table)
        if not self.of_documents:
            return
        with PartWriter(self.folder, "corpus") as corpus, PartWriter(self.folder, "pools") as pools:
            for row, captioned in _rows(self.curate, "corpus"):
                corpus.write([row])
                if captioned:
                    self._count(row["id"])
                    corpus.write([{**row, "id": f"{row['id']}{BARE}", "text": ""}])
                pools.write([{"pool": _pool(rate), "item_id": self._at(row["id"], rate)} for rate in self.rates])

    def write_queries(self) -> tuple[int, int]:
        """Writes queries/ and qrels/; returns how many queries were read, and how many are asked."""
        read, asked = 0, set()
        with PartWriter(self.folder, "queries") as queries:
            for row, captioned in _rows(self.curate, "queries"):
                read += 1
                if row["split"] != "train":
                    asked.add(row["id"])
                    if captioned and not self.of_documents:
                        self._count(row["id"])
                    queries.write([self._asked(row, rate) for rate in self.rates])
        with PartWriter(self.folder, "qrels") as qrels:
            for table in part_tables(self.curate, "qrels"):
                judged = [row for row in table.to_pylist() if row["query_id"] in asked]
                qrels.write([each for row in judged for each in self._judged(row)])
        return read, len(asked)

    def _count(self, id: str) -> None:
        self.captioned.add(id)
        for rate in self.rates:
            self.lost[rate] += self._loses(id, rate)

    def _loses(self, id: str, rate: float) -> bool:
        """Whether an item has lost its caption at a rate."""
        return random.Random(f"{self.seed} {id}").random() < rate

    def _bare(self, id: str, rate: float) -> bool:
        return id in self.captioned and self._loses(id, rate)

    def _at(self, id: str, rate: float) -> str:
        """The id under which a document is in the pool of a rate."""
        return f"{id}{BARE}" if self.of_documents and self._bare(id, rate) else id

    def _asked(self, row: dict[str, Any], rate: float) -> dict[str, Any]:
        """A query at a rate."""
        text = "" if not self.of_documents and self._bare(row["id"], rate) else row["text"]
        dataset = at_rate(row["dataset"] or source_name(row["source"]), rate)
        pool = _pool(rate) if self.of_documents else row["pool"]
        return {**row, "id": _asked_at(row["id"], rate), "text": text, "dataset": dataset, "pool": pool}

    def _judged(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for rate in self.rates:
            yield {**row, "query_id": _asked_at(row["query_id"], rate), "item_id": self._at(row["item_id"], rate)}


_OTHER = {"documents": "queries", "queries": "documents"}


def _rows(curate: Path, part: str) -> Iterator[tuple[dict[str, Any], bool]]:
    """The rows of a part, and whether each has a text beside a picture or a clip."""
    for table in part_tables(curate, part, rows=ROWS):
        for row, code in zip(table.to_pylist(), modality_codes(table).tolist(), strict=True):
            yield row, bool(code & Modality.TEXT and code & ~Modality.TEXT)


def _pool(rate: float) -> str:
    return f"captions {rate:g}"


def _asked_at(query: str, rate: float) -> str:
    return f"{query}#{rate:g}"
