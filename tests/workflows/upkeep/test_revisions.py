"""Items are added to a release and removed from one: only what is new is encoded, and the result is what a rebuild would give."""

import io
import json
import random
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.encoder import Encoder
from mirepoix.serving.golden import GOLDEN, read_golden
from mirepoix.serving.heartbeat import served_mark
from mirepoix.serving.release import Release, open_release, peek
from mirepoix.serving.store import MANIFEST, publish, read_manifest
from mirepoix.workflows.__main__ import main
from mirepoix.workflows.storage import latest_release
from mirepoix.workflows.upkeep.lineage import lineage
from mirepoix.workflows.upkeep.revisions import addition, rules_of
from tests.components.embedding.recorder import run_in_process
from tests.components.fixtures import SIZES, write_corpus
from tests.serving.fixtures import without_sources


def drawn(number: int) -> bytes:
    """A small picture, another for each number, as a PNG."""
    file = io.BytesIO()
    Image.frombytes("RGB", (24, 16), random.Random(number).randbytes(3 * 24 * 16)).save(file, "PNG")
    return file.getvalue()


def pictures(folder: Path, numbers: dict[str, int]) -> Path:
    """A plain folder of pictures."""
    for name, number in numbers.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(drawn(number))
    return folder


def corpus(folder: Path, numbers: dict[str, int], texts: dict[str, str]) -> Path:
    """A corpus of pictures and texts."""
    rows = [{"id": id, "images": [drawn(number)], "source": f"mine/Travel & Places/{id}"} for id, number in numbers.items()]
    words = [{"id": id, "text": text, "source": "mine/words.csv", "line": LINES[id]} for id, text in texts.items()]
    return write_corpus(folder, corpus=[*rows, *words])


OLD, TEXTS = {f"p{n:02}.png": n for n in range(10)}, {f"t{n}": f"picture number {n}" for n in range(6)}
NEW, NEW_TEXTS = {"z/p10.png": 10, "z/p11.png": 11, "z/copy.png": 3}, {"z/t": "a new picture", "z/again": "picture number 2"}
LINES = {id: line for line, id in enumerate([*TEXTS, *NEW_TEXTS], 2)}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A CLIP, a corpus of ten pictures and six texts, and another of three and two, of which one each is a copy."""
    home = tmp_path_factory.mktemp("revisions")
    make_twin(home / "clip", "clip", ["two small red stars"] * 10, SIZES, seed=0)
    corpus(home / "old", OLD, TEXTS)
    corpus(home / "more", NEW, NEW_TEXTS)
    return home


@pytest.fixture(scope="module")
def storage(home):
    return home / "storage"


@pytest.fixture
def cli(ray_cluster, storage, capsys, monkeypatch):
    """Runs a command with all its work in this process; returns its status, its output, its errors, and the report of its run."""
    run_in_process(monkeypatch)

    def run(*words: object, at: Path = storage):
        status = main([*map(str, words), "--local", "--storage", str(at)])
        out, err = capsys.readouterr()
        folder = next((Path(line.split()[-1]).parent for line in out.splitlines() if line.startswith("report ")), None)
        return status, out, err, None if folder is None else {"folder": folder, **json.loads((folder / "report.json").read_text())}

    return run


@pytest.fixture
def read(monkeypatch):
    """The ids of the items that an encoder is given, by role, in order; those of golden items are set aside."""
    calls: list[tuple[str, str]] = []
    encode = Encoder.encode

    def recorded(self, items, *arguments, role="document", **options):
        calls.extend((role, item.id) for item in items)
        return encode(self, items, *arguments, role=role, **options)

    monkeypatch.setattr(Encoder, "encode", recorded)
    return calls


def target_of(out: str) -> Path:
    return Path(next(line.split()[-1] for line in out.splitlines() if line.startswith("release ")))


@pytest.fixture
def base(cli, home):
    """The folder of the run that made the release, and that of the release."""
    status, out, err, report = cli("release", home / "clip", "--corpus", home / "old", "--name", "mine")
    assert status == 0, err
    return report["folder"], target_of(out)


def stages(report) -> dict[str, dict]:
    return {stage["name"]: stage for stage in report["stages"]}


def vectors(release: Release) -> dict[str, np.ndarray]:
    index = release.open_index()
    return dict(zip(index.ids.to_pylist(), index.vectors(np.arange(len(index))), strict=True))


def shown(release: Release) -> dict[str, tuple]:
    documents = release.open_documents()
    return {
        id: (documents[n].text, documents[n].modality, documents[n].source, documents.thumbnail(n))
        for n, id in enumerate(release.items()["id"].to_pylist())
        if documents[n].id == id
    }


def test_only_new_items_are_encoded_and_the_result_is_that_of_a_rebuild(cli, home, base, read, tmp_path):
    folder, before = base
    read.clear()
    digest = read_manifest(before).digest
    status, out, err, report = cli("add", folder, home / "more")
    assert status == 0, err
    golden = [item.id for item in read_golden(before / GOLDEN).items]
    verified = [(role, id) for role in ("document", "query") for id in golden]
    assert read[: len(verified)] == verified and len(golden) == 8
    assert sorted(read[len(verified) :]) == [("document", "z/p10.png"), ("document", "z/p11.png"), ("document", "z/t")]
    lines = out.splitlines()
    assert lines[0] == f"rules     those of the run {folder}"
    version = open_release(before).version
    assert f"items     3 added, 2 there already; 3 encoded; 19 in all (mine {version} is as it was)" in lines
    assert lines[-1] == f"serve it  mirepoix serve {target_of(out)}"
    assert [stage["name"] for stage in report["stages"]] == ["sources", "curate", "merge", "embed", "index", "release"]
    assert read_manifest(before).digest == digest

    whole = corpus(tmp_path / "whole", OLD | NEW, TEXTS | NEW_TEXTS)
    status, rebuilt, err, _ = cli("release", home / "clip", "--corpus", whole, "--name", "mine", "embed.reuse=false", at=tmp_path / "other")
    assert status == 0, err
    grown, built = open_release(target_of(out)), open_release(target_of(rebuilt))
    found, expected = vectors(grown), vectors(built)
    assert list(found) == list(expected) and len(found) == 19
    assert max(abs(found[id] - expected[id]).max() for id in found) < 1e-5
    assert shown(grown) == shown(built) and len(shown(grown)) == 19
    assert np.array_equal(grown.contents(), built.contents()) and grown.contents().any(axis=1).all()
    for name in ("name", "encoder", "widths", "instructions"):
        assert getattr(grown, name) == getattr(built, name)
    grown.open_encoder()
    assert (grown.folder / "encoder" / "model.safetensors").stat().st_ino == (before / "encoder" / "model.safetensors").stat().st_ino


def test_what_is_done_is_not_done_again_and_a_plan_says_so(cli, home, base, read):
    _, before = base
    assert cli("add", before, home / "more")[0] == 0
    read.clear()
    status, out, _, report = cli("add", before, home / "more")
    assert status == 0 and read == [] and {stage["status"] for stage in report["stages"]} == {"skipped"}
    assert "3 added" in out
    status, out, _, _ = cli("add", before, home / "more", "--plan")
    assert [line.split()[1:3] for line in out.splitlines()] == [["up", "to"]] * 6


def test_no_file_of_a_release_names_a_folder_of_the_machine_that_made_it(cli, home, base):
    revised = [target_of(cli(*words)[1]) for words in (("add", base[1], home / "more"), ("remove", base[1], "p07.png"))]
    for made in (base[1], *revised):
        files = [file for file in made.rglob("*") if file.is_file()]
        assert len(files) > 5 and [file for file in files if str(home).encode() in file.read_bytes()] == [], made


def test_a_server_of_what_was_revised_is_said_to_go_on_with_that(cli, home, base, storage):
    cli("add", base[0], home / "more", "--prefix", "z/")
    version = peek(base[1])[0].version
    with served_mark(str(base[1]), "http://127.0.0.1:8123"):
        _, out, _, report = cli("add", base[0], home / "more", "--prefix", "z/")
        serve = f"mirepoix serve {report['folder'].name} --storage {storage}"
        said = f"the server at http://127.0.0.1:8123 still has mine {version}"
        assert out.splitlines()[-1] == f"{said}; start it again to serve this one: {serve}"
        with served_mark(str(base[1]), "http://127.0.0.1:8123", command=True):
            _, out, _, report = cli("add", base[0], home / "more", "--prefix", "z/")
            serve = f"mirepoix serve {report['folder'].name} --storage {storage}"
            assert out.splitlines()[-1] == f"{said}; swap it to this one: {serve} --port 8123"
        assert json.loads(cli("add", base[0], home / "more", "--prefix", "z/", "--json")[1].splitlines()[-1])["event"] == "end"
        _, out, _, report = cli("remove", report["folder"], "p05.png")
        assert out.splitlines()[-1].startswith(f"the server at http://127.0.0.1:8123 still has mine {version}; start it again")
    assert "the server at" not in cli("remove", report["folder"], "p06.png")[1]


def test_items_are_removed_without_an_encoder_and_come_back_without_one(cli, home, base, read, tmp_path):
    folder, before = base
    read.clear()
    (tmp_path / "ids.txt").write_text("p07.png\n\n mine/Travel & Places/p08.png \n")
    status, out, err, report = cli("remove", folder, "mine/Travel & Places/p09.png", "--ids", tmp_path / "ids.txt", "p09.png")
    assert status == 0, err
    assert "items     3 removed; 0 encoded; 13 in all" in out
    less = open_release(target_of(out))
    whole = open_release(before)
    assert [*vectors(less)] == [id for id in vectors(whole) if id not in ("p07.png", "p08.png", "p09.png")]
    assert all(np.array_equal(rows, vectors(whole)[id]) for id, rows in vectors(less).items())
    assert shown(less) == {id: document for id, document in shown(whole).items() if id in vectors(less)}
    assert shown(less)["p00.png"][2] == "mine/Travel & Places/p00.png" and shown(less)["t0"][2] == "mine/words.csv:2"
    assert [stage["name"] for stage in report["stages"]] == ["merge", "embed", "index", "release"] and read == []
    status, out, err, _ = cli("add", report["folder"], home / "old")
    assert status == 0, err
    assert "items     3 added, 13 there already; 0 encoded; 16 in all" in out, "the storage has their vectors"
    again = open_release(target_of(out))
    assert {id: rows.tobytes() for id, rows in vectors(again).items()} == {id: rows.tobytes() for id, rows in vectors(whole).items()}
    assert shown(again) == shown(whole)


def test_a_run_that_is_without_what_add_and_remove_changed_says_so_and_latest_stays_the_changed_one(cli, home, tmp_path):
    at, made = tmp_path / "own", ("release", home / "clip", "--corpus", home / "old", "--name", "mine")
    assert "revised" not in cli(*made, at=at)[1]
    less = cli("remove", "latest", "p09.png", at=at)
    again = cli(*made, at=at)
    said = "revised add or remove changed this release since; `mirepoix serve` without a name serves the changed one, of"
    name = less[3]["folder"].name
    assert f"{said} {name}" in " ".join(again[1].split())
    assert latest_release(str(at)) == str(target_of(less[1]))
    alone = "of the sources alone, without what add or remove changed in the one before"
    planned = cli("release", home / "clip", "--corpus", home / "old", "--name", "other", "--plan", at=at)[1]
    assert f"note its release would be {alone}, of {name}" in " ".join(planned.split())
    assert "note" not in cli(*made, "--plan", at=at)[1]
    anew = cli("release", home / "clip", "--corpus", home / "old", "--name", "other", at=at)
    assert f"this release is {alone}; that is: mirepoix serve {less[3]['folder']}" in " ".join(anew[1].split())
    assert latest_release(str(at)) == str(target_of(anew[1]))


def test_damaged_files_that_are_added_are_named_and_the_config_of_the_run_is_validated(cli, base, capsys, tmp_path):
    folder, _ = base
    more = pictures(tmp_path / "new", {f"n{n}.png": 80 + n for n in range(2)})
    for number, name in enumerate(("broken.png", "torn.png", "x/half.png", "x/quarter.png"), 90):
        (more / name).parent.mkdir(exist_ok=True)
        (more / name).write_bytes(drawn(number)[:60])
    status, out, err, report = cli("add", folder, more)
    assert status == 0, err
    lines = out.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("items     2 added; 2 encoded; 18 in all"))
    assert lines[at + 1] == "left out  4 rejected: new/broken.png (damaged), new/torn.png (damaged), new/x/half.png (damaged) and 1 more"
    config = report["folder"] / "config.yaml"
    assert f"each row  mirepoix validate {config} --copies --out rows.csv" in lines
    assert "in/new" not in (page := (report["folder"] / "report.html").read_text()) and "new/broken.png, new/torn.png" in page
    assert main(["validate", str(config), "--copies"]) == 1
    found, said = capsys.readouterr()
    assert "quarter.png" in found and "4 rows would be rejected" in said and "a run would stop" not in said
    assert main(["run", str(config)]) == 2
    assert "is of a run of `mirepoix add` or `remove`, and of no recipe" in capsys.readouterr().err


def test_golden_items_that_are_removed_are_in_the_release_no_more(cli, base, read):
    folder, before = base
    golden = read_golden(before / GOLDEN)
    shows = [item.id for item in golden.items if item.images]
    read.clear()
    status, out, err, _ = cli("remove", folder, *shows)
    assert status == 0, err
    less = open_release(target_of(out))
    made = read_golden(less.folder / GOLDEN)
    kept = [item.id for item in golden.items if not item.images]
    assert [item.id for item in made.items] == [*kept, "p04.png", "p05.png", "p06.png", "p07.png"]
    assert {role for role, _ in read} == {"document", "query"} and less.open_encoder()
    status, out, err, _ = cli("remove", folder, shows[0])
    assert [item.id for item in read_golden(target_of(out) / GOLDEN).items] == [item.id for item in golden.items if item.id != shows[0]]


def test_an_id_that_is_there_with_other_content_is_refused_replaced_or_renamed(cli, home, base, tmp_path):
    folder, before = base
    corpus(tmp_path / "same names", {"p01.png": 70, "p99.png": 99}, {})
    status, _, err, _ = cli("add", folder, tmp_path / "same names")
    assert status == 1
    shown = " ".join(err.split())
    assert "the release has other items with the ids 'p01.png'; give --prefix TEXT to give the new ids of their own, or --replace" in shown
    status, out, err, _ = cli("add", folder, tmp_path / "same names", "--replace")
    assert status == 0 and "items     1 added, 1 replaced; 2 encoded; 17 in all" in out, err
    replaced = open_release(target_of(out))
    assert not np.allclose(vectors(replaced)["p01.png"], vectors(open_release(before))["p01.png"], atol=1e-3)
    assert "p01.png" not in [item.id for item in read_golden(replaced.folder / GOLDEN).items]
    status, out, err, _ = cli("add", folder, tmp_path / "same names", "--prefix", "2027/")
    assert status == 0 and "items     2 added; 0 encoded; 18 in all" in out, "the run before encoded both"
    assert {"2027/p01.png", "2027/p99.png", "p01.png"} < {*vectors(open_release(target_of(out)))}


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        (
            ["remove", "RUN", "p1.png", "x", "y", "z", "p02.png"],
            "has no item 'p1.png', 'x', 'y' and 1 more; near to the first are",
        ),
        (["remove", "RUN", "--ids", "ALL"], "all 16 items of"),
        (
            ["remove", "RUN", "mine/Travel & Places"],
            "is given one by one: mine/Travel & Places/p00.png, mine/Travel & Places/p01.png, mine",
        ),
        (["remove", "RUN", "mine/words.csv:1"], "has no item 'mine/words.csv:1'; near to the first are mine/words.csv:"),
        (["remove", "RUN"], "there is nothing to remove; give ids or sources of items as a search shows them, or --ids FILE"),
        (["remove", "RUN", "--ids", "no such file"], "the ids in no such file cannot be read (No such file or directory)"),
        (["add", "RUN", "curate.max_rejected=1"], "there is nothing to add; give a folder, file or URI"),
        (["add", "RUN", "no/such/folder"], "there is no corpus at"),
        (["add", "MODEL", "MORE"], "is a model, and a release has a corpus too"),
        (["add", "RUN", "MORE", "curate.max_reject=1"], "did you mean"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_refused_in_a_line_before_anything_runs(words, refusal, cli, home, base, tmp_path):
    folder, before = base
    (tmp_path / "all").write_text("\n".join(vectors(open_release(before))))
    names = {"RUN": folder, "ALL": tmp_path / "all", "MODEL": home / "clip", "MORE": home / "more"}
    status, _, err, report = cli(*(names.get(word, word) for word in words), at=tmp_path / "untouched")
    (line,) = err.splitlines()
    assert status == 2 and refusal in line and report is None and not (tmp_path / "untouched").exists(), err


def test_the_rules_are_those_of_the_run_where_it_is_known(cli, home, base, tmp_path):
    status, out, err, report = cli("release", home / "clip", "--corpus", home / "old", "curate.near.texts=0.7", "curate.leakage=queries")
    assert status == 0, err
    target = target_of(out)
    for given in (report["folder"], target):
        revision, origin = addition(str(given), [str(home / "more"), "curate.max_rejected=0.5"])
        assert (revision.curate.near.texts, revision.curate.leakage, revision.curate.max_rejected) == (0.7, "off", 0.5)
        assert origin == f"those of the run {report['folder']}"
    copy = tmp_path / "elsewhere"
    shutil.copytree(target, copy)
    rules = rules_of(str(copy), str(copy))
    assert rules.curate.near.texts is None
    assert rules.origin == "those of the recipe search, as the run that made the release is not known"
    revision, origin = addition(str(copy), ["x=folder+y", "embed.batch_size=3"])
    assert (revision.sources.path, revision.embed.batch_size) == (("x=folder+y",), 3)


def test_the_rules_of_the_run_outlive_a_removal_and_an_addition(cli, home, base):
    status, _, err, report = cli("release", home / "clip", "--corpus", home / "old", "curate.near.texts=0.7", "embed.batch_size=7")
    assert status == 0, err
    status, _, err, report = cli("remove", report["folder"], "p09.png")
    assert status == 0, err
    status, _, err, report = cli("add", report["folder"], home / "more")
    assert status == 0, err
    revision, _ = addition(str(report["folder"]), [str(home / "old")])
    assert (revision.curate.near.texts, revision.curate.leakage, revision.embed.batch_size) == (0.7, "off", 7)


def test_the_command_that_show_prints_runs_an_addition_or_a_removal_again(cli, home, base, storage, capsys, tmp_path):
    folder, before = base
    (tmp_path / "ids of mine.txt").write_text("p07.png\n")
    for given, again in (
        (
            ("add", folder, home / "more", "--replace", "--prefix", "new year/", "curate.max_rejected=0.5", "curate.near.texts=null"),
            f"mirepoix add {before} {home / 'more'} --replace --prefix 'new year/' curate.max_rejected=0.5",
        ),
        (
            ("remove", folder, "p09.png", "mine/words.csv:2", "--ids", tmp_path / "ids of mine.txt"),
            f"mirepoix remove {before} p09.png mine/words.csv:2 --ids '{tmp_path}/ids of mine.txt'",
        ),
    ):
        status, _, err, report = cli(*given)
        assert status == 0, err
        assert main(["show", str(report["folder"]), "--storage", str(storage)]) == 0
        out, _ = capsys.readouterr()
        assert out.splitlines()[-1] == f"run again  {again} --storage {storage}"
        status, _, err, report = cli(*shlex.split(again)[1:])
        assert status == 0 and {stage["status"] for stage in report["stages"]} == {"skipped"}, err
    (report["folder"] / "config.yaml").write_text("seed: 0\n")
    assert main(["show", str(report["folder"]), "--storage", str(storage)]) == 0
    assert capsys.readouterr()[0].splitlines()[-1].startswith("run again  by the command that was given: its config.yaml is of another")


def test_a_killed_addition_goes_on_where_it_was(cli, home, base, monkeypatch, tmp_path):
    folder, _ = base
    more = pictures(tmp_path / "twenty", {f"twenty/{n}.png": 60 + n for n in range(20)})
    encode, given = Encoder.encode, []

    def killed(self, items, *arguments, **options):
        if any(item.id.startswith("twenty/") for item in items):
            given.extend(item.id for item in items)
            if len(given) > 16:
                raise KeyboardInterrupt
        return encode(self, items, *arguments, **options)

    words = ("add", folder, more, "embed.batch_size=1", "embed.shard_rows=2")
    monkeypatch.setattr(Encoder, "encode", killed)
    assert cli(*words)[0] == 130
    monkeypatch.setattr(Encoder, "encode", encode)
    status, out, err, report = cli(*words)
    assert status == 0, err
    metrics = stages(report)["embed"]["metrics"]
    assert (metrics["resumed"], metrics["encoded"]) == (16, 4)
    assert len(vectors(open_release(target_of(out)))) == 36


def test_a_release_on_an_object_store_is_added_to(cli, home, base, bucket, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(base[1], tmp_path / "draft", ignore=shutil.ignore_patterns(MANIFEST))
    publish(tmp_path / "draft", bucket("mine"), {})
    status, out, err, _ = cli("add", bucket("mine"), home / "more", at=tmp_path / "fresh")
    assert status == 0, err
    assert "rules     those of the recipe search" in out and "3 added, 2 there already; 3 encoded; 19 in all" in out
    status, _, err, _ = cli("remove", bucket("mine"), "nothing", at=tmp_path / "fresh")
    assert status == 2 and "has no item 'nothing'; its ids are such as p00.png" in err


def test_a_release_that_knows_neither_hashes_nor_sources_compares_what_it_shows_and_new_items_have_sources(cli, home, base, tmp_path):
    shutil.copytree(base[1], tmp_path / "draft", ignore=shutil.ignore_patterns(MANIFEST, "contents.npy"))
    without_sources(tmp_path / "draft")
    publish(tmp_path / "draft", tmp_path / "old", {})
    status, out, err, report = cli("add", tmp_path / "old", home / "old", home / "more")
    assert status == 0, err
    assert stages(report)["merge"]["metrics"]["unhashed"] == 16
    grown = shown(open_release(target_of(out)))
    sources = [grown[id][2] for id in ("p00.png", "t0", "more/z/p10.png", "more/z/t")]
    assert sources == [None, None, "mine/Travel & Places/z/p10.png", "mine/words.csv:8"]
    status, _, err, _ = cli("remove", tmp_path / "old", "mine/words.csv:2")
    assert status == 2 and "has no item 'mine/words.csv:2'; " in err
    status, out, err, report = cli("add", tmp_path / "old", home / "old")
    assert status == 0, err
    assert "items     16 there already; 0 encoded; 16 in all" in out


def test_the_lineage_of_a_revised_release_is_that_of_the_release_it_was_made_of(cli, home, base, tmp_path):
    _, _, _, added = cli("add", base[0], home / "more")
    _, out, _, removed = cli("remove", added["folder"], "p09.png")
    release, run = lineage(str(removed["folder"]))
    assert release == str(target_of(out)) and run["recipe"] == "search"
    assert run["settings"]["backbone"]["name"] == str(home / "clip") and "merge" not in run["settings"]
    shutil.copytree(base[1], tmp_path / "elsewhere")
    _, out, _, apart = cli("add", tmp_path / "elsewhere", home / "more")
    assert lineage(str(apart["folder"])) == (str(target_of(out)), None), "no run is known that made it"
