"""What a search over a folder of pictures takes without a training: CPU seconds of `mirepoix run search` over 200 pictures, beside one.

    python bench/search.py                       both layouts of a tiny random CLIP, as a table, with the settings
    python bench/search.py --pictures 1000 --repeats 5
    python bench/search.py --check               exit status 1 if what is promised does not hold

A run over one picture starts the same processes and imports the same modules, its endpoint included; what a run over all takes more is the
work: reading, curation, encoding, indexing, thumbnails. Runs of both are made in turn, each into a storage of its own, in a cgroup that
counts Ray's processes too (bench/suite.py). Pictures are photograph-like JPEGs of 640 x 480. The imports of what opens a model are measured
beside it, each in a process of its own.
"""

import argparse
import io
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(HERE), str(HERE / "bench")]

from suite import measure  # noqa: E402

PROMISED = 20.0
"""The most CPU seconds that a search over 200 pictures takes beyond process starts and imports."""
IMPORTS = {
    "torch": "import torch",
    "and transformers": "import torch; from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel",
    "and sentence-transformers": "import torch; from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, CLIPModel\n"
    "import sentence_transformers",
}


def picture(number: int) -> bytes:
    """A picture of smooth colours and some noise, as JPEG."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(number)
    smooth = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    noisy = np.asarray(smooth, np.int16) + generator.integers(-12, 13, (480, 640, 3), dtype=np.int16)
    file = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


def models(home: Path) -> dict[str, Path]:
    """A tiny CLIP as transformers saves it, and as sentence-transformers does."""
    from mirepoix.models.backbones.twin_config import Tiny
    from mirepoix.models.backbones.twins import make_twin

    texts = ["a small red circle on snow", "two large blue stars at night"] * 40
    plain = Path(make_twin(home / "clip", "clip", texts, Tiny(), seed=0)["model"].name)
    code = "import sys; from sentence_transformers import SentenceTransformer as S; S(sys.argv[1], device='cpu').save(sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, str(plain), str(home / "layout")], check=True, capture_output=True)
    return {"plain": plain, "sentence-transformers layout": home / "layout"}


def searched(home: Path, model: Path, corpus: Path) -> float:
    """CPU seconds of a run in a storage of its own."""
    with tempfile.TemporaryDirectory(dir=home) as storage:
        words = ["run", "search", f"sources.path={corpus}", f"backbone.name={model}", "--storage", storage]
        log = Path(storage) / "log"
        cost = measure(
            ["sh", "-c", 'log="$1"; shift; exec "$@" > "$log" 2>&1', "sh", str(log), sys.executable, "-m", "mirepoix.workflows", *words]
        )
        if cost.status:
            raise SystemExit(f"bench/search.py: `mirepoix {' '.join(words)}` ended with {cost.status}:\n{log.read_text()[-2000:]}")
        return cost.cpu


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--check", action="store_true", help=f"exit status 1 if the work takes more than {PROMISED:g} CPU seconds")
    asked = parser.parse_args(arguments)
    failed = False
    with tempfile.TemporaryDirectory() as home_name:
        home = Path(home_name)
        many, one = home / "many", home / "one"
        for folder, count in ((many, asked.pictures), (one, 1)):
            folder.mkdir()
            for number in range(count):
                (folder / f"{number:05d}.jpg").write_bytes(picture(number))
        print(f"{asked.pictures} pictures of 640 x 480, {asked.repeats} rounds, Python {platform.python_version()}, CPU seconds\n")
        print("| model | starts and imports | the whole run | the work: median (least to most) |\n|---|---|---|---|")
        for name, model in models(home).items():
            rounds = [(searched(home, model, one), searched(home, model, many)) for _ in range(asked.repeats)]
            starts, whole = (statistics.median(column) for column in zip(*rounds, strict=True))
            work = sorted(all_of - first for first, all_of in rounds)
            middle = statistics.median(work)
            print(f"| {name} | {starts:.1f} | {whole:.1f} | {middle:.1f} ({work[0]:.1f} to {work[-1]:.1f}) |", flush=True)
            failed |= middle > PROMISED
        print("\n| imports | CPU seconds |\n|---|---|")
        for name, code in IMPORTS.items():
            costs = [measure([sys.executable, "-c", code]).cpu for _ in range(asked.repeats)]
            print(f"| {name} | {statistics.median(costs):.1f} |", flush=True)
    if failed:
        print(f"\nthe work takes more than {PROMISED:g} CPU seconds", file=sys.stderr)
    return int(asked.check and failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
