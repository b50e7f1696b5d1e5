"""Passages that a language model writes: of a question, its answer and the evidence, or of a picture's caption."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mirepoix.components.corpus.parts import part_rows, part_tables
from mirepoix.components.generation.endpoint import EndpointConfig
from mirepoix.components.generation.local import EngineConfig, LocalConfig
from mirepoix.components.generation.prompts import JudgeConfig, Rejected, Request, judged, request
from mirepoix.components.generation.replies import Reply, ReplyStore, SpendingConfig
from mirepoix.components.passages.output import PassageWriter
from mirepoix.components.passages.text_search import Texts
from mirepoix.components.passages.triples import BATCH, corpus_texts, count_training, held_out, training_rows
from mirepoix.models.errors import Refused
from mirepoix.models.item import row_to_item
from mirepoix.models.options import option, refuse_unknown
from mirepoix.serving.store import Context

_FEW = 10  # failures that say nothing yet of the endpoint
WriterConfig = EndpointConfig | LocalConfig | EngineConfig


@dataclass(frozen=True)
class WrittenConfig:
    """Passages by a language model."""

    of: Literal["triples", "captions"] = option("triples", "triples: of question, answer and evidence; captions: of a captioned picture")
    evidence: int = option(3, "texts of a triple's evidence that go into its prompt")
    writer: WriterConfig = option(EndpointConfig, "who writes")
    judge: JudgeConfig = option(JudgeConfig, "what goes into a prompt, and which answers stand")
    spending: SpendingConfig = option(SpendingConfig, "what it may cost, and where replies are kept")

    def __post_init__(self) -> None:
        refuse_unknown(self, "written.")
        if self.evidence < 0:
            raise Refused(f"written.evidence is {self.evidence}; give 0 or more")


class Writing:
    """A language model at work on rows: what it was asked, what of its answers stands, and what that cost."""

    def __init__(self, context: Context, writer: WriterConfig, judge: JudgeConfig, spending: SpendingConfig, setting: str):
        self.writer = writer.build(context.seed)
        self.desk = ReplyStore(spending, context.scratch, self.writer.identity)
        self.judge, self.most_failed = judge, spending.max_failed
        self.setting = setting  # the name that the spending has in the config
        self.last = ""  # failure
        self.taken = self.failed = self.unasked = self.cached = self.prompt_tokens = self.tokens = 0

    def replies(self, requests: Callable[[], Iterator[Request]]) -> closing[Iterator[Reply]]:
        """A reply for each request, in their order; to be closed."""
        return closing(self.writer.write(requests, self.desk))

    def judged(self, reply: Reply, asked: Request) -> str | Rejected:
        """What of a reply stands; refused when the writer fails too often."""
        self.taken, self.cached = self.taken + 1, self.cached + reply.cached
        self.prompt_tokens, self.tokens = self.prompt_tokens + reply.prompt_tokens, self.tokens + reply.tokens
        text = judged(reply, asked, self.judge)
        if isinstance(text, Rejected):
            self.unasked += text.reason == "budget"
            if text.reason in ("failed", "declined"):
                self.failed, self.last = self.failed + 1, text.detail
                self._refuse_failures(_FEW)
        return text

    def finish(self) -> dict[str, float]:
        """The figures of all that was written; refused where too much failed."""
        self._refuse_failures(0)
        return {
            "requests": self.desk.requests,
            "sent_again": self.desk.counts["sent again"],
            "cached": self.cached,
            "paid_tokens": self.desk.tokens,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "stopped_by_budget": float(self.unasked > 0),
            "damaged_replies": self.desk.counts["damaged"],
        }

    def _refuse_failures(self, few: int) -> None:
        asked, most = self.taken - self.unasked, self.most_failed
        if self.failed > few and self.failed > most * asked:
            raise Refused(
                f"{self.failed} of {asked} rows failed (the last: {self.last}), more than the share "
                f"{self.setting}.max_failed={most}; mend the endpoint and run again (what it answered is kept), or raise it"
            )


class Written:
    """A language model writes the passages, and what it writes is judged."""

    def __init__(self, context: Context, config: WrittenConfig, curate: Path, spool: Path):
        self.context, self.config, self.curate = context, config, curate
        self.part = "triples" if config.of == "triples" else "corpus"
        self.total = count_training(curate, "written") if config.of == "triples" else part_rows(curate, "corpus")
        self.writing = Writing(context, config.writer, config.judge, config.spending, "passages.written.spending")
        self.held_out = held_out(curate)
        texts = corpus_texts(curate, alone=False, without=self.held_out) if config.of == "triples" else ()
        self.evidence = Texts(spool / "evidence.arrow", texts)

    def run(self, additions: PassageWriter) -> dict[str, float]:
        """Reads the rows twice side by side: ahead without pictures to ask about them, and with pictures to write them."""
        with self.writing.replies(self._requests) as replies:
            for row, reply in zip(self._rows(), replies, strict=True):
                additions.read += 1
                self._take(row, reply, additions)
                if additions.read % BATCH == 0:
                    self.context.report({"step": additions.read, "total": self.total})
        if not additions.read:
            raise Refused("passages.written.of is captions and no candidate has a caption and a picture; give a corpus that has some")
        figures = self.writing.finish()
        self.context.report({"step": self.total, "total": self.total})
        return {**figures, "held_out_answers": len(self.held_out)}

    def _take(self, row: dict[str, Any], reply: Reply, additions: PassageWriter) -> None:
        asked, sources = self._asked(row)
        text = self.writing.judged(reply, asked)
        if isinstance(text, Rejected):
            additions.reject(self.part, row, text.reason, text.detail)
            return
        captioned = self.config.of == "captions"
        query = replace(row_to_item(row), text="") if captioned else row_to_item(row)
        told = {"model": self.writing.writer.name, "prompt": asked.hash, "sources": [row["id"], *sources], "cached": reply.cached}
        additions.add(
            query, text, row["text"] if captioned else row["answer"], **told, prompt_tokens=reply.prompt_tokens, tokens=reply.tokens
        )

    def _requests(self) -> Iterator[Request]:
        return (self._asked(row)[0] for row in self._rows(pictures=False))

    def _rows(self, pictures: bool = True) -> Iterator[dict[str, Any]]:
        if self.config.of == "triples":
            columns = ["id", "text", "split", "answer", "evidence"]
            for rows in training_rows(self.curate, None if pictures else columns):
                yield from rows
            return
        for table in part_tables(self.curate, "corpus", rows=BATCH):
            for row in table.to_pylist():
                if row["text"] and row["images"] and row["id"] not in self.held_out:
                    yield row

    def _asked(self, row: dict[str, Any]) -> tuple[Request, list[str]]:
        """What is asked about a row, and the candidates that go into it."""
        if self.config.of == "captions":
            return request("captions", {"caption": row["text"]}, self.config.judge), []
        sources = [id for id in row["evidence"] if id in self.evidence][: self.config.evidence]
        fields = {"question": row["text"], "answer": row["answer"], "evidence": [self.evidence[id] for id in sources]}
        return request("triples", fields, self.config.judge), sources
