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


@pytest.mark.parametrize("split", ["", "a b", "dev=test"])
def test_a_split_to_be_read_is_a_name(split):
    with pytest.raises(Refused, match=r"sources.only_splits has .*; give names of splits, such as test"):
        SourcesConfig(only_splits=(split,))


def test_captions_are_apart_or_together():
    with pytest.raises(Refused, match=r"sources\.captions is 'both'; give one of apart, together"):
        SourcesConfig(captions="both")


def test_an_empty_name_of_a_data_set_is_refused():
    with pytest.raises(Refused, match=r"sources.only_datasets has an empty name; give names of data sets, or patterns such as ViDoRe_\*"):
        SourcesConfig(only_datasets=("mscoco", " "))
