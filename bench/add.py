"""What adding to a release takes beside embedding all of it: CPU seconds of `mirepoix add` of 1 % of its pictures.

    python bench/add.py                          4,200 pictures through a random CLIP of the size of ViT-B/32: ten CPU minutes and more
    python bench/add.py --pictures 840           a fifth of it
    python bench/add.py --check                  exit status 1 if what is promised does not hold

Embedding all is the stage `embed` of `mirepoix run search`, whose other stages were run before. What a command takes over one picture is
subtracted from it: it starts the same processes, imports the same modules, and opens the same encoder. Commands run in a cgroup that counts
Ray's processes too (bench/suite.py). Pictures are those of bench/search.py.
"""

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "bench")]

from search import picture  # noqa: E402
from suite import measure  # noqa: E402

PROMISED = 0.05
"""The most that adding a hundredth takes, as a share of embedding all."""
BASE = {
    "hidden_size": 512,
    "layers": 12,
    "heads": 8,
    "intermediate_size": 2048,
    "vision_depth": 12,
    "vision_width": 768,
    "vision_heads": 12,
    "patch_size": 32,
    "max_pixels": 224 * 224,
}
"""The sizes of CLIP ViT-B/32, but for its vocabulary."""


def model(home: Path) -> Path:
    """A random CLIP of the size of ViT-B/32."""
    from mirepoix.models.backbones.twin_config import Tiny
    from mirepoix.models.backbones.twins import make_twin

    texts = ["a small red circle on snow", "two large blue stars at night"] * 40
    return Path(make_twin(home / "clip", "clip", texts, Tiny(**BASE), seed=0)["model"].name)


def command(home: Path, *words: object) -> tuple[float, Path]:
    """CPU seconds of a command, and the folder of its run."""
    log = home / "log"
    given = [sys.executable, "-m", "mirepoix.workflows", *map(str, words), "--storage", str(home / "storage")]
    cost = measure(["sh", "-c", 'log="$1"; shift; exec "$@" > "$log" 2>&1', "sh", str(log), *given])
    lines = log.read_text().splitlines()
    if cost.status:
        raise SystemExit(f"bench/add.py: `mirepoix {' '.join(map(str, words))}` ended with {cost.status}:\n" + "\n".join(lines[-30:]))
    return cost.cpu, Path(next(line.split()[-1] for line in lines if line.startswith("report "))).parent


def embedded(home: Path, clip: Path, corpus: Path) -> tuple[float, Path]:
    """CPU seconds of a run that embeds a corpus, whose stages before are run already; and the run that then makes its release."""
    words = ["run", "search", f"sources.path={corpus}", f"backbone.name={clip}", "--until"]
    command(home, *words, "pairs")
    command(home, *words, "backbone")
    cost, _ = command(home, *words, "embed")
    return cost, command(home, *words, "release")[1]


def encoded(run: Path) -> dict[str, Any]:
    """How many items a run encoded, and of how many."""
    stages = {stage["name"]: stage["metrics"] for stage in json.loads((run / "report.json").read_text())["stages"]}
    return {"encoded": int(stages["embed"]["encoded"]), "items": int(stages["index"]["items"])}


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=4200)
    parser.add_argument(
        "--check", action="store_true", help=f"exit status 1 if an addition takes more than {PROMISED:.0%} of embedding all"
    )
    asked = parser.parse_args(arguments)
    added = max(1, asked.pictures // 100)
    with tempfile.TemporaryDirectory() as home_name:
        home = Path(home_name)
        corpora = {
            "all": range(asked.pictures),
            "new": range(asked.pictures, asked.pictures + added),
            "one": [10**6],
            "another": [10**6 + 1],
        }
        for name, numbers in corpora.items():
            (home / name).mkdir()
            for number in numbers:
                (home / name / f"{number:07d}.jpg").write_bytes(picture(number))
        clip = model(home)
        starts, of_one = embedded(home, clip, home / "one")
        whole, of_all = embedded(home, clip, home / "all")
        add_starts, _ = command(home, "add", of_one, home / "another")
        add_whole, run = command(home, "add", of_all, home / "new")
        done = encoded(run)
    share = (add_whole - add_starts) / (whole - starts)
    print(f"{asked.pictures} pictures of 640 x 480, {added} added; Python {platform.python_version()}, CPU seconds\n")
    print("| | starts, imports, opening the encoder | the whole command | the work |\n|---|---|---|---|")
    print(f"| embedding all | {starts:.1f} | {whole:.1f} | {whole - starts:.1f} |")
    print(f"| adding {added} | {add_starts:.1f} | {add_whole:.1f} | {add_whole - add_starts:.1f} ({share:.1%}) |")
    print(f"\n{done['encoded']} items were encoded; the release has {done['items']}")
    failed = share > PROMISED or done != {"encoded": added, "items": asked.pictures + added}
    if failed:
        print(f"\nan addition takes more than {PROMISED:.0%} of embedding all, or encodes more than it adds", file=sys.stderr)
    return int(asked.check and failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
