"""Each miniature of a benchmark is read whole by the format that it is detected as."""

import pytest

from mirepoix.components.ingestion.formats.rows import Candidate, Judgement, Member, Query
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.components.ingestion.readers import FORMAT_MODULES, open_sources
from tests.components.ingestion.formats import miniatures
from tests.components.ingestion.formats.format_cases import rejected_rows, rows_of

FORMATS = {
    "mbeir": "mbeir",
    "mmeb": "mmeb",
    "webqa": "webqa",
    "okvqa": "okvqa",
    "okvqa_wikipedia": "okvqa",
    "remuq": "remuq",
    "evqa": "m2kr",
    "infoseek": "m2kr",
    "vidore": "vidore",
    "mmeb_v2": "mmeb-v2",
}


@pytest.mark.parametrize(("name", "form"), FORMATS.items())
def test_it_is_detected_and_read_without_a_rejected_row(tmp_path, name, form):
    folder = getattr(miniatures, name)(tmp_path / name)
    (source,) = open_sources([str(folder)])
    assert source.format == form
    rows = rows_of(FORMAT_MODULES[form], folder)
    assert rejected_rows(rows) == []
    known = {row.item.id for row in rows if isinstance(row, Candidate)}
    judged = {row.query_id for row in rows if isinstance(row, Judgement) and row.relevance > 0}
    assert {row.item_id for row in rows if isinstance(row, Judgement | Member)} <= known
    queries = [row for row in rows if isinstance(row, Query)]
    assert queries and {row.split for row in queries} == {"test"}
    assert all((row.item.id in judged) != bool(row.answers) for row in queries)


@pytest.mark.parametrize(("name", "form"), FORMATS.items())
def test_its_pieces_may_be_read_in_any_order_and_apart(tmp_path, name, form):
    folder, module = getattr(miniatures, name)(tmp_path / name), FORMAT_MODULES[form]
    apart = [list(module.read(SourceFiles(str(folder)), shard)) for shard in reversed(module.shards(SourceFiles(str(folder))))]
    assert [row for rows in reversed(apart) for row in rows] == rows_of(module, folder)


@pytest.mark.parametrize("name", ["okvqa", "remuq", "evqa", "vidore", "mmeb_v2"])
def test_the_split_is_known_before_a_file_is_read(tmp_path, name):
    (source,) = open_sources([str(getattr(miniatures, name)(tmp_path / name))])
    assert source.named_splits == {"test"}
