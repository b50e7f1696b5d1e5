"""Builds the index from the vectors of the corpus."""

import shutil
from pathlib import Path

from mirepoix.components.embedding.vectors import read_vectors, recorded_encoder_digest
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.serving.golden import GOLDEN
from mirepoix.serving.search.dense import build
from mirepoix.serving.search.index_config import IndexConfig


def work(context: Context, config: IndexConfig, embed: Path) -> Outcome:
    """Builds and saves the index of the corpus, with the golden vectors of the embedding: a release then needs the index alone."""
    ids, modalities, vectors = read_vectors(embed, "corpus")
    index = build(vectors, ids, modalities, config, encoder=recorded_encoder_digest(embed))
    index.save(context.folder)
    shutil.copyfile(embed / GOLDEN, context.folder / GOLDEN)
    return Outcome(
        Rows(read=len(ids), written=len(index)), {"items": len(index), "rows": index.description.rows, "width": index.description.width}
    )
