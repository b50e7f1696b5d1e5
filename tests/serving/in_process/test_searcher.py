"""The index with the documents of its hits."""

import pytest

from mirepoix.models.item import Modality
from mirepoix.serving.in_process.searcher import Searcher
from mirepoix.serving.release import open_release
from tests.serving.fixtures import corpus


def test_a_search_brings_documents_with_their_scores(release_folder):
    searcher = Searcher(open_release(release_folder))
    item = corpus()[45]
    rows_TD = open_release(release_folder).open_encoder().encode([item]).rows_NTD[0].numpy()
    found = searcher.search(rows_TD, 3, Modality.TEXT | Modality.IMAGE)
    assert (found[0].id, found[0].text, found[0].modality, found[0].pictured) == (item.id, item.text, "it", True)
    assert found[0].score == pytest.approx(1, abs=1e-4) and len(found) == 3


def test_a_thumbnail_is_found_by_id_or_not_at_all(release_folder):
    searcher = Searcher(open_release(release_folder))
    assert searcher.thumbnail("picture-03").startswith(b"\x89PNG")
    assert searcher.thumbnail("text-03") is None and searcher.thumbnail("nobody") is None
