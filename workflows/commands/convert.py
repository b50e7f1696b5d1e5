"""The command `convert`, which rewrites a corpus as one folder of another format."""

import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from mirepoix.components.ingestion import sources
from mirepoix.components.ingestion.formats.writing import SEVERAL
from mirepoix.components.ingestion.readers import FORMAT_MODULES, is_small
from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.models.errors import Refused
from mirepoix.workflows.checks.findings import notice_lines, read_findings
from mirepoix.workflows.checks.reading import cluster_unless, run_stage


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
        cluster_unless(is_small(named)),
    ):
        read, draft = Path(scratch) / "read", Path(scratch) / "draft"
        outcome = run_stage("reading", read, partial(sources.work, config=config, sources=named), 0)
        findings = sorted(read_findings(read, named))
        draft.mkdir()
        left = module.write(draft, read)
        if target.is_dir():
            target.rmdir()
        draft.rename(target)
    for line in (*findings, *notice_lines(outcome.tables["notices"])):
        print(line, file=sys.stderr)
    counts = ", ".join(f"{name} {count:,.0f}" for name, count in outcome.metrics.items())
    print(f"{target}: {form}; {counts}")
    for what, count in left.items():
        lost = f"not the same when {form} is read again" if what == SEVERAL else f"left out, as {form} has no place for it"
        print(f"{lost}: {count:,} {what}", file=sys.stderr)
    return 1 if findings or left else 0
