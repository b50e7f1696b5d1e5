"""Invalid names of sources are refused when the config is made."""

import pytest

from mirepoix.components.ingestion.sources_config import SourcesConfig
from mirepoix.models.errors import Refused


def test_a_path_with_a_key_in_it_is_refused_when_the_config_is_made():
    with pytest.raises(Refused, match="AWS_ACCESS_KEY_ID") as refusal:
        SourcesConfig(path=("s3://name:hidden@bucket/corpus",))
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("entry", ["picture", "=file", "image=file", "picture=", "a b:text=x", "Text=x"])
def test_a_column_without_a_known_role_is_refused_and_the_roles_are_named(entry):
    with pytest.raises(Refused, match="give ROLE=COLUMN, such as picture=file, where ROLE is picture, text, id, query, split"):
        SourcesConfig(columns=(entry,))


def test_only_texts_may_have_several_columns():
    SourcesConfig(columns=("text=a", "text=b", "one:picture=a=b: c", "two:picture=c"))
    with pytest.raises(Refused, match=r"sources.columns of one names two columns for id; give one"):
        SourcesConfig(columns=("one:id=a", "one:id=b"))


def test_captions_are_apart_or_together():
    with pytest.raises(Refused, match=r"sources\.captions is 'both'; give one of apart, together"):
        SourcesConfig(captions="both")
