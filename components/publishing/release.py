"""Encoder, index and what the results show become one release, with golden vectors to prove itself by."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mirepoix.components.corpus.parts import part_rows
from mirepoix.components.corpus.picking import picked
from mirepoix.components.pairs.instructions import WORDINGS
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, table_to_items
from mirepoix.models.options import option
from mirepoix.serving.release import assemble
from mirepoix.serving.search.dense import open_index
from mirepoix.serving.store import Context, Outcome, Rows


@dataclass(frozen=True)
class ReleaseConfig:
    """What is released."""

    name: str = option("mirepoix", "name that requests may give as their model")
    golden: int = option(4, "items of each modality whose vectors the release carries, to be checked wherever it is opened")

    def __post_init__(self) -> None:
        if self.golden < 1:
            raise Refused(f"release.golden is {self.golden}; give 1 or more")


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
    return [item for table in picked(curate, "corpus", wanted) for item in table_to_items(table)]
