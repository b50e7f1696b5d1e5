"""Which items a revised release has: those of the release that stay, and of a curated corpus those that are new.

corpus/part-*.parquet    the new items, whose ids no other item of the release has      ITEM_SCHEMA
kept.npy                 positions in the index of the release of the items that stay
merged/part-*.parquet    the items that were there already, with the item that they equal   MERGED_SCHEMA
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mirepoix.components.corpus.parts import PartWriter, modality_codes, part_tables
from mirepoix.components.embedding.reuse import item_hashes
from mirepoix.components.revision.revision_config import MergeConfig, items_to_remove, named
from mirepoix.components.stage import Context, Outcome, Rows
from mirepoix.models.errors import Refused
from mirepoix.models.item import ITEM_SCHEMA, table_to_items
from mirepoix.serving.documents import thumbnail
from mirepoix.serving.release import Release, open_release

KEPT = "kept.npy"
MERGED_SCHEMA = pa.schema([pa.field("id", pa.string()), pa.field("equal_to", pa.string())])

Array = npt.NDArray


def work(context: Context, config: MergeConfig, curate: Path | None = None) -> Outcome:
    """Compares the items of the curated corpus, if there is one, with those of the release, by id and by content."""
    return _Merge(context, config, open_release(config.release), curate).outcome()


class _Merge:
    """The items of a release and those of a curated corpus."""

    def __init__(self, context: Context, config: MergeConfig, release: Release, curate: Path | None):
        self.context, self.config, self.release, self.curate = context, config, release, curate
        self.ids = release.items()["id"].combine_chunks()
        hashes = release.contents()
        self.known: Array = np.any(hashes, axis=1)  # items of which the release knows the hash
        self.hashes = pa.FixedSizeBinaryArray.from_buffers(pa.binary(32), len(hashes), [None, pa.py_buffer(hashes.tobytes())])

    def outcome(self) -> Outcome:
        before = len(self.ids)
        removed: set[str] = set()
        if given := self.config.removed:
            sources = self.release.open_documents().ids_by_source
            removed = items_to_remove(self.config.release, self.ids.to_pylist(), given, sources)
        stays = np.ones(before, bool)
        stays[_places(pa.array(sorted(removed), pa.string()), self.ids)] = False
        new, hashes, ids = self._given()
        same_id = _places(ids, self.ids)
        same_id[same_id >= 0] = np.where(stays[same_id[same_id >= 0]], same_id[same_id >= 0], -1)
        equal = self._equal(same_id, hashes)
        differ = np.flatnonzero((same_id >= 0) & ~equal)
        if len(differ) and not self.config.replace:
            raise Refused(
                f"the release has other items with the ids {named(ids.take(pa.array(differ)).to_pylist())}; give --prefix TEXT to give "
                "the new ids of their own, or --replace to put the new in their place"
            )
        stays[same_id[differ]] = False
        content = _places(hashes, self.hashes)
        elsewhere = (content >= 0) & self.known[content] & stays[content] & (same_id < 0) if before else np.zeros(len(ids), bool)
        merged = equal | elsewhere
        if not stays.any() and merged.all():
            raise Refused(f"nothing would be left of {self.config.release}")
        self._write(~merged, ids)
        equal_to = self.ids.take(pa.array(np.where(equal, same_id, content)[merged]))
        (self.context.folder / "merged").mkdir()
        table = pa.table([ids.filter(pa.array(merged)), equal_to], MERGED_SCHEMA)
        pq.write_table(table, self.context.folder / "merged" / "part-00000.parquet")
        kept = np.flatnonzero(stays)
        np.save(self.context.folder / KEPT, kept)
        counts = {
            "added": int((~merged).sum() - len(differ)),
            "replaced": len(differ),
            "there already": int(merged.sum()),
            "removed": len(removed),
            "kept": len(kept),
        }
        metrics = {**counts, "items": len(kept) + int((~merged).sum()), "unhashed": int((~self.known[kept]).sum())}
        rows = Rows(before + new, metrics["items"], rejected=before - len(kept), merged=counts["there already"])
        return Outcome(rows, metrics, {"items": [{"what": name, "count": count} for name, count in counts.items()]})

    def _given(self) -> tuple[int, pa.Array, pa.Array]:
        """How many items the curated corpus has, their hashes, and their ids with the prefix."""
        hashes, ids = [pa.array([], pa.binary(32))], [pa.array([], pa.string())]
        for table in part_tables(self.curate, "corpus", ITEM_SCHEMA.names) if self.curate else ():
            hashes.append(item_hashes(table))
            ids.append(pc.binary_join_element_wise(self.config.prefix, table["id"].combine_chunks(), ""))
            self.context.report({"step": sum(map(len, ids))})
        return sum(map(len, ids)), pa.concat_arrays(hashes), pa.concat_arrays(ids)

    def _equal(self, same_id: Array, hashes: pa.Array) -> Array:
        """For each item of the corpus whether the item of the release with its id is equal.

        Where the release does not know the hash, they are compared by text, modality and thumbnail, which is of the first picture or frame:
        it has nothing else of them.
        """
        equal = np.zeros(len(same_id), bool)
        rows = np.flatnonzero(same_id >= 0)
        there = self.hashes.take(pa.array(same_id[rows]))
        equal[rows] = pc.equal(hashes.take(pa.array(rows)), there).to_numpy(zero_copy_only=False)
        unknown = np.zeros(len(same_id), bool)
        unknown[rows] = ~self.known[same_id[rows]]
        if unknown.any() and self.curate:
            places, documents = same_id[unknown], self.release.open_documents()
            found = np.flatnonzero(unknown)
            tables = part_tables(self.curate, "corpus", ITEM_SCHEMA.names, chosen=unknown)
            items = (item for table in tables for item in table_to_items(table))
            for row, place, item in zip(found, places.tolist(), items, strict=True):
                document, shown = documents[place], (item.images or item.video)[:1]
                picture = thumbnail(shown[0]) if shown else None
                equal[row] = (document.text, document.modality, documents.thumbnail(place)) == (item.text, item.modality, picture)
        return equal

    def _write(self, new: Array, ids: pa.Array) -> None:
        """Writes the new items under their ids."""
        kept_ids, done = ids.filter(pa.array(new)), 0
        with PartWriter(self.context.folder, "corpus") as writer:
            for table in part_tables(self.curate, "corpus", ITEM_SCHEMA.names, chosen=new) if self.curate and new.any() else ():
                own = kept_ids.slice(done, table.num_rows)
                writer.write(table.set_column(table.schema.get_field_index("id"), "id", own))
                done += table.num_rows


def _places(values: pa.Array, among: pa.Array) -> Array:
    """The place of each value among others; -1 where it is not among them."""
    found: Array = pc.fill_null(pc.index_in(values, value_set=among), -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return found


def kept_positions(merge: Path) -> Array:
    """The positions in the index of the release of the items that stay."""
    kept: Array = np.load(merge / KEPT, allow_pickle=False)
    return kept


def modalities_of(release: Release, kept: Array, merge: Path) -> set[int]:
    """The codes of the modalities of all items of a revised release."""
    codes = {*np.unique(release.items()["modality"].to_numpy()[kept]).tolist()}
    for table in part_tables(merge, "corpus", ITEM_SCHEMA.names):
        codes |= {*np.unique(modality_codes(table)).tolist()}
    return codes
