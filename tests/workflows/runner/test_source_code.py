"""Keys come from files: each is parsed once, whatever the module of the work imports counts, and nothing is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mirepoix
from mirepoix.workflows.cluster.shipped_code import code_root
from mirepoix.workflows.runner import source_code
from mirepoix.workflows.runner.fingerprint import ingredients, key_of
from mirepoix.workflows.runner.graph import Stage
from mirepoix.workflows.runner.source_code import SourceFiles, module_file, module_hashes, parsed

ONE = "def one(x):\n    return x + 1\n"
TWO = "def one(x):\n    return x + 2\n"


@pytest.fixture
def parses(monkeypatch) -> list[str]:
    """The sources that are parsed from here on."""
    seen: list[str] = []

    def counted(source):
        seen.append(source)
        return parsed(source)

    monkeypatch.setattr(source_code, "parsed", counted)
    return seen


@pytest.fixture
def kept(tmp_path) -> Path:
    return tmp_path / "cache" / "sources.json"


@pytest.fixture
def module(tmp_path) -> Path:
    path = tmp_path / "module.py"
    path.write_text(ONE)
    return path


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Writes modules below `mirepoix.` in a folder of their own, beside the real ones, by dotted name."""
    home = tmp_path / "tree"
    monkeypatch.setattr(mirepoix, "__path__", [*mirepoix.__path__, str(home)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(**modules: str) -> None:
        for name, text in modules.items():
            path = home / "stubs" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            (path.parent / "__init__.py").touch()
            path.write_text(text)

    module_file.cache_clear()
    yield write
    module_file.cache_clear()


# The cache


def test_a_file_is_parsed_once_in_a_process_and_not_again_by_the_next(kept, module, parses):
    first = SourceFiles(kept)
    source = first.read(module)
    assert first.read(module) == source and parses == [ONE]
    first.save()
    assert SourceFiles(kept).read(module) == source
    assert parses == [ONE], "the second took it from the cache"


def test_two_processes_parse_each_file_of_a_work_once(tmp_path):
    code = (
        "import ast, sys\n"
        "from mirepoix.workflows.runner import source_code as found\n"
        "names, parse = [], ast.parse\n"
        "ast.parse = lambda text, *rest: (names.append(text), parse(text, *rest))[1]\n"
        "hashes = found.module_hashes('mirepoix.workflows.runner.execute')\n"
        "found.sources().save()\n"
        "print(len(names), len(set(names)), len(hashes), found._hash(parse(repr(hashes))))\n"
    )
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, env=environment, cwd=code_root(), capture_output=True, text=True, check=True) for _ in range(2)]
    (parsed_first, different, modules, first), (parsed_again, _, _, again) = (finished.stdout.split() for finished in runs)
    assert parsed_first == different and int(parsed_first) >= int(modules) > 9
    assert parsed_again == "0" and again == first


@pytest.mark.parametrize("how", ["size", "time"])
def test_a_file_whose_size_or_time_has_changed_is_parsed_again(kept, module, parses, how):
    before = SourceFiles(kept)
    source, stat = before.read(module), module.stat()
    before.save()
    module.write_text(TWO if how == "time" else TWO + "\n\nOTHER = 1\n")
    os.utime(module, ns=(stat.st_atime_ns, stat.st_mtime_ns + (1 if how == "time" else 0)))
    for files in (before, SourceFiles(kept)):
        assert files.read(module).hash != source.hash
    assert len(parses) == 3


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"/a.py": 3}', '{"/a.py": [1, 2]}', '{"/a.py": [1, 2, "d", [3]]}', "\udcff"])
def test_a_damaged_cache_is_made_again(kept, module, parses, text):
    kept.parent.mkdir()
    kept.write_bytes(text.encode(errors="surrogateescape"))
    files = SourceFiles(kept)
    assert files.read(module) == parsed(ONE) and parses == [ONE]
    files.save()
    assert list(json.loads(kept.read_text())) == [str(module)]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, module):
    (tmp_path / "file").write_text("in the way")
    files = SourceFiles(tmp_path / "file" / "sources.json")
    assert files.read(module) == parsed(ONE)
    files.save()
    assert (tmp_path / "file").read_text() == "in the way"


def test_nothing_new_is_not_written(kept, module):
    files = SourceFiles(kept)
    files.read(module)
    files.save()
    written = kept.stat().st_mtime_ns
    again = SourceFiles(kept)
    again.read(module)
    again.save()
    assert kept.stat().st_mtime_ns == written


def test_files_that_are_gone_leave_the_cache(kept, module, tmp_path):
    files = SourceFiles(kept)
    files.read(module)
    other = tmp_path / "other.py"
    other.write_text(TWO)
    files.read(other)
    other.unlink()
    files.save()
    assert list(json.loads(kept.read_text())) == [str(module)]


def test_each_version_of_python_has_a_cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert SourceFiles().cache_file.name.endswith(f"{sys.implementation.cache_tag}.json")
    assert SourceFiles().cache_file.is_relative_to(tmp_path)


# What is imported


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from mirepoix.stubs.a import b, c as d", (("mirepoix.stubs.a", ("b", "c")),)),
        ("from mirepoix import stubs", (("mirepoix", ("stubs",)),)),
        ("import mirepoix.stubs.a as a", (("mirepoix.stubs.a", ()),)),
        ("import mirepoix", ()),
        ("import mirepoixen.a\nfrom mirepoixen.a import b", ()),
        ("import torch\nfrom torch import nn", ()),
        ("def f():\n    class A:\n        from mirepoix.stubs.a import b", (("mirepoix.stubs.a", ("b",)),)),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from mirepoix.stubs.a import b", ()),
        ("if TYPE_CHECKING:\n    from mirepoix.stubs.a import b\nelse:\n    import mirepoix.stubs.c", (("mirepoix.stubs.c", ()),)),
        ("if DEBUG:\n    from mirepoix.stubs.a import b", (("mirepoix.stubs.a", ("b",)),)),
    ],
)
def test_imports_of_ours_are_found_wherever_they_are_but_for_those_of_type_checkers(source, found):
    assert parsed(source).imports == found


def test_an_import_from_a_package_counts_the_modules_imported_and_not_the_package(tree):
    tree(work="from mirepoix.stubs import first, second\nimport mirepoix.stubs.third\n", first=ONE, second=TWO, third=ONE, fourth=ONE)
    assert list(module_hashes("mirepoix.stubs.work")) == [f"mirepoix.stubs.{name}" for name in ("first", "second", "third", "work")]


def test_modules_that_import_each_other_are_each_hashed_once(tree):
    tree(work="from mirepoix.stubs.other import x\n", other="def f():\n    from mirepoix.stubs.work import y\n")
    assert list(module_hashes("mirepoix.stubs.work")) == ["mirepoix.stubs.other", "mirepoix.stubs.work"]


def test_modules_that_only_carry_results_do_not_count(tree):
    tree(work="from mirepoix.models.errors import Refused\nfrom mirepoix.components.stage import Outcome\n")
    assert list(module_hashes("mirepoix.stubs.work")) == ["mirepoix.stubs.work"]


def test_an_import_of_a_module_that_is_not_there_is_our_own_mistake(tree):
    tree(work="from mirepoix.stubs.gone import x\n")
    with pytest.raises(AssertionError, match=r"module mirepoix\.stubs\.gone is named by a stage or imported by its work"):
        module_hashes("mirepoix.stubs.work")


# Keys

WORK = """
from mirepoix.models.errors import Refused
from mirepoix.stubs.work_config import WorkConfig

def work(context, config):
    from mirepoix.stubs.deep import twice
    return twice(config.size)
"""
OTHER = "from mirepoix.stubs.other_config import OtherConfig\n\ndef work(context, config):\n    return config\n"
MODULES = {
    "work": WORK,
    "work_config": "class WorkConfig:\n    size = 1\n",
    "deep": "from mirepoix.stubs.deeper import base\n\ndef twice(x):\n    return base * x\n",
    "deeper": "base = 2\n",
    "other": OTHER,
    "other_config": "class OtherConfig:\n    size = 1\n",
}


def keys() -> dict[str, str]:
    stages = {name: Stage(name, f"mirepoix.stubs.{name}:work", None) for name in ("work", "other")}
    return {name: key_of(ingredients(stage, {})) for name, stage in stages.items()}


@pytest.mark.parametrize(
    ("name", "old", "new", "changed"),
    [
        ("work", "twice(config.size)", "twice(config.size + 1)", {"work"}),
        ("work_config", "size = 1", "size = 2", {"work"}),
        ("deep", "base * x", "base + x", {"work"}),
        ("deeper", "base = 2", "base = 3", {"work"}),
        ("other", "return config", "return None", {"other"}),
        ("other_config", "size = 1", "size = 2", {"other"}),
        ("deeper", "base = 2", "# a comment\nbase  =  2", set()),
    ],
)
def test_a_key_changes_with_the_work_its_config_and_what_only_the_work_imports_and_with_nothing_else(tree, name, old, new, changed):
    tree(**MODULES)
    before = keys()
    assert old in MODULES[name]
    tree(**{name: MODULES[name].replace(old, new)})
    after = keys()
    assert {stage for stage in before if before[stage] != after[stage]} == changed


def test_keys_are_the_same_with_a_cache_and_without(tree, monkeypatch, tmp_path):
    tree(**MODULES)
    with_one = keys()
    source_code.sources().save()
    assert list((tmp_path / "cache").rglob("sources-*.json"))
    source_code._shared.cache_clear()
    assert keys() == with_one
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no other cache"))
    assert keys() == with_one


def test_a_key_imports_neither_the_work_nor_what_it_imports(tree):
    tree(**MODULES)
    keys()
    assert not [name for name in sys.modules if name.startswith("mirepoix.stubs")]


def test_of_the_real_package_a_key_holds_what_only_the_work_imports_and_nothing_of_other_stages():
    found = module_hashes("mirepoix.components.evaluation.evaluate")
    assert "mirepoix.components.evaluation.scoring.metrics" in found, "only the work imports it"
    assert not [name for name in found if name.startswith(("mirepoix.workflows.", "mirepoix.components.publishing."))]
