"""Writing texts for rows with a language model: requests, accepted answers, and their cost."""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any

from mirepoix.components.generation.prompts import Rejected, Request, judged
from mirepoix.components.generation.replies import Reply, ReplyStore
from mirepoix.components.generation.writer import open_writer
from mirepoix.components.generation.writer_config import JudgeConfig, SpendingConfig, WriterConfig
from mirepoix.components.stage import Context
from mirepoix.models.errors import Refused

_FEW = 10  # failures up to which the share of failures is not tested


class Writing:
    """A writer with its reply store, and the counts of accepted, failed and cached replies."""

    def __init__(self, context: Context, writer: WriterConfig, judge: JudgeConfig, spending: SpendingConfig, setting: str):
        self.writer = open_writer(writer, context.seed)
        self.reply_store = ReplyStore(spending, context.scratch, self.writer.identity)
        self.judge, self.most_failed = judge, spending.max_failed
        self.setting = setting  # the dotted name of the spending in the config
        self.last = ""  # failure
        self.read = self.failed = self.unsent = self.cached = self.prompt_tokens = self.tokens = 0

    def replies(self, requests: Callable[[], Iterator[Request]]) -> closing[Generator[Reply, None, None]]:
        """The replies, in the order of the requests; to be used in a `with`."""
        replies: Any = self.writer.write(requests, self.reply_store)  # a generator
        return closing(replies)

    def judged(self, reply: Reply, request: Request) -> str | Rejected:
        """The accepted text of a reply, or why it is rejected; refused when the writer fails too often."""
        self.read, self.cached = self.read + 1, self.cached + reply.cached
        self.prompt_tokens, self.tokens = self.prompt_tokens + reply.prompt_tokens, self.tokens + reply.tokens
        text = judged(reply, request, self.judge)
        if isinstance(text, Rejected):
            self.unsent += text.reason == "budget"
            if text.reason in ("failed", "declined"):
                self.failed, self.last = self.failed + 1, text.detail
                self._refuse_failures(_FEW)
        return text

    def finish(self) -> dict[str, float]:
        """The metrics of all replies; refused where too many failed."""
        self._refuse_failures(0)
        return {
            "requests": self.reply_store.requests,
            "sent_again": self.reply_store.counts["sent again"],
            "cached": self.cached,
            "paid_tokens": self.reply_store.tokens,
            "prompt_tokens": self.prompt_tokens,
            "tokens": self.tokens,
            "stopped_by_budget": float(self.unsent > 0),
            "damaged_replies": self.reply_store.counts["damaged"],
        }

    def _refuse_failures(self, few: int) -> None:
        sent, most = self.read - self.unsent, self.most_failed
        if self.failed > few and self.failed > most * sent:
            raise Refused(
                f"{self.failed} of {sent} rows failed (the last: {self.last}), more than the share "
                f"{self.setting}.max_failed={most}; correct the endpoint and run again (its replies are cached), or raise it"
            )
