"""Members of pools are written once each, whatever the number of rows; those that are no candidates are counted by their pool."""

from mirepoix.components.corpus.parts import part_files, read_part
from mirepoix.components.ingestion import id_map
from mirepoix.components.ingestion.id_map import IdMap
from mirepoix.components.ingestion.pools import pool_writer, write_members


def test_members_that_are_no_candidates_are_left_out_and_equal_ones_are_written_once(tmp_path, monkeypatch):
    monkeypatch.setattr(id_map, "RECENT", 7)
    candidates = IdMap("i8", "u1")
    for key, _ in candidates.find(f"d{number}" for number in range(1500)):
        candidates.recent[key] = (0, 1)
    rows = [{"pool": f"p{number % 2}", "item_id": f"d{number}"} for number in range(1600)]
    with pool_writer(tmp_path / "spool") as spool:
        spool.write([*rows, *rows[:10], {"pool": "p0", "item_id": "d1"}])
    with pool_writer(tmp_path / "out") as writer:
        equal, unknown = write_members(tmp_path / "spool", candidates, writer)
    assert (equal, unknown) == ({"p0": 5, "p1": 5}, {"p0": 50, "p1": 50})
    assert read_part(tmp_path / "out", "pools").to_pylist() == [*rows[:1500], {"pool": "p0", "item_id": "d1"}]
    assert len(part_files(tmp_path / "out", "pools")) == 1
