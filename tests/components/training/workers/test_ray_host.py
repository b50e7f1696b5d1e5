"""A list of Ray's that would keep a training from starting is removed where checkpoints are left, and what it lacks is committed anew."""

import json
from types import SimpleNamespace

import pytest
import ray.train
from pyarrow import fs

from mirepoix.components.stage import Context
from mirepoix.components.training import train
from mirepoix.components.training.workers.layout import COMMITTED
from mirepoix.components.training.workers.ray_host import RayHost, forget_broken_list
from mirepoix.models.errors import Refused


def listed(*names: str) -> str:
    return json.dumps({"checkpoint_results": [{"checkpoint_dir_name": name} for name in names]})


def checkpoints(tmp_path, text: str, *there: str):
    for name in there:
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "train").mkdir(exist_ok=True)
    (tmp_path / "train" / COMMITTED).write_text(text)
    return tmp_path / "train" / COMMITTED


def test_a_list_whose_checkpoints_are_there_stays(tmp_path):
    path = checkpoints(tmp_path, listed("step_00000002-1"), "step_00000002-1", "step_00000004-1")
    forget_broken_list(str(tmp_path), "train")
    assert path.exists()
    forget_broken_list(str(tmp_path / "before the first"), "train")


@pytest.mark.parametrize("text", ["", listed("step_00000002-1")[:-3], "[]", listed("step_00000002-1", "step_00000004-1")])
def test_a_torn_list_or_one_that_names_what_is_gone_is_removed_with_a_warning(tmp_path, text, caplog):
    path = checkpoints(tmp_path, text, "step_00000002-1")
    forget_broken_list(str(tmp_path), "train")
    assert not path.exists() and len(caplog.records) == 1 and f"{path} is damaged (it " in caplog.text


def test_a_torn_list_is_removed_before_each_attempt(tmp_path, monkeypatch):
    path = checkpoints(tmp_path, "{", "step_00000002-1")
    trainer = SimpleNamespace(fit=lambda: path.exists())
    monkeypatch.setattr("ray.train.v2.api.data_parallel_trainer.DataParallelTrainer", lambda *_, **__: trainer)
    job = SimpleNamespace(config=SimpleNamespace(collective_timeout=1.0, keep_checkpoints=3))
    assert train._fit(Context(tmp_path, str(tmp_path), print, 0), job, {"CPU": 1}, "places", 1) is False


def test_a_list_beside_which_no_checkpoint_is_left_is_refused(tmp_path):
    path = checkpoints(tmp_path, listed("step_00000002-1"))
    with pytest.raises(Refused, match=r"it names step_00000002-1, which is not there.*delete it to train from the start"):
        forget_broken_list(f"file://{tmp_path}", "train")
    assert path.exists()


NAMES = [f"step_0000000{step}-1" for step in (8, 6, 4, 2)]


@pytest.mark.parametrize(
    ("known", "name", "expected"),
    [
        ([], 0, [2, 4, 6, 8]),  # the list was torn
        ([], 1, [2, 4, 6]),
        ([4, 2], 0, [4, 2, 6, 8]),  # a kill prevented two commits
        ([4], 0, [4, 6, 8]),  # one that is older than those in the list would come after them, as the newest
        ([8, 6], 0, [8, 6]),
    ],
)
def test_ray_commits_the_checkpoint_that_is_gone_on_from_and_those_before_it_that_are_newer_than_its_list(
    known, name, expected, tmp_path, monkeypatch
):
    files, listed = fs.LocalFileSystem(), [f"step_0000000{step}-1" for step in known]
    storage = SimpleNamespace(
        experiment_fs_path=str(tmp_path), storage_filesystem=files, build_checkpoint_path_from_name=lambda each: f"{tmp_path}/{each}"
    )
    monkeypatch.setattr(ray.train, "get_context", lambda: SimpleNamespace(get_storage=lambda: storage, get_world_rank=lambda: 0))
    monkeypatch.setattr(ray.train, "report", lambda _, checkpoint_dir_name, **__: listed.append(checkpoint_dir_name))
    reported = lambda **_: [SimpleNamespace(checkpoint=ray.train.Checkpoint(f"{tmp_path}/{each}", files)) for each in listed]  # noqa: E731
    monkeypatch.setattr(ray.train, "get_all_reported_checkpoints", reported)
    for each in NAMES:
        (tmp_path / each).mkdir()
    RayHost(print, lambda: None).resume_from(NAMES[name], NAMES[:name], NAMES[name + 1 :])
    assert listed == [f"step_0000000{step}-1" for step in expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(NAMES[name:]), "later ones, that were never complete, are removed"
