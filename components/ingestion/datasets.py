"""Which data sets of the sources are read, and what they lack to be measured; all of it before a row is read."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from types import ModuleType

from mirepoix.components.ingestion.formats.benchmark_files import DataSet, line_of
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.components.ingestion.sources_config import OF_DATASETS
from mirepoix.models.errors import Refused

Opened = Sequence[tuple[SourceFiles, ModuleType]]
"""Sources, each with the module of its format."""


def datasets_of(tree: SourceFiles, module: ModuleType) -> list[DataSet] | None:
    """The data sets of a source that are read; None where its format has none."""
    found = _all(tree, module)
    return None if found is None else [each for each in found if tree.reads_dataset(*each.names)]


def contents_of(tree: SourceFiles, module: ModuleType) -> list[DataSet]:
    """The data sets of a source that are read, or the source as one where its format knows what some of its items have; else none."""
    if (found := datasets_of(tree, module)) is not None:
        return found
    return [DataSet(tree.name, tree.name, modality=module.modality(tree))] if hasattr(module, "modality") else []


def refuse_unknown_datasets(opened: Opened, patterns: Sequence[str]) -> None:
    """Refuses data sets of a format that has none, a pattern that matches none, and a source of which none is read.

    Where no source has any, it is left to `refuse_incomplete` and to the format to say what is missing.
    """
    there: list[tuple[SourceFiles, ModuleType, list[DataSet]]] = []
    for tree, module in opened if patterns else ():
        if (found := _all(tree, module)) is None:
            given = f"sources.only_datasets is for {', '.join(OF_DATASETS)}, and the format of {tree.path!r} is {module.NAME}"
            raise Refused(f"{given}; leave it out")
        there.append((tree, module, found))
    names = [name for _, _, found in there for each in found for name in each.names]
    unknown = [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]
    if names and unknown:
        has = "; ".join(f"{tree.path!r} has {_listed(found)}, and others come from {module.ORIGIN}" for tree, module, found in there)
        raise Refused(f"sources.only_datasets has {unknown[0]!r}, which is none of the data sets that there are; {has}")
    for tree, _, found in there:
        if found and not any(tree.reads_dataset(*each.names) for each in found):
            given = f"sources.only_datasets is {', '.join(patterns)}, and {tree.path!r} has {_listed(found)} alone"
            raise Refused(f"{given}; leave that source out, or name some of them")


def refuse_incomplete(opened: Opened) -> None:
    """Refuses sources that lack files without which their data sets cannot be measured, with a line for each."""
    if lines := [line for tree, module in opened for line in _missing(tree, module)]:
        raise Refused("\n".join(lines))


def _missing(tree: SourceFiles, module: ModuleType) -> Iterator[str]:
    """What a source lacks, a line each."""
    if hasattr(module, "missing"):
        yield from (line_of(tree, module.NAME, each) for each in module.missing(tree))


def _all(tree: SourceFiles, module: ModuleType) -> list[DataSet] | None:
    """The data sets of a source, read or not; None where its format has none."""
    return module.datasets(tree) if hasattr(module, "datasets") else None


def _listed(found: Sequence[DataSet]) -> str:
    """The names of data sets, and of their groups."""
    groups = dict.fromkeys(group for each in found for group in each.also)
    names = ", ".join(each.name for each in found)
    return f"{names} (or by group: {', '.join(groups)})" if groups else names
