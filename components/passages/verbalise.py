"""Image verbalisation after UniVL-DR: a picture's caption is followed by a query that it answers, which a language model writes.

The paper's second stage is trained, and its documents are encoded, with captions that were extended so; that the writer sees caption and
picture is from there. Its generator was never published, so how it is asked is chosen here: any model that answers prompts. A candidate
that shows nothing is never asked about, nor is a picture without a caption, which a text would make another modality; and one whose query
does not stand keeps the text that it had.

The folder that it writes is the whole corpus, for any later stage to read in curation's place: corpus/ with the new texts, all other parts
as they were, and beside them verbalised/, a row for each candidate with a picture: what it was called, what was written, who by, how asked.
"""

import base64
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import PARTS, PartWriter, part_rows, part_tables
from mirepoix.components.generation.endpoint import EndpointConfig
from mirepoix.components.generation.local import LocalConfig
from mirepoix.components.generation.prompts import SYSTEM_OF_QUERIES, JudgeConfig, Rejected, Request, prompt
from mirepoix.components.generation.replies import Reply, SpendingConfig
from mirepoix.components.generation.writing import WriterConfig, Writing
from mirepoix.components.passages.triples import BATCH
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown
from mirepoix.serving.pictures import PictureLimits, PictureRefused, check_picture, checked_picture
from mirepoix.serving.store import Context, Outcome, Rows

VERBALISED_SCHEMA = pa.schema(
    [
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("caption", pa.large_string(), nullable=False),  # the text as it was
        pa.field("written", pa.string()),  # the query that follows it; null: none stands
        pa.field("reason", pa.string()),  # why not
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
"""Why a picture stays as it is: with a text it would be of another modality, and no answer to who asks for pictures alone."""
WORDING = "Write one query that somebody types who looks for this picture: it asks for what the picture shows and what the caption tells."
_BOUNDED = PictureLimits(max_bytes=1 << 40, max_pixels=1 << 40, max_ratio=1 << 40)  # by curation


@dataclass(frozen=True)
class VerbaliseConfig:
    """Which texts of pictures are followed by a query that they answer."""

    kind: Literal["none", "written"] = option("none", "none: texts stay as they are; written: a language model writes the queries")
    wording: str = option(WORDING, "what the writer is told to do with caption and picture")
    pictures: int = option(1, "most pictures of a candidate that the writer sees; 0: none, for models that read words alone")
    picture_pixels: int = option(512 * 512, "a picture with more pixels is scaled down before the writer sees it")
    writer: WriterConfig = option(EndpointConfig, "who writes; only endpoints are shown pictures")
    judge: JudgeConfig = option(lambda: JudgeConfig(max_characters=300), "what goes into a prompt, and which answers stand")
    spending: SpendingConfig = option(SpendingConfig, "what it may cost, and where replies are kept")

    def __post_init__(self) -> None:
        refuse_unknown(self, "verbalise.")
        if self.pictures < 0 or self.picture_pixels < 1:
            raise Refused("verbalise.pictures must be at least 0, picture_pixels at least 1")
        if not self.wording.strip():
            raise Refused("verbalise.wording is empty; say what the writer is to do")
        if self.kind == "written" and self.pictures and not isinstance(self.writer, EndpointConfig):
            raise Refused(
                f"verbalise.pictures is {self.pictures}, and a {type(self.writer).__name__} reads words alone; "
                "set verbalise.pictures=0, or serve the model behind an endpoint and set verbalise.writer=EndpointConfig"
            )


def prepared(config: VerbaliseConfig) -> VerbaliseConfig:
    """The config with the fingerprint of the model that it opens; refused where that is not there."""
    if config.kind == "written" and isinstance(config.writer, LocalConfig):
        return replace(config, writer=config.writer.fingerprinted())
    return config


def work(context: Context, config: VerbaliseConfig, curate: Path) -> Outcome:
    """Writes the corpus again, with what its pictures would be asked for behind their captions."""
    for part in PARTS:
        if part != "corpus" and (curate / part).is_dir():
            shutil.copytree(curate / part, context.folder / part)
    return _Verbalised(context, config, curate).outcome()


class _Verbalised:
    """The pictures are asked about, and the candidates written, side by side in the order of the corpus."""

    def __init__(self, context: Context, config: VerbaliseConfig, curate: Path):
        self.context, self.config, self.curate = context, config, curate
        self.total, self.read = part_rows(curate, "corpus"), 0
        self.counts: Counter[str] = Counter()
        self.writing = Writing(context, config.writer, config.judge, config.spending, "verbalise.spending")

    def outcome(self) -> Outcome:
        told = self.context.folder / "verbalised"
        told.mkdir()
        with (
            self.writing.replies(self._requests) as replies,
            PartWriter(self.context.folder, "corpus") as corpus,
            pq.ParquetWriter(told / "part-00000.parquet", VERBALISED_SCHEMA) as verbalised,
        ):
            for table in part_tables(self.curate, "corpus", rows=BATCH):
                texts, telling = self._texts(table, replies)
                place = table.schema.get_field_index("text")
                corpus.write(table.set_column(place, table.schema.field(place), pa.array(texts, table.schema.field(place).type)))
                verbalised.write_table(pa.Table.from_pylist(telling, VERBALISED_SCHEMA))
                self.read += table.num_rows
                self.context.report({"step": self.read, "total": self.total})
            assert next(replies, None) is None
        return self._told(self.writing.finish())

    def _texts(self, table: pa.Table, replies: Iterator[Reply]) -> tuple[list[str], list[dict[str, Any]]]:
        """The texts of some candidates, and what is told of those with pictures."""
        texts, telling = table["text"].to_pylist(), []
        for place, row in _pictured(table):
            row_told = {"item_id": row["id"], "caption": row["text"], "model": self.writing.writer.name, "wording": self.config.wording}
            row_told |= {"cached": False, "prompt_tokens": 0, "tokens": 0}
            if row["text"]:
                asked, reply = self._asked(row), next(replies)
                said = self.writing.judged(reply, asked)
                row_told |= {"prompt": asked.hash, "cached": reply.cached, "prompt_tokens": reply.prompt_tokens, "tokens": reply.tokens}
            else:
                said = Rejected(NO_CAPTION)
            if isinstance(said, Rejected):
                row_told |= {"reason": said.reason, "detail": said.detail}
            else:
                row_told["written"] = said
                texts[place] = f"{row['text']} {said}"
            self.counts[said.reason if isinstance(said, Rejected) else "written"] += 1
            telling.append(row_told)
        return texts, telling

    def _told(self, figures: dict[str, float]) -> Outcome:
        pictured, written = self.counts.total(), self.counts["written"]
        if not pictured:
            raise Refused(
                "verbalise.kind is written and no candidate has a picture; give a corpus that has some, or set verbalise.kind=none"
            )
        lost = {reason: count for reason, count in self.counts.most_common() if reason != "written"}
        if not written:
            why = ", ".join(f"{reason}: {count}" for reason, count in lost.items())
            raise Refused(f"for not one of {pictured} pictures a query stands ({why}); see verbalise.pictures, judge and spending")
        metrics = {"pictured": pictured, "verbalised": written} | {f"rejected {reason}": count for reason, count in lost.items()}
        table = [{"outcome": name, "count": count} for name, count in {"written": written, **lost}.items()]
        return Outcome(Rows(self.read, self.read), {**metrics, **figures}, {"verbalised": table})

    def _requests(self) -> Iterator[Request]:
        for table in part_tables(self.curate, "corpus", rows=BATCH):
            yield from (self._asked(row) for _, row in _pictured(table) if row["text"])

    def _asked(self, row: dict[str, Any]) -> Request:
        pictures = [self._url(row, data) for data in row["images"][: self.config.pictures]]
        return prompt(SYSTEM_OF_QUERIES, self.config.wording, {"caption": row["text"]}, self.config.judge, pictures)

    def _url(self, row: dict[str, Any], data: bytes) -> str:
        """A picture, not too large, as a data URL."""
        try:
            plain = checked_picture(data, _BOUNDED, self.config.picture_pixels).data
            form, *_ = check_picture(plain, _BOUNDED)
        except PictureRefused as refused:
            raise Refused(f"item {row['id']!r} ({row['source']}:{row['line']}): {refused}; curate the corpus first") from refused
        return f"data:image/{form.lower()};base64,{base64.b64encode(plain).decode()}"


def _pictured(table: pa.Table) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows with pictures, and where they stand."""
    return ((place, row) for place, row in enumerate(table.to_pylist()) if row["images"])
