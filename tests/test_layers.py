"""The chain of the four folders holds, all of it is shipped, and importing any of it does nothing but import."""

import ast
import os
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHAIN = ("models", "serving", "components", "workflows")
SOURCES = sorted(path for layer in CHAIN for path in (ROOT / layer).rglob("*.py"))
MODULES = sorted(
    "mirepoix." + ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in SOURCES
    if path.stem != "__main__"
)
PAGE = sorted(path.name for path in (ROOT / "serving" / "http" / "page").iterdir() if path.is_file())


@cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever in it; `from a import b` counts as a.b too, and a relative import by its dots."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            names |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return frozenset(names)


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def test_imports_point_left():
    for path in SOURCES:
        used = {each.split(".")[1] for each in imported(path) if each.startswith("mirepoix.")}
        assert used <= set(CHAIN[: CHAIN.index(layer(path)) + 1]), name(path)


def test_imports_name_the_package():
    assert not [name(path) for path in SOURCES if any(each.startswith(".") for each in imported(path))]


def test_nobody_imports_the_flat_names():
    others = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    assert not [name(path) for path in [*SOURCES, *others] if tops(path) & set(CHAIN)]


def test_models_know_nothing_of_clusters_indexes_and_servers():
    foreign = {"ray", "faiss", "mlflow", "fastapi", "deepspeed", "httpx"}
    assert not [name(path) for path in SOURCES if layer(path) == "models" and tops(path) & foreign]


def test_one_file_alone_imports_mlflow():
    assert [name(path) for path in SOURCES if "mlflow" in tops(path)] in ([], ["workflows/runner/tracking.py"])


def test_serving_searches_and_components_train():
    assert not [name(path) for path in SOURCES if "faiss" in tops(path) and not name(path).startswith("serving/")]
    assert not [name(path) for path in SOURCES if "deepspeed" in tops(path) and not name(path).startswith("components/")]


def test_no_file_outgrows_its_reader():
    lines = {name(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert not {path: count for path, count in lines.items() if count > (250 if path == "workflows/runner/execute.py" else 400)}


def test_the_chain_finds_an_import_that_points_right(tmp_path: Path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from mirepoix.workflows.runner import execute\n")
    assert "mirepoix.workflows.runner.execute" in imported(wrong)


IMPORT_ALL = """
    import importlib, os, sys, threading
    modules = sys.argv[1:]
    before = set(threading.enumerate())
    for module in modules:
        importlib.import_module(module)
    import ray
    assert not ray.is_initialized()
    import torch
    assert not torch.distributed.is_initialized()
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    started = [thread.name for thread in set(threading.enumerate()) - before]
    assert not children, children
    assert not started, started
    print(importlib.import_module("mirepoix.models.item").__file__)
"""


def imports(modules: list[str], home: Path, path: Path) -> subprocess.CompletedProcess:
    """All modules imported in one process, from an empty folder that is its home too."""
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_", "MIREPOIX_", "XDG_"))}
    env = kept | {"HOME": str(home), "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1", "DS_ACCELERATOR": "cpu", "TMPDIR": str(home)}
    command = [sys.executable, "-c", textwrap.dedent(IMPORT_ALL), *modules]
    return subprocess.run(command, cwd=home, env=env, capture_output=True, text=True, timeout=150)


def test_importing_everything_starts_nothing_and_writes_nothing(tmp_path: Path):
    found = imports(MODULES, tmp_path / "home", ROOT)
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()).is_relative_to(ROOT)
    assert not list((tmp_path / "home").rglob("*"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Our wheel, installed by itself into a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for each in ("pyproject.toml", "README.md", "mirepoix.py", *CHAIN):
        subprocess.run(["cp", "-r", str(ROOT / each), str(source)], check=True)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
    built = subprocess.run(build, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (made,) = folder.glob("*.whl")
    target = folder / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--quiet",
        "--disable-pip-version-check",
        "--target",
        str(target),
        str(made),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return target


def test_the_wheel_holds_every_module_and_page_and_nothing_beside_the_package(wheel: Path):
    shipped = {path.relative_to(wheel / "mirepoix") for path in (wheel / "mirepoix").rglob("*.py")}
    assert shipped == {path.relative_to(ROOT) for path in SOURCES}
    assert sorted(path.name for path in (wheel / "mirepoix" / "serving" / "http" / "page").iterdir()) == PAGE
    beside = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")} - {"bin", "__pycache__"}
    assert beside == {"mirepoix", "mirepoix.py"}


def test_an_installed_wheel_imports_itself_and_stages_itself_for_a_job(wheel: Path, tmp_path: Path):
    code = """
        import sys
        from pathlib import Path
        from mirepoix.models import item
        from mirepoix.workflows.cluster.ray_cluster import code_root, stage_code
        print(item.__file__, code_root())
        stage_code(Path(sys.argv[1]))
    """
    staged = tmp_path / "staged"
    staged.mkdir()
    env = os.environ | {"PYTHONPATH": str(wheel)}
    command = [sys.executable, "-c", textwrap.dedent(code), str(staged)]
    found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.split() == [str(wheel / "mirepoix" / "models" / "item.py"), str(wheel)]
    assert {path.relative_to(staged) for path in staged.rglob("*.py")} == {
        Path("mirepoix.py"),
        *(Path("mirepoix") / path.relative_to(ROOT) for path in SOURCES),
    }
    assert sorted(path.name for path in (staged / "mirepoix" / "serving" / "http" / "page").iterdir()) == PAGE


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["submit", "--help"], ["doctor", "--help"]])
def test_the_command_line_helps_from_a_checkout(arguments):
    command = [sys.executable, "-m", "mirepoix.workflows", *arguments]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert "mirepoix" in found.stdout
