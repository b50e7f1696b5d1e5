"""Subprocesses with packages that this project is compared with and does not depend on: torchvision, PyLate, mteb, clients of the endpoint.

All are installed beside the environment, never into it. PyPI's torchvision is built for CUDA; it serves a torch without CUDA too, once
the two operators that it asks for at import are declared; its compiled operators are not loaded. PyLate requires other versions
of transformers and sentence-transformers, which are in its folder and come first.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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
    return _beside("vision", DECLARED + code, arguments, timeout, ROOT)


def with_pylate(code: str, *arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs Python code where PyLate is, without our code, with `arguments` in sys.argv[1:]."""
    return _beside("pylate", code, arguments, timeout)


def with_clients(code: str, *arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs Python code where LangChain and LlamaIndex are, without our code, with `arguments` in sys.argv[1:].

    In their folder, as LlamaIndex has a package `workflows`, which is a folder of ours in a checkout.
    """
    return _beside("clients", code, arguments, timeout, cwd=Path(sys.prefix) / "clients")


def with_mteb(code: str, *arguments: str | Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    """Runs Python code where mteb is, with `arguments` in sys.argv[1:]; `mirepoix` and `tests` can be imported there too."""
    return _beside("mteb", code, arguments, timeout, ROOT)


def _beside(
    name: str, code: str, arguments: Sequence[str | Path], timeout: float, *more: Path, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    folder = Path(sys.prefix) / name
    assert (folder / "ready").is_file(), f"{folder} is not there; run `make .venv/{name}/ready`"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (folder, *more)))},
        capture_output=True,
        text=True,
        timeout=timeout,
        cwd=cwd,
    )
