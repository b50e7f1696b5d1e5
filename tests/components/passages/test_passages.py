"""Without a kind nothing is added."""

from mirepoix.components.passages import passages
from mirepoix.components.passages.passages_config import PassagesConfig
from tests.components.fixtures import made, write_corpus
from tests.components.passages.dialogues import rows


def test_without_a_kind_nothing_is_added_and_nothing_is_needed(tmp_path):
    found = made(tmp_path / "out", passages.work, PassagesConfig(), curate=write_corpus(tmp_path / "curate"))
    assert not any(rows(found, part) for part in ("corpus", "queries", "qrels", "rejects", "passages"))
    assert found.outcome.rows.read == 0 and found.outcome.tables == {}
