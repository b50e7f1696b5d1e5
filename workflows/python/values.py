"""Overrides of a config as Python values, by dotted names, in which two underscores may stand for a dot."""

import os
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import partial
from typing import Any, TypeVar

from mirepoix.models.errors import Refused
from mirepoix.workflows.config import CLASS, Origin, Part, build, classes_of, jsonable, put
from mirepoix.workflows.recipes.recipe_file import merged

Config = TypeVar("Config")


def with_values(config: Config, values: Mapping[str, Any]) -> Config:
    """The config with some values replaced; all are set before the whole is checked, as overrides of the command line are."""
    plain = jsonable(config)
    for name, value in values.items():
        if not isinstance(name, str):
            raise Refused(f"an override has the name {name!r}; give a dotted name, such as 'instruct.max_steps'")
        dotted = name.replace("__", ".")
        put(type(config), plain, dotted, partial(_plain_value, name=dotted, value=value))
    return build(type(config), plain, "", Origin("run", {}))


def _plain_value(part: Part, name: str, value: Any) -> Any:
    """The plain form of a value for a part of a config. What the part does not take stays, and is refused when the whole is built."""
    classes = classes_of(part.annotation)
    named = value.__name__ if isinstance(value, type) else value
    if isinstance(named, str) and named in classes:  # a class stands for its defaults
        return merged(part.annotation, None, {CLASS: named})
    return merged(part.annotation, part.plain, _plain(value, name))


def _plain(value: Any, name: str) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {CLASS: type(value).__name__, **jsonable(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(each, name) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each, name) for each in value]
    if type(value).__module__ == "numpy" and hasattr(value, "tolist"):
        return value.tolist()
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise Refused(
        f"{name} is of the type {type(value).__name__}; give a text, a number, a bool, None, a path, a list, a mapping or a config"
    )
