"""The way of docs/your_pictures.md, run and measured: folders of drawn pictures, a stand-in for a published model, and CPU seconds.

    python bench/your_pictures.py corpus DIR            DIR/pictures, DIR/captioned and DIR/asked, of 300 drawn pictures each
    python bench/your_pictures.py model DIR             a random CLIP of the size of ViT-B/32: what a published one costs, not what it knows
    python bench/your_pictures.py model DIR --tiny      one of a fraction of that size, which is soon trained
    python bench/your_pictures.py share                 the share of the speed that `init` measures that the model of full size reaches
    python bench/your_pictures.py measure               init, run and run again over each folder: CPU seconds, Ray's processes included

No published weights are at hand where the page was written, so its times are those of the first model, and its scores those of the second,
trained in all of its weights.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "bench")]

from suite import measure  # noqa: E402

PICTURES = 300
SIDE = 224
"""Pixels of a side of a drawn picture."""
REPEATS = 5
TRAINED = ("instruct.tuning.lora=null", "instruct.learning_rate=1e-3", "instruct.max_steps=200", "instruct.loss.temperature=0.07")
"""How a random model is trained, in place of the adapters over a published one."""


def write_corpora(home: Path, pictures: int) -> None:
    """Three folders of the same pictures: alone in sub-folders; with a table of captions; with a table of what people asked for."""
    from mirepoix.components.synthetic.drawing import draw
    from mirepoix.components.synthetic.entities import invent, stream

    entities = invent({"train": pictures, "validation": 0, "test_entity": 0, "test_combination": 0}, 0.0, stream("your pictures"))
    drawn = [(entity.identity, draw(entity.identity, SIDE, stream("look", number))) for number, entity in enumerate(entities)]
    captioned, searched = home / "captioned", home / "asked"
    captioned.mkdir(parents=True)
    (searched / "images").mkdir(parents=True)
    with (captioned / "captions.csv").open("w", newline="") as captions, (searched / "searches.csv").open("w", newline="") as asked:
        rows, searches = csv.writer(captions), csv.writer(asked, delimiter=";")
        rows.writerow(["file_name", "caption"])
        searches.writerow(["Search", "Clicked", "Title"])
        for number, (identity, png) in enumerate(drawn):
            caption, search = identity.wordings()
            place = home / "pictures" / identity.ground / f"{number:04d}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            for path in (place, captioned / f"{number:04d}.png", searched / "images" / f"{number:04d}.png"):
                path.write_bytes(png)
            rows.writerow([f"{number:04d}.png", caption])
            searches.writerow([search, f"{number:04d}.png", f"{identity.colour} {identity.shape}"])


def write_model(home: Path, tiny: bool) -> Path:
    """A random CLIP, as transformers saves one."""
    import torch
    from transformers import CLIPConfig, CLIPModel

    from mirepoix.models.backbones.twin_config import Tiny
    from mirepoix.models.backbones.twins import make_twin

    texts = ["one small red plain circle mark on snow", "three large blue striped star marks on night"] * 40
    folder = Path(make_twin(home, "clip", texts, Tiny(), seed=0)["model"].name)
    if not tiny:
        torch.manual_seed(0)
        small = json.loads((folder / "config.json").read_text())["text_config"]
        ids = {name: small[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in small}
        CLIPModel(CLIPConfig(text_config=ids)).save_pretrained(folder)
        pixels = folder / "preprocessor_config.json"
        settings = json.loads(pixels.read_text()) | {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
        pixels.write_text(json.dumps(settings, indent=1) + "\n")
    return folder


def print_share(pictures: int) -> None:
    """Repeats, one after the other: the speed that `init` measures, and what the model of full size does of pictures and of captions.

    A repeat is the CPU seconds of all threads over their number: of a machine that does other work too, the clock says more.
    """
    import torch

    from mirepoix.models.backbones.checkpoint_config import Checkpoint
    from mirepoix.models.encoder import encoder_class
    from mirepoix.models.item import Item
    from mirepoix.workflows.init.costs import EMBEDDED, longest_tokens
    from mirepoix.workflows.init.machine import this_machine
    from mirepoix.workflows.init.models import CLIP_B32
    from mirepoix.workflows.recipes.search import MODEL

    with tempfile.TemporaryDirectory() as name, torch.inference_mode():
        home = Path(name)
        write_corpora(home, pictures)
        checkpoint = Checkpoint(write_model(home / "whole", tiny=False))
        encoder = encoder_class(MODEL.encoder).build({"model": checkpoint}, MODEL.encoder).eval()
        rows = list(csv.reader((home / "captioned" / "captions.csv").open()))[1:]
        captions = [caption for _, caption in rows]
        items = {
            "pictures": [Item(file, images=((home / "captioned" / file).read_bytes(),)) for file, _ in rows],
            "captions": [Item(file, caption) for file, caption in rows],
        }
        assert CLIP_B32.vision is not None
        operations = {"pictures": CLIP_B32.vision.operations, "captions": CLIP_B32.text_operations(longest_tokens(captions, EMBEDDED))}
        batches = {
            kind: [encoder.collator((), found[start : start + EMBEDDED]) for start in range(0, len(found), EMBEDDED)]
            for kind, found in items.items()
        }
        cpus = this_machine(name).cpus
        torch.set_num_threads(cpus)
        print(f"{pictures} pictures and captions in batches of {EMBEDDED}, {cpus} threads\n")
        print("| GFLOP/s measured | of pictures | share | of captions | share |\n|---|---|---|---|---|")
        for number in range(REPEATS + 1):
            speed = this_machine(name).rate
            reached = []
            for kind, found in batches.items():
                began = time.process_time()
                for batch in found:
                    encoder(**batch)
                reached.append(pictures * operations[kind] * cpus / (time.process_time() - began))
            if number:  # the first one warms up
                cells = " | ".join(f"{each / 1e9:.0f} | {each / speed:.2f}" for each in reached)
                print(f"| {speed / 1e9:.0f} | {cells} |", flush=True)


def _timed(words: list[str], home: Path, storage: Path) -> float:
    """CPU seconds of a command, Ray's processes included."""
    log = home / "log"
    command = ["sh", "-c", 'log="$1"; shift; exec "$@" > "$log" 2>&1', "sh", str(log), sys.executable, "-m", "mirepoix.workflows", *words]
    os.environ["MIREPOIX_STORAGE"] = str(storage)
    cost = measure(command)
    if cost.status:
        raise SystemExit(f"bench/your_pictures.py: `mirepoix {' '.join(words)}` ended with {cost.status}:\n{log.read_text()[-2000:]}")
    return cost.cpu


def _estimated(home: Path, folder: str) -> float:
    """The wall seconds of embedding that `init` estimates, with the published model, which has the size of the model of full size."""
    command = [sys.executable, "-m", "mirepoix.workflows", "init", str(home / folder), "--output", str(home / "estimate.yaml")]
    printed = subprocess.run([*command, "--force", "--json"], capture_output=True, text=True, check=True).stdout
    return float(json.loads(printed)["proposed"]["costs"]["embedding"])


def _taken(storage: Path) -> float:
    """The wall seconds that the stage `embed` of the latest run took."""
    latest = max(storage.rglob("report.json"), key=lambda path: path.stat().st_mtime)
    stages = json.loads(latest.read_text())["stages"]
    return float(next(stage["took"] for stage in stages if stage["name"] == "embed"))


def print_costs(pictures: int) -> None:
    """A table: each step of the page, and what it takes with the model of full size, and with the tiny one."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        write_corpora(home, pictures)
        whole, tiny = write_model(home / "whole", tiny=False), write_model(home / "tiny", tiny=True)
        steps = [
            ("init of pictures alone", "pictures", whole, ()),
            ("captions: a training of the tiny model", "captioned", tiny, TRAINED),
            ("searches: a training of the tiny model", "asked", tiny, TRAINED),
        ]
        print(f"{pictures} pictures of {SIDE} x {SIDE}, Python {platform.python_version()}, CPU seconds\n")
        print("| folder | init | run | the same run again | embedding, of wall seconds: estimated, taken |\n|---|---|---|---|---|")
        for _, folder, model, trained in steps:
            storage, file = home / f"storage-{folder}", home / f"{folder}.yaml"
            init = _timed(
                ["init", str(home / folder), "--output", str(file), *(["--recipe", "finetune"] if trained else [])], home, storage
            )
            run = ["run", str(file), f"backbone.name={model}", *trained]
            first = _timed(run, home, storage)
            estimated, taken = _estimated(home, folder), _taken(storage)
            row = f"| {folder} | {init:.1f} | {first:.1f} | {_timed(run, home, storage):.1f} |"
            print(row, f"{estimated:.0f}, {taken:.0f} |" if model == whole else f"-, {taken:.0f} |", flush=True)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=PICTURES, help="pictures of each folder (default: %(default)s)")
    commands = parser.add_subparsers(dest="command", required=True)
    for command, words in (("corpus", "write the folders of pictures"), ("model", "write the stand-in for a published model")):
        one = commands.add_parser(command, help=words)
        one.add_argument("folder", type=Path, metavar="DIR")
        if command == "model":
            one.add_argument("--tiny", action="store_true", help="a fraction of the size")
    commands.add_parser("share", help="what the model of full size reaches of the speed that init measures")
    commands.add_parser("measure", help="run the steps of the page, and print what they take")
    asked = parser.parse_args(arguments)
    if asked.command == "measure":
        print_costs(asked.pictures)
    elif asked.command == "share":
        print_share(asked.pictures)
    elif asked.command == "corpus":
        write_corpora(asked.folder, asked.pictures)
    else:
        print(write_model(asked.folder, asked.tiny))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
