"""The columns of tables: which holds pictures, texts, ids, queries and splits, by their values first and by their names after that."""

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from statistics import mean
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mirepoix.components.ingestion.formats import delimited
from mirepoix.components.ingestion.formats.listed_pictures import found_path, suffix
from mirepoix.components.ingestion.formats.rows import RowError, Unreadable
from mirepoix.components.ingestion.formats.source_files import Shard, SourceFiles, is_ending
from mirepoix.models.picture_formats import PICTURE_ENDINGS, picture_format

SAMPLE = 100
"""Rows by which columns are judged."""
NAMES = {
    "title": "title titel titre titulo título titolo tytuł name bezeichnung 标题 题目 タイトル",
    "text": "text caption captions description beschreibung bildbeschreibung legende légende descripcion descripción descrição descrizione "
    "opis beschrijving beskrivning 描述 说明 文本 説明 описание подпись content body abstract alt alt_text bildtext bildunterschrift",
    "query": "query question search searched searches search_query gesucht keyword keywords anfrage suchanfrage suchbegriff frage requete "
    "requête recherche pregunta consulta busca domanda ricerca vraag zoekopdracht zapytanie 查询 问题 検索 質問 запрос вопрос",
    "id": "id ids uid uuid key sku nr no nummer number code asin artikelnummer artikelnr artnr item_id image_id product_id "
    "signatur referenz ref numero número 编号 番号",
    "split": "split splits subset partition fold set teil aufteilung ensemble conjunto",
}
KNOWN_NAMES = {role: frozenset(names.split()) for role, names in NAMES.items()}
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "holdout", "held_out"}
_LETTER = re.compile(r"[^\W\d_]")
_WIDE = re.compile(r"[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")


@dataclass(frozen=True)
class Column:
    """A column that is proposed for a role, and on what grounds."""

    role: str  # picture, text, id, query, split
    name: str
    why: str
    chosen: bool = True  # false: it may be this as well


@dataclass(frozen=True)
class Table:
    """A table of a folder: how it is written, its columns, and what they may hold."""

    file: str
    written: str  # encoding and delimiter, in words
    names: tuple[str, ...]
    rows: int
    columns: tuple[Column, ...]
    texts: tuple[str, ...] = ()  # some of the text columns
    splits: tuple[tuple[str, int], ...] = ()  # values of the split column, and the queries or captions of each; "" where there is none
    captions: int = 0  # texts of the rows: a list is as many as it has
    images: str = ""  # the folder that paths of pictures are relative to, if it is neither the table's nor the source's
    headless: str = ""  # a cell of its first row that looks like data and not like the name of a column

    def chosen(self, role: str) -> list[str]:
        """The columns that are proposed for a role."""
        return [column.name for column in self.columns if column.role == role and column.chosen]


@dataclass(frozen=True)
class _Form:
    """How a table is written, its columns, and how its rows are read."""

    written: str
    names: list[str]
    rows: Callable[[], Iterator[dict[str, Any]]]
    count: int | None = None  # of its rows, where that need not be counted


def look_at_table(tree: SourceFiles, file: str) -> Table | None:
    """A table: its columns judged by its first rows, ids, splits and numbers by all; None where it cannot be read as one."""
    try:
        form = _form_of(tree, file)
        rows = list(islice(form.rows(), SAMPLE))
        names = form.names or list(dict.fromkeys(name for row in rows for name in row))
        if not names or not rows:
            return None
        columns, images = _roles(tree, file, names, rows)
        if len(names) < 2 and not columns:
            return None
        columns, count, splits, captions = _counted(tree, file, form, columns)
    except (Unreadable, RowError, OSError, ValueError, pa.ArrowException):
        return None
    texts = [text for column in columns if column.role in ("text", "query") for row in rows for text in _strings(row.get(column.name))]
    headless = _headless(tree, file, names) if is_ending(file, *delimited.ENDINGS) else ""
    return Table(file, form.written, tuple(names), count, tuple(columns), tuple(texts), splits, captions, images, headless)


def _form_of(tree: SourceFiles, file: str) -> _Form:
    if is_ending(file, *delimited.ENDINGS):
        form = delimited.recognise(tree, file)
        separated = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}[form.delimiter]
        written = f"{form.encoding_name}, separated by {separated}" if len(form.header) > 1 else form.encoding_name
        return _Form(written, list(form.header), lambda: (row for _, row in delimited.records(tree, file, form) if isinstance(row, dict)))
    if is_ending(file, ".parquet"):
        with tree.open(file) as stream:
            count = pq.read_metadata(stream).num_rows
        names = list(tree.schema(file).names)
        return _Form("Parquet", names, lambda: _parquet(tree, file, names), count)
    return _Form("JSON lines", [], lambda: (row for _, row in tree.records(Shard(file)) if isinstance(row, dict)))


def _parquet(tree: SourceFiles, file: str, names: list[str]) -> Iterator[dict[str, Any]]:
    for shard in tree.parquet_shards(file):
        for _, table in tree.tables(shard, names, rows=SAMPLE):
            yield from table.to_pylist()


def _counted(
    tree: SourceFiles, file: str, form: _Form, columns: list[Column]
) -> tuple[list[Column], int, tuple[tuple[str, int], ...], int]:
    """The columns, without ids that are there twice and splits that are none; rows, queries or captions by split, and captions.

    All rows are read, of Parquet only the columns that may be splits, ids, queries or texts.
    """
    by_role = {role: [column.name for column in columns if column.role == role] for role in ("split", "id")}
    chosen = {role: [column.name for column in columns if column.role == role and column.chosen] for role in ("query", "text")}
    asked = chosen["query"] or chosen["text"]
    read = list(dict.fromkeys([*by_role["split"], *by_role["id"], *asked, *chosen["text"]]))
    seen: dict[str, set[int]] = {name: set() for name in by_role["id"]}
    given = Counter[str]()
    splits: dict[str, Counter[str]] = {name: Counter() for name in by_role["split"]}
    pairs: dict[str, Counter[str]] = {name: Counter() for name in ("", *by_role["split"])}
    captions = count = 0
    for row in form.rows() if form.count is None else _parquet(tree, file, read) if read else ():
        count += 1
        for name in by_role["id"]:
            if value := _cell(row.get(name)):
                given[name] += 1
                seen[name].add(hash(value))
        number = _number(row, asked)
        captions += _number(row, chosen["text"])
        pairs[""][""] += number
        for name in by_role["split"]:
            value = _cell(row.get(name))
            splits[name][value] += 1
            pairs[name][value] += number
    kept: list[Column] = []
    taken: set[str] = set()
    count = count if form.count is None else form.count
    for column in columns:
        if column.role in by_role:
            if column.role == "id":
                why = f"`{column.name}` is different in all {given[column.name]:,} rows, and is called so"
                why = why if len(seen[column.name]) == given[column.name] else ""
            else:
                why = _split(column.name, splits[column.name])
            if not why:
                continue
            column = Column(column.role, column.name, why, chosen=column.role not in taken)
            taken.add(column.role)
        kept.append(column)
    split = next((column.name for column in kept if column.role == "split"), "")
    return kept, count, tuple(sorted(pairs[split].items())), captions


def _cell(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _number(row: dict[str, Any], names: list[str]) -> int:
    """The texts of a row: of one column as many as its list has, of several one."""
    found = [_strings(row.get(name)) for name in names]
    return len(found[0]) if len(found) == 1 else int(any(found))


def _strings(value: Any) -> list[str]:
    """The texts of a cell: one, or those of a list."""
    return [text for each in (value if isinstance(value, list) else [value]) if (text := _cell(each))]


def _headless(tree: SourceFiles, file: str, names: Sequence[str]) -> str:
    """A cell of the header that is the path of a picture that is there, or a number; empty if all look like names of columns."""
    for name in filter(None, names):
        with suppress(RowError, ValueError):
            if found_path(tree, posixpath.dirname(file), name) in tree.sizes:
                return name
            float(name.replace(",", "."))
            return name
    return ""


def _roles(tree: SourceFiles, file: str, names: Sequence[str], rows: list[dict[str, Any]]) -> tuple[list[Column], str]:
    """The columns that may have a role, and the folder that pictures' paths are relative to."""
    found: list[Column] = []
    images = ""
    values = {name: [row.get(name) for row in rows] for name in names}
    pictures = [judged for name in names if (judged := _picture(tree, file, name, values[name]))]
    if any(share and exact for share, exact, *_ in pictures):  # then a number that is also the name of a picture is an id
        pictures = [judged for judged in pictures if judged[1] or not judged[0]]
    for number, (share, _, column, folder) in enumerate(sorted(pictures, key=lambda judged: -judged[0])):
        found.append(column if not number and share else Column("picture", column.name, column.why, chosen=False))
        images = folder if not number else images
    paths = {column.name for column in found}
    others = [name for name in names if name not in paths and all(map(_is_scalar, values[name]))]
    texts = {name: [text for value in values[name] if (text := _cell(value))] for name in others}
    for role, judge in (("split", _may_split), ("query", _query), ("id", _may_id)):
        fitting = [(name, why) for name in others if texts[name] and (why := judge(name, texts[name]))]
        found += [Column(role, name, why, chosen=not number) for number, (name, why) in enumerate(fitting)]
        others = [name for name in others if name not in {name for name, _ in fitting}]
    listed = [name for name in names if name not in paths and name not in texts and all(map(_is_list, values[name]))]
    lists = {name: [text for value in values[name] for text in _strings(value)] for name in listed}
    found += [Column("query", name, why) for name in listed if lists[name] and (why := _query(name, lists[name]))][:1]
    one = _texts(listed, {name: [] if any(column.name == name for column in found) else lists[name] for name in listed})
    alone = _texts(others, texts)
    if one and not alone:
        return [*found, *one[:1], *(Column("text", column.name, column.why, chosen=False) for column in one[1:])], images
    return [*found, *alone, *(Column("text", column.name, column.why, chosen=False) for column in one)], images


def _is_scalar(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float)


def _is_list(value: Any) -> bool:
    """Whether a cell is a list of texts, or empty."""
    return value is None or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _picture(tree: SourceFiles, file: str, name: str, values: list[Any]) -> tuple[float, bool, Column, str] | None:
    """Whether a column names pictures or has their bytes: the share of its rows, whether their endings say so, the column with the grounds,
    and the folder that paths start from."""
    held = sum(bool(picture_format(data)) for data in map(_bytes_of, values) if data)
    if held:
        return held / len(values), True, Column("picture", name, f"`{name}` holds pictures in {held} of {len(values)} rows"), ""
    given = [value for value in values if isinstance(value, str) and value.strip()]
    if not given:
        return None
    folder = posixpath.dirname(file)
    there = exact = 0
    for value in given:
        with suppress(RowError):
            path = found_path(tree, folder, value)
            if path in tree.sizes and suffix(path) in PICTURE_ENDINGS:
                there += 1
                exact += suffix(value) in PICTURE_ENDINGS
    if there and (exact or 2 * there >= len(given)):
        without = "" if exact else ", without their endings"
        why = f"`{name}` names files that are there in {there} of {len(values)} rows{without}"
        return there / len(values), bool(exact), Column("picture", name, why), ""
    named = [value.replace("\\", "/") for value in given if suffix(value) in PICTURE_ENDINGS]
    if 2 * len(named) < len(given):
        return None
    if any("://" in value for value in named):
        return 0.0, True, Column("picture", name, f"`{name}` has addresses of pictures; pictures are read from files, not from the web"), ""
    starts = Counter(_start(tree, value) for value in named)
    start, count = starts.most_common(1)[0]
    if start and 2 * count >= len(named):
        why = f"`{name}` names files that are there in {count} of {len(values)} rows, below {start}"
        return count / len(values), True, Column("picture", name, why), start
    return 0.0, True, Column("picture", name, f"`{name}` names pictures, such as {named[0][:60]}, and none of them is in the folder"), ""


def _bytes_of(value: Any) -> bytes:
    value = value.get("bytes") if isinstance(value, dict) else value
    return value if isinstance(value, bytes) else b""


def _start(tree: SourceFiles, value: str) -> str:
    """The folder below which a path is there; empty if there is none, or several."""
    ends = [name for name in tree.sizes if name.endswith(f"/{value}")]
    return ends[0].removesuffix(f"/{value}") if len(ends) == 1 else ""


def _name(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _split(name: str, seen: Counter[str]) -> str:
    """The grounds on which a column with these values, counted over all rows, is that of splits; empty if it is not."""
    values = {value.lower() for value in seen if value}
    if values and values <= SPLITS and (len(values) > 1 or _name(name) in KNOWN_NAMES["split"]):
        counts = ", ".join(f"{value or 'nothing'} ({count:,})" for value, count in seen.most_common())
        return f"`{name}` has only {counts} in {seen.total():,} rows"
    return ""


def _may_split(name: str, values: list[str]) -> str:
    """Whether the first rows of a column are splits; all rows decide."""
    return name if {value.lower() for value in values} <= SPLITS else ""


def _query(name: str, values: list[str]) -> str:
    questions = sum(value.endswith(("?", "？")) for value in values)
    if 2 * questions >= len(values):
        return f"`{name}` has questions in {questions} of {len(values)} rows"
    if _name(name) in KNOWN_NAMES["query"] and _is_text(values):
        return f"`{name}` is called so"
    return ""


def _may_id(name: str, values: list[str]) -> str:
    """Whether the first rows may be ids; all rows decide. An id has an id's name besides: prices and years may be all different too."""
    words = set(_name(name).split("_")) | {_name(name)}
    short = all(len(value) <= 64 and not re.search(r"\s", value) for value in values)
    return name if len(set(values)) == len(values) and short and words & KNOWN_NAMES["id"] else ""


def _is_text(values: list[str]) -> bool:
    """Whether values are words of a language: mostly letters, and no addresses, paths, or codes."""
    letters = mean(len(_LETTER.findall(value)) / len(value) for value in values)
    words = mean(len(value.split()) + len(_WIDE.findall(value)) / 2 for value in values)
    return letters > 0.5 and words >= 1.5 and not any("://" in value for value in values[:5])


def _texts(names: list[str], values: dict[str, list[str]]) -> list[Column]:
    """The columns of texts: those of known names, a title before its description; else the longest, and the others as possible too."""
    fitting = [name for name in names if values[name] and (_is_text(values[name]) or _named(name, values[name]))]
    lengths = {name: mean(map(len, values[name])) for name in fitting}
    about: Callable[[str], str] = lambda name: f"`{name}` has texts of {lengths[name]:.0f} letters in {len(values[name])} rows"  # noqa: E731
    titles = [name for name in fitting if _name(name) in KNOWN_NAMES["title"]]
    texts = [name for name in fitting if _name(name) in KNOWN_NAMES["text"]]
    chosen = [*titles[:1], *texts[:1]] or sorted(fitting, key=lambda name: -lengths[name])[:1]
    first = [Column("text", name, about(name) + (", and is called so" if name in (*titles, *texts) else "")) for name in chosen]
    return [*first, *(Column("text", name, about(name), chosen=False) for name in fitting if name not in chosen)]


def _named(name: str, values: list[str]) -> bool:
    """Whether a column of one-word values is called a text."""
    known = KNOWN_NAMES["text"] | KNOWN_NAMES["title"]
    return _name(name) in known and mean(len(_LETTER.findall(value)) / len(value) for value in values) > 0.5
