"""A folder is read as what a run would read it."""

import pytest

from mirepoix.components.ingestion.formats.table import NAME as TABLE
from mirepoix.workflows.init.survey import survey
from tests.components.ingestion.formats import samples
from tests.components.ingestion.formats.format_cases import picture, write_files


@pytest.mark.parametrize("name", ["beir", "mbeir", "mmeb", "unite", "flagembedding", "msswift", "tevatron"])
def test_a_corpus_of_a_known_format_is_named_with_its_splits(tmp_path, name):
    found = survey(getattr(samples, name)(tmp_path / "mine"))
    assert found.format == {"msswift": "ms-swift"}.get(name, name) and found.table is None
    assert found.contents.whole and found.contents.candidates and found.contents.splits
    if name == "beir":
        assert found.contents.splits == {"test": 1, "validation": 1}


def test_captions_beside_pictures_are_counted_and_their_split_is_that_of_the_folder(tmp_path):
    files = {f"train/p{number}.png": picture(number) for number in range(3)} | {
        f"test/p{number}.png": picture(9 + number) for number in range(2)
    }
    texts = {f"{name.removesuffix('.png')}.txt": f"a view of {name}" for name in files}
    found = survey(write_files(tmp_path, {**files, **texts}))
    assert (found.format, found.sidecars) == ("folder", {".txt": 5})
    assert found.contents.queries == {"train": {"t->i": 3, "i->t": 3}, "test": {"t->i": 2, "i->t": 2}}
    assert found.contents.candidates == {"i": 5, "t": 5} and found.captioned
    assert "a view of test/p0.png" in found.contents.texts


def test_a_column_that_names_the_pictures_says_more_than_that_a_table_could_be_pairs_of_texts(tmp_path):
    write_files(tmp_path, {f"p{number}.png": picture(number) for number in range(4)})
    write_files(tmp_path, {"t.jsonl": [{"anchor": f"p{number}.png", "positive": f"a view of number {number}"} for number in range(4)]})
    found = survey(tmp_path)
    assert (found.format, found.others) == (TABLE, ("sentence-transformers",))
    assert found.table.chosen("picture") == ["anchor"] and found.contents.candidates == {"i": 4, "t": 4}


def test_texts_with_a_query_and_a_split_are_counted_by_split(tmp_path):
    rows = [
        {"was": f"This is the text of number {number}", "Frage": f"What is {number}?", "teil": "test" if number > 5 else "train"}
        for number in range(8)
    ]
    found = survey(write_files(tmp_path, {"t.jsonl": rows}))
    assert found.format == TABLE and found.contents.candidates == {"t": 8} and not found.captioned
    assert set(found.contents.splits) == {"train", "test"} and not found.contents.whole
