"""From a folder to a search, for every kind of folder that a user may have: `init`, `run` with what it wrote, and the release that it made.

Pictures are drawn here, the model is a tiny random CLIP: a query that is one of the pictures or texts finds that one first.
"""

import json
import os
import random
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from ray import serve

import mirepoix
from mirepoix.components.embedding import embed
from mirepoix.components.publishing.receipt import RECEIPT
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.item import Item
from mirepoix.serving.http.client import search_endpoint
from mirepoix.workflows.__main__ import main
from tests.components.fixtures import SIZES
from tests.components.ingestion.formats.format_cases import write_files
from tests.components.ingestion.formats.test_nlvr import published

NLVR = Path(os.environ.get("NLVR") or Path(__file__).resolve().parents[4] / "shared" / "data" / "nlvr")
COUNT = 12
WORDS = ("lake", "forest", "harbour", "market", "tower", "bridge", "garden", "street", "valley", "island", "castle", "meadow")


def drawn(number: int, kind: str = "PNG") -> bytes:
    """A picture of tiles in random colours, another one for each number."""
    buffer = BytesIO()
    tiles = Image.frombytes("RGB", (6, 4), random.Random(number).randbytes(72))
    tiles.resize((48, 32), Image.Resampling.NEAREST).save(buffer, kind)
    return buffer.getvalue()


def caption(number: int) -> str:
    return f"a view of the {WORDS[number]} with people on it"


def german(number: int) -> str:
    return f"Blick über das {WORDS[number]} mit Bäumen und der Straße"


def pictures_only(folder: Path) -> None:
    write_files(folder, {f"p{number:02}.png": drawn(number) for number in range(COUNT)})


def sub_folders(folder: Path) -> None:
    write_files(folder, {f"{2020 + number % 3}/{WORDS[number]}/shot.jpg": drawn(number, "JPEG") for number in range(COUNT)})


def semicolons(folder: Path) -> None:
    write_files(folder, {f"bilder/p{number:02}.png": drawn(number) for number in range(COUNT)})
    rows = [f"{number};bilder/p{number:02}.png;{german(number)};{number},50" for number in range(COUNT)]
    (folder / "liste.csv").write_bytes("\r\n".join(["Nr;Bild;Beschreibung;Preis", *rows]).encode("latin-1"))


def json_lines(folder: Path) -> None:
    write_files(folder, {f"media/p{number:02}.png": drawn(number) for number in range(COUNT)})
    write_files(folder, {"items.jsonl": [{"photo": f"media/p{number:02}.png", "says": caption(number)} for number in range(COUNT)]})


def captions_with_a_held_out_file(folder: Path) -> None:
    write_files(folder, {f"p{number:02}.png": drawn(number) for number in range(COUNT)})
    for name, numbers in (("captions.csv", range(9)), ("captions_test.csv", range(9, COUNT))):
        (folder / name).write_text("\n".join(["file,caption", *(f"p{number:02}.png,{caption(number)}" for number in numbers)]))


def beir(folder: Path) -> None:
    documents = [{"_id": f"d{number}", "title": WORDS[number], "text": caption(number)} for number in range(COUNT)]
    queries = [{"_id": f"q{number}", "text": f"where is the {WORDS[number]}?"} for number in range(COUNT)]
    for split, numbers in (("train", range(8)), ("test", range(8, COUNT))):
        lines = ["query-id\tcorpus-id\tscore", *(f"q{number}\td{number}\t1" for number in numbers)]
        write_files(folder, {f"qrels/{split}.tsv": "\n".join(lines)})
    write_files(folder, {"corpus.jsonl": documents, "queries.jsonl": queries})


def raw_nlvr(folder: Path) -> None:
    def row(split: str, number: int) -> dict[str, Any]:
        name, sentence = f"{number // 2}-{number % 2}", f"there is a {WORDS[number // 2]} in it"
        about = {"identifier": name, "sentence": sentence, "label": not number % 2}
        return {"image_name": f"{split}-{name}-0.png", "image": drawn(number), **about}

    published(folder, {"train": [row("train", number) for number in range(8)], "dev": [row("dev", number) for number in range(8, 12)]})


def real_nlvr(folder: Path) -> None:
    for split in ("dev", "test"):
        rows = next(pq.ParquetFile(NLVR / f"{split}.parquet").iter_batches(60))
        folder.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_batches([rows]), folder / f"{split}.parquet")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The tiny model, and the storage of all runs."""
    home = tmp_path_factory.mktemp("init")
    make_twin(home / "clip", "clip", [caption(number) for number in range(COUNT)] * 3, SIZES, seed=0)
    return home


class InProcess:
    """An actor of Ray's that is an object of this process: importing torch in another one takes longer than all else here."""

    def __init__(self, actor: Any):
        self.actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self.actor, name))


@pytest.fixture
def embedded_here(monkeypatch):
    """Embedding in this process."""

    def remote(cls: type) -> Any:
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *given: InProcess(cls(*given))))

    monkeypatch.setattr(embed, "ray", SimpleNamespace(remote=remote))
    monkeypatch.setattr(embed, "actor_pool", lambda actors: nullcontext(list(actors)))
    monkeypatch.setattr(embed, "map_in_order", lambda actors, items, send, ready: (send(actors[0], item) for item in items))


@pytest.fixture
def go(ray_cluster, home, tmp_path, monkeypatch, capsys) -> Callable[..., tuple[dict, Any]]:
    """From a folder to its release: what `init` wrote, and a search, which finds an id and a text."""
    monkeypatch.chdir(tmp_path)

    def run(make: Callable[[Path], None], until: str = "release") -> tuple[dict, Any]:
        make(tmp_path / "mine")
        assert main(["init", "mine"]) == 0
        capsys.readouterr()
        settings = yaml.safe_load(Path("mirepoix.yaml").read_text())
        words = [f"backbone.name={home / 'clip'}", "embed.threads=1", "--local", "--until", until, "--storage", str(home / "storage")]
        status = main(["run", "mirepoix.yaml", *words])
        out, err = capsys.readouterr()
        assert status == 0, err
        report = next(line.split()[-1] for line in out.splitlines() if line.startswith("report "))
        opened = mirepoix.open(report.rpartition("/")[0], device="cpu")

        def found(text: str = "", picture: bytes | None = None) -> tuple[str, str]:
            (best,) = opened.search(Item("query", text, images=(picture,) if picture else ()), k=1)
            return best.id, best.text

        return settings, found

    return run


@pytest.fixture
def served_release(ray_cluster):
    """Ends what is served."""
    yield
    serve.shutdown()


def test_pictures_alone(go, embedded_here, tmp_path):
    settings, found = go(pictures_only)
    assert settings["recipe"] == "search"
    assert settings["sources"] == {"path": [str(tmp_path / "mine")]}
    assert [found(picture=drawn(number)) for number in (0, 7)] == [("p00.png.image", ""), ("p07.png.image", "")]


@pytest.mark.soak
def test_pictures_that_an_actor_embeds_are_served_with_a_page(go, served_release, home):
    """As outside of tests: the page, and a search by a picture over HTTP."""
    go(pictures_only, until="deploy")
    (receipt,) = (home / "storage" / "artefacts" / "deploy").glob(f"*/{RECEIPT}")
    url = json.loads(receipt.read_text())["url"]
    assert "<html" in httpx.get(url).text
    results = search_endpoint(url, image=drawn(3), k=2)["results"]
    assert results[0]["id"] == "p03.png.image" and len(results) == 2


def test_pictures_in_sub_folders(go, embedded_here):
    settings, found = go(sub_folders)
    assert "captions" not in settings["sources"]
    assert found(picture=drawn(4, "JPEG")) == ("2021/tower/shot.jpg.image", "")


def test_a_csv_with_semicolons_in_latin_1_under_other_column_names(go, embedded_here):
    settings, found = go(semicolons)
    assert settings["sources"]["columns"] == ["picture=Bild", "text=Beschreibung", "id=Nr"]
    assert settings["sources"]["captions"] == "apart"
    assert found(picture=drawn(3)) == ("3.image", "")
    assert found(german(4))[1] == "Blick über das tower mit Bäumen und der Straße"


def test_json_lines_under_other_names(go, embedded_here):
    settings, found = go(json_lines)
    assert settings["sources"]["columns"] == ["picture=photo", "text=says"]
    assert found(picture=drawn(5)) == ("media/p05.png.image", "")
    assert found(caption(6))[1] == "a view of the garden with people on it"


def test_captions_with_a_held_out_file(go, embedded_here):
    settings, found = go(captions_with_a_held_out_file)
    assert "columns" not in settings["sources"] and settings["sources"]["captions"] == "apart"
    assert found(picture=drawn(11)) == ("p11.png.image", "")
    written = Path("mirepoix.yaml").read_text()
    assert "split test: 3 queries i->t, 3 queries t->i" in written and "split train: 9 queries i->t, 9 queries t->i" in written
    assert "# curate: {held_out: 0.0}" in written, "there is a split to measure on"


def test_beir(go, embedded_here):
    settings, found = go(beir)
    assert "columns" not in settings["sources"]
    assert found("forest a view of the forest with people on it")[0] == "d1"


def test_nlvr_as_published(go, embedded_here):
    settings, found = go(raw_nlvr)
    assert settings["sources"] == {"path": [os.path.abspath("mine")]}
    assert found(picture=drawn(9))[0] == "dev-4-1-0"


@pytest.mark.skipif(not (NLVR / "dev.parquet").is_file(), reason=f"NLVR is not at {NLVR}; set NLVR to its folder")
def test_nlvr_of_its_authors(go, embedded_here):
    settings, found = go(real_nlvr)
    assert settings["sources"]["splits"] == ["validation=train"]
    rows = pq.read_table(Path("mine") / "dev.parquet").to_pylist()
    assert found(picture=rows[0]["image"])[0].startswith("dev-")


# What is written and said


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """Runs `init` in an empty folder; returns its status, its output and its refusal."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> tuple[int, str, str]:
        status = main(["init", *words])
        return status, *capsys.readouterr()

    return run


def test_what_is_said_is_in_the_file_and_the_last_lines_are_the_next_commands(cli, tmp_path):
    pictures_only(tmp_path / "mine")
    status, out, _ = cli("mine")
    assert status == 0
    said, rest = out.split("\nwritten   mirepoix.yaml\n")
    comments = [line.removeprefix("#").strip() for line in Path("mirepoix.yaml").read_text().splitlines() if line.startswith("#")]
    assert [line.strip() for line in said.splitlines()] == comments[2:]
    assert [re.split(r"\s{2,}", line)[0] for line in rest.split("\n") if line] == [
        "mirepoix run mirepoix.yaml --plan",
        "mirepoix run mirepoix.yaml",
        "mirepoix serve --open",
    ]
    assert "12 pictures" in said and "openai/clip-vit-base-patch32" in said and "comes from the hub" in said
    assert max(map(len, out.splitlines())) < 120


def test_a_file_that_is_there_stays_and_is_written_over_by_force_alone(cli, tmp_path):
    pictures_only(tmp_path / "mine")
    Path("mirepoix.yaml").write_text("mine\n")
    status, _, err = cli("mine")
    assert status == 2 and err == (
        "mirepoix: mirepoix.yaml is there already; give --force to write it anew, or another name as --output FILE.yaml\n"
    )
    assert Path("mirepoix.yaml").read_text() == "mine\n"
    assert cli("mine", "--output", "other.yaml")[0] == 0 and cli("mine", "--force")[0] == 0
    assert Path("mirepoix.yaml").read_text().splitlines()[1:] and Path("other.yaml").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "mirepoix.yaml", "other.yaml"]
    assert "ends in .yaml" in cli("mine", "--output", "mine.txt")[2]
    assert cli("nowhere")[2] == "mirepoix: there is no folder nowhere; give the folder of your pictures or texts\n"


def test_everything_is_said_as_json_too(cli, tmp_path):
    semicolons(tmp_path / "mine")
    found = json.loads(cli("mine", "--json")[1])
    assert found["found"]["format"] == "table" and found["proposed"]["recipe"] == "search"
    assert found["proposed"]["settings"]["sources"]["columns"] == ["picture=Bild", "text=Beschreibung", "id=Nr"]
    assert found["proposed"]["language"] == "German"
    assert "not used: Preis; sources.columns takes one as" in cli("mine", "--force")[1]


def alternatives(text: str) -> Iterator[str]:
    """The file with each of its commented alternatives in place of what it says to be in the place of."""
    for match in re.finditer(r"^( +.*\n) +# (captions: together).*\n", text, re.M):
        yield text.replace(match[1], f"  {match[2]}\n")
    for match in re.finditer(r"^# .* in place of (.*):\n((?:# \w+: .*\n)+)", text, re.M):
        kept = text
        for named in re.findall(r"`([^`]+)`", match[1]):
            kept = re.sub(rf"^{named}\b.*\n(?: .*\n)*", "", kept, flags=re.M)
        yield kept + match[2].replace("# ", "")


@pytest.mark.parametrize(
    ("make", "recipe", "expected"),
    [
        (captions_with_a_held_out_file, "search", ["captions: together", "recipe: finetune"]),
        (captions_with_a_held_out_file, "finetune", ["recipe: search"]),
        (semicolons, "finetune", ["recipe: search"]),
        (beir, "finetune", ["recipe: search"]),
        (pictures_only, "search", []),
    ],
    ids=["search", "finetune", "table", "beir", "pictures"],
)
def test_each_alternative_that_is_in_the_file_as_a_comment_plans_once_it_is_taken(cli, home, tmp_path, capsys, make, recipe, expected):
    make(tmp_path / "mine")
    assert cli("mine", "--recipe", recipe)[0] == 0
    text = Path("mirepoix.yaml").read_text()
    assert re.findall(r"^ *# ((?:captions|recipe): \w+)", text, re.M) == expected
    for taken, change in zip(alternatives(text), expected, strict=True):
        Path("mirepoix.yaml").write_text(taken)
        assert change in taken.replace(f"# {change}", "")
        assert main(["run", "mirepoix.yaml", f"backbone.name={home / 'clip'}", "--plan"]) == 0, capsys.readouterr().err
        assert ("\ninstruct " in capsys.readouterr().out) == ("recipe: finetune" in change)


def test_a_training_whose_tables_have_no_query_is_not_offered_captions_that_are_none(cli, tmp_path):
    captions_with_a_held_out_file(tmp_path / "mine")
    assert cli("mine", "--recipe", "finetune")[0] == 0
    assert "captions: apart  # a picture and its caption are two results, and the caption is a query for the picture\n" in (
        text := Path("mirepoix.yaml").read_text()
    )
    assert "  # together is one result of both, with which no query is made: a training needs queries of its own then, as a column" in text


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "there is no folder mine"),
        (lambda folder: folder.mkdir(), "there is no file in mine"),
        (lambda folder: folder.write_text("x"), "mine is a file; give the folder that it is in"),
        (lambda folder: write_files(folder, {"a.heic": b"x", "b.heic": b"y"}), "2 .heic (a picture that is not read; convert it to JPEG)"),
        (lambda folder: write_files(folder, {"a.docx": b"x"}), "neither pictures (JPEG, PNG, WEBP, GIF) nor tables"),
        (lambda folder: write_files(folder, {"a.jpg": b"x", "b.png": b""}), "none of the 2 pictures looked at in mine can be read"),
    ],
    ids=["none", "empty", "file", "heic", "documents", "damaged"],
)
def test_a_folder_without_anything_to_search_is_refused_in_one_line(cli, tmp_path, make, words):
    make(tmp_path / "mine")
    status, out, err = cli("mine")
    assert status == 2 and not out and err.count("\n") == 1 and words in err
    assert not Path("mirepoix.yaml").exists()


def test_a_folder_that_may_not_be_read_is_refused(cli, tmp_path, monkeypatch):
    pictures_only(tmp_path / "mine")

    def denied(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", denied)
    status, _, err = cli("mine")
    assert status == 2 and "mine cannot be read (Permission denied)" in err
