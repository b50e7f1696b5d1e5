"""Records of processes that use a storage."""

import json
import logging
import time
from pathlib import Path

import pytest

from mirepoix.serving.heartbeat import SERVED, Heartbeat, Mark, living, place_of, served_mark, storage_of

KEY = "0123456789abcdef"


@pytest.mark.parametrize(
    ("target", "storage"),
    [
        (f"/data/storage/artefacts/release/{KEY}", "/data/storage"),
        (f"/data/storage/artefacts/release/{KEY}/", "/data/storage"),
        (f"s3://bucket/mine/artefacts/release/{KEY}?region=x", "s3://bucket/mine?region=x"),
        (f"s3://bucket/artefacts/release/{KEY}", "s3://bucket"),
        ("/models/mine", None),
        (f"/data/storage/artefacts/release/{KEY}0", None),
        (f"/data/storage/artefacts/release/{KEY}/encoder", None),
    ],
)
def test_the_storage_of_a_result_and_its_place_are_known_by_its_target(target, storage):
    assert storage_of(target) == storage
    assert place_of(target) == (None if storage is None else f"artefacts/release/{KEY}")


def test_a_served_release_is_recorded_in_its_storage_while_it_is_served(tmp_path):
    release = f"{tmp_path}/artefacts/release/{KEY}"
    with served_mark(release, "http://127.0.0.1:8000"):
        (record,) = living(str(tmp_path), SERVED)
        assert (record["target"], record["url"]) == (release, "http://127.0.0.1:8000")
    assert living(str(tmp_path), SERVED) == []
    assert served_mark("/models/mine", "http://127.0.0.1:8000") is None


@pytest.mark.parametrize(("age", "alive"), [(200.0, True), (400.0, False)])
def test_a_server_on_another_machine_lives_by_its_own_timeout(tmp_path, age, alive):
    with served_mark(f"{tmp_path}/artefacts/release/{KEY}", "http://a") as mark:
        record = json.loads(Path(mark.target).read_text()) | {"machine": "elsewhere", "beat": time.time() - age}
        Path(mark.target).write_text(json.dumps(record))
        assert bool(living(str(tmp_path), SERVED)) == alive


def test_a_beat_never_takes_back_a_change(tmp_path):
    with Heartbeat(str(tmp_path / "record.json"), {"targets": []}, beat_s=0.0005) as beat:
        for count in range(50):
            beat.update(targets=list(range(count)))
            assert json.loads((tmp_path / "record.json").read_text())["targets"] == list(range(count))


def test_a_server_records_in_the_storage_of_its_release_that_it_is_served(release_folder, tmp_path):
    stored = tmp_path / "artefacts" / "release" / "0123456789abcdef"
    stored.parent.mkdir(parents=True)
    stored.symlink_to(release_folder)
    mark = Mark(str(stored), "http://127.0.0.1:8000")
    assert [record["url"] for record in living(str(tmp_path), SERVED)] == ["http://127.0.0.1:8000"]
    mark.remove()
    assert living(str(tmp_path), SERVED) == []


def test_a_release_in_a_storage_that_may_not_be_written_is_served_without_a_record_and_told_once(release_folder, tmp_path, caplog):
    stored = tmp_path / "artefacts" / "release" / "0123456789abcdef"
    stored.parent.mkdir(parents=True)
    stored.symlink_to(release_folder)
    (tmp_path / "leases").touch()  # no folder can be made here, whoever tries
    logger = logging.getLogger("ray.serve")
    logger.addHandler(caplog.handler)
    try:
        mark = Mark(str(stored), "http://127.0.0.1:8000")
    finally:
        logger.removeHandler(caplog.handler)
    (said,) = {record.getMessage() for record in caplog.records}
    assert "`mirepoix gc` does not see it" in said and str(stored) in said
    mark.remove()
