"""Each format detects its own files, and reads back unchanged what it writes."""

import gzip
import importlib
import pkgutil

import pytest

from mirepoix.components.ingestion import formats, sources_config
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.components.ingestion.readers import FORMAT_MODULES
from tests.components.ingestion.formats.format_cases import corpus_of, meaning, rows_of
from tests.components.ingestion.formats.samples import SAMPLES

FOUND = [importlib.import_module(f"{formats.__name__}.{found.name}") for found in pkgutil.iter_modules(formats.__path__)]
FORMATS = {module.NAME: module for module in FOUND if hasattr(module, "NAME")}
SAMPLE_CASES = [pytest.param(name, write_sample, id=write_sample.__name__) for name, writers in SAMPLES.items() for write_sample in writers]


def ids_stay(name):
    return name in ("beir", "mbeir", "tevatron")


@pytest.mark.parametrize(("name", "write_sample"), SAMPLE_CASES)
def test_a_source_is_claimed_by_its_own_format_alone(tmp_path, name, write_sample):
    tree = SourceFiles(str(write_sample(tmp_path / "source")))
    assert [other for other, module in FORMATS.items() if module.detect(tree)] == [name]


@pytest.mark.parametrize("name", SAMPLES)
def test_an_empty_folder_and_one_of_other_files_have_no_format(tmp_path, name):
    (tmp_path / "notes.json").write_text('{"learning_rate": 0.1}')
    (tmp_path / "broken.jsonl").write_text("{")
    (tmp_path / "array.json").write_bytes(b"[\xff\xfe")
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"query": 1}' * 99)[:20])
    assert not FORMATS[name].detect(SourceFiles(str(tmp_path)))


@pytest.mark.parametrize(("name", "write_sample"), SAMPLE_CASES)
def test_what_is_written_is_read_as_it_was(tmp_path, name, write_sample):
    module = FORMATS[name]
    first = rows_of(module, write_sample(tmp_path / "source"))
    module.write(tmp_path / "written", corpus_of(tmp_path / "corpus", first))
    again = rows_of(module, tmp_path / "written")
    assert meaning(again, ids_stay(name)) == meaning(first, ids_stay(name))
    assert not meaning(first)["rejected"]


@pytest.mark.parametrize(("name", "write_sample"), SAMPLE_CASES)
def test_writing_twice_gives_the_same_bytes(tmp_path, name, write_sample):
    module = FORMATS[name]
    corpus = corpus_of(tmp_path / "corpus", rows_of(module, write_sample(tmp_path / "source")))
    for copy in ("one", "two"):
        module.write(tmp_path / copy, corpus)
    one, two = (
        {str(path.relative_to(tmp_path / copy)): path.read_bytes() for path in (tmp_path / copy).rglob("*") if path.is_file()}
        for copy in ("one", "two")
    )
    assert one == two


@pytest.mark.parametrize(("name", "write_sample"), SAMPLE_CASES)
def test_pieces_may_be_read_in_any_order_and_apart(tmp_path, name, write_sample):
    """A piece is read with a SourceFiles of its own, as in a worker."""
    source = write_sample(tmp_path / "source")
    module = FORMATS[name]
    pieces = module.shards(SourceFiles(str(source)))
    apart = [list(module.read(SourceFiles(str(source)), shard)) for shard in reversed(pieces)]
    assert [row for rows in reversed(apart) for row in rows] == rows_of(module, source)


@pytest.mark.parametrize(("name", "write_sample"), SAMPLE_CASES)
def test_packed_lines_are_read_as_plain_ones(tmp_path, name, write_sample):
    source = write_sample(tmp_path / "source")
    plain = rows_of(FORMATS[name], source)
    for path in [path for path in source.rglob("*") if path.suffix in (".jsonl", ".json")]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert meaning(rows_of(FORMATS[name], source), ids_stay(name)) == meaning(plain, ids_stay(name))


def test_each_format_has_a_name_of_its_own_and_a_docstring():
    assert len(FORMATS) == len([module for module in FOUND if hasattr(module, "NAME")])
    assert all(module.__doc__ for module in FORMATS.values())


def test_the_list_of_formats_is_complete_and_marks_those_that_are_written():
    assert list(sources_config.FORMATS) == list(FORMAT_MODULES) and set(FORMAT_MODULES) == set(FORMATS)
    assert {name: form.written for name, form in sources_config.FORMATS.items()} == {
        name: hasattr(module, "write") for name, module in FORMATS.items()
    }
    assert all(form.what for form in sources_config.FORMATS.values())
