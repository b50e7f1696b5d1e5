"""The columns of tables: which holds pictures, texts, ids, queries and splits, by their values first and by their names after that."""

import posixpath
import re
from collections import Counter
from collections.abc import Callable, Sequence
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
from mirepoix.components.ingestion.formats.source_files import PICTURE_ENDINGS, Shard, SourceFiles, is_ending
from mirepoix.models.picture_formats import picture_format

SAMPLE = 100
"""Rows by which columns are judged."""
NAMES = {
    "title": "title titel titre titulo título titolo tytuł name bezeichnung 标题 题目 タイトル",
    "text": "text caption captions description beschreibung bildbeschreibung legende légende descripcion descripción descrição descrizione "
    "opis beschrijving beskrivning 描述 说明 文本 説明 описание подпись content body abstract alt alt_text bildtext bildunterschrift",
    "query": "query question search searched searches search_query gesucht keyword keywords anfrage suchanfrage suchbegriff frage requete "
    "requête recherche pregunta consulta busca domanda ricerca vraag zoekopdracht zapytanie 查询 问题 検索 質問 запрос вопрос",
    "id": "id ids uid uuid key sku nr no nummer number code asin artikelnummer artnr item_id image_id product_id signatur referenz ref "
    "numero número 编号 番号",
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
    splits: tuple[str, ...] = ()  # values of the split column
    images: str = ""  # the folder that paths of pictures are relative to, if it is neither the table's nor the source's

    def chosen(self, role: str) -> list[str]:
        """The columns that are proposed for a role."""
        return [column.name for column in self.columns if column.role == role and column.chosen]


def look_at_table(tree: SourceFiles, file: str) -> Table | None:
    """A table, judged by its first rows; None where it cannot be read as one."""
    written, rows, count = "", [], 0
    try:
        if is_ending(file, *delimited.ENDINGS):
            form = delimited.recognise(tree, file)
            names = list(form.header)
            rows = [dict(zip(names, row, strict=False)) for row in form.rows[:SAMPLE]]
            separated = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}[form.delimiter]
            written = f"{form.encoding_name}, separated by {separated}"
            count = sum(1 for _ in delimited.records(tree, file, form))
        elif is_ending(file, ".parquet"):
            with tree.open(file) as stream:
                count = pq.read_metadata(stream).num_rows
            names = list(tree.schema(file).names)
            for _, table in tree.tables(tree.parquet_shards(file)[0], names, rows=SAMPLE):
                rows += table.slice(0, SAMPLE - len(rows)).to_pylist()
                if len(rows) >= SAMPLE:
                    break
            written = "Parquet"
        else:
            records = (row for _, row in tree.records(Shard(file)) if isinstance(row, dict))
            rows = list(islice(records, SAMPLE))
            count = len(rows) + sum(1 for _ in records)
            names = list(dict.fromkeys(name for row in rows for name in row))
            written = "JSON lines"
    except (Unreadable, RowError, OSError, ValueError, pa.ArrowException):
        return None
    if len(names) < 2 or not rows:
        return None
    columns, images = _roles(tree, file, names, rows)
    texts = [str(row.get(column.name) or "") for column in columns if column.role in ("text", "query") for row in rows]
    split = next((column.name for column in columns if column.role == "split"), None)
    splits = tuple(sorted({str(row.get(split)) for row in rows})) if split else ()
    return Table(file, written, tuple(names), count, tuple(columns), tuple(filter(None, texts)), splits, images)


def _roles(tree: SourceFiles, file: str, names: Sequence[str], rows: list[dict[str, Any]]) -> tuple[list[Column], str]:
    """The columns that may have a role, and the folder that pictures' paths are relative to."""
    found: list[Column] = []
    images = ""
    values = {name: [row.get(name) for row in rows] for name in names}
    pictures = [judged for name in names if (judged := _picture(tree, file, name, values[name]))]
    for number, (share, column, folder) in enumerate(sorted(pictures, key=lambda judged: -judged[0])):
        found.append(column if not number and share else Column("picture", column.name, column.why, chosen=False))
        images = folder if not number else images
    paths = {column.name for column in found}
    others = [name for name in names if name not in paths and all(isinstance(value, str | int | float | None) for value in values[name])]
    texts = {name: [str(value).strip() for value in values[name] if value is not None and str(value).strip()] for name in others}
    for role, judge in (("split", _split), ("query", _query), ("id", _id)):
        fitting = [(name, why) for name in others if texts[name] and (why := judge(name, texts[name]))]
        found += [Column(role, name, why, chosen=not number) for number, (name, why) in enumerate(fitting)]
        others = [name for name in others if name not in {name for name, _ in fitting}]
    return [*found, *_texts(others, texts)], images


def _picture(tree: SourceFiles, file: str, name: str, values: list[Any]) -> tuple[float, Column, str] | None:
    """Whether a column names pictures or has their bytes: the share of its rows, on what grounds, and the folder that paths start from."""
    held = sum(bool(picture_format(data)) for data in map(_bytes_of, values) if data)
    if held:
        return held / len(values), Column("picture", name, f"`{name}` holds pictures in {held} of {len(values)} rows"), ""
    given = [value for value in values if isinstance(value, str) and value.strip()]
    if not given:
        return None
    folder = posixpath.dirname(file)
    there = 0
    for value in given:
        with suppress(RowError):
            path = found_path(tree, folder, value)
            there += path in tree.sizes and suffix(path) in PICTURE_ENDINGS
    if there:
        return there / len(values), Column("picture", name, f"`{name}` names files that are there in {there} of {len(values)} rows"), ""
    named = [value.replace("\\", "/") for value in given if suffix(value) in PICTURE_ENDINGS]
    if 2 * len(named) < len(given):
        return None
    if any("://" in value for value in named):
        return 0.0, Column("picture", name, f"`{name}` has addresses of pictures; pictures are read from files, not from the web"), ""
    starts = Counter(_start(tree, value) for value in named)
    start, count = starts.most_common(1)[0]
    if start and 2 * count >= len(named):
        why = f"`{name}` names files that are there in {count} of {len(values)} rows, below {start}"
        return count / len(values), Column("picture", name, why), start
    return 0.0, Column("picture", name, f"`{name}` names pictures, such as {named[0][:60]}, and none of them is in the folder"), ""


def _bytes_of(value: Any) -> bytes:
    value = value.get("bytes") if isinstance(value, dict) else value
    return value if isinstance(value, bytes) else b""


def _start(tree: SourceFiles, value: str) -> str:
    """The folder below which a path is there; empty if there is none, or several."""
    ends = [name for name in tree.sizes if name.endswith(f"/{value}")]
    return ends[0].removesuffix(f"/{value}") if len(ends) == 1 else ""


def _name(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _split(name: str, values: list[str]) -> str:
    seen = Counter(value.lower() for value in values)
    if seen.keys() <= SPLITS and (len(seen) > 1 or _name(name) in KNOWN_NAMES["split"]):
        counts = ", ".join(f"{value} ({count})" for value, count in seen.most_common())
        return f"`{name}` has only {counts} in {len(values)} rows"
    return ""


def _query(name: str, values: list[str]) -> str:
    questions = sum(value.endswith(("?", "？")) for value in values)
    if 2 * questions >= len(values):
        return f"`{name}` has questions in {questions} of {len(values)} rows"
    if _name(name) in KNOWN_NAMES["query"] and _is_text(values):
        return f"`{name}` is called so"
    return ""


def _id(name: str, values: list[str]) -> str:
    """An id has an id's name besides: prices and years may be all different too."""
    words = set(_name(name).split("_")) | {_name(name)}
    unique = len(set(values)) == len(values)
    short = all(len(value) <= 64 and not re.search(r"\s", value) for value in values)
    return f"`{name}` is different in all {len(values)} rows, and is called so" if unique and short and words & KNOWN_NAMES["id"] else ""


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
