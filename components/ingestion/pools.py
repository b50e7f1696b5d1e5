"""The members of pools, which wait on disk until all candidates are known."""

from collections import Counter
from pathlib import Path

import pyarrow as pa

from mirepoix.components.corpus.parts import PartWriter, part_tables
from mirepoix.components.ingestion.id_map import IdMap

ROWS_PER_FILE = 1_000_000
UNKNOWN = "unknown item"


def pool_writer(folder: Path) -> PartWriter:
    """A writer of pools/ in few files, since its rows are many and short."""
    return PartWriter(folder, "pools", ROWS_PER_FILE)


def write_members(spool: Path, candidates: IdMap, writer: PartWriter) -> tuple[Counter[str], Counter[str]]:
    """Writes the members that are candidates, each once; returns by pool how many equal an earlier one, and how many are no candidates."""
    seen = IdMap()
    equal, unknown = Counter[str](), Counter[str]()
    for table in part_tables(spool, "pools"):
        pools, items = table["pool"].to_pylist(), table["item_id"].to_pylist()
        found = zip(pools, candidates.find(items), seen.find(zip(pools, items, strict=True)), strict=True)
        keep = []
        for pool, (_, candidate), (key, before) in found:
            keep.append(candidate is not None and before is None)
            if candidate is None:
                unknown[pool] += 1
            elif before is None:
                seen.recent[key] = ()
            else:
                equal[pool] += 1
        writer.write(table.filter(pa.array(keep)))
    return equal, unknown
