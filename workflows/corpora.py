"""The commands `validate`, which names the rows that training would reject by file and line, and `convert`, which rewrites a corpus.

A small corpus is read and curated in this process; Ray is imported, and a private cluster started, only for a larger one.
"""

import json
import logging
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import Any, TypeVar

from mirepoix.components.corpus.parts import modalities, part_files, part_tables
from mirepoix.components.curation import curate, row_checks
from mirepoix.components.curation.curate import MERGED
from mirepoix.components.curation.curate_config import CurateConfig
from mirepoix.components.ingestion import sources
from mirepoix.components.ingestion.formats.writing import SEVERAL
from mirepoix.components.ingestion.readers import FORMAT_MODULES, Source, is_small
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.pairs.corpus_check import LEAKAGE, corpus_problems
from mirepoix.components.pairs.corpus_check_config import CorpusCheckConfig
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.components.stage import Context
from mirepoix.models.errors import Refused
from mirepoix.workflows.runner.progress import Display, ProgressReport

UNANSWERED = "no answer is left"
DEPENDENT = ("answer was rejected", "query was rejected", UNANSWERED)
"""Reasons of rows that are rejected only because a row that they refer to is."""
UNJOINED = {"unknown item": ("corpus",), "unknown query": ("queries",), "duplicate id": ("corpus", "queries")}
"""Reasons of judgements that may be dependent in the same way, if the row that they name in these parts is rejected, not missing."""
T = TypeVar("T")


@dataclass(frozen=True, order=True)
class Finding:
    """One row that training would not use."""

    file: str
    line: int
    part: str
    id: str
    reason: str
    detail: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.reason}{f': {self.detail}' if self.detail else ''} ({self.part} {self.id or 'without id'})"


@dataclass(frozen=True)
class Findings:
    """The contents of a corpus by kind, the rows that training would reject, and the reason for which a run would stop."""

    rejected: list[Finding]
    dependent: int  # of these, rows that are rejected only because a row that they refer to is
    copies: list[Finding]  # rows that training would merge with another
    formats: dict[str, str]  # of each source
    candidates: dict[str, int]  # by modality
    queries: dict[str, dict[str, int]]  # by split and task
    judgements: dict[str, int]
    notices: list[dict[str, str]]  # files, columns and rows that are not read, and not counted as rejected
    refusals: list[str]  # why a run would stop with this corpus, a line each

    def text(self) -> str:
        lines = [f"{name}: {form}" for name, form in self.formats.items()]
        lines.append("candidates  " + (", ".join(f"{letters} {count:,}" for letters, count in sorted(self.candidates.items())) or "none"))
        for split, tasks in sorted(self.queries.items()):
            lines.append(f"queries     {split}: " + ", ".join(f"{task} {count:,}" for task, count in sorted(tasks.items())))
        lines.append("judgements  " + (", ".join(f"{kind} {count:,}" for kind, count in self.judgements.items()) or "none"))
        lines += _notice_lines(self.notices)
        for what, findings in (("merged", self.copies), ("rejected", self.rejected)):
            reasons = Counter((finding.part, finding.reason) for finding in findings)
            lines += [f"{what:<11} {count:,} of {part}: {reason}" for (part, reason), count in reasons.most_common()]
        lines.append(self._total())
        lines += [f"a run would stop: {refusal}" for refusal in self.refusals]
        return "\n".join(lines)

    def _total(self) -> str:
        rows, own = len(self.rejected), len(self.rejected) - self.dependent
        if not rows:
            return "nothing would be rejected"
        why = f": {own:,} for reasons of their own, {self.dependent:,} because they refer to these" if self.dependent else ""
        return f"{rows:,} row{'s' if rows > 1 else ''} would be rejected{why}"


@dataclass(frozen=True)
class ValidationPlan:
    """The configs that a run would apply to a corpus, up to its pairs."""

    sources: SourcesConfig
    curate: CurateConfig = CurateConfig()
    asked: CorpusCheckConfig = CorpusCheckConfig({"pairs": PairsConfig(adapt_tasks=())}, evaluated=False)
    seed: int = 0


def validate(plan: ValidationPlan) -> Findings:
    """Reads and curates the sources as a run would, but goes on where a run would stop; the result is not kept."""
    config, rules, seed = plan.sources, plan.curate, plan.seed
    named = sources.opened(config)
    with TemporaryDirectory(prefix="mirepoix-validate-") as scratch, ExitStack() as resources:
        read, kept = Path(scratch) / "read", Path(scratch) / "kept"
        refusal, notices = "", []
        leakage: list[dict[str, Any]] = []
        resources.enter_context(_cluster_unless(is_small(named)))
        try:
            outcome, refusal = _run_stage("reading", read, partial(sources.read_sources, config=config, sources=named), seed)
            notices = outcome.tables["notices"]
        except Refused as error:  # the rejects that were written say what led to it
            if not part_files(read, "rejects"):
                raise
            refusal = str(error)
        else:
            resources.enter_context(_cluster_unless(row_checks.is_small(read)))
            kept, leakage, stop = _curate_all(read, rules, seed)
            refusal = refusal or stop
        findings = _without_consequences(_read_findings(read, named), _read_findings(kept, named))
        candidates: Counter[str] = Counter()
        for table in part_tables(kept, "corpus", ["text", "images", "video"]):
            candidates.update(code.letters for code in modalities(table))
        refusals = [refusal] if refusal else corpus_problems(kept, plan.asked, leakage)
        queries: dict[str, Counter[str]] = {}
        for table in part_tables(kept, "queries", ["split", "task"]):
            for split, task in zip(table["split"].to_pylist(), table["task"].to_pylist(), strict=True):
                queries.setdefault(split, Counter())[task] += 1
        judged = Counter(
            "answers" if relevance > 0 else "judged irrelevant"
            for table in part_tables(kept, "qrels", ["relevance"])
            for relevance in table["relevance"].to_pylist()
        )
    copies = sorted(finding for finding in findings if finding.reason in MERGED)
    rest = sorted(finding for finding in findings if finding.reason not in MERGED)
    forms = {source.tree.name: source.format for source in named}
    plain = {split: dict(tasks) for split, tasks in queries.items()}
    return Findings(rest, _count_dependent(rest), copies, forms, dict(candidates), plain, dict(judged), notices, refusals)


@contextmanager
def _cluster_unless(small: bool) -> Iterator[None]:
    """A private cluster if there is none yet, without the log lines of Ray Data; with `small`, no cluster, and Ray is not imported."""
    if small:
        yield
        return
    import ray
    import ray.data  # sets up the logger whose level is changed below

    from mirepoix.workflows.cluster.ray_cluster import private_cluster

    logger = logging.getLogger(ray.data.__name__)
    level = logger.level
    with nullcontext() if ray.is_initialized() else private_cluster():
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _without_consequences(read: list[Finding], curated: list[Finding]) -> list[Finding]:
    """The findings of both stages; if a file could not be read to its end, without queries whose answers may be in its rest."""
    if any(finding.reason == "unreadable" for finding in read):
        curated = [finding for finding in curated if UNANSWERED not in (finding.reason, finding.detail)]
    return read + curated


def _curate_all(read: Path, rules: CurateConfig, seed: int) -> tuple[Path, list[dict[str, Any]], str]:
    """The curated corpus, its table of leakage, and why a run would stop there.

    Where it would, curation is done again without its limit on rejected rows.
    """
    refusal = ""
    for name, applied in (("kept", rules), ("kept-without-limit", replace(rules, max_rejected=1.0))):
        kept = read.with_name(name)
        try:
            outcome = _run_stage("curating", kept, partial(curate.work, config=applied, sources=read), seed)
            return kept, outcome.tables[LEAKAGE], refusal
        except Refused as error:
            refusal = refusal or str(error)
    return kept, [], refusal


def _count_dependent(findings: list[Finding]) -> int:
    """How many rows are rejected only because a row that they refer to is, by their reasons and the ids of the rejected rows."""
    lost = {(finding.part, finding.id) for finding in findings if finding.reason not in (*DEPENDENT, "no answer")}
    dependent, queries_with_rejected_judgements = 0, set[str]()
    for finding in findings:
        if finding.part == "qrels":
            query, _, item = finding.id.partition(" ")
            named = {"queries": query, "corpus": item}
            dependent += any((part, named[part]) in lost for part in UNJOINED.get(finding.reason, ()))
            if finding.reason not in ("query was rejected", "unknown query"):
                queries_with_rejected_judgements.add(query)
    return dependent + sum(
        finding.reason in DEPENDENT or (finding.reason == "no answer" and finding.id in queries_with_rejected_judgements)
        for finding in findings
    )


def _notice_lines(notices: list[dict[str, str]]) -> list[str]:
    return [f"left aside  {notice['source']}: {notice['detail']}" for notice in notices]


def _run_stage(name: str, folder: Path, work: Callable[[Context], T], seed: int) -> T:
    """A stage's work outside of a run, with its progress on the terminal."""
    folder.mkdir()
    display = Display()
    display.begin(name)

    def report(numbers: dict[str, float]) -> None:
        display.update(ProgressReport(name, time(), {key: float(number) for key, number in numbers.items()}))
        display.refresh()

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The maximum number of concurrent tasks", UserWarning)  # Ray Data's, for few rows
            return work(Context(folder, str(folder.with_name(f"{folder.name}-scratch")), report, seed))
    except Exception as error:
        # Frees the iterators that the frames hold: one of Ray Data waits for ever for a cluster that has ended.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        display.close()


def _read_findings(folder: Path, named: list[Source]) -> list[Finding]:
    """The rejects of a stage, with paths as the user gave them."""
    homes = {source.tree.name: source.tree.given_root for source in named}
    found = []
    for table in part_tables(folder, "rejects"):
        for row in table.to_pylist():
            name, _, file = (row["source"] or "").partition("/")
            place = f"{homes[name]}/{file}" if name in homes and file else row["source"] or "unknown place"
            found.append(Finding(place, row["line"] or 0, row["part"] or "", row["id"] or "", row["reason"], row["detail"] or ""))
    return found


def validate_command(plan: ValidationPlan, as_json: bool, copies: bool) -> int:
    """Prints the findings; returns 1 if training would reject a row, or a run would stop."""
    found = validate(plan)
    if as_json:
        print(json.dumps(asdict(found), indent=1, ensure_ascii=False))
    else:
        for finding in sorted([*found.rejected, *(found.copies if copies else ())]):
            print(finding)
        print(found.text(), file=sys.stderr if found.rejected or found.refusals else sys.stdout)
    return 1 if found.rejected or found.refusals else 0


def convert_command(config: SourcesConfig, form: str, target: Path) -> int:
    """Writes the sources as one folder of another format; returns 1 if rows were left out."""
    module = FORMAT_MODULES.get(form)
    writers = [name for name, known in FORMAT_MODULES.items() if hasattr(known, "write")]
    if module is None or form not in writers:
        raise Refused(f"format {form!r} cannot be written; give one of {', '.join(writers)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Refused(f"{target} exists and is not an empty folder; give a folder that is new or empty")
    named = sources.opened(config)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix="mirepoix-convert-", dir=target.parent) as scratch,
        _cluster_unless(is_small(named)),
    ):
        read, draft = Path(scratch) / "read", Path(scratch) / "draft"
        outcome = _run_stage("reading", read, partial(sources.work, config=config, sources=named), 0)
        findings = sorted(_read_findings(read, named))
        draft.mkdir()
        left = module.write(draft, read)
        if target.is_dir():
            target.rmdir()
        draft.rename(target)
    for line in (*findings, *_notice_lines(outcome.tables["notices"])):
        print(line, file=sys.stderr)
    counts = ", ".join(f"{name} {count:,.0f}" for name, count in outcome.metrics.items())
    print(f"{target}: {form}; {counts}")
    for what, count in left.items():
        lost = f"not the same when {form} is read again" if what == SEVERAL else f"left out, as {form} has no place for it"
        print(f"{lost}: {count:,} {what}", file=sys.stderr)
    return 1 if findings or left else 0
