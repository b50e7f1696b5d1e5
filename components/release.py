"""Encoder, index and what the results show become one release, with golden vectors to prove itself by."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mirepoix.components.corpus import read_part
from mirepoix.components.instructions import INSTRUCTIONS
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, take_items
from mirepoix.models.options import option
from mirepoix.serving.release import assemble
from mirepoix.serving.store import Context, Outcome, Rows


@dataclass(frozen=True)
class ReleaseConfig:
    """What is released."""

    name: str = option("mirepoix", "name that requests may give as their model")
    golden: int = option(4, "items of each modality whose vectors the release carries, to be checked wherever it is opened")

    def __post_init__(self) -> None:
        if self.golden < 1:
            raise Refused(f"release.golden is {self.golden}; give 1 or more")


def work(context: Context, config: ReleaseConfig, encoder: Path, index: Path, curate: Path) -> Outcome:
    """Assembles the release."""
    wordings = {task: words[0] for task, words in INSTRUCTIONS.items()}
    golden = _golden(read_part(curate, "corpus"), config.golden)
    made = assemble(context.folder, config.name, encoder, index, curate / "corpus", golden, wordings, report=context.report)
    documents = len(made.open_documents())
    read = read_part(curate, "corpus", ["id"]).num_rows
    return Outcome(Rows(read=read, written=documents), {"documents": documents, "golden": len(golden)})


def _golden(corpus: pa.Table, each: int) -> list[Item]:
    """The first items of every modality that the corpus has."""
    shapes: dict[tuple[bool, bool, bool], list[int]] = {}
    contents = zip(*(corpus[name].to_pylist() for name in ("text", "images", "video")), strict=True)
    for row, (text, images, video) in enumerate(contents):
        rows = shapes.setdefault((bool(text), bool(images), bool(video)), [])
        if len(rows) < each:
            rows.append(row)
    return take_items(corpus, sorted(row for rows in shapes.values() for row in rows))
