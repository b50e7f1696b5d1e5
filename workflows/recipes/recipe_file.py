"""Files of configs that name their recipe: `recipe: NAME` on top, then whatever part of the recipe's config differs.

    recipe: search
    sources:
      path: [/home/me/pictures]

What is not written is as the recipe has it. A field of several classes takes the class that is written under `class`; if it is another than
the recipe's, what is not written is as that class has it. A list, and a dict of plain values, is taken whole. Paths are relative to the
current folder, as on the command line: a file may be the config that a run has written, whose paths were given there.
"""

from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, TypeVar

from mirepoix.models.errors import Refused
from mirepoix.workflows import config
from mirepoix.workflows.config import CLASS, ENDINGS, Document

Config = TypeVar("Config")


def is_recipe_file(argument: str) -> bool:
    """Whether an argument in the place of a recipe's name is a file."""
    return argument.lower().endswith(ENDINGS)


def is_revision(document: Document) -> bool:
    """Whether a file holds the config of a run of `add` or `remove`, which names no recipe."""
    return document.recipe is None and isinstance(document.plain, dict) and "merge" in document.plain


def read_recipe_file(file: Path) -> Document:
    """The content of a file that names its recipe."""
    try:
        document = config.parse(file)
    except Refused as refusal:
        beside = sorted(str(each) for ending in ENDINGS for each in file.parent.glob(f"*{ending}")) if not file.exists() else []
        found = f"; there is {', '.join(beside[:5])}" if beside else "; `mirepoix init DIR` writes one" if not file.exists() else ""
        raise Refused(f"{refusal}{found}") from refusal
    if document.plain is not None and not isinstance(document.plain, dict):
        raise Refused(f"{file} is no config: it holds {_kind(document.plain)}; give a file whose first line is `recipe: NAME`")
    if is_revision(document):
        raise Refused(
            f"{file} is of a run of `mirepoix add` or `remove`, and of no recipe; `mirepoix show {file.parent}` prints the command that "
            "runs it again, and `mirepoix validate` takes it as it is"
        )
    if document.recipe is None:
        raise Refused(f"{file} does not say of which recipe it is; add a line on top, such as `recipe: search` (`mirepoix list` names all)")
    if not isinstance(document.recipe, str):
        raise Refused(f"{document.origin.at('recipe')}: recipe is {document.recipe!r}; give the name of one, such as `recipe: search`")
    return document


def _kind(plain: Any) -> str:
    return "a list" if isinstance(plain, list) else "one value"


def over(default: Config, document: Document) -> Config:
    """The config of a recipe with what a file says in place of what the recipe has."""
    cls = type(default)
    return config.build(cls, merged(cls, config.jsonable(default), document.plain or {}), "", document.origin)


def merged(annotation: Any, base: Any, given: Any) -> Any:
    """The plain form of a config with what is given in place of what it has; what does not fit stays, and is refused when it is built."""
    classes = config.classes_of(annotation)
    if isinstance(given, dict) and classes:
        named = given.get(CLASS) or (base or {}).get(CLASS) or next(iter(classes))
        if named not in classes or (CLASS not in given and not base and len(config.listed_classes(annotation)) > 1):
            return given
        cls = classes[named]
        start = base if base and config.class_of(annotation, base) is cls else _defaults(annotation, cls)
        hints = config.hints_of(cls)
        return start | {key: merged(hints.get(key, Any), start.get(key), value) for key, value in given.items()}
    if isinstance(given, dict | list) and config.classes_of(config.inner_annotation(annotation, 0)):
        if isinstance(given, list):
            return [merged(config.inner_annotation(annotation, index), None, each) for index, each in enumerate(given)]
        base = base or {}
        return base | {key: merged(config.inner_annotation(annotation, key), base.get(key), each) for key, each in given.items()}
    return given


def _defaults(annotation: Any, cls: type) -> dict[str, Any]:
    """The plain form of the defaults of a class, without the fields that have none."""
    tag = {CLASS: cls.__name__} if config.listed_classes(annotation) != [cls] else {}
    plain: dict[str, Any] = {}
    for field in fields(cls):
        if field.init and not (field.default is MISSING and field.default_factory is MISSING):
            value = field.default if field.default is not MISSING else field.default_factory()  # type: ignore[operator]
            plain[field.name] = config.plain_form(config.hints_of(cls)[field.name], value)
    return tag | plain
