"""The release stage: encoder, index, documents and golden vectors become one release, which is served and verified as a whole."""

import json
from pathlib import Path

from mirepoix.components.corpus.parts import part_rows
from mirepoix.components.pairs.instructions import WORDINGS
from mirepoix.components.publishing.release_config import ReleaseConfig
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.serving.golden import GOLDEN, read_golden
from mirepoix.serving.release import assemble


def work(context: Context, config: ReleaseConfig, encoder: Path, index: Path, curate: Path, pairs: Path) -> Outcome:
    """Assembles the release; its golden vectors were made with those of the index, by the same actors."""
    wordings = json.loads((pairs / WORDINGS).read_text())
    golden = read_golden(index / GOLDEN)
    made = assemble(context.folder, config.name, encoder, index, curate / "corpus", golden, wordings, report=context.report)
    documents = len(made.open_documents())
    return Outcome(Rows(part_rows(curate, "corpus"), documents), {"documents": documents, "golden": len(golden.items)})
