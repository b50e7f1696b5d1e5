"""The revised release: the encoder, the name and the wordings of the release, over the revised index and documents."""

from pathlib import Path

from mirepoix.components.revision.merge import kept_positions
from mirepoix.components.revision.revision_config import RevisedConfig
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.serving.golden import GOLDEN, read_golden
from mirepoix.serving.release import open_release, revise


def work(context: Context, config: RevisedConfig, merge: Path, index: Path, release: str) -> Outcome:
    """Writes the release; thumbnails of the items that stay are copied."""
    golden = read_golden(index / GOLDEN)
    made = revise(context.folder, open_release(release), index, kept_positions(merge), merge / "corpus", golden, context.report)
    documents = len(made.open_documents())
    return Outcome(Rows(documents, documents), {"documents": documents, "golden": len(golden.items)})
