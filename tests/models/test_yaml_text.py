"""YAML as configs have it: what is wrong is told in one line, with the name of the file and the line in it."""

import pytest

from mirepoix.models.errors import Refused
from mirepoix.models.yaml_text import read_yaml


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a: 1\nb: 2\nc:\n\td: 3\n", "t.yaml, line 4: not a config in YAML: found character '\\t' that cannot start any token"),
        ("a: 1\nb: c: d\n", "t.yaml, line 2: not a config in YAML: mapping values are not allowed here"),
        ("a:\n  b: 1\n c: 2\n", "t.yaml, line 3: not a config in YAML: expected <block end>, but found '<block mapping start>'"),
        ("a: 1\nb: [1,\n", "t.yaml, line 3: not a config in YAML: expected the node content, but found '<stream end>'"),
        ("a: 1\nb: \x00\n", "t.yaml, line 2: not a config in YAML: the character '\\x00' is not allowed"),
        ("a: 1\na: 2\n", "t.yaml, line 2: a is given twice, the second time here"),
        ("a:\n  b:\n", "t.yaml, line 2: b has no value; write null, or leave the line out"),
    ],
)
def test_what_is_no_yaml_is_told_with_its_line(text, line):
    with pytest.raises(Refused) as refused:
        read_yaml(text, "t.yaml")
    assert str(refused.value).startswith(line) and "\n" not in str(refused.value) and "<unicode string>" not in str(refused.value)


def test_tabs_are_told_to_be_spaces():
    with pytest.raises(Refused, match=r"indent with spaces, not with tabs$"):
        read_yaml("a:\n\tb: 1\n", "t.yaml")


def test_each_dotted_name_has_its_line():
    plain, origin = read_yaml("a:\n  b: 1\n  c: [x,\n    y]\nd: null\n", "t.yaml")
    assert plain == {"a": {"b": 1, "c": ["x", "y"]}, "d": None}
    assert [origin.at(name) for name in ("a.b", "a.c.1", "d")] == ["t.yaml, line 2", "t.yaml, line 4", "t.yaml, line 5"]
    assert origin.at("e") == "t.yaml"
