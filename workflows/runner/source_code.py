"""Hashes of source files and the modules that they import, found by parsing: nothing is imported.

A stage's key holds the hash of every module of ours that its work imports, directly or not. Parsing all of them takes seconds, so the
result for each file is cached on disk by path, size and modification time: an unchanged file is parsed once.
"""

import ast
import hashlib
import importlib.util
import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

import mirepoix
from mirepoix.serving.store import cache_folder, write
from mirepoix.workflows.cluster.shipped_code import HOME

PACKAGE = "mirepoix"
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
CARRIERS = {"mirepoix.models.errors", "mirepoix.serving.store", "mirepoix.components.stage"}
"""Modules that report errors or store results: no result depends on them, so they are in no key, nor is anything that they import."""
LAYOUT = 1
"""Layout of the cache file; a new layout gets a new number."""


class Source(NamedTuple):
    """A parsed file, as far as a key needs it."""

    hash: str
    imports: tuple[tuple[str, tuple[str, ...]], ...]  # module of ours -> the names imported from it; none: the module itself


def parsed(source: str) -> Source:
    """The hash and the imports of a source text."""
    tree = ast.parse(textwrap.dedent(source))
    imports = tuple(_imports(tree))
    return Source(_hash(tree), imports)


def _hash(tree: ast.AST) -> str:
    """The hash of a syntax tree without its docstrings; comments and layout are not in a tree."""
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


class SourceFiles:
    """The files parsed so far, by path; one that an earlier process parsed is taken from the cache while its size and time are the same."""

    def __init__(self, cache_file: Path | None = None):
        # Syntax trees, and so their hashes, differ between versions of Python.
        self.cache_file = cache_file or cache_folder() / f"sources-{LAYOUT}-{sys.implementation.cache_tag}.json"
        self._known: dict[str, tuple[int, int, Source]] = self._load()
        self._changed = False

    def read(self, path: Path) -> Source:
        """The hash and the imports of a file."""
        stat = path.stat()
        known = self._known.get(str(path))
        if known is None or known[:2] != (stat.st_size, stat.st_mtime_ns):
            known = (stat.st_size, stat.st_mtime_ns, parsed(path.read_text(encoding="utf-8")))
            self._known[str(path)], self._changed = known, True
        return known[2]

    def save(self) -> None:
        """Write the cache if a file was parsed; a folder that cannot be written to costs the next process time, not the run."""
        if self._changed:
            there = {path: known for path, known in self._known.items() if os.path.exists(path)}
            plain = {path: [size, time, source.hash, source.imports] for path, (size, time, source) in there.items()}
            with suppress(OSError):
                write(self.cache_file, json.dumps(plain).encode())
            self._changed = False

    def _load(self) -> dict[str, tuple[int, int, Source]]:
        try:
            plain = json.loads(self.cache_file.read_bytes())
            return {
                path: (size, time, Source(digest, tuple((home, tuple(names)) for home, names in imports)))
                for path, (size, time, digest, imports) in plain.items()
            }
        except (OSError, ValueError, TypeError, AttributeError):  # absent, or in another layout: the files are parsed again
            return {}


def _imports(tree: ast.AST) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The imports of our modules anywhere in a source, except under `if TYPE_CHECKING`, which only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            for other in node.orelse:
                yield from _imports(ast.Module([other], []))
            continue
        if isinstance(node, ast.ImportFrom) and not node.level and _is_ours(node.module or ""):
            yield node.module or "", tuple(alias.name for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names if _is_ours(alias.name) and alias.name != PACKAGE)
        yield from _imports(node)


def _is_ours(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")


@cache
def module_file(name: str) -> Path | None:
    """The file of a module, found without importing it; that of a package is its __init__.py."""
    if _is_ours(name):
        # Of an editable install, __path__ does not hold the folder of the layers.
        homes = [HOME, *map(Path, mirepoix.__path__)]
        paths = [Path(home, *name.split(".")[1:]) for home in homes]
        return next((file for path in paths for file in (path / "__init__.py", path.with_suffix(".py")) if file.is_file()), None)
    try:
        spec = importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None
    return Path(spec.origin) if spec is not None and spec.origin is not None else None


@cache
def _shared(_cache_home: str | None) -> SourceFiles:
    return SourceFiles()


def sources() -> SourceFiles:
    """The files that this process has parsed, with the cache of the user's cache folder."""
    return _shared(os.environ.get("XDG_CACHE_HOME"))


def own_hash(name: str) -> str:
    """The hash of a module without those that it imports."""
    file = module_file(name)
    assert file is not None, f"there is no file of the module {name}"
    return sources().read(file).hash


def module_hashes(*roots: str) -> Mapping[str, str]:
    """The hash of each module that the given ones consist of: themselves, and all of ours that they import, directly or not."""
    found: dict[str, str] = {}
    waiting = list(roots)
    while waiting:
        name = waiting.pop()
        if name not in found and name not in CARRIERS:
            file = module_file(name)
            assert file is not None, f"module {name} is named by a stage or imported by its work, but there is no file of it"
            source = sources().read(file)
            found[name] = source.hash
            waiting += _modules(source)
    return dict(sorted(found.items()))


def _modules(source: Source) -> Iterator[str]:
    """The modules that a source imports: of a package the submodules that it names."""
    for home, names in source.imports:
        file = module_file(home)
        if names and (home == PACKAGE or (file is not None and file.name == "__init__.py")):
            yield from (f"{home}.{name}" for name in names)
        else:
            yield home
