"""The release stage: encoder, index and documents become one release, with golden vectors that it is verified by."""

import json
from pathlib import Path

import numpy as np

from mirepoix.components.corpus.parts import part_rows, rows_with_ids
from mirepoix.components.pairs.instructions import WORDINGS
from mirepoix.components.publishing.release_config import ReleaseConfig
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.item import Item, table_to_items
from mirepoix.serving.release import assemble
from mirepoix.serving.search.open import open_index


def work(context: Context, config: ReleaseConfig, encoder: Path, index: Path, curate: Path, pairs: Path) -> Outcome:
    """Assembles the release."""
    wordings = json.loads((pairs / WORDINGS).read_text())
    golden = _golden(index, curate, config.golden)
    made = assemble(context.folder, config.name, encoder, index, curate / "corpus", golden, wordings, report=context.report)
    documents = len(made.open_documents())
    return Outcome(Rows(part_rows(curate, "corpus"), documents), {"documents": documents, "golden": len(golden)})


def _golden(index: Path, curate: Path, each: int) -> list[Item]:
    """The first items of every modality in the index, in the order of the corpus."""
    opened = open_index(index)
    places = [np.flatnonzero(opened.modalities_N == code)[:each] for code in np.unique(opened.modalities_N)]
    wanted = set(opened.ids.take(np.concatenate(places)).to_pylist())
    return [item for table in rows_with_ids(curate, "corpus", wanted) for item in table_to_items(table)]
