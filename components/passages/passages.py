"""The passages stage: passages made of concise answers (ViD2R), or written by a language model.

Only triples of the split train are read. `output.py` describes the output. Pictures are held in memory a batch at a time.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from mirepoix.components.passages.output import PassageWriter
from mirepoix.components.passages.passages_config import PassagesConfig
from mirepoix.components.stage import Context, Outcome


def work(context: Context, config: PassagesConfig, curate: Path) -> Outcome:
    """Writes the passages, with the queries that they answer."""
    metrics: dict[str, float] = {}
    with PassageWriter(context.folder, config.kind) as output, TemporaryDirectory(dir=context.folder) as spool:
        if config.kind == "vid2r":
            from mirepoix.components.passages.vid2r_run import Vid2r

            metrics = Vid2r(context, config.vid2r, curate, Path(spool)).run(output)
        elif config.kind == "written":
            from mirepoix.components.passages.written import Written

            metrics = Written(context, config.written, curate, Path(spool)).run(output)
    return output.outcome(metrics)
