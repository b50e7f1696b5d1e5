"""Which files of a source runs have written."""

import pytest

from mirepoix.components.ingestion.formats.run_files import in_storage, storages_among

RESULT = "artefacts/curate/0123456789abcdef/manifest.json"
RUN = "runs/search-20261129-101530-0a1b/report.json"


@pytest.mark.parametrize("written", [RESULT, RUN, "leases/driver-4711.json", "leases/serve-4711.json"])
def test_a_storage_is_known_by_what_only_runs_write(written):
    assert storages_among([f"mine/{written}", "beach.jpg"]) == {"mine"}
    assert storages_among([written, "beach.jpg"]) == {""}


def test_one_that_a_run_has_just_begun_is_known_by_the_default_name():
    assert storages_among(["storage/runs", "beach.jpg"]) == {"storage"}


def test_folders_of_a_user_with_such_names_are_none():
    assert storages_among(["runs/2026/start.jpg", "artefacts/vase/front.jpg", "leases/flat.jpg", "storage/box.jpg"]) == set()


def test_files_beside_what_runs_write_belong_to_the_source():
    storages = {"mine", ""}
    assert in_storage(f"mine/{RESULT}", storages) and in_storage("mlflow.db-wal", storages) and in_storage(RUN, storages)
    assert not in_storage("mine/beach.jpg", storages) and not in_storage("beach.jpg", storages)
