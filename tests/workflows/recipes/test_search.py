"""A folder of pictures is searched without a training: with and without queries, and through an encoder that was trained before."""

import json
import random
from pathlib import Path

import pytest
from PIL import Image

from mirepoix.components.publishing.model_card import trains
from mirepoix.models.backbones.checkpoint_config import Checkpoint
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.encoder_config import read_description
from mirepoix.models.retrievers.univldr import UniVLDR
from mirepoix.models.retrievers.univldr_config import UniVLDRConfig
from mirepoix.serving.release import Release, open_release
from mirepoix.serving.store import publish, read_manifest
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.recipes.registry import recipe, resolve
from mirepoix.workflows.upkeep.lineage import lineage
from tests.components.fixtures import SIZES

PLACES = "Travel & Places"


def write_pictures(folder: Path, count: int) -> Path:
    """A folder of pictures, half of them in a sub-folder, with nothing said about them."""
    (folder / PLACES).mkdir(parents=True)
    for number in range(count):
        noise = random.Random(number).randbytes(3 * 24 * 16)
        Image.frombytes("RGB", (24, 16), noise).save(folder / (PLACES if number % 2 else ".") / f"p{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Pictures of a user, of which one is damaged, with a note beside them; a published CLIP; and captioned pictures."""
    home = tmp_path_factory.mktemp("search")
    pictures = write_pictures(home / "pictures", 20)
    (pictures / "damaged.png").write_bytes((pictures / "p00.png").read_bytes()[:200])
    (pictures / "notes.txt").write_text("what I meant to say")
    make_twin(home / "clip", "clip", ["two small red stars"] * 10, SIZES, seed=0)
    captions = "".join(f"p{number:02}.png,picture number {number}\n" for number in range(0, 6, 2))
    (write_pictures(home / "captioned", 6) / "captions.csv").write_text(f"file,caption\n{captions}")
    (home / "captioned" / PLACES / "p01.txt").write_text("a place far away")
    return home


@pytest.fixture
def cli(ray_cluster, home, capsys):
    """Runs a command with its stages in this process; returns its status, its output, and the folder and the report of its run."""

    def run(*words):
        status = main([*words, "--local", "--storage", str(home / "storage")])
        out = capsys.readouterr().out
        folder = Path(next(line.split()[-1] for line in out.splitlines() if line.startswith("report "))).parent
        return status, out, folder, json.loads((folder / "report.json").read_text())

    return run


def sources_of(release: Release) -> dict[str, str | None]:
    """The source of each document by its id; of a text without an id, by the text."""
    documents = release.open_documents()
    found = [documents[n] for n in range(len(documents))]
    return {document.id if document.pictured else document.text: document.source for document in found}


def test_pictures_with_nothing_said_about_them_are_released_and_there_is_nothing_to_measure_by(cli, home, capsys):
    words = ["run", "search", f"sources.path={home / 'pictures'}", f"backbone.name={home / 'clip'}"]
    status, out, folder, report = cli(*words, "--until", "release")
    assert status == 0
    rows = {stage["name"]: stage["rows"] for stage in report["stages"]}
    assert rows["curate"] == {"read": 21, "written": 20, "rejected": 1, "merged": 0} and rows["pairs"]["read"] == 0
    target, run = lineage(str(folder))
    release = open_release(target)
    said = out.splitlines()
    assert said[1] == "20 items can be searched; of the rows that were read 1 rejected"
    assert f"each row  mirepoix validate {folder}/config.yaml --copies --out rows.csv" in said
    assert f"release   {release.version}  {target}" in said
    assert main(["validate", f"{folder}/config.yaml", "--copies", "--out", str(folder / "rows.csv")]) == 1
    assert "damaged.png" in capsys.readouterr().out and "damaged.png" in (folder / "rows.csv").read_text()
    assert len(release.open_documents()) == 20 and release.instructions == {} and not trains(run)
    assert sources_of(release)["Travel_&_Places/p01.png.image"] == "pictures/Travel & Places/p01.png"
    release.open_encoder()
    status, out, _, report = cli(*words, "--until", "evaluate")
    assert status == 0 and out.splitlines()[1].startswith("no score was computed: the corpus has no queries; bring queries"), out
    assert "headline" not in report and report["unmeasured"].startswith("no score was computed: the corpus has no queries; bring")
    states = {stage["name"]: stage["status"] for stage in report["stages"]}
    assert {name for name, status in states.items() if status == "done"} == {"floors", "evaluate"}
    assert {name for name, status in states.items() if status == "skipped"} == states.keys() - {"floors", "evaluate"}


def test_queries_of_any_split_measure_the_encoder_where_nothing_was_trained(cli, home):
    words = [f"sources.path={home / 'captioned'}", f"backbone.name={home / 'clip'}", "evaluate.draws=20"]
    status, out, folder, report = cli("run", "search", *words, "--until", "evaluate")
    assert status == 0 and report["headline"]["split"] == "train"
    lines = [line.split() for line in out.splitlines()]
    assert lines[1:3] == [["R@5", "on", "train,", "universal", "pool"], ["task", "queries", "chance", "pixels", "BM25", "encoder"]]
    assert [line[:2] for line in lines[3:5]] == [["i->t", "4"], ["t->i", "4"]]
    assert "trained" not in out and "trained" not in (folder / "report.html").read_text().partition("<h2>Settings")[0]


@pytest.fixture(scope="module")
def trained(home):
    """An encoder as a training leaves it: published, with a learned temperature and narrower widths."""
    encoder = UniVLDR.build({"model": Checkpoint(home / "clip")}, UniVLDRConfig(max_length=40))
    encoder.temperature, encoder.widths = 0.025, (16,)
    encoder.save(home / "draft")
    publish(home / "draft", home / "instruct", {})
    return home / "instruct"


def test_an_encoder_of_a_training_is_released_by_one_command(cli, home, trained):
    status, out, _, report = cli("release", str(trained), "--corpus", str(home / "captioned"), "--name", "mine")
    assert status == 0
    place, how = out.splitlines()[-2:]
    target = place.split()[-1]
    assert place.startswith("release   ") and how == f"serve it  mirepoix serve {target}"
    release = open_release(target)
    assert (release.name, release.widths, release.encoder) == ("mine", (16, 32), read_manifest(trained).digest)
    assert sources_of(release) == {
        "p00.png.image": "captioned/p00.png",
        "p02.png.image": "captioned/p02.png",
        "p04.png.image": "captioned/p04.png",
        "Travel_&_Places/p01.png.image": "captioned/Travel & Places/p01.png",
        "Travel_&_Places/p03.png.image": "captioned/Travel & Places/p03.png",
        "Travel_&_Places/p05.png.image": "captioned/Travel & Places/p05.png",
        "picture number 0": "captioned/captions.csv:2",
        "picture number 2": "captioned/captions.csv:3",
        "picture number 4": "captioned/captions.csv:4",
        "a place far away": "captioned/Travel & Places/p01.png",
    }
    description = read_description(release.folder / "encoder")
    assert (description["temperature"], description["config"]) == (0.025, {"max_length": 40, "clean_text": True})
    assert [stage["name"] for stage in report["stages"]] == ["sources", "curate", "check", "backbone", "pairs", "embed", "index", "release"]
    assert report["settings"]["backbone"]["encoder"] == {"class": "UniVLDRConfig", "clean_text": True, "max_length": 40}


def test_the_recipe_has_no_training_and_keeps_what_a_user_wants_to_find():
    config = recipe("search")
    assert [stage.name for stage in config.stages()] == [
        "sources",
        "curate",
        "check",
        "floors",
        "pairs",
        "backbone",
        "embed",
        "index",
        "evaluate",
        "release",
        "deploy",
    ]
    assert config.trainings == {} and config.made_pairs.trained_tasks == {}
    assert (config.curate.near_duplicates, config.curate.max_rejected) == ("keep", 1.0)
    assert resolve("search", ["backbone.name=tiny"]).stages(), "a twin to try the commands with"


def test_a_corpus_is_validated_by_what_a_search_would_reject(home, capsys):
    assert main(["validate", str(home / "captioned"), "--recipe", "search"]) == 0
    assert "a run would stop" not in capsys.readouterr().out
    assert main(["validate", str(home / "pictures"), "--recipe", "search"]) == 1
    out, err = capsys.readouterr()
    assert "damaged.png" in out and "1 row would be rejected" in err and "a run would stop" not in err
    assert "left aside  pictures/notes.txt: not read" in err
    assert main(["validate", str(home / "pictures")]) == 1
    assert "a training would stop: no pair is left to train on" in (err := capsys.readouterr().err)
    assert "`mirepoix run search` searches a corpus without a training" in err
