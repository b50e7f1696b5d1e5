"""A process that has torchvision, which this project does without: what others' readers of pictures and clips give can be compared there.

PyPI's torchvision is built for CUDA. Installed beside the environment (`make .venv/vision/ready`), never into it, it serves a torch without
CUDA too, once the two operators that it asks for at import are declared; those that are compiled stay away.
"""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(sys.prefix) / "vision"
ROOT = Path(__file__).parent.parent
DECLARED = """
import torch
if torch.version.cuda is None:
    operators = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        operators.define(name + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def with_torchvision(code: str, *arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs Python code where torchvision is, with `arguments` in sys.argv[1:]; `mirepoix` and `tests` can be imported there too."""
    assert (FOLDER / "torchvision").is_dir(), f"{FOLDER} has no torchvision; run `make .venv/vision/ready`"
    return subprocess.run(
        [sys.executable, "-c", DECLARED + code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (FOLDER, ROOT)))},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
