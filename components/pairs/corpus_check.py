"""The stage `check`: refuses a corpus that its run cannot use, straight after curation and before anything is trained on it.

`validate` tells the same. Nothing reads its result: stages that must not start in vain only wait for it.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.corpus.parts import held_out, modality_codes, part_rows, part_tables
from mirepoix.components.curation.leakage import TRAIN
from mirepoix.components.pairs.corpus_check_config import CorpusCheckConfig
from mirepoix.components.pairs.pairs import UNCAPTIONED, training_problem
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.serving.store import read_manifest

LEAKAGE = "leakage"
"""The table of curation that says how many queries other settings would keep."""
MUCH = 0.2
"""Share of rejected queries or judgements from which on it is told; of candidates curate.max_rejected decides."""
MERGED = "judged twice"
SEARCH = "`mirepoix run search` searches a corpus without a training"
HOLD_OUT = "curate.held_out=0.1 holds out a tenth of the training queries"
Table = Sequence[Mapping[str, Any]]


@dataclass
class CorpusCounts:
    """Of a curated corpus the queries with an answer, judged or as texts, by split and task, and what it has besides."""

    answered: Counter[tuple[str, str]] = field(default_factory=Counter)
    trained: set[str] = field(default_factory=set)  # the tasks of training queries with a judged answer
    queries: Counter[str] = field(default_factory=Counter)  # by split, answered or not
    triples: int = 0  # of the split train
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)  # rows of queries and judgements by part and reason

    @classmethod
    def of(cls, kept: Path) -> "CorpusCounts":
        """The counts of a curated folder, without the content of its items."""
        found, known = cls(), {}
        answered: set[str] = set()
        judged: set[str] = set()
        for table in part_tables(kept, "queries", ["id", "split", "task", "answers"]):
            for id, split, task, answers in zip(*(column.to_pylist() for column in table.columns), strict=True):
                known[id] = split, task
                found.queries[split] += 1
                if answers:
                    answered.add(id)
        for table in part_tables(kept, "qrels", ["query_id", "relevance"]):
            judged.update(table.filter(pc.greater(table["relevance"], 0))["query_id"].to_pylist())
        found.answered.update(known[query] for query in answered | judged if query in known)
        found.trained.update(task for split, task in (known[query] for query in judged if query in known) if split == TRAIN)
        for table in part_tables(kept, "triples", ["split"]):
            found.triples += pc.sum(pc.equal(table["split"], TRAIN)).as_py() or 0
        for table in part_tables(kept, "rejects", ["part", "reason"]):
            chosen = table.filter(pc.is_in(table["part"], pa.array(["queries", "qrels"])))
            found.rejected.update(zip(chosen["part"].to_pylist(), chosen["reason"].to_pylist(), strict=True))
        return found

    def splits(self, trained: bool) -> list[str]:
        """The splits with an answered query, without that which is trained on."""
        return sorted({split for split, _ in self.answered if not (trained and split == TRAIN)})


def work(context: Context, config: CorpusCheckConfig, curate: Path) -> Outcome:
    """Refuses a curated corpus with all that keeps the run from using it, and writes down what it counted."""
    manifest = read_manifest(curate)
    tables = manifest.fields.get("tables", {}) if manifest else {}
    counts = CorpusCounts.of(curate)
    if problems := corpus_problems(curate, config, tables.get(LEAKAGE, ()), counts):
        raise Refused(problems[0] if len(problems) == 1 else " ".join(f"({number}) {each}." for number, each in enumerate(problems, 1)))
    answered = {f"answered {split} {task}": float(count) for (split, task), count in sorted(counts.answered.items())}
    (context.folder / "counts.json").write_text(json.dumps(answered, indent=1) + "\n")
    rows = sum(counts.queries.values())
    warnings = [{"detail": share} for share in rejected_shares(curate, counts)]
    return Outcome(Rows(rows, rows), answered, {"warnings": warnings})


def corpus_problems(kept: Path, config: CorpusCheckConfig, leakage: Table = (), counts: CorpusCounts | None = None) -> list[str]:
    """Why a run cannot use a curated corpus, a line each, with what to do; `leakage` is the table that curation made."""
    counts = counts or CorpusCounts.of(kept)
    found = [*_training_problems(kept, config, leakage, counts), *_measuring_problems(config, counts)]
    return list(dict.fromkeys(found))


def _training_problems(kept: Path, config: CorpusCheckConfig, leakage: Table, counts: CorpusCounts) -> list[str]:
    """Trainings without a pair to train on."""
    found, tasks = [], counts.trained
    later = config.passages and counts.triples > 0  # passages are made of triples after this, and are pairs of further tasks
    for pairs in config.pairs.values():
        if pairs.trained_tasks and not later:
            if not tasks:
                found.append(_no_pair(counts, leakage))
            else:
                found += [training_problem(name, wanted, tasks) for name, wanted in pairs.trained_tasks.items()]
        if pairs.adapt_captions and not _captioned(kept):
            found.append(UNCAPTIONED)
    return list(filter(None, found))


def _no_pair(counts: CorpusCounts, leakage: Table) -> str:
    """Why no pair is left to train on, and what would give some."""
    if any(row["training"] for row in leakage) and not leakage[0]["training"]:
        return _all_leak(leakage)
    there = ", ".join(f"of {split} there are {count:,}" for split, count in sorted(counts.queries.items())) or "there is no query"
    reason = f"no pair is left to train on: no judgement above 0 is of a query of the split {TRAIN} ({there})"
    if counts.triples:
        return f"{reason}; of the {counts.triples:,} triples of {TRAIN} passages can be made: set passages.kind to vid2r or written"
    if counts.rejected:
        why = ", ".join(f"{reason} {count:,}" for (_, reason), count in counts.rejected.most_common(3))
        reason = f"{reason}; curation rejected {counts.rejected.total():,} queries and judgements ({why})"
    return f"{reason}; bring a source to train on, or call a split {TRAIN}, as sources.splits=dev={TRAIN} does; {SEARCH}"


def _all_leak(leakage: Table) -> str:
    """Why nothing is left to train on where everything leaks, with what each other setting would keep."""
    now, *others = leakage
    most = max(row["training"] for row in others if row["setting"].startswith("curate.leakage"))
    kept = [f"{row['setting']} would leave {row['training']:,} to train on and {row['held_out']:,} to measure by" for row in others]
    return (
        f"no pair is left to train on: all {most:,} training queries leak, for they or their answers are near-equal to held-out queries or "
        f"to answers of these ({now['setting']}); {'; '.join(kept)}; a score on what was trained on says little: hold out whole groups"
    )


def _captioned(kept: Path) -> bool:
    """Whether a picture or clip that is not held out has a text beside it."""
    held = held_out(kept)
    for table in part_tables(kept, "corpus", ["id", "text", "images", "video"]):
        for id, code in zip(table["id"].to_pylist(), modality_codes(table).tolist(), strict=True):
            if code & Modality.TEXT and code & ~Modality.TEXT and id not in held:
                return True
    return False


def _measuring_problems(config: CorpusCheckConfig, counts: CorpusCounts) -> list[str]:
    """No query to measure by, or none of the split of the headline."""
    if not config.evaluated:
        return []
    there = counts.splits(trained=not config.untrained)
    held = counts.splits(trained=True)
    if config.trained and not held:
        has = "no query is left"
        if counts.answered:
            has = f"all {counts.answered.total():,} queries with an answer are of the split {TRAIN}"
        return [f"no held-out query is left to measure by: {has}; {HOLD_OUT}, and sources.splits=OLD=NEW renames a split"]
    if config.split is not None and there and config.split not in there:
        gives = f"the corpus has answered queries of {', '.join(there)}"
        return [f"evaluate.split is {config.split!r}, and {gives}; give one of these, or evaluate.split=null for the one that is usual"]
    return []


def rejected_shares(kept: Path, counts: CorpusCounts) -> list[str]:
    """Of the queries and of the judgements, how many curation rejected and why, where that is much."""
    found = []
    for part, words in (("queries", "queries"), ("qrels", "judgements")):
        why = Counter({reason: count for (of, reason), count in counts.rejected.items() if of == part and reason != MERGED})
        read = part_rows(kept, part) + why.total()
        if why.total() > MUCH * read:
            reasons = ", ".join(f"{reason} {count:,}" for reason, count in why.most_common(3))
            found.append(f"curation rejected {why.total():,} of {read:,} {words} ({reasons}); mirepoix validate names each")
    return found
