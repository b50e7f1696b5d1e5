"""YAML as configs have it: few kinds of scalars, every key once and with a value, and the line of each dotted name for error messages."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.reader import ReaderError

from mirepoix.models.errors import Refused

SCALARS = {
    "null": re.compile(r"^(?:~|null|)$"),
    "bool": re.compile(r"^(?:true|false)$"),
    "int": re.compile(r"^[-+]?[0-9]+$"),
    "float": re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$"),
}
"""Unquoted scalars that are not strings, after YAML 1.2: 1e-4 is a number, 010 is ten, and `on` and dates are strings."""


@dataclass(frozen=True)
class Origin:
    """The origin of a plain form, for error messages: its name, and the line of each dotted name."""

    name: str
    lines: Mapping[str, int]

    def at(self, name: str) -> str:
        line = self.lines.get(name)
        return f"{self.name}, line {line}" if line else self.name


def read_yaml(text: str, label: str) -> tuple[Any, Origin]:
    """The plain form of a text, and its origin under the name `label`; refused unless it is YAML."""
    try:
        node = yaml.compose(text, Loader=_Loader)
        lines = dict(_lines(node, "")) if node else {}
        return yaml.load(text, Loader=_Loader), Origin(label, lines)
    except yaml.YAMLError as error:
        raise Refused(_unreadable(label, text, error)) from error


def _unreadable(label: str, text: str, error: Exception) -> str:
    """Why a text is no config, with the line."""
    if isinstance(error, _Slip):
        return f"{label}, line {error.line}: {error}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        advice = "; indent with spaces, not with tabs" if "'\\t'" in str(error.problem) else ""
        why = " ".join(filter(None, (error.problem, error.context)))
        return f"{label}, line {error.problem_mark.line + 1}: not a config in YAML: {why}{advice}"
    if isinstance(error, ReaderError):
        place = f"{label}, line {text.count(chr(10), 0, error.position) + 1}"
        return f"{place}: not a config in YAML: the character {chr(error.character)!r} is not allowed"
    return f"{label} is not a config in YAML: {' '.join(str(error).split())}"


class _Slip(yaml.YAMLError):
    """What YAML allows and a config does not, in a line of the text."""

    def __init__(self, what: str, line: int):
        super().__init__(what)
        self.line = line


def _lines(node: yaml.Node, name: str) -> Iterator[tuple[str, int]]:
    yield name, node.start_mark.line + 1
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if key.value in seen:
                raise _Slip(f"{dotted(name, key.value)} is given twice, the second time here", key.start_mark.line + 1)
            if isinstance(value, yaml.ScalarNode) and not (value.value or value.style):
                raise _Slip(f"{key.value} has no value; write null, or leave the line out", key.start_mark.line + 1)
            seen.add(key.value)
            yield from _lines(value, dotted(name, key.value))
            yield dotted(name, key.value), key.start_mark.line + 1
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, dotted(name, index))


def dotted(name: str, key: Any) -> str:
    """The name of a part of what has a name; a part of the whole has its key alone."""
    return f"{name}.{key}" if name else str(key)


class _Loader(yaml.SafeLoader):
    """Loads YAML with the scalars above and no others."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - the name and form that PyYAML reads


for _name, _expression in SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _expression, None)
_Loader.add_constructor("tag:yaml.org,2002:int", lambda _, node: int(node.value))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda _, node: float(node.value))
