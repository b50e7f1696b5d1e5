"""The chain of the four folders holds, all of it is shipped, and importing any of it does nothing but import."""

import ast
import os
import re
import subprocess
import sys
import textwrap
import venv
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy
import PIL
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


def test_no_module_imports_the_flat_names():
    others = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "bench").rglob("*.py")]
    assert not [name(path) for path in [*SOURCES, *others] if tops(path) & set(CHAIN)]


def test_models_import_no_cluster_index_or_server():
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


ORDER = (
    "corpus",
    "ray_tasks",
    "synthetic",
    "ingestion",
    "curation",
    "embedding",
    "generation",
    "passages",
    "pairs",
    "training",
    "evaluation",
    "publishing",
    "revision",
)
"""Packages of components/, each of which may import those before it, and stage.py; docs/architecture.md explains the order."""


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def graph(key: Callable[[str], str] = lambda module: module) -> dict[str, set[str]]:
    """The imports between modules, or with `key` between the packages to which it maps them."""
    known = {module(path) for path in SOURCES}
    edges: dict[str, set[str]] = {}
    for path in SOURCES:
        ours = {each.removeprefix("mirepoix.") for each in imported(path) if each.startswith("mirepoix.")} & known
        packages = {module(init.parent / "__init__.py") for init in SOURCES if init.name == "__init__.py"}
        edges.setdefault(key(module(path)), set()).update(key(each) for each in ours - packages)
    return {name: reached - {name} for name, reached in edges.items()}


def circle(edges: dict[str, set[str]]) -> list[str]:
    """The names along one circle of imports; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        done.add(name)
        return next((found for other in sorted(edges.get(name, ())) if (found := visit(other, (*path, name)))), [])

    return next((found for name in sorted(edges) if (found := visit(name, ()))), [])


def package(module: str) -> str:
    """The package of a layer in which a module is; a module that is in none is its own package."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 1 else module


def test_no_file_imports_in_a_circle():
    assert not circle(graph())


def test_no_package_imports_in_a_circle():
    assert not circle(graph(package))


def test_a_circle_is_found():
    assert circle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"a"}}) == ["a", "b", "d", "a"]
    assert not circle({"a": {"b", "c"}, "b": {"c"}, "c": set()})


def test_packages_of_components_import_along_their_order():
    packages = {name.split(".")[1]: reached for name, reached in graph(package).items() if name.startswith("components.")}
    assert set(packages) - {"stage"} == set(ORDER)
    for name, reached in packages.items():
        before = set(ORDER[: ORDER.index(name)]) | {"stage"} if name in ORDER else set()
        assert {each.split(".")[1] for each in reached if each.startswith("components.")} <= before, name


def test_a_folder_has_about_twelve_entries():
    folders = {path.parent for path in SOURCES} - {ROOT / "components" / "ingestion" / "formats", ROOT / "models" / "retrievers"}
    entries = {
        name(folder): len([each for each in folder.iterdir() if each.name not in ("__pycache__", "__init__.py")]) for folder in folders
    }
    assert not {folder: count for folder, count in entries.items() if count > 14}


OF_SEVERAL_MODULES = {
    "components/ingestion/formats/test_formats.py": "the contract of all formats",
    "components/ingestion/formats/test_miniatures.py": "the contract of the formats of benchmarks, read from miniatures",
    "components/ingestion/formats/test_named_splits.py": "what three formats say before they are read",
    "components/test_light_imports.py": "what importing a work leaves out",
    "models/backbones/test_custom_code.py": "code that a checkpoint brings, wherever one is opened",
    "serving/engine/telemetry/test_grafana.py": "the dashboard, grafana.json",
    "serving/http/test_page.py": "the folder page/",
    "serving/search/test_imports.py": "what a search leaves out",
    "workflows/recipes/test_adopted.py": "the real stages of an adopted model, mined with and trained",
    "workflows/recipes/test_every_arm.py": "the real stages of all retrievers",
    "workflows/recipes/test_nlvr.py": "a recipe on real data",
    "workflows/recipes/test_quickstart.py": "the command line, from nothing to an endpoint",
    "workflows/recipes/test_verbalised.py": "a recipe through its real stages",
    "workflows/runner/test_arms.py": "arms of comparisons in the runner",
    "workflows/test_main.py": "__main__.py",
    "workflows/test_startup.py": "what a command leaves out",
}
"""Test files that are named after no module, and what they are about."""
THROUGH = {
    "components/generation/writing.py": "components/passages/test_written.py",
    "components/ingestion/formats/streams.py": "components/ingestion/test_readers.py",
    "components/publishing/sentence_transformers.py": "components/publishing/test_export.py",
    "components/publishing/usage_examples.py": "components/publishing/test_export.py",
    "components/training/agreement.py": "components/training/test_train.py",
    "components/training/workers/torch_backend.py": "components/training/test_train.py",
    "models/backbones/two_tower_twins.py": "models/backbones/test_twins.py",
    "workflows/commands/serve_arguments.py": "workflows/commands/test_serve.py",
    "workflows/commands/stored_result.py": "workflows/commands/test_compare.py",
    "workflows/cluster/janitor.py": "workflows/cluster/test_ray_cluster.py",
    "workflows/upkeep/registered.py": "workflows/runner/test_model_registry.py",
}
"""Modules that no test imports, and the tests that run them through what users call."""


def test_tests_mirror_the_sources():
    """A test file lies where its module does and has its name, or the name and an aspect, as test_curate_leaks.py."""
    folders = {layer: ROOT / "tests" / layer for layer in CHAIN}
    files = [path.relative_to(ROOT / "tests") for folder in folders.values() for path in folder.rglob("test_*.py")]
    modules = {name(path) for path in SOURCES}

    def mirrored(file: Path) -> bool:
        words = file.stem.removeprefix("test_").split("_")
        return any(str(file.parent / f"{'_'.join(words[:count])}.py") in modules for count in range(len(words), 0, -1))

    assert {str(file) for file in files if not mirrored(file)} == set(OF_SEVERAL_MODULES)


def test_every_module_has_a_test_of_its_name_or_is_imported_by_one_or_is_run_through_another():
    by_tests = set().union(*map(imported, (ROOT / "tests").rglob("*.py")))
    without = {
        name(path)
        for path in SOURCES
        if path.name != "__init__.py"
        and f"mirepoix.{module(path)}" not in by_tests
        and not (ROOT / "tests" / path.relative_to(ROOT).parent / f"test_{path.name}").exists()
    }
    assert without == set(THROUGH)
    assert all((ROOT / "tests" / test).exists() for test in THROUGH.values())


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
    for each in ("pyproject.toml", "README.md", "LICENSE", "package", *CHAIN):
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
    assert shipped == {Path("__init__.py"), *(path.relative_to(ROOT) for path in SOURCES)}
    assert (wheel / "mirepoix" / "py.typed").is_file()
    assert sorted(path.name for path in (wheel / "mirepoix" / "serving" / "http" / "page").iterdir()) == PAGE
    assert (wheel / "mirepoix" / "serving" / "engine" / "telemetry" / "grafana.json").is_file()
    beside = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")} - {"bin", "__pycache__"}
    assert beside == {"mirepoix"}


def test_the_wheel_names_its_licence_and_carries_it(wheel: Path):
    (metadata,) = wheel.glob("mirepoix-*.dist-info")
    assert "License-Expression: Apache-2.0" in (metadata / "METADATA").read_text().splitlines()
    assert (metadata / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()


def test_an_installed_wheel_imports_itself_and_stages_itself_for_a_job(wheel: Path, tmp_path: Path):
    code = """
        import sys
        from pathlib import Path
        import mirepoix
        from mirepoix.models import item
        from mirepoix.workflows.cluster.ray_cluster import code_root, stage_code
        print(item.__file__, code_root(), mirepoix.open.__module__, *mirepoix.__all__)
        stage_code(Path(sys.argv[1]))
    """
    staged = tmp_path / "staged"
    staged.mkdir()
    env = os.environ | {"PYTHONPATH": str(wheel)}
    command = [sys.executable, "-c", textwrap.dedent(code), str(staged)]
    found = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    names = ["mirepoix.workflows.python.opening", "mteb_encoder", "run"]
    assert found.stdout.split() == [str(wheel / "mirepoix" / "models" / "item.py"), str(wheel), *names]
    assert {path.relative_to(staged) for path in staged.rglob("*.py")} == {
        Path("mirepoix") / "__init__.py",
        *(Path("mirepoix") / path.relative_to(ROOT) for path in SOURCES),
    }
    assert sorted(path.name for path in (staged / "mirepoix" / "serving" / "http" / "page").iterdir()) == PAGE


WRONG = """
import mirepoix
from mirepoix.models.encoder import load_encoder
from mirepoix.models.item import Item
from mirepoix.serving.release import open_release
Item(3)
load_encoder(3)
load_encoder("folder").encode([Item("a")], role="author")
width: str = load_encoder("folder").encode([Item("a")]).width
open_release("folder").open_index().search(["words"], 10)
open_release("folder").named
mirepoix.opne("folder")
mirepoix.open(3)
mirepoix.open("folder").search("words", k="ten")
mirepoix.open("folder").encode("words", role="author")
mirepoix.open("folder").encode([3])
mirepoix.run(3)
best: int = mirepoix.open("folder").search("words")[0].score
reveal_type(mirepoix.open)
reveal_type(mirepoix.run)
"""


def test_a_program_that_uses_the_wheel_has_its_types_checked(wheel: Path, tmp_path: Path):
    """With numpy and Pillow, whose types are in ours, and without torch and all others, whose types would take half a minute to read."""
    (tmp_path / "consumer.py").write_text((ROOT / "tests" / "consumer.py").read_text())
    (tmp_path / "wrong.py").write_text(WRONG)
    venv.create(tmp_path / "venv")
    (installed,) = (tmp_path / "venv").glob("lib/*/site-packages")
    (installed / "mirepoix").symlink_to(wheel / "mirepoix")
    for library in (numpy, PIL):
        (installed / library.__name__).symlink_to(Path(library.__file__).parent)
    options = ["--strict", "--config-file=", "--cache-dir=cache", f"--python-executable={tmp_path}/venv/bin/python"]
    command = [sys.executable, "-m", "mypy", *options, "consumer.py", "wrong.py"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    found = [line.partition(": error:")[0] for line in checked.stdout.splitlines() if ": error:" in line]
    assert found == [f"wrong.py:{number}" for number in range(6, 19)], checked.stdout + checked.stderr
    opening, running = re.findall(r'note: Revealed type is "(.*)"', checked.stdout)
    assert opening.endswith("-> mirepoix.serving.in_process.retriever.Retriever") and "device: str | None =" in opening
    assert running.endswith("-> mirepoix.workflows.python.running.RunResult") and "local: bool =" in running


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["submit", "--help"], ["doctor", "--help"]])
def test_the_command_line_helps_from_a_checkout(arguments):
    command = [sys.executable, "-m", "mirepoix.workflows", *arguments]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert "mirepoix" in found.stdout
