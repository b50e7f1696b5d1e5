"""Keeps each row or rejects it with a reason: pictures that cannot be decoded, exact duplicates, and what hung on them."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray

from mirepoix.components.corpus import PartWriter, part_files, part_rows, read_part
from mirepoix.models.errors import Refused
from mirepoix.models.item import ITEM_SCHEMA, content_hash, row_to_item
from mirepoix.models.options import option
from mirepoix.serving.pictures import PictureLimits, PictureRefused, plain_picture
from mirepoix.serving.store import Context, Outcome, Rows


@dataclass(frozen=True)
class CurateConfig:
    """What is kept."""

    max_picture_bytes: int = option(20_000_000, "a larger picture is rejected before it is decoded")
    max_picture_pixels: int = option(25_000_000, "a picture with more pixels is rejected before it is decoded")
    max_rejected: float = option(0.2, "share of rejected candidates above which the stage fails: then the source is at fault, not a row")
    batch_size: int = option(256, "rows that a task checks at a time")
    workers: int | None = option(None, "tasks that check at a time; null: as many as the cluster's CPUs")

    def __post_init__(self) -> None:
        if not 0 <= self.max_rejected <= 1:
            raise Refused(f"max_rejected is {self.max_rejected}; give a share from 0 to 1")


class Check:
    """Makes every picture upright RGB, and adds to each row why it must go, if it must, and the hash of its content."""

    def __init__(self, limits: PictureLimits):
        self.limits = limits

    def __call__(self, table: pa.Table) -> pa.Table:
        checked = []
        for row in table.to_pylist():
            try:
                for name in ("images", "video"):
                    row[name] = [plain_picture(picture, self.limits) for picture in row[name]]
                row["reason"] = None
            except PictureRefused as refusal:
                row["reason"] = refusal.reason
            row["key"] = content_hash(row_to_item(row)).hex()
            checked.append(row)
        return pa.Table.from_pylist(checked, schema=_checked_schema(table.schema))


def _checked_schema(schema: pa.Schema) -> pa.Schema:
    return schema.append(pa.field("reason", pa.string())).append(pa.field("key", pa.string()))


def work(context: Context, config: CurateConfig, sources: Path) -> Outcome:
    """Curates the corpus that `sources` brought in."""
    return _Curation(context, config, sources).outcome()


class _Curation:
    """What the parts share while they are curated: which candidates stand, who stands in for whom, which queries keep an answer."""

    def __init__(self, context: Context, config: CurateConfig, sources: Path):
        self.context, self.config, self.sources = context, config, sources
        self.read = {part: part_rows(sources, part) for part in ("corpus", "queries", "qrels")}
        self.kept: dict[str, str] = {}  # content key -> id of the candidate that stands for it
        self.twin: dict[str, str] = {}  # id of an exact duplicate -> id of the one that was kept
        self.merged_judgements = 0
        self.why: Counter[str] = Counter()

    def outcome(self) -> Outcome:
        tables = self._checked()
        with PartWriter(self.context.folder, "rejects") as self.rejects:
            corpus = self._corpus(tables)
            judged = self._judged()
            asked = self._queries(tables, {row["query_id"] for row in judged})
            with PartWriter(self.context.folder, "qrels") as qrels:
                qrels.write([row for row in judged if row["query_id"] in asked])
                self._reject_judgements([row for row in judged if row["query_id"] not in asked], "query was rejected")
        counts = {"corpus": corpus, "queries": len(asked), "qrels": qrels.written}
        merged = len(self.twin) + self.merged_judgements
        rows = Rows(sum(self.read.values()), sum(counts.values()), self.rejects.written, merged)
        return Outcome(
            rows, {**counts, "exact_duplicates": len(self.twin), **{f"rejected {why}": count for why, count in self.why.items()}}
        )

    def _checked(self) -> Iterator[pa.Table]:
        """The corpus and then the queries with their check, in the order in which they stand, however many workers check them."""
        data = ray.data.DataContext.get_current()
        data.execution_options.preserve_order = True
        data.enable_progress_bars = False
        limits = PictureLimits(max_bytes=self.config.max_picture_bytes, max_pixels=self.config.max_picture_pixels)
        total, done = self.read["corpus"] + self.read["queries"], 0
        files = [file for part in ("corpus", "queries") for file in part_files(self.sources, part)]
        dataset = ray.data.read_parquet(files, columns=ITEM_SCHEMA.names).repartition(target_num_rows_per_block=self.config.batch_size)
        checked = dataset.map_batches(
            Check(limits), batch_format="pyarrow", batch_size=self.config.batch_size, concurrency=self.config.workers
        )
        ids = pa.chunked_array([column for part in ("corpus", "queries") for column in read_part(self.sources, part, ["id"])["id"].chunks])
        for table in checked.iter_batches(batch_format="pyarrow", batch_size=1000):
            assert table["id"].equals(ids.slice(done, table.num_rows)), "Ray Data did not keep the order of the rows"
            before = max(0, min(table.num_rows, self.read["corpus"] - done))
            yield from (part for part in (table.slice(0, before), table.slice(before)) if part.num_rows)
            done += table.num_rows
            self.context.report({"step": done, "total": total})

    def _corpus(self, tables: Iterator[pa.Table]) -> int:
        with PartWriter(self.context.folder, "corpus") as writer:
            for table in _first(tables, self.read["corpus"]):
                keep = []
                for item, reason, key in zip(*(table[name].to_pylist() for name in ("id", "reason", "key")), strict=True):
                    keep.append(reason is None and key not in self.kept)
                    if keep[-1]:
                        self.kept[key] = item
                    elif reason is None:
                        self.twin[item] = self.kept[key]
                writer.write(table.filter(pa.array(keep)))
                self._reject("corpus", table)
        lost = sum(self.why.values())
        if not writer.written:
            raise Refused(f"the corpus is empty after curation: all {self.read['corpus']} candidates were rejected ({self._reasons()})")
        if lost > self.config.max_rejected * self.read["corpus"]:
            raise Refused(
                f"{lost} of the {self.read['corpus']} candidates were rejected ({self._reasons()}), more than the share "
                f"curate.max_rejected={self.config.max_rejected}; mend the source, or raise it"
            )
        return writer.written

    def _judged(self) -> list[dict[str, Any]]:
        """The judgements of candidates that stand, a duplicate's passed on to the one that was kept."""
        standing, seen, lost = set(self.kept.values()), {}, []
        for row in read_part(self.sources, "qrels").to_pylist():
            row["item_id"] = self.twin.get(row["item_id"], row["item_id"])
            place = row["query_id"], row["item_id"]
            if row["item_id"] not in standing:
                lost.append(row)
            elif place in seen:
                self.merged_judgements += 1
            else:
                seen[place] = row
        self._reject_judgements(lost, "answer was rejected")
        return list(seen.values())

    def _queries(self, tables: Iterator[pa.Table], answered: set[str]) -> set[str]:
        asked: set[str] = set()
        labels = read_part(self.sources, "queries", ["split", "task"])
        done = 0
        with PartWriter(self.context.folder, "queries") as writer:
            for table in tables:
                reasons = [
                    reason or (None if query in answered else "no answer is left")
                    for query, reason in zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True)
                ]
                table = table.set_column(table.schema.get_field_index("reason"), "reason", pa.array(reasons, pa.string()))
                for name in labels.schema.names:
                    table = table.append_column(name, labels[name].slice(done, table.num_rows))
                kept = table.filter(pa.array([reason is None for reason in reasons]))
                asked |= set(kept["id"].to_pylist())
                writer.write(kept)
                self._reject("queries", table)
                done += table.num_rows
        return asked

    def _reject(self, part: str, table: pa.Table) -> None:
        lost = table.filter(table["reason"].is_valid())
        self.why.update(lost["reason"].to_pylist())
        columns = {name: lost[name] for name in ("id", "reason", "source", "line")}
        self.rejects.write(pa.table({"part": pa.array([part] * lost.num_rows, pa.string()), **columns}))

    def _reject_judgements(self, rows: list[dict[str, Any]], reason: str) -> None:
        self.why.update([reason] * len(rows))
        self.rejects.write([{"part": "qrels", "id": f"{row['query_id']} {row['item_id']}", "reason": reason} for row in rows])

    def _reasons(self) -> str:
        return ", ".join(f"{reason}: {count}" for reason, count in self.why.most_common())


def _first(tables: Iterator[pa.Table], rows: int) -> Iterator[pa.Table]:
    """As many of the tables as hold so many rows; the others are left in the iterator."""
    while rows > 0:
        table = next(tables)
        rows -= table.num_rows
        yield table
