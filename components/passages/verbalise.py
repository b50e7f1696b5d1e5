"""Image verbalisation after UniVL-DR: a language model writes a query that a picture answers, which is appended to the picture's caption.

In the paper, the second stage is trained and its documents are encoded with such extended captions, and the generator reads caption and
picture. That generator was never published, so the prompt is our own, for any model that answers prompts. Candidates without a picture are
left out, and so are pictures without a caption, as a text would change their modality. A candidate whose query is rejected keeps its text.

The output is the whole corpus, so that later stages can read it instead of curation's: corpus/ with the new texts, the other parts
unchanged, and verbalised/ with a row for each candidate with a picture: its caption, the written query, the model and the prompt.
"""

import base64
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import PARTS, PartWriter, part_rows, part_tables
from mirepoix.components.generation.prompts import SYSTEM_OF_QUERIES, Rejected, Request, prompt
from mirepoix.components.generation.replies import Reply
from mirepoix.components.generation.writing import Writing
from mirepoix.components.passages.triples import BATCH
from mirepoix.components.passages.verbalise_config import VerbaliseConfig
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.errors import Refused
from mirepoix.serving.pictures import PictureRefused, check_picture, checked_picture
from mirepoix.serving.pictures_config import PictureLimits

VERBALISED_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("caption", pa.large_string(), nullable=False),  # the text as it was
        pa.field("written", pa.string()),  # the query that follows it; null: it was rejected
        pa.field("reason", pa.string()),  # of the rejection
        pa.field("detail", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("wording", pa.string(), nullable=False),
        pa.field("prompt", pa.string()),  # sha256 of the messages, with the pictures
        pa.field("cached", pa.bool_(), nullable=False),
        pa.field("prompt_tokens", pa.int64(), nullable=False),
        pa.field("tokens", pa.int64(), nullable=False),
    ]
)
NO_CAPTION = "no caption"
"""The reason why a picture without a caption is unchanged: a text would change its modality, and searches for pictures would miss it."""
_UNLIMITED = PictureLimits(max_bytes=1 << 40, max_pixels=1 << 40, max_ratio=1 << 40)  # curation has applied the limits


def work(context: Context, config: VerbaliseConfig, curate: Path) -> Outcome:
    """Writes the corpus with the captions of its pictures extended by a query."""
    for part in PARTS:
        if part != "corpus" and (curate / part).is_dir():
            shutil.copytree(curate / part, context.folder / part)
    return _Verbalised(context, config, curate).outcome()


class _Verbalised:
    """Requests queries for the pictures and writes the candidates, in the order of the corpus."""

    def __init__(self, context: Context, config: VerbaliseConfig, curate: Path):
        self.context, self.config, self.curate = context, config, curate
        self.total, self.read = part_rows(curate, "corpus"), 0
        self.counts: Counter[str] = Counter()
        self.writing = Writing(context, config.writer, config.judge, config.spending, "verbalise.spending")

    def outcome(self) -> Outcome:
        folder = self.context.folder / "verbalised"
        folder.mkdir()
        with (
            self.writing.replies(self._requests) as replies,
            PartWriter(self.context.folder, "corpus") as corpus,
            pq.ParquetWriter(folder / "part-00000.parquet", VERBALISED_SCHEMA) as verbalised,
        ):
            for table in part_tables(self.curate, "corpus", rows=BATCH):
                texts, provenance = self._texts(table, replies)
                place = table.schema.get_field_index("text")
                corpus.write(table.set_column(place, table.schema.field(place), pa.array(texts, table.schema.field(place).type)))
                verbalised.write_table(pa.Table.from_pylist(provenance, VERBALISED_SCHEMA))
                self.read += table.num_rows
                self.context.report({"step": self.read, "total": self.total})
            assert next(replies, None) is None
        return self._report(self.writing.finish())

    def _texts(self, table: pa.Table, replies: Iterator[Reply]) -> tuple[list[str], list[dict[str, Any]]]:
        """The new texts of some candidates, and the rows of verbalised/ for those with pictures."""
        texts, provenance = table["text"].to_pylist(), []
        for place, row in _pictured(table):
            record = {"item_id": row["id"], "caption": row["text"], "model": self.writing.writer.name, "wording": self.config.wording}
            record |= {"cached": False, "prompt_tokens": 0, "tokens": 0}
            if row["text"]:
                request, reply = self._request(row), next(replies)
                result = self.writing.judged(reply, request)
                record |= {"prompt": request.hash, "cached": reply.cached, "prompt_tokens": reply.prompt_tokens, "tokens": reply.tokens}
            else:
                result = Rejected(NO_CAPTION)
            if isinstance(result, Rejected):
                record |= {"reason": result.reason, "detail": result.detail}
            else:
                record["written"] = result
                texts[place] = f"{row['text']} {result}"
            self.counts[result.reason if isinstance(result, Rejected) else "written"] += 1
            provenance.append(record)
        return texts, provenance

    def _report(self, figures: dict[str, float]) -> Outcome:
        pictured, written = self.counts.total(), self.counts["written"]
        if not pictured:
            raise Refused(
                "verbalise.kind is written and no candidate has a picture; give a corpus that has some, or set verbalise.kind=none"
            )
        rejected = {reason: count for reason, count in self.counts.most_common() if reason != "written"}
        if not written:
            why = ", ".join(f"{reason}: {count}" for reason, count in rejected.items())
            raise Refused(f"the queries of all {pictured} pictures were rejected ({why}); see verbalise.pictures, judge and spending")
        metrics = {"pictured": pictured, "verbalised": written} | {f"rejected {reason}": count for reason, count in rejected.items()}
        table = [{"outcome": name, "count": count} for name, count in {"written": written, **rejected}.items()]
        return Outcome(Rows(self.read, self.read), {**metrics, **figures}, {"verbalised": table})

    def _requests(self) -> Iterator[Request]:
        for table in part_tables(self.curate, "corpus", rows=BATCH):
            yield from (self._request(row) for _, row in _pictured(table) if row["text"])

    def _request(self, row: dict[str, Any]) -> Request:
        pictures = [self._url(row, data) for data in row["images"][: self.config.pictures]]
        return prompt(SYSTEM_OF_QUERIES, self.config.wording, {"caption": row["text"]}, self.config.judge, pictures)

    def _url(self, row: dict[str, Any], data: bytes) -> str:
        """A picture, scaled down if it is too large, as a data URL."""
        try:
            plain = checked_picture(data, _UNLIMITED, self.config.picture_pixels).data
            form, *_ = check_picture(plain, _UNLIMITED)
        except PictureRefused as refused:
            raise Refused(f"item {row['id']!r} ({row['source']}:{row['line']}): {refused}; curate the corpus first") from refused
        return f"data:image/{form.lower()};base64,{base64.b64encode(plain).decode()}"


def _pictured(table: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with pictures, with their places in the table."""
    return ((place, row) for place, row in enumerate(table.to_pylist()) if row["images"])
