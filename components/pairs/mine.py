"""Mining of hard negatives: the training queries are encoded and searched for with the index class that is also served.

The output has the layout of `pairs`, so that a training can read it instead: instruct/ with the negatives, queries/ unchanged, and in
addition mined.parquet with the rank and the score of each mined negative.
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

from mirepoix.components.corpus.parts import ROWS, PartWriter, held_out, part_files, part_tables, read_part, rows_with_ids
from mirepoix.components.embedding import embed
from mirepoix.components.embedding.vectors import arrow_to_rows, read_vectors
from mirepoix.components.pairs.hard_negatives import Answers, Found, Mark, filter_hits, mark, pick_negatives
from mirepoix.components.pairs.mine_config import MineConfig
from mirepoix.components.pairs.store import UNSCORED, Known, PairRow, PairStore, StoreWriter
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality, row_to_item, table_to_items
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.release import folder_digest, open_release
from mirepoix.serving.search.dense import Index, build
from mirepoix.serving.search.open import open_index
from mirepoix.serving.store import join

MINED_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.string(), nullable=False) for name in ("query", "positive", "negative")),
        pa.field("rank", pa.int32(), nullable=False),
        *(pa.field(name, pa.float32(), nullable=False) for name in ("score", "positive_score")),
    ]
)


def work(
    context: Context, config: MineConfig, pairs: Path, curate: Path, encoder: Path | None = None, index: Path | None = None
) -> Outcome:
    """Writes the pairs of the instruction stage with hard negatives that the encoder finds in the index."""
    release = open_release(config.release) if config.release is not None else None
    if release:
        encoder, index = release.folder / "encoder", release.folder / "index"
    if encoder is None or index is None:
        raise Refused("mining has neither an encoder with its index nor mine.release; give one of the two")
    opened = open_index(index)
    if not isinstance(opened, Index) or opened.description.encoder != folder_digest(encoder):
        raise Refused(f"the index {index} was not made by the encoder {encoder}; embed and index the corpus with it, or give a release")
    return _Mining(context, config, pairs, curate, encoder, opened, release.open_encoder if release else None).outcome()


class _Corpus:
    """The candidates for negatives: marks and modalities of the indexed items that are in the corpus, by id."""

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
    """The state of one mining: the store of pairs, its queries, and the negatives found so far."""

    context: Context
    config: MineConfig
    pairs: Path
    curate: Path
    encoder: Path
    index: Index
    opener: embed.Opener | None  # of the encoder, if it is a release's

    def __post_init__(self) -> None:
        self.store = PairStore(self.pairs / "instruct")
        self.ids = self.store.items.table["id"].to_pylist()
        self.own: list[list[int]] = [[]] * len(self.store)
        if self.config.own == "keep":
            self.own = self.store.entries.table["negatives"].to_pylist()
        # An epoch may have a pair several times; its negatives are mined once.
        self.queries, self.positives = self.store.entries.column("query"), self.store.entries.column("positive")
        _, first = np.unique(self.queries * len(self.ids) + self.positives, return_index=True)
        self.distinct_queries = dict.fromkeys(self.queries[first].tolist())
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
            for queries, encoded, extra_index in vectors:
                for start in range(0, len(queries), self.config.batch_size):
                    part = slice(start, start + self.config.batch_size)
                    trace.write_table(pa.Table.from_pylist(self._search(queries[part], encoded[part], extra_index), schema=MINED_SCHEMA))
        new = self._write()
        shutil.copytree(self.pairs / "queries", self.context.folder / "queries", copy_function=_linked)
        return self._report(new)

    def _report(self, new: int) -> Outcome:
        mined = sum(map(len, self.mined.values()))
        sides = Counter("picture" if self.corpus.pictured(id) else "text" for found in self.mined.values() for id in found)
        totals = [len(self.own[entry]) + len(self.mined[key]) for entry, key in self._keys()]
        metrics: dict[str, float] = {
            "pairs": len(self.store),
            "queries": len(self.distinct_queries),
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
        """The known answers by query group: those of the pairs of the group together, and those that the corpus judges relevant."""
        found: dict[int, set[str]] = defaultdict(set)
        groups = self.store.query_groups.tolist()
        of_query: dict[str, set[int]] = defaultdict(set)
        for group, query, positive in zip(groups, self.queries.tolist(), self.positives.tolist(), strict=True):
            found[group].add(self.ids[positive])
            of_query[self.ids[query]].add(group)
        for query, answer in zip(self.store.known.column("query").tolist(), self.store.known.column("answer").tolist(), strict=True):
            for group in of_query[self.ids[query]]:
                found[group].add(self.ids[answer])
        for table in part_tables(self.curate, "qrels", ["query_id", "item_id", "relevance"]):
            for row in table.filter(pc.greater(table["relevance"], 0)).to_pylist():
                for group in of_query.get(row["query_id"], ()):
                    found[group].add(row["item_id"])
        kin: dict[str, set[str]] = defaultdict(set)
        for one, other in self.kin:
            kin[one].add(other)
            kin[other].add(one)
        extra_marks = {self.ids[row]: mark(row_to_item(self.store.items.row(row))) for row in self.unindexed_positives}
        return {
            group: Answers(
                ids,
                set().union(*(kin.get(id, ()) for id in ids)),
                {m for id in ids if (m := self.corpus.mark(id) or extra_marks.get(id))},
            )
            for group, ids in found.items()
        }

    @cached_property
    def kin(self) -> list[tuple[str, str]]:
        table = read_part(self.curate, "kin", ["item_id", "kin_id"])
        return list(zip(table["item_id"].to_pylist(), table["kin_id"].to_pylist(), strict=True))

    @cached_property
    def unindexed_positives(self) -> list[int]:
        """Rows of the positives that are not in the index, such as passages that are only used in training."""
        return [row for row in np.unique(self.positives).tolist() if self.ids[row] not in self.corpus.place]

    def _encoded(self, stack: ExitStack) -> Iterator[tuple[list[int], RaggedRows, Index | None]]:
        """The rows of the queries, in batches, with their vectors, and an index of the positives that are not in the searched index."""
        folder = self.context.folder / "to_encode"
        stack.callback(shutil.rmtree, folder)
        tasks = dict(zip(self.queries.tolist(), self.store.entries.table["task"].to_pylist(), strict=True))
        self._write_items(folder, "queries", list(self.distinct_queries), lambda row: {"split": "train", "task": tasks[row]})
        if self.unindexed_positives:
            self._write_items(folder, "corpus", self.unindexed_positives, lambda row: {})
        vectors = folder / "vectors"
        vectors.mkdir()
        later = len(self.distinct_queries)

        def report(progress: dict[str, float], /, notes: Sequence[str] = ()) -> None:
            self.context.report({"step": progress["step"], "total": progress["total"] + later}, notes)

        scratch = join(self.context.scratch, "to_encode")
        embed.work(Context(vectors, scratch, report, self.context.seed), self.config.encode, self.encoder, folder, folder, self.opener)
        extra_index = None
        if self.unindexed_positives:
            ids, modalities, found = read_vectors(vectors, "corpus")
            extra_index = build(found, ids, modalities)
        rows, done = list(self.distinct_queries), 0
        for file in part_files(vectors, "queries"):
            table = pq.read_table(file)
            queries = rows[done : done + table.num_rows]
            assert table["id"].to_pylist() == [self.ids[row] for row in queries], "embed did not keep the order of the queries"
            yield queries, arrow_to_rows(table["rows"]), extra_index
            done += table.num_rows
            step = len(self.unindexed_positives) + later + done
            self.context.report({"step": step, "total": len(self.unindexed_positives) + 2 * later})

    def _write_items(self, folder: Path, part: str, rows: Sequence[int], more: Callable[[int], dict[str, str]]) -> None:
        """Writes items of the store as one part of a corpus."""
        with PartWriter(folder, part) as writer:
            for start in range(0, len(rows), ROWS):
                writer.write([self.store.items.row(row) | more(row) for row in rows[start : start + ROWS]])

    def _search(self, queries: Sequence[int], encoded: RaggedRows, extra_index: Index | None) -> list[dict[str, object]]:
        """Mines the negatives of the pairs of some queries; returns the rows of mined.parquet."""
        groups = self.store.query_groups
        answers = [self.answers[int(groups[self.pairs_of[query][0]])] for query in queries]
        # Queries are searched with others of about as many answers, since all answers may rank before the first negative.
        by_answers: dict[int, list[int]] = defaultdict(list)
        for place, known in enumerate(answers):
            by_answers[len(known.ids).bit_length()].append(place)
        rows = []
        for places in by_answers.values():
            vectors, depth = encoded[places], self.config.last + max(len(answers[place].ids) for place in places)
            positives = self._positive_scores(vectors, [queries[place] for place in places], extra_index)
            for place, hits, scores in zip(places, self.index.search(vectors, depth), positives, strict=True):
                query = queries[place]
                for entry, score in zip(self.pairs_of[query], scores, strict=True):
                    own = [self.ids[row] for row in self.own[entry]]
                    found, dropped = filter_hits(hits, self.config, answers[place], self.corpus.mark, own, self.held_out, score)
                    self.dropped += dropped
                    rows += self._take(query, entry, own, found, score)
        return rows

    def _positive_scores(self, vectors: RaggedRows, queries: Sequence[int], extra_index: Index | None) -> list[list[float]]:
        """For each query, the scores of its pairs' positives."""
        positives = [[self.ids[self.positives[entry]] for entry in self.pairs_of[query]] for query in queries]
        indexed = iter(self.index.score(vectors, [[id for id in ids if id in self.corpus.place] for ids in positives]))
        if extra_index is None:
            return list(indexed)
        others = extra_index.score(vectors, [[id for id in ids if id not in self.corpus.place] for ids in positives])
        scores = []
        for ids, other in zip(positives, others, strict=True):
            here, there = iter(next(indexed)), iter(other)
            scores.append([next(here) if id in self.corpus.place else next(there) for id in ids])
        return scores

    def _take(self, query: int, entry: int, own: list[str], found: list[Found], score: float) -> list[dict[str, object]]:
        positive = int(self.positives[entry])
        draw = np.random.default_rng([self.context.seed, query, positive])
        pictured = dict(zip(own, (self.store.modalities[self.own[entry]] != Modality.TEXT).tolist(), strict=True)) if own else {}
        picks = pick_negatives(found, self.config, lambda id: pictured[id] if id in pictured else self.corpus.pictured(id), own, draw)
        self.mined[query, positive] = [pick.id for pick in picks]
        self.scores["negative"] += sum(pick.score for pick in picks)
        self.scores["positive"] += score * len(picks)
        pair = {"query": self.ids[query], "positive": self.ids[positive], "positive_score": score}
        return [{**pair, "negative": pick.id, "rank": pick.rank, "score": pick.score} for pick in picks]

    def _write(self) -> int:
        """Writes the store with its new negatives; returns how many documents were added to it."""
        rows = {self.ids[row]: row for row in np.unique(self.positives).tolist()}
        rows |= {self.ids[row]: row for row in pc.list_flatten(self.store.entries.table["negatives"]).unique().to_pylist()}
        wanted = {id for found in self.mined.values() for id in found} - set(rows)
        old = set(rows)
        with StoreWriter(self.context.folder / "instruct") as writer:
            for chunk in self.store.items.chunks:
                writer.copy(chunk)
            for table in rows_with_ids(self.curate, "corpus", wanted):
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
    """Links a file to a second name, or copies it where the file systems differ."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
