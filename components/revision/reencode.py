"""Vectors of the new items of a revised release, by its encoder, and its golden vectors."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from mirepoix.components.corpus.parts import part_tables
from mirepoix.components.embedding.embed import QUERIES, embed
from mirepoix.components.embedding.golden_choice import GOLDEN_ITEMS, FirstItems, GoldenChoice
from mirepoix.components.embedding.reuse import Identity
from mirepoix.components.revision.merge import kept_positions, modalities_of
from mirepoix.components.revision.revision_config import ReencodeConfig
from mirepoix.components.stage import Context, Outcome
from mirepoix.models.item import ITEM_SCHEMA, Item, Modality, items_to_table
from mirepoix.serving.golden import GOLDEN, Golden, read_golden
from mirepoix.serving.release import Release, open_release


def work(context: Context, config: ReencodeConfig, merge: Path, versions: str = "") -> Outcome:
    """Encodes the new items, of which neither the release nor the storage has vectors, by the encoder of the release.

    The encoder must reproduce the golden vectors of the release, where it is opened; where nothing is encoded, it is not opened.
    """
    release = open_release(config.release)
    release.refuse_code(config.trust_remote_code)
    opener = partial(release.open_encoder, trust_remote_code=config.trust_remote_code)
    identity = Identity(release.encoder, versions, config.embed.use_gpu)
    return embed(context, config.embed, identity, {"corpus": merge, QUERIES: merge}, opener, RevisedGolden(release, merge))


class RevisedGolden(GoldenChoice):
    """The golden vectors of a release whose items are still there, and new ones for modalities that would have none.

    A golden item is published with the release, so one that was removed or replaced must go. Where no new item is of its modality, others
    are made of what a release has of its items: text and thumbnail.
    """

    of_corpus = False

    def __init__(self, release: Release, merge: Path):
        super().__init__()
        kept = kept_positions(merge)
        ids = release.items()["id"]
        gone = {*ids.to_pylist()}.difference(ids.take(pa.array(kept)).to_pylist())
        before = read_golden(release.folder / GOLDEN)
        stays = [number for number, item in enumerate(before.items) if item.id not in gone]
        self.stays = Golden(
            [before.items[number] for number in stays],
            [before.vectors[number] for number in stays],
            [before.queries[number] for number in stays],
        )
        lacking = modalities_of(release, kept, merge) - {int(item.modality) for item in self.stays.items}
        self.more = FirstItems(GOLDEN_ITEMS, only=lacking)
        for table in part_tables(merge, "corpus", ITEM_SCHEMA.names):
            self.more.add(table)
        self.more.add(items_to_table(_shown(release, kept, lacking - {*self.more.found})))

    def add(self, table: pa.Table) -> None:
        """The items are chosen already."""

    def known(self, opens: bool) -> Golden | None:
        return None if self.more.tables() else self.stays

    def to_encode(self) -> list[pa.Table]:
        return self.more.tables()

    def whole(self, encoded: Golden) -> Golden:
        return Golden([*self.stays.items, *encoded.items], [*self.stays.vectors, *encoded.vectors], [*self.stays.queries, *encoded.queries])


def _shown(release: Release, kept: np.ndarray, codes: set[int]) -> Sequence[Item]:
    """The first items of some modalities as results show them."""
    documents, found = release.open_documents(), list[Item]()
    modalities = release.items()["modality"].to_numpy()[kept]
    for code in sorted(codes):
        for position in kept[modalities == code][:GOLDEN_ITEMS].tolist():
            document, picture = documents[position], documents.thumbnail(position)
            pictures = () if picture is None else (picture,)
            film = bool(code & Modality.VIDEO)
            found.append(Item(document.id, document.text, images=() if film else pictures, video=pictures if film else ()))
    return found
