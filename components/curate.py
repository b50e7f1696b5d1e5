"""Keeps each row or rejects it with a reason: pictures that cannot be decoded, exact duplicates, and what hung on them."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import ray

from mirepoix.components.sources import PARTS, PartWriter, part_files, read_part
from mirepoix.models.errors import Refused
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
            row["key"] = content_key(row["text"], row["images"], row["video"])
            checked.append(row)
        return pa.Table.from_pylist(checked, schema=_checked_schema(table.schema))


def _checked_schema(schema: pa.Schema) -> pa.Schema:
    return schema.append(pa.field("reason", pa.string())).append(pa.field("key", pa.string()))


def content_key(text: str, images: list[bytes], video: list[bytes]) -> str:
    """A hash of what an item consists of: equal for exact duplicates, whatever their ids."""
    whole = hashlib.sha256()
    for kind, parts in ((b"t", [text.encode()]), (b"i", images), (b"v", video)):
        for part in parts:
            whole.update(kind + len(part).to_bytes(8, "big"))
            whole.update(part)
    return whole.hexdigest()


def work(context: Context, config: CurateConfig, sources: Path) -> Outcome:
    """Curates the corpus that `sources` brought in."""
    limits = PictureLimits(max_bytes=config.max_picture_bytes, max_pixels=config.max_picture_pixels)
    curation = _Curation(context, limits, config.batch_size, total=sum(_count(sources, part) for part in ("corpus", "queries")))
    with PartWriter(context.folder, "rejects") as curation.rejects:
        curation.corpus(sources)
        read = _count(sources, "corpus")
        if not curation.kept:
            raise Refused(f"the corpus is empty after curation: all {read} candidates were rejected; see why in {context.folder}/rejects")
        share = 1 - (len(curation.kept) + len(curation.twin)) / read
        if share > config.max_rejected:
            raise Refused(
                f"{share:.0%} of the {read} candidates were rejected ({curation.reasons()}), more than max_rejected={config.max_rejected}; "
                "mend the source, or raise curate.max_rejected"
            )
        curation.judgements(sources)
        curation.queries(sources)
    return curation.outcome(sources)


class _Curation:
    """The state that the parts share: which candidates stand, and who stands in for whom."""

    def __init__(self, context: Context, limits: PictureLimits, batch_size: int, total: int):
        self.context, self.check, self.batch_size, self.total = context, Check(limits), batch_size, total
        self.rejects: PartWriter
        self.kept: dict[str, str] = {}  # content key -> id of the candidate that stands for it
        self.twin: dict[str, str] = {}  # id of an exact duplicate -> id of the one that was kept
        self.answers: dict[str, set[str]] = {}  # query id -> ids that answer it
        self.counts: dict[str, int] = {}
        self.merged = 0
        self.why: dict[str, int] = {}

    def corpus(self, sources: Path) -> None:
        with PartWriter(self.context.folder, "corpus") as writer:
            for table in self._checked(sources, "corpus"):
                keep, rejected = [], []
                for item, reason, key in zip(*(table[name].to_pylist() for name in ("id", "reason", "key")), strict=True):
                    first = reason is None and key not in self.kept
                    keep.append(first)
                    rejected.append(reason is not None)
                    if first:
                        self.kept[key] = item
                    elif reason is None:
                        self.twin[item] = self.kept[key]
                writer.write(table.filter(pa.array(keep)))
                self._reject("corpus", table.filter(pa.array(rejected)))
        self.merged += len(self.twin)
        self.counts["corpus"] = writer.written

    def judgements(self, sources: Path) -> None:
        standing, seen, rows = set(self.kept.values()), set(), []
        judged = read_part(sources, "qrels")
        for row in judged.to_pylist():
            row["item_id"] = self.twin.get(row["item_id"], row["item_id"])
            if row["item_id"] not in standing:
                self._why("answer was rejected")
                reject = {"part": "qrels", "id": f"{row['query_id']} {row['item_id']}", "reason": "answer was rejected", "source": "qrels"}
                self.rejects.write([reject])
            elif (row["query_id"], row["item_id"]) in seen:
                self.merged += 1
            else:
                seen.add((row["query_id"], row["item_id"]))
                self.answers.setdefault(row["query_id"], set()).add(row["item_id"])
                rows.append(row)
        self.judged = rows

    def queries(self, sources: Path) -> None:
        asked: set[str] = set()
        with PartWriter(self.context.folder, "queries") as writer:
            for table in self._checked(sources, "queries"):
                reasons = [
                    reason or (None if query in self.answers else "no answer is left")
                    for query, reason in zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True)
                ]
                table = table.set_column(table.schema.get_field_index("reason"), "reason", pa.array(reasons, pa.string()))
                keep = pa.array([reason is None for reason in reasons])
                asked |= set(table.filter(keep)["id"].to_pylist())
                writer.write(table.filter(keep))
                self._reject("queries", table.filter(pa.array([reason is not None for reason in reasons])))
        self.counts["queries"] = writer.written
        with PartWriter(self.context.folder, "qrels") as qrels:
            qrels.write([row for row in self.judged if row["query_id"] in asked])
            lost = [row for row in self.judged if row["query_id"] not in asked]
            for row in lost:
                self._why("query was rejected")
                reject = {"part": "qrels", "id": f"{row['query_id']} {row['item_id']}", "reason": "query was rejected", "source": "qrels"}
                self.rejects.write([reject])
        self.counts["qrels"] = qrels.written

    def outcome(self, sources: Path) -> Outcome:
        read = sum(_count(sources, part) for part in ("corpus", "queries", "qrels"))
        reasons = {f"rejected {reason}": count for reason, count in sorted(self.why.items())}
        rows = Rows(read=read, written=sum(self.counts.values()), rejected=self.rejects.written, merged=self.merged)
        return Outcome(rows, {**self.counts, **reasons, "exact_duplicates": len(self.twin)})

    def reasons(self) -> str:
        return ", ".join(f"{reason}: {count}" for reason, count in sorted(self.why.items(), key=lambda entry: -entry[1]))

    def _checked(self, sources: Path, part: str) -> Iterator[pa.Table]:
        """The rows of a part with their check, in the order in which they stand, however many workers check them."""
        rows = _count(sources, part)
        if not rows:
            return
        data = ray.data.DataContext.get_current()
        data.execution_options.preserve_order = True
        data.enable_progress_bars = False
        blocks = max(1, min(200, rows // self.batch_size))
        dataset = ray.data.read_parquet(part_files(sources, part), columns=PARTS[part].names).repartition(blocks)
        dataset = dataset.map_batches(self.check, batch_format="pyarrow", batch_size=self.batch_size, zero_copy_batch=True)
        for table in dataset.iter_batches(batch_format="pyarrow", batch_size=1000):
            yield table
            self.context.report({"step": min(self.total, sum(self.counts.values()) + table.num_rows), "total": self.total})

    def _reject(self, part: str, table: pa.Table) -> None:
        for reason in table["reason"].to_pylist():
            self._why(reason)
        columns = {name: table[name] for name in ("id", "reason", "source", "line")}
        self.rejects.write(pa.table({"part": pa.array([part] * table.num_rows, pa.string()), **columns}))

    def _why(self, reason: str) -> None:
        self.why[reason] = self.why.get(reason, 0) + 1


def _count(folder: Path, part: str) -> int:
    return sum(pq.read_metadata(file).num_rows for file in part_files(folder, part))
