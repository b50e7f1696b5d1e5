"""Passages written by a language model, from a question with its answer and evidence, or from a picture's caption."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirepoix.components.corpus.parts import held_out, part_rows, part_tables
from mirepoix.components.generation.prompts import Rejected, Request, request
from mirepoix.components.generation.replies import Reply
from mirepoix.components.generation.writing import Writing
from mirepoix.components.passages.output import PassageWriter
from mirepoix.components.passages.passages_config import WrittenConfig
from mirepoix.components.passages.text_search import Texts
from mirepoix.components.passages.triples import BATCH, corpus_texts, count_training, training_rows
from mirepoix.components.stage import Context
from mirepoix.models.errors import Refused
from mirepoix.models.item import row_to_item


class Written:
    """Requests passages from a language model, and accepts or rejects its answers."""

    def __init__(self, context: Context, config: WrittenConfig, curate: Path, spool: Path):
        self.context, self.config, self.curate = context, config, curate
        self.part = "triples" if config.of == "triples" else "corpus"
        self.total = count_training(curate, "written") if config.of == "triples" else part_rows(curate, "corpus")
        self.writing = Writing(context, config.writer, config.judge, config.spending, "passages.written.spending")
        self.held_out = held_out(curate)
        texts = corpus_texts(curate, alone=False, without=self.held_out) if config.of == "triples" else ()
        self.evidence = Texts(spool / "evidence.arrow", texts)

    def run(self, output: PassageWriter) -> dict[str, float]:
        """Reads the rows twice at the same time: without pictures for the requests ahead, and with pictures for the output."""
        with self.writing.replies(self._requests) as replies:
            for row, reply in zip(self._rows(), replies, strict=True):
                output.read += 1
                self._take(row, reply, output)
                if output.read % BATCH == 0:
                    self.context.report({"step": output.read, "total": self.total})
        if not output.read:
            raise Refused("passages.written.of is captions and no candidate has a caption and a picture; give a corpus that has some")
        figures = self.writing.finish()
        self.context.report({"step": self.total, "total": self.total})
        return {**figures, "held_out_answers": len(self.held_out)}

    def _take(self, row: dict[str, Any], reply: Reply, output: PassageWriter) -> None:
        request, sources = self._request(row)
        text = self.writing.judged(reply, request)
        if isinstance(text, Rejected):
            output.reject(self.part, row, text.reason, text.detail)
            return
        captioned = self.config.of == "captions"
        query = replace(row_to_item(row), text="") if captioned else row_to_item(row)
        record = {"model": self.writing.writer.name, "prompt": request.hash, "sources": [row["id"], *sources], "cached": reply.cached}
        output.add(
            query, text, row["text"] if captioned else row["answer"], **record, prompt_tokens=reply.prompt_tokens, tokens=reply.tokens
        )

    def _requests(self) -> Iterator[Request]:
        return (self._request(row)[0] for row in self._rows(pictures=False))

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

    def _request(self, row: dict[str, Any]) -> tuple[Request, list[str]]:
        """The request for a row, and the ids of the candidates in its prompt."""
        if self.config.of == "captions":
            return request("captions", {"caption": row["text"]}, self.config.judge), []
        sources = [id for id in row["evidence"] if id in self.evidence][: self.config.evidence]
        fields = {"question": row["text"], "answer": row["answer"], "evidence": [self.evidence[id] for id in sources]}
        return request("triples", fields, self.config.judge), sources
