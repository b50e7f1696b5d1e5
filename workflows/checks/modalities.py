"""Whether an encoder reads what the data sets of the sources have, as far as both are known before a row is read."""

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING

from mirepoix.components.training.backbone_config import BackboneConfig
from mirepoix.models.item import Modality
from mirepoix.workflows.checks.problem import Problem

if TYPE_CHECKING:
    from mirepoix.components.ingestion.formats.benchmark_files import DataSet
    from mirepoix.components.ingestion.readers import Source

SHOWN = 3
"""Most data sets that a problem names."""


def unread_problems(field: str, backbone: BackboneConfig, sources: "Sequence[Source]") -> Iterator[Problem]:
    """The problem of data sets with items that the encoder does not read: every such item would be refused once all is read."""
    found = [each for source in sources for each in source.contents]
    reads = backbone.traits.reads if found else Modality.NONE
    unread = [each for each in found if each.modality & ~reads]
    if not unread:
        return
    lacks = reduce(or_, (each.modality for each in unread)) & ~reads
    more = f" and {len(unread) - SHOWN} more" if len(unread) > SHOWN else ""
    there = f"{', '.join(each.name for each in unread[:SHOWN])}{more} {'has' if len(unread) == 1 else 'have'} {lacks.words}"
    readable = _chosen_by([each for each in found if each.modality and each not in unread], unread, _given(sources))
    others = f"give sources.only_datasets={','.join(readable)}, or " if readable else ""
    cure = f"{others}take a model that reads {(reads | lacks).words}"
    yield Problem(f"{field}.name={backbone.name} reads {reads.words} alone", there, cure)


def _given(sources: "Sequence[Source]") -> tuple[str, ...]:
    """The names by which data sets are chosen already."""
    return next((source.tree.only_datasets for source in sources), ())


def _chosen_by(readable: "Sequence[DataSet]", unread: "Sequence[DataSet]", given: Sequence[str]) -> list[str]:
    """The names by which the readable data sets are chosen: those that were given, groups that have no unread one, or their own."""
    kept = [pattern for pattern in given if not any(fnmatchcase(name, pattern) for each in unread for name in each.names)]
    if kept or not readable:
        return kept
    groups = dict.fromkeys(group for each in readable for group in each.also)
    grouped = all(each.also for each in readable) and not {group for each in unread for group in each.also} & set(groups)
    return [*groups] if grouped else [each.name for each in readable]
