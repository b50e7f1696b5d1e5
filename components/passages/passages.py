"""What a corpus lacks to train on: passages made of concise answers (ViD2R), or written by a language model.

Only triples of the split train are read. The parts that come out are those of `additions.py`; pictures are held some at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from mirepoix.components.generation.local import LocalConfig
from mirepoix.components.generation.writing import Written, WrittenConfig
from mirepoix.components.passages.output import PassageWriter
from mirepoix.components.passages.text_search import Texts, TextSearch, open_retriever
from mirepoix.components.passages.triples import corpus_texts, count_training, held_out, training_rows
from mirepoix.components.passages.vid2r import BM25, HEURISTIC, Answer, Vid2rConfig, noun_finder, passage, ruled, text_key
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, content_hash, row_to_item
from mirepoix.models.options import option, refuse_unknown
from mirepoix.serving import store
from mirepoix.serving.store import Context, Outcome


@dataclass(frozen=True)
class PassagesConfig:
    """Which passages are added to train on."""

    kind: Literal["none", "vid2r", "written"] = option(
        "none", "none: no passage; vid2r: of concise answers and their neighbours; written: by a language model"
    )
    vid2r: Vid2rConfig = option(Vid2rConfig, "how concise answers become passages")
    written: WrittenConfig = option(WrittenConfig, "how a language model writes them")

    def __post_init__(self) -> None:
        refuse_unknown(self, "passages.")


def prepared(config: PassagesConfig) -> PassagesConfig:
    """The config with the fingerprints of what it reads from outside; refused where that is not there."""
    vid2r, writer = config.vid2r, config.written.writer
    if config.kind == "vid2r" and vid2r.retriever != BM25:
        manifest = store.read_manifest(vid2r.retriever)
        if manifest is None:
            raise Refused(
                f"vid2r.retriever is {vid2r.retriever!r}, and no release was published there; give {BM25}, or one's folder or URI"
            )
        return replace(config, vid2r=replace(vid2r, fingerprint=manifest.digest))
    if config.kind == "written" and isinstance(writer, LocalConfig):
        return replace(config, written=replace(config.written, writer=writer.fingerprinted()))
    return config


def work(context: Context, config: PassagesConfig, curate: Path) -> Outcome:
    """Writes the passages, with the queries that they answer."""
    metrics: dict[str, float] = {}
    with PassageWriter(context.folder, config.kind) as additions, TemporaryDirectory(dir=context.folder) as spool:
        if config.kind == "vid2r":
            metrics = _Vid2r(context, config.vid2r, curate, Path(spool)).run(additions)
        elif config.kind == "written":
            metrics = Written(context, config.written, curate, Path(spool)).run(additions)
    return additions.outcome(metrics)


class _Vid2r:
    """Answers become passages: ruled, looked for by their questions, and put between their neighbours."""

    def __init__(self, context: Context, config: Vid2rConfig, curate: Path, spool: Path):
        self.context, self.config, self.curate, self.spool = context, config, curate, spool
        self.nouns = noun_finder(config.nouns)
        self.held_out = held_out(curate)
        self.retriever = open_retriever(config.retriever)
        self.total, self.done = 2 * count_training(curate, "vid2r"), 0
        self.looked_for = self.first = self.found = self.neighbours = self.alone = 0
        self.reciprocal = 0.0
        self.pictured: dict[bytes, list[tuple[Item, str]]] = {}  # queries and their passages, by what they show

    def run(self, additions: PassageWriter) -> dict[str, float]:
        """Reads the triples twice: once for the answers that are searched, once for the passages."""
        knowledge = Texts(self.spool / "knowledge.arrow", corpus_texts(self.curate, alone=True, without=self.held_out))
        if not len(knowledge):
            raise Refused(
                "passages.kind is vid2r and the corpus has no candidate of text alone that answers no held-out query; "
                "bring a source with texts to search in"
            )
        answers = Texts(self.spool / "answers.arrow", self._answers())
        indexed = self._indexed(answers, "answers") if self.config.found_within and len(answers) else None
        known = self._indexed(knowledge, "knowledge")
        for rows in training_rows(self.curate):
            additions.read += len(rows)
            kept = self._needing_pictures(self._ruled(rows, additions), indexed, additions)
            for (row, answer), hits in zip(kept, known([answer.text for _, answer in kept], self.config.neighbours), strict=True):
                told = {"model": self.retriever.name, "sources": [row["id"], *(hit.id for hit in hits)]}
                query = row_to_item(row)
                text = passage(answer, [knowledge[hit.id] for hit in hits], self.config)
                item_id = additions.add(query, text, row["answer"], **told)
                self.neighbours, self.alone = self.neighbours + len(hits), self.alone + (not hits)
                if self.config.negatives:
                    shown = content_hash(replace(query, text=""))
                    self.pictured.setdefault(shown, []).append((replace(query, images=(), video=()), item_id))
            self._progress(len(rows))
        if not additions.counts["written"]:
            lost = ", ".join(f"{reason}: {count}" for reason, count in additions.lost.items())
            raise Refused(f"not one of {additions.read} triples became a passage ({lost}); see vid2r.min_characters and the other rules")
        self._judge_others(additions)
        return self._metrics(len(answers), len(knowledge))

    def _answers(self) -> Iterator[tuple[str, str]]:
        """The answers that the rules let pass, each once, by their own keys."""
        for rows in training_rows(self.curate):
            for _, answer in self._ruled(rows, None):
                yield text_key(answer.text), answer.text
            self._progress(len(rows))

    def _indexed(self, texts: Texts, name: str) -> TextSearch:
        return self.retriever.index(texts, store.join(self.context.scratch, name))

    def _ruled(self, rows: list[dict[str, Any]], additions: PassageWriter | None) -> list[tuple[dict[str, Any], Answer]]:
        kept = []
        for row in rows:
            pictured = bool(row["images"] or row["video"])
            said = ruled(row["text"], row["answer"], pictured, f"{row['source']} {row['id']}", self.config, self.nouns)
            if isinstance(said, Answer):
                kept.append((row, said))
            elif additions:
                additions.reject("triples", row, said.reason, said.detail)
        return kept

    def _needing_pictures(
        self, kept: list[tuple[dict[str, Any], Answer]], indexed: TextSearch | None, additions: PassageWriter
    ) -> list[tuple[dict[str, Any], Answer]]:
        """Those whose answers a search with the question alone does not find."""
        if indexed is None or not kept:
            return kept
        standing = []
        for (row, answer), hits in zip(kept, indexed([row["text"] for row, _ in kept], self.config.found_within), strict=True):
            self.looked_for += 1
            rank = next((n for n, hit in enumerate(hits, 1) if hit.id == text_key(answer.text)), None)
            if rank is None:
                standing.append((row, answer))
            else:
                self.found, self.first, self.reciprocal = self.found + 1, self.first + (rank == 1), self.reciprocal + 1 / rank
                additions.reject("triples", row, "found by text", f"rank {rank}: {answer.text[:200]}")
        return standing

    def _judge_others(self, additions: PassageWriter) -> None:
        """Other answers about the same picture do not answer a question."""
        for asked in self.pictured.values():
            for query, own in asked:
                for other in dict.fromkeys(item_id for _, item_id in asked if item_id != own):
                    additions.judge(query, other, 0)

    def _progress(self, rows: int) -> None:
        self.done += rows
        self.context.report({"step": self.done, "total": self.total})

    def _metrics(self, answers: int, knowledge: int) -> dict[str, float]:
        return {
            "nouns_by_spacy": float(self.config.nouns != HEURISTIC),
            "knowledge_base": knowledge,
            "held_out_answers": len(self.held_out),
            "filter_answers": answers,
            "filter_questions": self.looked_for,
            "filter_found": self.found,
            "filter_found_first": self.first,
            "filter_mean_reciprocal_rank": self.reciprocal / max(1, self.looked_for),
            "neighbours": self.neighbours,
            "without_neighbours": self.alone,
        }
