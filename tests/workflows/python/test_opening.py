"""`mirepoix.open`: whatever names a release or an encoder opens it, and what names neither is refused in one line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import mirepoix
from mirepoix.models.adopted.adopted import Adopted
from mirepoix.models.adopted.adopted_config import AdoptedConfig
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.errors import Refused
from mirepoix.workflows.config import describe, jsonable
from mirepoix.workflows.dag.comparison import Comparison
from mirepoix.workflows.recipes.registry import recipe
from mirepoix.workflows.upkeep.promotion import promote_command
from tests.components.fixtures import SIZES
from tests.serving.conftest import encoder_folder, parts, release_folder
from tests.serving.fixtures import drawing

__all__ = ["encoder_folder", "parts", "release_folder"]
PICTURE = drawing("disc", 0.6)


def write_report(folder: Path, stages: dict[str, str], **more) -> Path:
    """The folder of a run of which these stages made something."""
    folder.mkdir()
    made = [{"name": name, "digest": "d" * 64 if target else "", "target": target} for name, target in stages.items()]
    (folder / "report.json").write_text(json.dumps({"stages": made, **more}))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return Path(make_twin(tmp_path_factory.mktemp("clip"), "clip", ["a blue disc"] * 10, SIZES, seed=0)["model"].name)


def test_a_release_is_opened_by_its_folder_its_uri_and_the_folder_of_its_run(release_folder, tmp_path):
    run = write_report(tmp_path / "run", {"curate": "/gone", "release": str(release_folder)})
    found = [mirepoix.open(each).search("a blue disc", 5) for each in (release_folder, release_folder.as_uri(), str(run))]
    assert found[0] == found[1] == found[2] and len(found[0]) == 5


def test_a_comparison_has_a_release_for_each_arm(release_folder, tmp_path):
    config = recipe("quickstart_all")
    config = Comparison(sources=config.sources, pairs=config.pairs, arms={name: config.arms[name] for name in ("unite", "mire")})
    targets = {stage.name: str(release_folder) if stage.name == "unite:release" else "" for stage in config.stages()}
    run = write_report(tmp_path / "run", targets, settings=jsonable(config), arms={"unite": {}, "mire": {}})
    (run / "config.yaml").write_text(describe(config))
    assert mirepoix.open(run, arm="unite").release.name == "tiny"
    with pytest.raises(Refused, match=r"no arm is named; .* compares unite, mire"):
        mirepoix.open(run)
    with pytest.raises(Refused, match=r"the arm mire of the run in .* made no release"):
        mirepoix.open(run, arm="mire")


def test_a_saved_encoder_and_a_published_checkpoint_are_models(encoder_folder, clip):
    saved, published = mirepoix.open(encoder_folder), mirepoix.open(str(clip), device="cpu")
    assert repr(saved) == f"<model {encoder_folder}: unite, width 32, on cpu>"
    assert repr(published) == f"<model {clip}: adopted, width 32, on cpu>"
    expected = Adopted.build({"model": Checkpoint(clip)}, AdoptedConfig(several="sum"))
    assert (published.encode("a disc") == mirepoix.open(clip).encode("a disc")).all()
    both = published.encode({"text": "a disc", "image": PICTURE})
    assert expected.config == published.encoder.config and both.shape == (32,) and np.linalg.norm(both) == pytest.approx(1, abs=1e-5)


def test_a_hub_id_is_looked_for_on_the_hub():
    with pytest.raises(Refused) as refused:
        mirepoix.open("nobody/nothing")
    assert str(refused.value).startswith(
        "model=nobody/nothing, and nobody/nothing is neither a folder nor in the cache of this machine, and "
    )
    assert "\n" not in str(refused.value) and "or give a folder; " in str(refused.value)


def test_without_a_network_a_name_is_refused_in_one_line_and_no_client_of_the_hub_is_asked(monkeypatch, capfd):
    """Port 9 refuses at once; the hub's own client would try again and again, and say so on standard error."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(Adopted, "build", lambda *_: pytest.fail("the hub's client is asked"))
    with pytest.raises(Refused) as refused:
        mirepoix.open("lates")
    assert str(refused.value) == (
        "model=lates, and lates is neither a folder nor in the cache of this machine, and http://127.0.0.1:9 cannot be reached (Connection "
        'refused); connect to the network, set HF_ENDPOINT to a mirror, or give a folder; "latest" is the latest release of the storage'
    )
    assert capfd.readouterr() == ("", "")


def test_a_name_that_nothing_has_is_refused_with_the_newest_runs_of_the_storage(tmp_path, monkeypatch):
    monkeypatch.setenv("MIREPOIX_STORAGE", str(tmp_path))
    for number in range(4):
        (tmp_path / "runs" / f"search-2027010{number + 1}-000000-0000").mkdir(parents=True)
    with pytest.raises(Refused, match=r"^model=nix, and nix is neither a folder nor in the cache") as refused:
        mirepoix.open("nix")
    named = ", ".join(f"{tmp_path}/runs/search-2027010{day}-000000-0000" for day in (4, 3, 2))
    assert str(refused.value).endswith(
        f'; "latest" is the latest release of the storage, and a run is given by its name or folder: the newest are {named}'
    )


def test_a_run_is_given_by_its_name_or_the_beginning_of_it(release_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MIREPOIX_STORAGE", str(tmp_path))
    release, run = tmp_path / "artefacts" / "release" / "0123456789abcdef", tmp_path / "runs" / "remove-20270101-000000-0000"
    shutil.copytree(release_folder, release)
    run.mkdir(parents=True)
    stages = [{"name": "release", "status": "done", "digest": "d", "target": str(release)}]
    (run / "report.json").write_text(json.dumps({"recipe": "remove", "began": 1.0, "ended": 2.0, "stages": stages}))
    for name in (run.name, "remove-2027"):
        assert len(mirepoix.open(name).search("a blue disc", 5)) == 5


def test_an_alias_is_the_release_that_it_names_and_one_that_is_not_there_is_refused(release_folder, tmp_path, monkeypatch):
    storage = tmp_path / "storage"
    place = storage / "artefacts" / "release" / ("0" * 16)
    shutil.copytree(release_folder, place)
    monkeypatch.setenv("MIREPOIX_STORAGE", str(storage))
    monkeypatch.setattr("mirepoix.workflows.upkeep.promotion.follow", lambda *_: "")
    with pytest.raises(Refused, match="there is no alias @champion in"):
        mirepoix.open("@champion")
    assert promote_command(str(storage), str(place), "champion") == 0
    opened = mirepoix.open("@champion").release
    assert opened is not None and opened.folder == place
    assert mirepoix.open(opened.version[:6]).release == opened


def test_latest_is_the_latest_release_of_the_storage(release_folder, tmp_path, monkeypatch):
    storage = tmp_path / "home"
    monkeypatch.setenv("MIREPOIX_STORAGE", str(storage))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match=r"^there is no release in the storage .*/home; make one"):
        mirepoix.open("latest")
    shutil.copytree(release_folder, storage / "artefacts" / "release" / "0123456789abcdef")
    assert len(mirepoix.open("latest").search("a blue disc", 5)) == 5


def test_a_release_of_which_a_file_is_another_or_whose_encoder_encodes_otherwise_is_refused(release_folder, tmp_path):
    other = shutil.copytree(release_folder, tmp_path / "other")
    (other / "golden.json").write_text("{}")
    with pytest.raises(Refused, match=r"golden\.json"):
        mirepoix.open(other)


@pytest.mark.parametrize(
    ("target", "options", "line"),
    [
        (3, {}, "mirepoix.open is given the type int; give a folder or a URI, as a text or a path, or a hub id"),
        ("", {}, "mirepoix.open is given an empty text; give a folder or a URI, as a text or a path, or a hub id"),
        ("\0", {}, "mirepoix.open is given '\\x00', which has a null character; give a folder or a URI, "),
        ("{home}/single", {"arm": "x"}, "arm is 'x', and {home}/single compares no arms; leave it out"),
        ("/nowhere", {}, "/nowhere is no folder here; give the folder of an encoder or of a checkpoint, or a hub id"),
        ("{home}/photo.jpg", {}, "{home}/photo.jpg is a file; give the folder of an encoder or of a checkpoint, or a hub id"),
        ("{home}/empty", {}, "{home}/empty holds no encoder: neither mirepoix.json, "),
        ("{home}/run", {}, "the run in {home}/run made no release; run its recipe again, up to release"),
        ("{release}", {"arm": "unite"}, "arm is 'unite', and {release} is no run of several arms; leave arm out"),
        ("{release}", {"revision": "main"}, "revision is 'main', and {release} is a folder; a revision is of a hub id"),
        ("{release}", {"device": "warp"}, "device 'warp' cannot be used here ("),
    ],
)
def test_what_cannot_be_opened_is_refused_in_one_line(release_folder, tmp_path, target, options, line):
    (tmp_path / "photo.jpg").write_bytes(PICTURE)
    (tmp_path / "empty").mkdir()
    write_report(tmp_path / "run", {"release": ""})
    write_report(tmp_path / "single", {"release": str(release_folder)})
    places = {"home": tmp_path, "release": release_folder}
    with pytest.raises(Refused) as refused:
        mirepoix.open(target.format(**places) if isinstance(target, str) else target, **options)
    assert str(refused.value).startswith(line.format(**places)) and "\n" not in str(refused.value)


def test_code_that_a_checkpoint_brought_is_run_only_where_it_is_trusted(release_folder, tmp_path):
    from mirepoix.serving.store import publish

    draft = shutil.copytree(release_folder, tmp_path / "draft", ignore=shutil.ignore_patterns("manifest.json"))
    plain = json.loads((draft / "release.json").read_text())
    (draft / "release.json").write_text(json.dumps({**plain, "custom_code": True}))
    publish(draft, tmp_path / "coded", {})
    with pytest.raises(Refused, match=r"runs code that its checkpoint brought .*; read it, then give trust_remote_code=True$"):
        mirepoix.open(tmp_path / "coded")
    assert mirepoix.open(tmp_path / "coded", trust_remote_code=True).release.custom_code
