"""Encoding of mixed text lengths and picture sizes against sentence-transformers on the same exported model: ratios of CPU time.

The model is a random UNITE as sentence-transformers reads it; both give the same vectors. Texts have 3 to 400 words, most of them few;
pictures are JPEG files of 112 to 448 pixels a side. sentence-transformers needs torchvision to open a Qwen-VL, which
`make .venv/vision/ready` installs beside ours: this runs in a process of its own with it.
"""

import io
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from ratios import Row

HERE = Path(__file__).resolve().parents[1]
VISION = HERE / ".venv" / "vision"
PROMISED = 1.5
ITEMS, BATCH, HIDDEN, LAYERS, PICTURE_TOKENS = 96, 32, 256, 4, 256
TEXT = "a small red circle on snow two large blue stars at night in the old town where many ships lie and nobody knows what they carry"
WORDS = TEXT.split()


def jpeg(draw: random.Random) -> bytes:
    """A picture of natural detail: low frequencies and some noise."""
    width, height = draw.randint(112, 448), draw.randint(112, 448)
    noise = np.random.default_rng(draw.randint(0, 1 << 30))
    coarse = Image.fromarray(noise.integers(0, 255, (9, 9, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    grain = np.asarray(coarse, np.int16) + noise.integers(-12, 12, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray(np.clip(grain, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=88)
    return file.getvalue()


def items_of(count: int) -> dict[str, list[Any]]:
    """Texts, pictures, and a mixture of both and of pictures with texts."""
    from mirepoix.models.item import Item

    draw = random.Random(3)
    lengths = [min(400, int(draw.lognormvariate(3.6, 0.9)) + 3) for _ in range(count)]
    texts = [Item(f"t{n}", text=" ".join(draw.choices(WORDS, k=length))) for n, length in enumerate(lengths)]
    pictures = [Item(f"p{n}", images=(jpeg(draw),)) for n in range(count // 2)]
    both = [Item(f"b{n}", text=texts[n].text, images=pictures[n].images) for n in range(count // 4)]
    mixed = [*texts[: count // 2], *pictures[: count // 4], *both]
    draw.shuffle(mixed)
    return {"texts": texts, "pictures": pictures, "mixed": mixed}


def given(item: Any) -> Any:
    """An item as sentence-transformers takes it."""
    opened = [Image.open(io.BytesIO(data)).convert("RGB") for data in item.images]
    if not opened:
        return item.text
    return {"image": opened[0], "text": item.text} if item.text else {"image": opened[0]}


def compare(rounds: int) -> dict[str, Any]:
    """Per kind of items, the CPU seconds of sentence-transformers over ours in each round; and by how much vectors differ at most."""
    import torch

    if torch.version.cuda is None:  # a torchvision built for GPUs registers operators that a CPU's torch lacks
        operators = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            operators.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from sentence_transformers import SentenceTransformer

    from mirepoix.components.publishing import sentence_transformers as layout
    from mirepoix.components.publishing.chat_template import chat_template
    from mirepoix.models.backbones.twin_config import Tiny
    from mirepoix.models.backbones.twins import make_twin
    from mirepoix.models.encoder import load_encoder
    from mirepoix.models.retrievers.unite import Unite
    from mirepoix.models.retrievers.unite_config import UniteConfig

    torch.set_num_threads(1)
    sizes = Tiny(
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        layers=LAYERS,
        heads=8,
        vision_depth=4,
        vision_width=HIDDEN // 2,
        vision_heads=4,
        max_pixels=PICTURE_TOKENS * 28 * 28,
    )
    found: dict[str, Any] = {"ratios": {}, "difference": 0.0}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "exported"
        made = Unite.build(
            make_twin(Path(home) / "twin", "qwen2_vl", [" ".join(WORDS)] * 20, sizes, seed=0), UniteConfig(positions="mrope")
        )
        made.save(folder)
        (folder / "chat_template.jinja").write_text(chat_template(made))
        layout.write_chat(folder, made, {}, counted=False)
        ours, theirs = load_encoder(folder), SentenceTransformer(str(folder), device="cpu")
        for kind, items in items_of(ITEMS).items():
            some = items[:8]
            difference = ours.encode(some).rows_NTD[:, 0] - torch.tensor(theirs.encode([given(item) for item in some]))
            found["difference"] = max(found["difference"], float(difference.abs().max()))
            ratios = found["ratios"].setdefault(kind, [])
            for _ in range(rounds):
                began = time.process_time()
                ours.encode(items, BATCH)
                between = time.process_time()
                theirs.encode([given(item) for item in items], batch_size=BATCH)
                ratios.append((time.process_time() - between) / (between - began))
    return found


def measure(rounds: int) -> list[Row]:
    if not VISION.is_dir():
        raise SystemExit("bench/training.py encode: sentence-transformers needs torchvision; run `make .venv/vision/ready`")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(VISION), str(HERE)]), "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, __file__, str(min(rounds, 7))], env=env, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    note = f"{ITEMS} items, vectors differ by at most {found['difference']:.1e}"
    what = "encoding: sentence-transformers over ours, "
    return [Row(what + kind, ratios, least=PROMISED if kind == "mixed" else None, note=note) for kind, ratios in found["ratios"].items()]


if __name__ == "__main__":
    print(json.dumps(compare(int(sys.argv[1]))))
