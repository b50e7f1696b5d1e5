"""The index of a revised release: of the vectors that the release has and of those that are new, with the settings of its index."""

import shutil
from pathlib import Path

from mirepoix.components.corpus.parts import part_rows
from mirepoix.components.embedding.vectors import read_vectors
from mirepoix.components.revision.merge import kept_positions
from mirepoix.components.revision.revision_config import RevisedConfig
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.ragged import RaggedRows
from mirepoix.serving.golden import GOLDEN
from mirepoix.serving.release import open_release
from mirepoix.serving.search.dense import build


def work(context: Context, config: RevisedConfig, merge: Path, embed: Path, release: str) -> Outcome:
    """Builds the index anew from vectors; every kind of index keeps them as they were indexed."""
    base = open_release(release)
    before, kept = base.open_index(), kept_positions(merge)
    ids, modalities = before.ids.take(kept).to_pylist(), before.modalities_N[kept].tolist()
    vectors = [before.vectors(kept)]
    if part_rows(embed, "corpus"):
        new_ids, new_modalities, new = read_vectors(embed, "corpus")
        ids, modalities, vectors = ids + new_ids, modalities + new_modalities, [*vectors, new]
    index = build(RaggedRows.cat(vectors), ids, modalities, before.description.config, encoder=base.encoder)
    index.save(context.folder)
    shutil.copyfile(embed / GOLDEN, context.folder / GOLDEN)
    metrics = {"items": len(index), "rows": index.description.rows, "width": index.description.width}
    return Outcome(Rows(read=len(ids), written=len(index)), metrics)
