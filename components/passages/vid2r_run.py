"""ViD2R over a corpus: answers that pass its rules and are not found by their question alone are put between their neighbours."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mirepoix.components.corpus.parts import held_out
from mirepoix.components.passages.output import PassageWriter
from mirepoix.components.passages.text_search import Texts, TextSearch, WordRetriever
from mirepoix.components.passages.triples import corpus_texts, count_training, training_rows
from mirepoix.components.passages.vid2r import Answer, apply_rules, noun_finder, passage, text_key
from mirepoix.components.passages.vid2r_config import HEURISTIC, Vid2rConfig
from mirepoix.components.stage import Context
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, content_hash, row_to_item
from mirepoix.serving import store

if TYPE_CHECKING:
    from mirepoix.components.passages.release_search import ReleaseRetriever


class Vid2r:
    """Makes passages of answers: applies the rules, searches the answers by their questions, and adds the neighbours."""

    def __init__(self, context: Context, config: Vid2rConfig, curate: Path, spool: Path):
        self.context, self.config, self.curate, self.spool = context, config, curate, spool
        self.nouns = noun_finder(config.nouns)
        self.held_out = held_out(curate)
        self.retriever = open_retriever(config.retriever)
        self._progress = context.counter(2 * count_training(curate, "vid2r"))
        self.searched = self.first = self.found = self.neighbours = self.alone = 0
        self.reciprocal = 0.0
        self.pictured: dict[bytes, list[tuple[Item, str]]] = {}  # queries and their passages, by the hash of their pictures

    def run(self, output: PassageWriter) -> dict[str, float]:
        """Reads the triples twice: first to index their answers, then to make the passages."""
        knowledge = Texts(self.spool / "knowledge.arrow", corpus_texts(self.curate, alone=True, without=self.held_out))
        if not len(knowledge):
            raise Refused(
                "passages.kind is vid2r and the corpus has no text-only candidate that answers no held-out query; "
                "give a source with texts to search in"
            )
        answers = Texts(self.spool / "answers.arrow", self._answers())
        indexed = self._indexed(answers, "answers") if self.config.found_within and len(answers) else None
        known = self._indexed(knowledge, "knowledge")
        for rows in training_rows(self.curate):
            output.read += len(rows)
            kept = self._needing_pictures(self._ruled(rows, output), indexed, output)
            for (row, answer), hits in zip(kept, known([answer.text for _, answer in kept], self.config.neighbours), strict=True):
                sources = [row["id"], *(hit.id for hit in hits)]
                query = row_to_item(row)
                text = passage(answer, [knowledge[hit.id] for hit in hits], self.config)
                item_id = output.add(query, text, row["answer"], model=self.retriever.name, sources=sources)
                self.neighbours, self.alone = self.neighbours + len(hits), self.alone + (not hits)
                if self.config.negatives:
                    shown = content_hash(replace(query, text=""))
                    self.pictured.setdefault(shown, []).append((replace(query, images=(), video=()), item_id))
            self._progress(len(rows))
        if not output.counts["written"]:
            why = ", ".join(f"{reason}: {count}" for reason, count in output.rejected.items())
            raise Refused(f"none of {output.read} triples gave a passage ({why}); see vid2r.min_characters and the other rules")
        self._judge_others(output)
        return self._metrics(len(answers), len(knowledge))

    def _answers(self) -> Iterator[tuple[str, str]]:
        """The answers that pass the rules, with their keys."""
        for rows in training_rows(self.curate):
            for _, answer in self._ruled(rows, None):
                yield text_key(answer.text), answer.text
            self._progress(len(rows))

    def _indexed(self, texts: Texts, name: str) -> TextSearch:
        return self.retriever.index(texts, store.join(self.context.scratch, name))

    def _ruled(self, rows: list[dict[str, Any]], output: PassageWriter | None) -> list[tuple[dict[str, Any], Answer]]:
        kept = []
        for row in rows:
            pictured = bool(row["images"] or row["video"])
            result = apply_rules(row["text"], row["answer"], pictured, f"{row['source']} {row['id']}", self.config, self.nouns)
            if isinstance(result, Answer):
                kept.append((row, result))
            elif output:
                output.reject("triples", row, result.reason, result.detail)
        return kept

    def _needing_pictures(
        self, kept: list[tuple[dict[str, Any], Answer]], indexed: TextSearch | None, output: PassageWriter
    ) -> list[tuple[dict[str, Any], Answer]]:
        """The rows whose answer is not found by a search with the question alone."""
        if indexed is None or not kept:
            return kept
        remaining = []
        for (row, answer), hits in zip(kept, indexed([row["text"] for row, _ in kept], self.config.found_within), strict=True):
            self.searched += 1
            rank = next((n for n, hit in enumerate(hits, 1) if hit.id == text_key(answer.text)), None)
            if rank is None:
                remaining.append((row, answer))
            else:
                self.found, self.first, self.reciprocal = self.found + 1, self.first + (rank == 1), self.reciprocal + 1 / rank
                output.reject("triples", row, "found by text", f"rank {rank}: {answer.text[:200]}")
        return remaining

    def _judge_others(self, output: PassageWriter) -> None:
        """Writes judgements that the other answers about the same picture do not answer a question."""
        for queries in self.pictured.values():
            for query, own in queries:
                for other in dict.fromkeys(item_id for _, item_id in queries if item_id != own):
                    output.judge(query, other, 0)

    def _metrics(self, answers: int, knowledge: int) -> dict[str, float]:
        return {
            "nouns_by_spacy": float(self.config.nouns != HEURISTIC),
            "knowledge_base": knowledge,
            "held_out_answers": len(self.held_out),
            "filter_answers": answers,
            "filter_questions": self.searched,
            "filter_found": self.found,
            "filter_found_first": self.first,
            "filter_mean_reciprocal_rank": self.reciprocal / max(1, self.searched),
            "neighbours": self.neighbours,
            "without_neighbours": self.alone,
        }


def open_retriever(name: str) -> "WordRetriever | ReleaseRetriever":
    """The retriever that `vid2r.retriever` names; only a release imports its encoder's libraries."""
    if name == WordRetriever.name:
        return WordRetriever()
    from mirepoix.components.passages.release_search import ReleaseRetriever

    return ReleaseRetriever(name)
