"""Unknown kinds, retrievers and models are refused; a config is read back as it was written."""

import pytest

from mirepoix.components.generation.writer_config import EngineConfig, LocalConfig
from mirepoix.components.passages.passages_config import PassagesConfig, WrittenConfig, outside
from mirepoix.components.passages.vid2r_config import Vid2rConfig
from mirepoix.models.errors import Refused


def test_a_retriever_or_a_model_that_is_not_there_is_refused_before_the_run(tmp_path):
    with pytest.raises(Refused, match="there is no published release; give bm25 or the folder or URI of one"):
        outside(PassagesConfig(kind="vid2r", vid2r=Vid2rConfig(retriever=str(tmp_path / "none"))))
    with pytest.raises(Refused, match="is not there"):
        outside(PassagesConfig(kind="written", written=WrittenConfig(writer=LocalConfig(str(tmp_path / "none")))))
    assert outside(PassagesConfig(kind="written")) == {}


@pytest.mark.parametrize(
    "call",
    [lambda: PassagesConfig(kind="other"), lambda: WrittenConfig(of="videos"), lambda: WrittenConfig(evidence=-1)],
)
def test_what_there_is_none_of_is_refused_with_what_there_is(call):
    with pytest.raises(Refused, match=r"give (one of none, vid2r, written|one of triples, captions|0 or more)"):
        call()


def test_the_config_is_read_back_and_any_writer_is_chosen_by_name():
    from mirepoix.workflows.config import describe, override, read

    for name, writer in (("LocalConfig", LocalConfig), ("EngineConfig", EngineConfig)):
        config = override(PassagesConfig(), ["kind=written", f"written.writer={name}"])
        assert type(config.written.writer) is writer and read(describe(config), PassagesConfig) == config
    assert read(describe(PassagesConfig()), PassagesConfig) == PassagesConfig()
