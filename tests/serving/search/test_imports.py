"""Searching, indexing, evaluating and reading artefacts load no model library; their settings load no index library either."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
HEAVY = {"torch", "transformers", "ray", "fastapi", "mlflow", "deepspeed"}
CONFIGS = sorted(
    "mirepoix." + ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for folder in ("serving", "components/embedding", "components/evaluation")
    for path in (ROOT / folder).rglob("*_config.py")
)
SEARCHING = [
    *("mirepoix.serving.search." + path.stem for path in sorted((ROOT / "serving" / "search").glob("*.py")) if path.stem != "__init__"),
    "mirepoix.serving.store",
    "mirepoix.serving.release",
    "mirepoix.components.embedding.index",
    "mirepoix.components.evaluation.evaluate",
    "mirepoix.components.evaluation.reports.report",
]
CODE = """
import importlib, sys
for group in sys.argv[1:]:
    for name in group.split():
        importlib.import_module(name)
    print(*sorted(name for name in sys.modules if "." not in name))
"""


def test_settings_load_no_heavy_library_and_searching_only_that_of_its_index():
    """One process: first the settings, then what searches; what each of the two had loaded when it was done."""
    command = [sys.executable, "-c", CODE, " ".join(CONFIGS), " ".join(SEARCHING)]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    configs, searching = (set(line.split()) for line in found.stdout.splitlines())
    assert len(CONFIGS) >= 7 and not configs & (HEAVY | {"faiss", "bm25s", "PIL"})
    assert not searching & HEAVY and {"faiss", "bm25s"} <= searching


def test_the_process_of_an_embedding_and_that_of_a_server_leave_torch_to_their_actors():
    names = (
        "mirepoix.components.embedding.embed mirepoix.serving.ray_serve.app mirepoix.serving.ray_serve.replicas mirepoix.serving.http.api"
    )
    found = subprocess.run([sys.executable, "-c", CODE, names], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    assert not set(found.stdout.split()) & {"torch", "transformers", "mlflow", "deepspeed", "faiss"}
