"""The data that stages read from outside, besides each other's results."""

import pickle

import pytest

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.ingestion.formats import filesystems
from mirepoix.models.errors import Refused
from mirepoix.models.options import import_named
from mirepoix.workflows.recipes.registry import resolve
from mirepoix.workflows.runner.fingerprint import ingredients
from tests.components.fixtures import context, plain_corpus, write_plain


def test_the_files_of_a_source_are_listed_once_for_the_key_and_the_work(tmp_path, monkeypatch):
    corpus, listed, infos = write_plain(tmp_path / "in", **plain_corpus()), [], filesystems.infos

    def counting(filesystem, root):
        listed.append(root)
        return infos(filesystem, root)

    monkeypatch.setattr(filesystems, "infos", counting)
    stage = resolve("quickstart", [f"sources.path={corpus}"]).stages()[0]
    sent = pickle.loads(pickle.dumps(stage))
    stage_context = context(tmp_path / "out")
    import_named(sent.work)(stage_context, sent.config, **sent.arguments)
    assert listed == [str(corpus)]
    assert read_part(stage_context.folder, "corpus")["id"].to_pylist() == ["d1", "d2"]


def test_the_listing_is_no_part_of_the_key_but_its_fingerprint_is(tmp_path):
    corpus = write_plain(tmp_path / "in", **plain_corpus())
    stage = resolve("quickstart", [f"sources.path={corpus}"]).stages()[0]
    parts = ingredients(stage, {})
    assert list(parts["outside"]) == ["sources"] and "mine.parquet" in parts["outside"]["sources"] and "arguments" not in parts


def test_a_format_without_a_path_is_refused():
    with pytest.raises(Refused, match=r"sources.path is not given; give the folder or URI of a corpus in the format beir"):
        resolve("quickstart", ["sources.format=beir"]).stages()
