"""Fields of a config with their one-line help, configs rebuilt from their JSON values, and what text names: a class, a function.

Such a name, MODULE:NAME, imports nothing.
"""

from dataclasses import MISSING, Field, field, fields, is_dataclass
from importlib import import_module
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from mirepoix.models.errors import Refused


def option(default: Any = MISSING, help: str = "", decides: bool = True) -> Any:
    """A dataclass field with a help text; a default that is a class or function is called for each new config.

    `decides=False` marks what a finished result does not depend on, but for rounding: how many workers make it, on which machines, how
    patiently. It is left out of the key of a stage, so its change runs nothing again, and an interrupted stage goes on with another value.
    """
    metadata = {"help": help, "decides": decides}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def decides(entry: Field[Any]) -> bool:
    """Whether the result of a stage depends on a field of its config."""
    return bool(entry.metadata.get("decides", True))


def import_named(path: str) -> Any:
    """The class or function at a path MODULE:NAME, with its module imported."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def refuse_unknown(config: Any, place: str = "") -> None:
    """Refuses a value that its field's Literal does not list; `place` is put before the field's name in the message."""
    for name, hint in get_type_hints(type(config)).items():
        if get_origin(hint) is Literal and getattr(config, name) not in get_args(hint):
            raise Refused(f"{place}{name} is {getattr(config, name)!r}; give one of {', '.join(map(str, get_args(hint)))}")


def revive(cls: type, plain: dict[str, Any]) -> Any:
    """The config of class `cls` whose `dataclasses.asdict` is `plain`, after JSON made lists of its tuples."""
    hints, names = get_type_hints(cls), [each.name for each in fields(cls)]
    unknown = sorted(set(plain) - set(names))
    if unknown:
        raise Refused(
            f"{cls.__name__} has no field {', '.join(unknown)}; its fields are {', '.join(names)}; it was written by another version"
        )
    return cls(**{name: _revive(hints[name], plain[name]) for name in names if name in plain})


def _revive(hint: Any, value: Any) -> Any:
    if get_origin(hint) in (Union, UnionType):
        nested = [kind for kind in get_args(hint) if is_dataclass(kind)]
        return _revive(nested[0], value) if nested and isinstance(value, dict) else value
    if isinstance(hint, type) and is_dataclass(hint) and isinstance(value, dict):
        return revive(hint, value)
    return tuple(value) if isinstance(value, list) else value
