"""The command `validate`, which names the rows that training would reject by file and line, and why a run would stop.

A small corpus is read and curated in this process; Ray is imported, and a private cluster started, only for a larger one.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mirepoix.components.corpus.parts import modalities, part_files, part_tables
from mirepoix.components.curation import curate, row_checks
from mirepoix.components.curation.curate_config import MERGED, CurateConfig
from mirepoix.components.evaluation.evaluate_config import EvaluateConfig
from mirepoix.components.ingestion import sources
from mirepoix.components.ingestion.readers import is_small
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.components.pairs.corpus_check import LEAKAGE, corpus_problems
from mirepoix.components.pairs.corpus_check_config import CorpusCheckConfig
from mirepoix.components.pairs.pairs_config import PairsConfig
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.workflows.checks.findings import UNANSWERED, Finding, Findings, find_causes, find_same_pictures, read_findings, write_findings
from mirepoix.workflows.checks.hints import find_hints
from mirepoix.workflows.checks.reading import cluster_unless, run_stage
from mirepoix.workflows.config import override, parse
from mirepoix.workflows.config import read as read_config
from mirepoix.workflows.dag.retrieval import Data
from mirepoix.workflows.dag.revision import Revision
from mirepoix.workflows.recipes.recipe_file import is_recipe_file, is_revision
from mirepoix.workflows.recipes.registry import resolve


@dataclass(frozen=True)
class Validated(Data):
    """What `validate` applies where no recipe is named: the default rules, and all tasks."""

    pairs: PairsConfig = option(lambda: PairsConfig(adapt_tasks=()), "pairs that would be trained on")
    evaluate: EvaluateConfig = option(EvaluateConfig, "of which only the split is looked at")

    @property
    def corpus_check(self) -> CorpusCheckConfig:
        """What is asked of the corpus: pairs, and queries to measure by only where a split is named."""
        split, passages = self.evaluate.split, self.passages.kind != "none"
        return CorpusCheckConfig({"pairs": self.pairs}, passages, evaluated=split is not None, split=split)


@dataclass(frozen=True)
class Revised:
    """What `validate` applies to what was added to a release, of which neither a training nor a measurement asks anything."""

    seed: int
    sources: SourcesConfig
    curate: CurateConfig
    corpus_check: CorpusCheckConfig = CorpusCheckConfig({}, evaluated=False)


@dataclass(frozen=True)
class ValidationPlan:
    """The configs that a run would apply to a corpus, up to its pairs."""

    sources: SourcesConfig
    curate: CurateConfig = CurateConfig()
    asked: CorpusCheckConfig = CorpusCheckConfig({"pairs": PairsConfig(adapt_tasks=())}, evaluated=False)
    seed: int = 0
    named: bool = False  # whether a recipe was named


def validate(plan: ValidationPlan) -> Findings:
    """Reads and curates the sources as a run would, but goes on where a run would stop; the result is not kept."""
    config, rules, seed = plan.sources, plan.curate, plan.seed
    named = sources.opened(config)
    with TemporaryDirectory(prefix="mirepoix-validate-") as scratch, ExitStack() as resources:
        read, kept = Path(scratch) / "read", Path(scratch) / "kept"
        refusal, notices = "", []
        leakage: list[dict[str, Any]] = []
        resources.enter_context(cluster_unless(is_small(named)))
        try:
            outcome, refusal = run_stage("reading", read, partial(sources.read_sources, config=config, sources=named), seed)
            notices = outcome.tables["notices"]
            if len(notices) >= sources.NOTICES:
                detail = f"of {sources.NOTICES} notices or more the first {sources.NOTICES} are kept"
                notices = [*notices, {"source": "all sources", "detail": detail}]
        except Refused as error:  # the rejects that were written say what led to it
            if not part_files(read, "rejects"):
                raise
            refusal = str(error)
        else:
            resources.enter_context(cluster_unless(row_checks.is_small(read)))
            kept, leakage, stop = _curate_all(read, rules, seed)
            refusal = refusal or stop
        findings = _without_consequences(read_findings(read, named), read_findings(kept, named))
        candidates: Counter[str] = Counter()
        for table in part_tables(kept, "corpus", ["text", "images", "video"]):
            candidates.update(code.letters for code in modalities(table))
        refusals = [refusal] if refusal else corpus_problems(kept, plan.asked, leakage)
        untrained = replace(plan.asked, pairs={})
        of_trainings = set(refusals) - set(corpus_problems(kept, untrained)) if not (refusal or plan.named) else set()
        queries: dict[str, Counter[str]] = {}
        for table in part_tables(kept, "queries", ["split", "task"]):
            for split, task in zip(table["split"].to_pylist(), table["task"].to_pylist(), strict=True):
                queries.setdefault(split, Counter())[task] += 1
        judged = Counter(
            "answers" if relevance > 0 else "judged irrelevant"
            for table in part_tables(kept, "qrels", ["relevance"])
            for relevance in table["relevance"].to_pylist()
        )
        hints, pictures = find_hints(named, findings), find_same_pictures(read, findings)
    copies = sorted(finding for finding in findings if finding.reason in MERGED)
    rest = sorted(finding for finding in findings if finding.reason not in MERGED)
    forms = {source.tree.name: source.format for source in named}
    plain = {split: dict(tasks) for split, tasks in queries.items()}
    dependent = len(find_causes(rest))
    alone = tuple(each for each in refusals if each in of_trainings)
    return Findings(rest, dependent, copies, forms, dict(candidates), plain, dict(judged), notices, refusals, hints, pictures, alone)


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
            outcome = run_stage("curating", kept, partial(curate.work, config=applied, sources=read), seed)
            return kept, outcome.tables[LEAKAGE], refusal
        except Refused as error:
            refusal = refusal or str(error)
    return kept, [], refusal


def planned(words: Sequence[str], given: Mapping[str, Any], recipe: str | None) -> ValidationPlan:
    """The plan that the words of a command ask for: paths, overrides of fields of the config, and a file that names its recipe.

    `given` are the options of how sources are read; what is not given, paths too, is as the config has it.
    """
    files = [word for word in words if is_recipe_file(word)]
    if files and (recipe or len(files) > 1):
        named = [*files, *([f"--recipe {recipe}"] if recipe else [])]
        raise Refused(f"{' and '.join(named)} are given; give one recipe, or one file of one")
    recipe = recipe or next(iter(files), None)
    config: Any = Validated() if recipe is None else revised(Path(recipe)) or resolve(recipe)
    known = {field.name for field in fields(config)}
    settings = [word for word in words if "=" in word and word.partition("=")[0].partition(".")[0] in known]
    config = override(config, settings)
    paths = tuple(word for word in words if word not in (*files, *settings))
    read = replace(config.sources, **given, **({"path": paths} if paths else {}))
    if not read.path:
        raise Refused("there is no corpus to validate; give a PATH, or a .yaml file that names its sources")
    return ValidationPlan(read, config.curate, config.corpus_check, config.seed, recipe is not None)


def revised(file: Path) -> "Revised | None":
    """The config of a run of `add`, as its folder has it, where that is what a file holds; it names no recipe."""
    if not is_recipe_file(str(file)) or not file.is_file() or not is_revision(parse(file)):
        return None
    revision = read_config(file, Revision)
    return Revised(revision.seed, revision.sources, revision.curate)


def validate_command(plan: ValidationPlan, as_json: bool, copies: bool, out: Path | None = None) -> int:
    """Prints the findings, and with `out` writes them all; returns 1 if training would reject a row, or a run would stop."""
    if out is not None and out.suffix.lower() not in (".json", ".csv"):
        raise Refused(f"--out is {out}; give a file that ends in .json or .csv")
    found = validate(plan)
    if out is not None:
        write_findings(found, out)
    if as_json:
        print(json.dumps(asdict(found), indent=1, ensure_ascii=False))
    else:
        for line in found.rows(copies, written=out is not None):
            print(line)
        print(found.text(), file=sys.stderr if found.rejected or found.refusals else sys.stdout)
        if out is not None:
            print(f"all findings are in {out}", file=sys.stderr)
    return 1 if found.rejected or found.refusals else 0
