"""Hard negatives for the pairs: training queries are encoded and searched for in an index that is served, or could be.

The folder that it writes has the layout of `pairs`, for a training to read in its place: instruct/ with the negatives and queries/ as
they were; and mined.parquet, which says where each mined negative came from.
"""

import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import PartWriter, part_files, part_tables, read_part
from mirepoix.components.corpus.picking import ROWS, picked
from mirepoix.components.embedding import embed
from mirepoix.components.embedding.vectors import arrow_to_vectors, read_vectors
from mirepoix.components.pairs.hard_negatives import Answers, Found, Mark, MineConfig, chosen, mark, sifted
from mirepoix.components.pairs.store import UNSCORED, Known, PairRow, PairStore, StoreWriter
from mirepoix.components.passages.triples import held_out
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality, row_to_item, table_to_items
from mirepoix.models.vectors import Vectors
from mirepoix.serving.release import encoder_digest, open_release
from mirepoix.serving.search.dense import Index, build, open_index
from mirepoix.serving.store import Context, Missing, Outcome, Rows, join, read_manifest

MINED_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("query", "positive", "negative")),
        pa.field("rank", pa.int32(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in ("score", "positive_score")),
    ]
)


def fingerprint(release: str) -> str:
    """The digest of a published release; refused where there is none."""
    manifest = read_manifest(release)
    if manifest is None:
        raise Missing(f"mine.release is {release}, and no release was published there; give the folder or URI of one")
    return manifest.digest


def work(
    context: Context, config: MineConfig, pairs: Path, curate: Path, encoder: Path | None = None, index: Path | None = None
) -> Outcome:
    """Writes the pairs of the instruction stage again, with hard negatives that the encoder finds in the index."""
    if config.release is not None:
        release = open_release(config.release)
        encoder, index = release.folder / "encoder", release.folder / "index"
    if encoder is None or index is None:
        raise Refused("there is nothing to mine with: neither an encoder with its index nor mine.release was given")
    opened = open_index(index)
    if not isinstance(opened, Index) or opened.description.encoder != encoder_digest(encoder):
        raise Refused(f"the index {index} was not filled by the encoder {encoder}; embed and index the corpus with it, or give a release")
    return _Mining(context, config, pairs, curate, str(encoder), opened).outcome()


class _Corpus:
    """What can be a negative: the items of the index that are in the corpus, by their ids, without their content."""

    def __init__(self, index: Index, curate: Path):
        self.place = {id: place for place, id in enumerate(index.ids.to_pylist())}
        self._modalities = index.modalities_N
        self._marks = np.zeros((len(index), 2), np.uint64)
        for table in part_tables(curate, "corpus", rows=ROWS):
            for item in table_to_items(table):
                place = self.place.get(item.id)
                if place is None:
                    continue
                if item.modality != self._modalities[place]:
                    raise Refused(
                        f"item {item.id!r} is {item.modality.letters!r} in the corpus and another in the index; index this corpus"
                    )
                self._marks[place] = mark(item)

    def mark(self, id: str) -> Mark | None:
        """The mark of an item; None if it is not in the corpus."""
        place = self.place.get(id)
        found = Mark(0, 0) if place is None else Mark(*self._marks[place].tolist())
        return found if any(found) else None

    def pictured(self, id: str) -> bool:
        return self._modalities[self.place[id]] != Modality.TEXT


@dataclass
class _Mining:
    """What the steps share while a store of pairs gets its negatives."""

    context: Context
    config: MineConfig
    pairs: Path
    curate: Path
    encoder: str
    index: Index

    def __post_init__(self) -> None:
        self.store = PairStore(self.pairs / "instruct")
        self.ids = self.store.items.table["id"].to_pylist()
        self.own: list[list[int]] = [[]] * len(self.store)
        if self.config.own == "keep":
            self.own = self.store.entries.table["negatives"].to_pylist()
        # A pair may stand in an epoch several times; its negatives are mined once.
        self.queries, self.positives = self.store.entries.column("query"), self.store.entries.column("positive")
        _, first = np.unique(self.queries * len(self.ids) + self.positives, return_index=True)
        self.asked = dict.fromkeys(self.queries[first].tolist())
        self.pairs_of: dict[int, list[int]] = defaultdict(list)
        for entry in first.tolist():
            self.pairs_of[int(self.queries[entry])].append(entry)
        self.dropped: Counter[str] = Counter()
        self.mined: dict[tuple[int, int], list[str]] = {}  # by query and positive
        self.scores = {"negative": 0.0, "positive": 0.0}

    def outcome(self) -> Outcome:
        self.corpus = _Corpus(self.index, self.curate)
        self.held_out = held_out(self.curate)
        trace = pq.ParquetWriter(self.context.folder / "mined.parquet", MINED_SCHEMA)
        with trace, ExitStack() as stack:
            vectors = self._encoded(stack)
            for queries, encoded, beside in vectors:
                for start in range(0, len(queries), self.config.batch_size):
                    part = slice(start, start + self.config.batch_size)
                    trace.write_table(pa.Table.from_pylist(self._search(queries[part], encoded[part], beside), schema=MINED_SCHEMA))
        new = self._write()
        shutil.copytree(self.pairs / "queries", self.context.folder / "queries", copy_function=_linked)
        return self._told(new)

    def _told(self, new: int) -> Outcome:
        mined = sum(map(len, self.mined.values()))
        sides = Counter("picture" if self.corpus.pictured(id) else "text" for found in self.mined.values() for id in found)
        totals = [len(self.own[entry]) + len(self.mined[key]) for entry, key in self._keys()]
        metrics: dict[str, float] = {
            "pairs": len(self.store),
            "queries": len(self.asked),
            "mined": mined,
            **{f"mined {side}": count for side, count in sorted(sides.items())},
            "documents": new,
            "own": sum(len(self.own[entry]) for entry, _ in self._keys()),
            "pairs with too few": sum(total < self.config.negatives for total in totals),
            "pairs with none": sum(not total for total in totals),
            **{f"dropped {why}": count for why, count in sorted(self.dropped.items())},
        }
        if mined:
            metrics |= {f"{name}_score": total / mined for name, total in self.scores.items()}
        count = len(self.store)
        table = [{"reason": why, "count": count} for why, count in self.dropped.most_common()]
        return Outcome(Rows(read=count, written=count), metrics, {"dropped": table})

    def _keys(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """One entry of each pair, and the pair as query and positive."""
        for query, entries in self.pairs_of.items():
            for entry in entries:
                yield entry, (query, int(self.positives[entry]))

    @cached_property
    def answers(self) -> dict[int, Answers]:
        """What answers the queries, by their askers: what the pairs tell together, and what the corpus judges."""
        found: dict[int, set[str]] = defaultdict(set)
        askers = self.store.askers.tolist()
        of_query: dict[str, set[int]] = defaultdict(set)
        for asker, query, positive in zip(askers, self.queries.tolist(), self.positives.tolist(), strict=True):
            found[asker].add(self.ids[positive])
            of_query[self.ids[query]].add(asker)
        for query, answer in zip(self.store.known.column("query").tolist(), self.store.known.column("answer").tolist(), strict=True):
            for asker in of_query[self.ids[query]]:
                found[asker].add(self.ids[answer])
        for table in part_tables(self.curate, "qrels", ["query_id", "item_id", "relevance"]):
            for row in table.filter(pc.greater(table["relevance"], 0)).to_pylist():
                for asker in of_query.get(row["query_id"], ()):
                    found[asker].add(row["item_id"])
        kin: dict[str, set[str]] = defaultdict(set)
        for one, other in self.kin:
            kin[one].add(other)
            kin[other].add(one)
        outside = {self.ids[row]: mark(row_to_item(self.store.items.row(row))) for row in self.outside}
        return {
            asker: Answers(
                ids, set().union(*(kin.get(id, ()) for id in ids)), {m for id in ids if (m := self.corpus.mark(id) or outside.get(id))}
            )
            for asker, ids in found.items()
        }

    @cached_property
    def kin(self) -> list[tuple[str, str]]:
        table = read_part(self.curate, "kin", ["item_id", "kin_id"])
        return list(zip(table["item_id"].to_pylist(), table["kin_id"].to_pylist(), strict=True))

    @cached_property
    def outside(self) -> list[int]:
        """Rows of the positives that are not in the index, such as passages that are only trained on."""
        return [row for row in np.unique(self.positives).tolist() if self.ids[row] not in self.corpus.place]

    def _encoded(self, stack: ExitStack) -> Iterator[tuple[list[int], Vectors, Index | None]]:
        """The rows of the queries, some at a time, with their vectors, and an index of the positives outside the one that is searched."""
        folder = self.context.folder / "asked"
        stack.callback(shutil.rmtree, folder)
        tasks = dict(zip(self.queries.tolist(), self.store.entries.table["task"].to_pylist(), strict=True))
        self._write_items(folder, "queries", list(self.asked), lambda row: {"split": "train", "task": tasks[row]})
        if self.outside:
            self._write_items(folder, "corpus", self.outside, lambda row: {})
        vectors = folder / "vectors"
        vectors.mkdir()
        later = len(self.asked)

        def report(progress: dict[str, float]) -> None:
            self.context.report({"step": progress["step"], "total": progress["total"] + later})

        scratch = join(self.context.scratch, "asked")
        embed.work(Context(vectors, scratch, report, self.context.seed), self.config.encode, Path(self.encoder), folder, folder)
        beside = None
        if self.outside:
            ids, modalities, found = read_vectors(vectors, "corpus")
            beside = build(found, ids, modalities)
        rows, done = list(self.asked), 0
        for file in part_files(vectors, "queries"):
            table = pq.read_table(file)
            queries = rows[done : done + table.num_rows]
            assert table["id"].to_pylist() == [self.ids[row] for row in queries], "embed did not keep the order of the queries"
            yield queries, arrow_to_vectors(table["rows"]), beside
            done += table.num_rows
            step = len(self.outside) + later + done
            self.context.report({"step": step, "total": len(self.outside) + 2 * later})

    def _write_items(self, folder: Path, part: str, rows: Sequence[int], more: Callable[[int], dict[str, str]]) -> None:
        """Writes items of the store as a part of a corpus."""
        with PartWriter(folder, part) as writer:
            for start in range(0, len(rows), ROWS):
                writer.write([self.store.items.row(row) | more(row) for row in rows[start : start + ROWS]])

    def _search(self, queries: Sequence[int], encoded: Vectors, beside: Index | None) -> list[dict[str, object]]:
        """Mines the negatives of some queries' pairs; gives what tells where they came from."""
        asker = self.store.askers
        answers = [self.answers[int(asker[self.pairs_of[query][0]])] for query in queries]
        # Searched with queries of about as many answers, which may all stand before the first negative.
        alike: dict[int, list[int]] = defaultdict(list)
        for place, known in enumerate(answers):
            alike[len(known.ids).bit_length()].append(place)
        told = []
        for places in alike.values():
            vectors, depth = encoded[places], self.config.last + max(len(answers[place].ids) for place in places)
            positives = self._positive_scores(vectors, [queries[place] for place in places], beside)
            for place, hits, scores in zip(places, self.index.search(vectors, depth), positives, strict=True):
                query = queries[place]
                for entry, score in zip(self.pairs_of[query], scores, strict=True):
                    own = [self.ids[row] for row in self.own[entry]]
                    found, dropped = sifted(hits, self.config, answers[place], self.corpus.mark, own, self.held_out, score)
                    self.dropped += dropped
                    told += self._take(query, entry, own, found, score)
        return told

    def _positive_scores(self, vectors: Vectors, queries: Sequence[int], beside: Index | None) -> list[list[float]]:
        """For each query the scores of its pairs' positives."""
        asked = [[self.ids[self.positives[entry]] for entry in self.pairs_of[query]] for query in queries]
        known = iter(self.index.score(vectors, [[id for id in ids if id in self.corpus.place] for ids in asked]))
        if beside is None:
            return list(known)
        others = beside.score(vectors, [[id for id in ids if id not in self.corpus.place] for ids in asked])
        scores = []
        for ids, other in zip(asked, others, strict=True):
            here, there = iter(next(known)), iter(other)
            scores.append([next(here) if id in self.corpus.place else next(there) for id in ids])
        return scores

    def _take(self, query: int, entry: int, own: list[str], found: list[Found], score: float) -> list[dict[str, object]]:
        positive = int(self.positives[entry])
        draw = np.random.default_rng([self.context.seed, query, positive])
        pictured = dict(zip(own, (self.store.modalities[self.own[entry]] != Modality.TEXT).tolist(), strict=True)) if own else {}
        picks = chosen(found, self.config, lambda id: pictured[id] if id in pictured else self.corpus.pictured(id), own, draw)
        self.mined[query, positive] = [pick.id for pick in picks]
        self.scores["negative"] += sum(pick.score for pick in picks)
        self.scores["positive"] += score * len(picks)
        pair = {"query": self.ids[query], "positive": self.ids[positive], "positive_score": score}
        return [{**pair, "negative": pick.id, "rank": pick.rank, "score": pick.score} for pick in picks]

    def _write(self) -> int:
        """Writes the store with its new negatives; returns how many documents came to it."""
        rows = {self.ids[row]: row for row in np.unique(self.positives).tolist()}
        rows |= {self.ids[row]: row for row in pc.list_flatten(self.store.entries.table["negatives"]).unique().to_pylist()}
        wanted = {id for found in self.mined.values() for id in found} - set(rows)
        old = set(rows)
        with StoreWriter(self.context.folder / "instruct") as writer:
            for chunk in self.store.items.chunks:
                writer.copy(chunk)
            for table in picked(self.curate, "corpus", wanted):
                for item in table_to_items(table):
                    rows[item.id] = writer.add(item)
            kin = zip(self.store.kin.column("item").tolist(), self.store.kin.column("kin").tolist(), strict=True)
            more = [(rows[a], rows[b]) for a, b in self.kin if a in rows and b in rows and not (a in old and b in old)]
            writer.finish(self._entries(rows), (Known(**entry) for entry in self.store.known.table.to_pylist()), [*kin, *more])
        return len(wanted)

    def _entries(self, rows: dict[str, int]) -> Iterator[PairRow]:
        entries = (entry for chunk in self.store.entries.chunks for entry in chunk.to_pylist())
        for entry, own in zip(entries, self.own, strict=True):
            mined = [rows[id] for id in self.mined[entry["query"], entry["positive"]]]
            scores = [*entry["scores"][: 1 + len(own)], *[UNSCORED] * len(mined)]
            yield PairRow(**{**entry, "negatives": [*own, *mined], "scores": scores})


def _linked(source: str, target: str) -> None:
    """The same file under another name, or a copy where file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
