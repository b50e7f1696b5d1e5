"""Writers that read text alone get no pictures, and invalid settings are refused."""

import pytest

from mirepoix.components.generation.writer_config import EngineConfig, LocalConfig
from mirepoix.components.passages.verbalise_config import VerbaliseConfig, outside
from mirepoix.models.errors import Refused


@pytest.mark.parametrize("writer", [LocalConfig(), EngineConfig()])
def test_a_writer_that_sees_nothing_is_not_shown_pictures(writer):
    with pytest.raises(Refused, match=rf"a {type(writer).__name__} accepts text only; set verbalise.pictures=0, or serve"):
        VerbaliseConfig("written", writer=writer)
    assert VerbaliseConfig("written", writer=writer, pictures=0).writer == writer
    assert VerbaliseConfig(writer=writer).kind == "none"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "verbalise.kind is 'other'; give one of none, written"),
        ({"pictures": -1}, "pictures must be at least 0, picture_pixels at least 1"),
        ({"picture_pixels": 0}, "pictures must be at least 0, picture_pixels at least 1"),
        ({"wording": " "}, "wording is empty"),
    ],
)
def test_what_cannot_be_right_is_refused(change, message):
    with pytest.raises(Refused, match=message):
        VerbaliseConfig(**change)


def test_a_model_that_is_not_there_is_refused_before_the_run(tmp_path):
    with pytest.raises(Refused, match="is not there"):
        outside(VerbaliseConfig("written", pictures=0, writer=LocalConfig(str(tmp_path / "none"))))
    assert outside(VerbaliseConfig("written")) == {}


def test_the_config_is_read_back_and_any_writer_is_chosen_by_name():
    from mirepoix.workflows.config import describe, override, read

    for writer in (LocalConfig, EngineConfig):
        config = override(VerbaliseConfig(), ["kind=written", "pictures=0", f"writer={writer.__name__}"])
        assert type(config.writer) is writer and read(describe(config), VerbaliseConfig) == config
    assert read(describe(VerbaliseConfig()), VerbaliseConfig) == VerbaliseConfig()
