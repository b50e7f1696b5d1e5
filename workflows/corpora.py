"""Corpora at the command line: `validate` says what training would reject and where, `convert` writes one format as another."""

import json
import logging
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import time
from typing import TypeVar

import pyarrow.compute as pc
import ray
import ray.data  # which sets its logger up

from mirepoix.components.corpus.parts import modalities, part_files, part_tables
from mirepoix.components.curation import curate
from mirepoix.components.curation.curate import MERGED, CurateConfig
from mirepoix.components.curation.leakage import TRAIN
from mirepoix.components.ingestion import sources
from mirepoix.components.ingestion.formats.writing import SEVERAL
from mirepoix.components.ingestion.readers import FORMATS, Source, is_small, opened
from mirepoix.components.ingestion.sources import SourcesConfig
from mirepoix.components.pairs.pairs import UNCAPTIONED, PairsConfig, untrainable
from mirepoix.models.errors import Refused
from mirepoix.serving.store import Context
from mirepoix.workflows.cluster.ray_cluster import private_cluster
from mirepoix.workflows.runner.progress import Display, Note

UNANSWERED = "no answer is left"
HUNG = ("answer was rejected", "query was rejected", UNANSWERED)
"""Reasons of rows that only hung on one that is rejected."""
UNJOINED = {"unknown item": ("corpus",), "unknown query": ("queries",), "duplicate id": ("corpus", "queries")}
"""Reasons of judgements that may do, if what they name in these parts is rejected and not merely missing."""
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
    """What a corpus holds, and what of it training would reject."""

    faults: list[Finding]
    hung: int  # of these, rows that would stand if another was not rejected
    copies: list[Finding]  # rows that training would take as one with another
    formats: dict[str, str]  # of each source
    candidates: dict[str, int]  # by modality
    queries: dict[str, dict[str, int]]  # by split and task
    judgements: dict[str, int]
    notices: list[dict[str, str]]  # what of whole files is left aside
    refusal: str  # why a run would stop here

    def text(self) -> str:
        lines = [f"{name}: {form}" for name, form in self.formats.items()]
        lines.append("candidates  " + (", ".join(f"{letters} {count:,}" for letters, count in sorted(self.candidates.items())) or "none"))
        for split, tasks in sorted(self.queries.items()):
            lines.append(f"queries     {split}: " + ", ".join(f"{task} {count:,}" for task, count in sorted(tasks.items())))
        lines.append("judgements  " + (", ".join(f"{kind} {count:,}" for kind, count in self.judgements.items()) or "none"))
        lines += _aside(self.notices)
        for what, faults in (("merged", self.copies), ("rejected", self.faults)):
            reasons = Counter((fault.part, fault.reason) for fault in faults)
            lines += [f"{what:<11} {count:,} of {part}: {reason}" for (part, reason), count in reasons.most_common()]
        lines.append(self._sum())
        if self.refusal:
            lines.append(f"a run would stop: {self.refusal}")
        return "\n".join(lines)

    def _sum(self) -> str:
        rows, alone = len(self.faults), len(self.faults) - self.hung
        if not rows:
            return "nothing would be rejected"
        themselves, them = ("itself", "it") if alone == 1 else ("themselves", "them")
        why = f": {alone:,} at fault {themselves}, {self.hung:,} that hung on {them}" if self.hung else ""
        return f"{rows:,} row{'s' if rows > 1 else ''} would be rejected{why}"


@dataclass(frozen=True)
class ValidationPlan:
    """What a run would do with a corpus up to its pairs."""

    sources: SourcesConfig
    curate: CurateConfig = CurateConfig()
    pairs: PairsConfig = PairsConfig(adapt_tasks=())
    seed: int = 0


def validate(plan: ValidationPlan) -> Findings:
    """Reads and curates the sources as a run would, with what can be read where a run would stop, and throws the result away."""
    config, rules, seed = plan.sources, plan.curate, plan.seed
    named = opened(config.path, config.format, config.images)
    workers = nullcontext() if ray.is_initialized() else private_cluster()
    with TemporaryDirectory(prefix="mirepoix-validate-") as scratch, workers:
        read, kept = Path(scratch) / "read", Path(scratch) / "kept"
        refusal, notices = "", []
        try:
            outcome, refusal = _staged("reading", read, partial(sources.brought, config=config), seed)
            notices = outcome.tables["notices"]
        except Refused as error:  # what led to it stands in the rejects
            if not part_files(read, "rejects"):
                raise
            refusal = str(error)
        else:
            kept, stop = _curated(read, rules, seed)
            refusal = refusal or stop
        adapted = () if plan.pairs.adapt_captions else plan.pairs.adapt_tasks
        refusal = refusal or _untrainable(kept, {"adapt": adapted, "instruct": plan.pairs.instruct_tasks})
        faults = _told(_faults(read, named), _faults(kept, named))
        candidates: Counter[str] = Counter()
        for table in part_tables(kept, "corpus", ["text", "images", "video"]):
            candidates.update(code.letters for code in modalities(table))
        if plan.pairs.adapt_captions and not any("t" in letters and len(letters) > 1 for letters in candidates):
            refusal = refusal or UNCAPTIONED
        queries: dict[str, Counter[str]] = {}
        for table in part_tables(kept, "queries", ["split", "task"]):
            for split, task in zip(table["split"].to_pylist(), table["task"].to_pylist(), strict=True):
                queries.setdefault(split, Counter())[task] += 1
        judged = Counter(
            "answers" if relevance > 0 else "judged irrelevant"
            for table in part_tables(kept, "qrels", ["relevance"])
            for relevance in table["relevance"].to_pylist()
        )
    copies = sorted(fault for fault in faults if fault.reason in MERGED)
    rest = sorted(fault for fault in faults if fault.reason not in MERGED)
    forms = {source.place.name: source.format for source in named}
    plain = {split: dict(tasks) for split, tasks in queries.items()}
    return Findings(rest, _hung(rest), copies, forms, dict(candidates), plain, dict(judged), notices, refusal)


def _told(read: list[Finding], curated: list[Finding]) -> list[Finding]:
    """The faults of both stages; where a file breaks off, queries may have their answers in the rest of it, and are not told for that."""
    if any(fault.reason == "unreadable" for fault in read):
        curated = [fault for fault in curated if UNANSWERED not in (fault.reason, fault.detail)]
    return read + curated


def _curated(read: Path, rules: CurateConfig, seed: int) -> tuple[Path, str]:
    """What curation keeps, and why a run would stop there: what a run stops at is curated all the same, so that every row is told."""
    refusal = ""
    for name, applied in (("kept", rules), ("kept-all-the-same", replace(rules, max_rejected=1.0))):
        kept = read.with_name(name)
        try:
            _staged("curating", kept, partial(curate.work, config=applied, sources=read), seed)
            break
        except Refused as error:
            refusal = refusal or str(error)
    return kept, refusal


def _untrainable(kept: Path, tasks: Mapping[str, tuple[str, ...] | None]) -> str:
    """Why a run without passages would stop at its pairs, given the tasks that each training asks for; empty if it would not."""
    splits: Counter[str] = Counter()
    training: dict[str, str] = {}  # id, task
    for table in part_tables(kept, "queries", ["id", "split", "task"]):
        splits.update(table["split"].to_pylist())
        asked = table.filter(pc.equal(table["split"], TRAIN))
        training.update(zip(asked["id"].to_pylist(), asked["task"].to_pylist(), strict=True))
    found: set[str] = set()
    for table in part_tables(kept, "qrels", ["query_id", "relevance"]):
        answered = table.filter(pc.greater(table["relevance"], 0))["query_id"].to_pylist()
        found.update(training[query] for query in answered if query in training)
    if found:
        return next(filter(None, (untrainable(name, wanted or (), found) for name, wanted in tasks.items())), "")
    there = ", ".join(f"of {split} there are {count:,}" for split, count in sorted(splits.items())) or "there is no query"
    reason = f"no pair is left to train on: no judgement above 0 is of a query of the split {TRAIN} ({there})"
    triples = sum(pc.sum(pc.equal(table["split"], TRAIN)).as_py() or 0 for table in part_tables(kept, "triples", ["split"]))
    if triples:
        return f"{reason}; of the {triples:,} triples of {TRAIN} passages can be made: set passages.kind to vid2r or written"
    return f"{reason}; bring a source to train on, or call a split {TRAIN}, as sources.splits=dev={TRAIN} does"


def _hung(faults: list[Finding]) -> int:
    """How many rows are rejected only because another is; told by their reasons, and by the ids of those that are."""
    lost = {(fault.part, fault.id) for fault in faults if fault.reason not in (*HUNG, "no answer")}
    hung, deprived = 0, set()  # queries that a judgement was lost of
    for fault in faults:
        if fault.part == "qrels":
            query, _, item = fault.id.partition(" ")
            named = {"queries": query, "corpus": item}
            hung += any((part, named[part]) in lost for part in UNJOINED.get(fault.reason, ()))
            if fault.reason not in ("query was rejected", "unknown query"):
                deprived.add(query)
    return hung + sum(fault.reason in HUNG or (fault.reason == "no answer" and fault.id in deprived) for fault in faults)


def _aside(notices: list[dict[str, str]]) -> list[str]:
    """Notices as lines."""
    return [f"left aside  {told['source']}: {told['detail']}" for told in notices]


def _staged(name: str, folder: Path, work: Callable[[Context], T], seed: int) -> T:
    """A stage's work outside of a run, with its progress shown."""
    folder.mkdir()
    ray_data = logging.getLogger(ray.data.__name__)  # here it would speak into our lines; in a run it speaks into Ray's logs
    told = ray_data.level
    ray_data.setLevel(logging.ERROR)
    display = Display()
    display.begin(name)

    def report(numbers: dict[str, float]) -> None:
        display.show(Note(name, time(), {key: float(number) for key, number in numbers.items()}))
        display.refresh()

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The maximum number of concurrent tasks", UserWarning)  # of Ray Data, of a small corpus
            return work(Context(folder, str(folder.with_name(f"{folder.name}-scratch")), report, seed))
    except Exception as error:
        # What it was iterating over ends here: Ray Data waits for ever for a cluster that is gone.
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        display.close()
        ray_data.setLevel(told)


def _faults(folder: Path, named: list[Source]) -> list[Finding]:
    """The rejects of a stage, with the paths that the user knows."""
    homes = {source.place.name: source.place.home for source in named}
    found = []
    for table in part_tables(folder, "rejects"):
        for row in table.to_pylist():
            name, _, file = (row["source"] or "").partition("/")
            place = f"{homes[name]}/{file}" if name in homes and file else row["source"] or "unknown place"
            found.append(Finding(place, row["line"] or 0, row["part"] or "", row["id"] or "", row["reason"], row["detail"] or ""))
    return found


def validated(plan: ValidationPlan, as_json: bool, copies: bool) -> int:
    """Prints what `validate` finds; 1 if training would reject anything, or stop."""
    found = validate(plan)
    if as_json:
        print(json.dumps(asdict(found), indent=1, ensure_ascii=False))
    else:
        for fault in sorted([*found.faults, *(found.copies if copies else ())]):
            print(fault)
        print(found.text(), file=sys.stderr if found.faults or found.refusal else sys.stdout)
    return 1 if found.faults or found.refusal else 0


def converted(config: SourcesConfig, form: str, target: Path) -> int:
    """Writes the sources as one folder of another format; 1 if rows were left out."""
    module = FORMATS.get(form)
    writers = [name for name, known in FORMATS.items() if hasattr(known, "write")]
    if module is None or form not in writers:
        raise Refused(f"format {form!r} cannot be written; give one of {', '.join(writers)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Refused(f"{target} is there already; give a folder that is new or empty")
    named = opened(config.path, config.format, config.images)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix="mirepoix-convert-", dir=target.parent) as scratch,
        nullcontext() if is_small(named) else private_cluster(),
    ):
        read, draft = Path(scratch) / "read", Path(scratch) / "draft"
        outcome = _staged("reading", read, partial(sources.work, config=config), 0)
        faults = sorted(_faults(read, named))
        draft.mkdir()
        left = module.write(draft, read)
        if target.is_dir():
            target.rmdir()
        draft.rename(target)
    for line in (*faults, *_aside(outcome.tables["notices"])):
        print(line, file=sys.stderr)
    counts = ", ".join(f"{name} {count:,.0f}" for name, count in outcome.metrics.items())
    print(f"{target}: {form}; {counts}")
    for what, count in left.items():
        lost = f"not the same when {form} is read again" if what == SEVERAL else f"left out, as {form} has no place for it"
        print(f"{lost}: {count:,} {what}", file=sys.stderr)
    return 1 if faults or left else 0
