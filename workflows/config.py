"""Configs as text: named, overridden, described and read back.

A config is a frozen dataclass of plain values, tuples, dicts and other configs. It is converted to text, and back, through its plain form:
dicts, lists, numbers, strings, booleans and None, which are checked strictly against the annotations when a config is built. Where an
annotation admits several classes of configs, the plain form has the name of the class under the key `class`, which no field can have.
"""

import dataclasses
import difflib
import json
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from mirepoix.models.errors import Refused
from mirepoix.models.options import decides
from mirepoix.models.yaml_text import SCALARS, Origin, dotted, read_yaml

Config = TypeVar("Config")
CLASS, RECIPE = "class", "recipe"
"""Keys of a file that are no fields: the class of a config where there may be several, and on top the recipe that the file changes."""
REPLACED = {"per_device_train_batch_size": "global_batch_size"}
"""Options of earlier versions, by the option in their place; a config with that one translates values (`TrainConfig.replacement`)."""
NULLS = ("null", "none")
ENDINGS = (".yaml", ".yml")
UNKEYED = "[not in the key]"
"""What `describe` says of a field that does not decide the result of its stage."""
KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def jsonable(config: Any) -> dict[str, Any]:
    """The plain form of a config, which can be written as JSON or YAML, and hashed."""
    return plain_form(type(config), config)


def flatten(config: Any) -> dict[str, Any]:
    """Every value of a config by its dotted name, in the order of the fields."""
    return dict(_leaves(type(config), jsonable(config), ""))


def override(config: Config, settings: Iterable[str]) -> Config:
    """The config with some values replaced, each given as `dotted.name=value`; all are set before the whole is checked."""
    plain = jsonable(config)
    # Options of an earlier version last: how they are written now follows from the others.
    for setting in sorted(settings, key=lambda each: each.partition("=")[0].strip().rpartition(".")[2] in REPLACED):
        name, equals, text = setting.partition("=")
        if not equals:
            raise Refused(f"{setting!r} has no '='; write NAME=VALUE, such as {next(iter(flatten(config)), 'name')}=VALUE")
        put(type(config), plain, name.strip(), partial(_from_text, name=name.strip(), text=text))
    return build(type(config), plain, "", Origin(type(config).__name__, {}))


def describe(config: Any) -> str:
    """A config as YAML, with the help of each field in a comment; `read` returns an equal config."""
    return "".join(f"{line}\n" for line in _yaml_lines(type(config), jsonable(config))) or "{}\n"


def read(source: str | Path, cls: type[Config]) -> Config:
    """A config of the class, read from a file (a Path) or a text (a str); every field must be there, and no other but `recipe`."""
    _, plain, origin = parse(source)
    return build(cls, plain, "", origin)


class Document(NamedTuple):
    """A config as a file has it: the recipe that it names, its plain form, which may be a part of one, and its origin."""

    recipe: Any
    plain: Any
    origin: Origin


def parse(source: str | Path) -> Document:
    """The content of a file (a Path) or a text (a str); refused unless it is YAML."""
    label = str(source) if isinstance(source, Path) else "the config"
    try:
        text = source.read_text(encoding="utf-8-sig") if isinstance(source, Path) else source
    except OSError as error:
        raise Refused(f"cannot read the config {label}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise Refused(f"{label} is not a config in YAML: it is not UTF-8 ({error.reason} at byte {error.start})") from error
    plain, origin = read_yaml(text, label)
    recipe = plain.pop(RECIPE, None) if isinstance(plain, dict) else None
    return Document(recipe, plain, origin)


class Part(NamedTuple):
    """One field of a config, or one entry of a list or dict of configs, in plain form."""

    key: str | int
    annotation: Any
    plain: Any
    help: str


def _parts(annotation: Any, plain: Any) -> list[Part] | None:
    """The parts of a config, or of a list or dict of configs, in plain form; None for a value without parts."""
    if isinstance(plain, dict) and classes_of(annotation):
        cls = class_of(annotation, plain)
        hints = hints_of(cls)
        return [Part(f.name, hints[f.name], plain[f.name], _help(f)) for f in _fields(cls)]
    if isinstance(plain, dict | list) and classes_of(inner_annotation(annotation, 0)):
        pairs = plain.items() if isinstance(plain, dict) else enumerate(plain)
        return [Part(key, inner_annotation(annotation, key), each, "") for key, each in pairs]
    return None


def _help(entry: dataclasses.Field) -> str:
    """The help of a field, and whether the key of a stage leaves it out."""
    words = entry.metadata.get("help", "")
    return words if decides(entry) else f"{words} {UNKEYED}".lstrip()


def _leaves(annotation: Any, plain: Any, name: str) -> Iterator[tuple[str, Any]]:
    parts = _parts(annotation, plain)
    if parts is None:
        yield name, _frozen(plain)
    for part in parts or ():
        yield from _leaves(part.annotation, part.plain, dotted(name, part.key))


def plain_form(annotation: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        tag = {CLASS: type(value).__name__} if listed_classes(annotation) != [type(value)] else {}
        hints = hints_of(type(value))
        return tag | {field.name: plain_form(hints[field.name], getattr(value, field.name)) for field in _fields(type(value))}
    if isinstance(value, tuple):
        return [plain_form(inner_annotation(annotation, index), each) for index, each in enumerate(value)]
    if isinstance(value, Mapping):
        return {key: plain_form(inner_annotation(annotation, key), each) for key, each in value.items()}
    return value


def put(annotation: Any, root: dict[str, Any], name: str, value: Callable[[Part], Any]) -> None:
    """Put the value of one dotted name into a plain form; `value` makes it for the part that it is given."""
    parent: Any = None
    part = Part("", annotation, root, "")
    for key in name.split("."):
        parts = {str(each.key): each for each in _parts(part.annotation, part.plain) or ()}
        if key not in parts:
            given = value(Part(key, int, None, "")) if key in REPLACED else None
            near = _replacement(part.annotation, part.plain, name, given)
            raise Refused(f"there is no {name!r} here; {near or _nearest(name, [known for known, _ in _leaves(annotation, root, '')])}")
        parent, part = part.plain, parts[key]
    parent[part.key] = value(part)


def _from_text(part: Part, name: str, text: str) -> Any:
    """The plain form of a value from the command line."""
    kinds, classes = alternatives(part.annotation), classes_of(part.annotation)
    if type(None) in kinds and text.strip().lower() in NULLS:
        return None
    if text.strip() in classes:
        return plain_form(part.annotation, _new(classes[text.strip()], name))
    for candidate, strict in _candidates(kinds, text) if not classes else ():
        try:
            return plain_form(part.annotation, _adapter(part.annotation).validate_python(candidate, strict=strict))
        except ValidationError:
            continue
    inside = [known for known, _ in _leaves(part.annotation, part.plain, name)] if _parts(part.annotation, part.plain) else []
    advice = f"; set {_listed(inside, 'or')}" if inside else ""
    raise Refused(f"{name}={text!r} is refused: it takes {_admitted(part.annotation)}{advice}")


def _candidates(kinds: list[Any], text: str) -> Iterator[tuple[Any, bool]]:
    """The values that a text may mean, each with whether its type is checked strictly: JSON, a list with commas, or the text itself."""
    try:
        parsed = _frozen(json.loads(text))
    except json.JSONDecodeError:
        parsed = None
    origins = {get_origin(kind) or kind for kind in kinds}
    if isinstance(parsed, tuple | dict):
        yield parsed, True
    elif tuple in origins:
        yield tuple(each.strip() for each in text.split(",") if each.strip()), False
    if origins & {str, int, float, bool, Literal}:
        yield text, False
        if parsed is not None:
            yield parsed, True


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def build(annotation: Any, plain: Any, name: str, source: Origin) -> Any:
    """A value from its plain form, checked against its annotation; a refusal names the file and the line."""
    if isinstance(plain, dict) and classes_of(annotation):
        return _build_config(annotation, plain, name, source)
    parts = _parts(annotation, plain)
    if parts is not None:
        built = {part.key: build(part.annotation, part.plain, dotted(name, part.key), source) for part in parts}
        return built if isinstance(plain, dict) else tuple(built.values())
    allowed = _admitted(annotation)
    if plain is None and type(None) in alternatives(annotation):
        return None
    kinds = alternatives(annotation)
    one = isinstance(plain, str) and str not in kinds and any(get_origin(kind) is tuple for kind in kinds)  # in place of a list of one
    try:
        if not classes_of(annotation):
            return _adapter(annotation).validate_json(json.dumps([plain] if one else plain), strict=True)
    except (ValidationError, TypeError):
        allowed += "; put quotes around a text that looks like something else" if str in alternatives(annotation) else ""
    raise Refused(f"{source.at(name)}: {name or 'the whole'} is {'null' if plain is None else repr(plain)} but takes {allowed}")


def _build_config(annotation: Any, plain: dict[str, Any], name: str, source: Origin) -> Any:
    classes = classes_of(annotation)
    open_choice = len(listed_classes(annotation)) > 1
    if (CLASS in plain and plain[CLASS] not in classes) or (CLASS not in plain and open_choice):
        tag = dotted(name, CLASS)
        raise Refused(f"{source.at(tag)}: {tag} is {plain.get(CLASS, 'missing')!r}; it must be {_listed(classes, 'or')}")
    cls = class_of(annotation, plain)
    hints, names = hints_of(cls), [field.name for field in _fields(cls)]
    values = {key: value for key, value in plain.items() if key != CLASS}
    for key in values:
        if key not in names:
            unknown = dotted(name, key)
            near = _replacement(annotation, values, unknown, values[key])
            near = near or _nearest(unknown, [dotted(name, each) for each in names])
            raise Refused(f"{source.at(unknown)}: there is no {unknown!r}; {near}")
    if missing := [dotted(name, key) for key in names if key not in values]:
        raise Refused(f"{source.at(name)}: {_listed(missing)} {'is' if len(missing) == 1 else 'are'} missing; every field must be there")
    built = {key: build(hints[key], value, dotted(name, key), source) for key, value in values.items()}
    try:
        return cls(**built)
    except Refused as error:
        place = _place_of(str(error), name, values, source)
        raise Refused(f"{source.at(place)}: {name + ': ' if name else ''}{error}") from error


def _place_of(refusal: str, name: str, values: Mapping[str, Any], source: Origin) -> str:
    """The part of a config that its own refusal names first: a field, or an entry of one; the config where neither is in the file."""
    for key, value in values.items():
        if re.match(rf"(?:{re.escape(dotted(name, key))}|{re.escape(key)})\b", refusal):
            entries = enumerate(value) if isinstance(value, list) else ()
            inside = [f"{dotted(name, key)}.{index}" for index, each in entries if repr(each) in refusal]
            return next((place for place in (*inside, dotted(name, key)) if place in source.lines), name)
    return name


def _yaml_lines(annotation: Any, plain: Any) -> Iterator[str]:
    """The lines of YAML of a plain form that has parts."""
    if isinstance(plain, dict) and CLASS in plain and classes_of(annotation):
        yield f"{CLASS}: {plain[CLASS]}"
    for part in _parts(annotation, plain) or ():
        comment = f"  # {' '.join(part.help.split())}" if part.help else ""
        inside = [f"  {line}" for line in _yaml_lines(part.annotation, part.plain)]
        if isinstance(plain, list) and inside:
            yield f"- {inside.pop(0).lstrip()}"
        else:
            head = "-" if isinstance(plain, list) else f"{flow(part.key)}:"
            yield f"{head}{'' if inside else ' ' + flow(part.plain)}{comment}"
        yield from inside


def flow(plain: Any) -> str:
    """A plain value on one line of YAML."""
    if isinstance(plain, list):
        return f"[{', '.join(map(flow, plain))}]"
    if isinstance(plain, dict):
        return f"{{{', '.join(f'{flow(key)}: {flow(value)}' for key, value in plain.items())}}}"
    is_other = isinstance(plain, str) and any(scalar.match(plain) for scalar in SCALARS.values())
    if is_other or (isinstance(plain, str) and not re.fullmatch(r"[A-Za-z_./][A-Za-z0-9_./-]*", plain)):
        return yaml.dump(plain, Dumper=_Dumper, default_style='"', width=float("inf"), allow_unicode=True).rstrip("\n")
    return yaml.dump(plain, Dumper=_Dumper, width=float("inf")).split("\n")[0]


class _Dumper(yaml.SafeDumper):
    """Quotes the strings that a config would read as another type."""

    yaml_implicit_resolvers: dict = {}  # noqa: RUF012


for _name, _expression in SCALARS.items():
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _expression, None)


def _fields(cls: type) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(cls) if field.init]


@cache
def hints_of(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


@cache
def _adapter(annotation: Any) -> TypeAdapter:
    return TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, or the annotation alone; pydantic checks the constraints of Annotated."""
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [each for member in get_args(annotation) for each in alternatives(member)]
    return [annotation]


def listed_classes(annotation: Any) -> list[type]:
    """The config classes that an annotation names."""
    return [each for each in alternatives(annotation) if isinstance(each, type) and dataclasses.is_dataclass(each)]


def classes_of(annotation: Any) -> dict[str, type]:
    """The config classes that an annotation admits, by name: those that it names, and their subclasses."""
    found: dict[str, type] = {}
    left = listed_classes(annotation)
    while left:
        cls = left.pop(0)
        found[cls.__name__] = cls
        derived: list[type] = cls.__subclasses__()
        left += [each for each in derived if dataclasses.is_dataclass(each)]
    return found


def class_of(annotation: Any, plain: Mapping[str, Any]) -> type:
    return classes_of(annotation)[plain[CLASS]] if CLASS in plain else listed_classes(annotation)[0]


def inner_annotation(annotation: Any, key: Any) -> Any:
    """The annotation of the entry at an index of a tuple or under a key of a dict."""
    for each in alternatives(annotation):
        origin, arguments = get_origin(each), get_args(each)
        if origin is dict:
            return arguments[1]
        if origin is tuple:
            return arguments[0] if arguments[-1] is Ellipsis else arguments[min(int(key), len(arguments) - 1)]
    return Any


def _new(cls: type, name: str) -> Any:
    """A config of a class with its defaults."""
    required = [f.name for f in _fields(cls) if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING]
    if required:
        raise Refused(f"{name}={cls.__name__} is refused: {_listed(required)} has no default; write the whole config into a file")
    return cls()


def _admitted(annotation: Any) -> str:
    """The values that an annotation admits, in words."""
    words = []
    for each in alternatives(annotation):
        origin, arguments = get_origin(each), get_args(each)
        if origin is Literal:
            words.append(f"one of {', '.join(map(str, arguments))}")
        elif origin is tuple and arguments[-1] is Ellipsis:
            words.append(f"a list, each of it {_admitted(arguments[0])}")
        elif origin is tuple:
            words.append(f"a list of {len(arguments)}: {', '.join(map(_admitted, arguments))}")
        elif origin is dict:
            words.append(f"a dict, each value {_admitted(arguments[1])}")
        elif each in listed_classes(annotation):
            words.append(f"the fields of {_listed(classes_of(each), 'or')}")
        else:
            words.append(KINDS.get(each, str(each)))
    return " or ".join(words)


def _nearest(given: str, names: list[str]) -> str:
    """Suggests names: those that end in the last part of the given one, then those of similar spelling; all, if there are none."""
    ends = {name.rpartition(".")[2]: name for name in reversed(names)}
    group, _, last = given.rpartition(".")
    if last in REPLACED:
        given, last = dotted(group, REPLACED[last]), REPLACED[last]
    same_end = [name for name in names if name.rpartition(".")[2] == last]
    like = difflib.get_close_matches(given, names, 3, 0.6) + [ends[end] for end in difflib.get_close_matches(last, ends, 3, 0.7)]
    near = list(dict.fromkeys(same_end + like))[:5]
    return f"did you mean {_listed(near, 'or')}?" if near else f"there is {_listed(names)}"


def _replacement(annotation: Any, plain: Any, name: str, value: Any) -> str | None:
    """How an option of an earlier version is written now, given the others of its config; None for a name that none had."""
    group, _, key = name.rpartition(".")
    if key not in REPLACED or not isinstance(plain, dict) or not classes_of(annotation):
        return None
    replacement = getattr(class_of(annotation, plain), "replacement", None)
    written = replacement and replacement(key, value, plain)
    return f"give {dotted(group, written)}" if written else None


def _listed(names: Iterable[str], last: str = "and") -> str:
    *first, end = names
    return f"{', '.join(first)} {last} {end}" if first else end
