"""What is in a folder: pictures, captions, tables, or a corpus of a known format, with its splits and its pairs."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from time import perf_counter

import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.corpus.parts import modalities
from mirepoix.components.ingestion.formats import folder as pictures_folder
from mirepoix.components.ingestion.formats import table as any_table
from mirepoix.components.ingestion.formats.fields import data_files
from mirepoix.components.ingestion.formats.listed_pictures import picture_names
from mirepoix.components.ingestion.formats.rows import Candidate, Unreadable, split_named
from mirepoix.components.ingestion.formats.sidecars import beside as texts_beside
from mirepoix.components.ingestion.formats.sidecars import names_beside
from mirepoix.components.ingestion.formats.source_files import ListedFile, SourceFiles
from mirepoix.components.ingestion.readers import FORMAT_MODULES, PieceReader, Source
from mirepoix.components.ingestion.sources_config import CAPTIONED, ROLES
from mirepoix.models.errors import Refused
from mirepoix.workflows.init.columns import Table, look_at_table
from mirepoix.workflows.init.pictures import Pictures, look_at_pictures
from mirepoix.workflows.init.unread import files_of, hints, unread

READING_SECONDS = 5.0
"""A corpus is read for as long at most; of a larger one, the counts are those of the part that was read."""
LEAST_TABLES = 20
"""Tables that are looked at even where that takes longer."""
TEXTS = 300
"""Texts by which the language is judged, and pictures of which the captions beside them are read, at most."""
FIRST_ROWS = 50
URI = re.compile(r"([a-z][a-z0-9+.-]+):/(.*)", re.S)


@dataclass(frozen=True)
class Contents:
    """What the rows of a corpus are: candidates by modality, queries by split and task, and some of its texts."""

    candidates: dict[str, int]
    queries: dict[str, dict[str, int]]
    texts: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()
    whole: bool = True  # false: counted in a part of the corpus

    @property
    def splits(self) -> dict[str, int]:
        return {split: sum(tasks.values()) for split, tasks in sorted(self.queries.items())}


@dataclass(frozen=True)
class Survey:
    """What is in a folder, and how it would be read."""

    folder: str
    pictures: Pictures
    format: str  # in which it would be read
    others: tuple[str, ...]  # formats in which it could be read too
    tables: tuple[Table, ...]
    sidecars: dict[str, int]  # files with captions beside pictures, by their endings
    contents: Contents
    files: int
    unread: tuple[str, ...] = ()  # files that would not be read, and why
    hints: tuple[str, ...] = ()  # what looks amiss, and what to do
    named: bool = False  # whether the config has to name the format
    file: str = ""  # the one table that is read, where the others may not be
    images: str = ""  # the folder that its paths of pictures are relative to, if it has to be said

    @property
    def table(self) -> Table | None:
        """The table of which the columns are named."""
        return next((table for table in self.tables if table.columns), None) if self.format == any_table.NAME else None

    @property
    def captioned(self) -> bool:
        """Whether pictures have captions that may be read together with them."""
        one = self.table
        paired = one is None or (bool(one.chosen("picture") and one.chosen("text")) and not one.chosen("query"))
        return self.format in CAPTIONED and paired and any("t" in modality for modality in self.contents.candidates)


def survey(path: Path) -> Survey:
    """Looks at a folder; refuses one that has nothing to search."""
    tree, denied = _opened(path)
    pictures = look_at_pictures(tree)
    if pictures.count and len(pictures.refused) == pictures.looked and pictures.looked:
        name, reason = pictures.refused[0]
        broken = f"none of the {pictures.looked} pictures looked at in {path} can be read; {name}: {reason}"
    else:
        broken = ""
    found = [name for name, module in FORMAT_MODULES.items() if name != any_table.NAME and _detects(module, tree)]
    recognised = found or ([pictures_folder.NAME] if pictures_folder.holds_pictures(tree) else [])
    beside = set(pictures_folder.sidecars(tree)) if pictures.count else set()
    files = [file for file in data_files(tree, *any_table.ENDINGS) if file not in beside]
    looked = _looked(tree, files)
    tables = [table for table in looked.values() if table and (table.chosen("picture") or table.chosen("text"))]
    tables.sort(key=lambda table: (not table.chosen("picture"), -table.rows))
    forms = _forms(found, tables, bool(pictures.count) and not broken)
    reading = _reading(tree, tables) if any_table.NAME in forms[:1] else None
    if reading is None and any_table.NAME in forms:  # its columns, in all tables of the folder, would be refused
        forms = [name for name in forms if name != any_table.NAME] or ([pictures_folder.NAME] if pictures.count else [])
    if not forms or (broken and forms[0] == pictures_folder.NAME):
        raise Refused(broken or _nothing(path, tree, pictures))
    form = forms[0]
    source = reading or Source(tree, form)
    taken = files_of(source)
    read = [table for table in tables if table.file in taken or (reading is not None and table.file == reading.tree.only)]
    contents = _contents(tree, form, read, pictures)
    uncounted = len(taken.intersection(files) - looked.keys()) if form in (any_table.NAME, pictures_folder.NAME) else 0
    if uncounted:
        counted_in = f"the texts and queries are those of {len(read):,} tables; {uncounted:,} more are read too, and were not counted"
        contents = replace(contents, whole=False, notices=(*contents.notices, counted_in))
    return Survey(
        folder=str(path),
        pictures=pictures,
        format=form,
        others=tuple(forms[1:]),
        tables=tuple(read),
        sidecars=dict(sorted(Counter(os.path.splitext(file)[1].lower() for file in beside if file in taken).items())),
        contents=contents,
        files=len(tree.sizes),
        hints=tuple(hints(str(path), looked, denied)),
        unread=tuple(unread(tree, source, looked, read, contents.candidates, pictures, files)),
        named=form != any_table.NAME and recognised != [form],
        file=reading.tree.only if reading else "",
        images=(reading.tree.images or "") if reading else "",
    )


def _looked(tree: SourceFiles, files: list[str]) -> dict[str, Table | None]:
    """The tables that are looked at: as many as some seconds are enough for, and so many at least."""
    looked: dict[str, Table | None] = {}
    end = perf_counter() + READING_SECONDS
    for file in files:
        if len(looked) >= LEAST_TABLES and perf_counter() > end:
            break
        looked[file] = look_at_table(tree, file)
    return looked


def _forms(found: list[str], tables: list[Table], pictures: bool) -> list[str]:
    """The formats in which a folder may be read, the best first.

    Pairs of texts are recognised by the order of columns alone: that a column names the pictures of the folder says more, and so do
    pictures that no table names. The format of folders reads captions by the names of columns, and no splits, ids and queries.
    """
    naming = [table for table in tables if table.chosen("picture")]
    if found[:1] == [pictures_folder.NAME]:
        more = [table for table in naming if any(table.chosen(role) for role in ("split", "id", "query"))]
        captioned = any(pictures_folder.is_caption_table(list(table.names)) for table in tables)
        return [any_table.NAME, *found] if naming and (more or not captioned) else found
    if found[:1] not in ([], ["sentence-transformers"]):
        return found
    if naming:
        return [any_table.NAME, *found]
    if pictures:
        return [pictures_folder.NAME, *found]
    return found or ([any_table.NAME] if tables else [])


def _reading(tree: SourceFiles, tables: list[Table]) -> Source | None:
    """The source as a run would read it with the columns of the first table: the folder, else that table alone; None if neither can be."""
    first = tables[0]
    columns = [(role, name) for role in ROLES for name in first.chosen(role)]
    images = f"{tree.root}/{first.images}" if first.images else None
    root, file = f"{tree.root}/", f"{tree.root}/{first.file}"
    for path, start in ((tree.root, images), (file, images), (file, root.rstrip("/"))):
        files = copy(tree) if path == tree.root else SourceFiles(path, tree.name)  # a copy has the listing
        files.images, files.columns = start, tuple(columns)
        source = Source(files, any_table.NAME)
        with suppress(Refused, Unreadable):
            if path == tree.root and source.shards:
                return source
            rows = (row for shard in source.shards for row in any_table.read(source.tree, shard))
            if any(isinstance(row, Candidate) and (row.item.images or not first.chosen("picture")) for row in islice(rows, FIRST_ROWS)):
                return source
    return None


def _opened(path: Path) -> tuple[SourceFiles, list[str]]:
    """The files of a folder, and the folders in it that may not be read; refused if it is none, is empty, or may not be read itself."""
    if (uri := URI.match(str(path))) and not path.exists():  # a path has one slash where the URI has two
        given = f"{uri[1]}://{uri[2].lstrip('/')}"
        raise Refused(
            f"{given} is a URI, and init looks at folders of this machine; copy a part of it here for that, or run it as it is: "
            f"mirepoix run search sources.path={given}"
        )
    if not path.exists():
        raise Refused(f"there is no folder {path}; give the folder of your pictures or texts")
    if not path.is_dir():
        raise Refused(f"{path} is a file; give the folder that it is in: {path.parent}")
    try:
        with os.scandir(path) as entries:
            next(entries, None)
    except OSError as error:
        raise Refused(f"{path} cannot be read ({error.strerror}); give a folder that you may read, or change its permissions") from error
    tree = SourceFiles(str(path))
    denied: list[str] = []
    try:
        found = len(tree.sizes)
    except Refused:
        listing = _listed(path, denied)
        if not denied:
            raise
        tree.__dict__["listing"] = listing
        found = len(listing)
    if not found:
        raise Refused(f"there is no file in {path}; give the folder of your pictures or texts")
    return tree, denied


def _listed(path: Path, denied: list[str]) -> dict[str, ListedFile]:
    """The files of a folder apart from those in folders that may not be read, which are added to `denied`."""
    found: dict[str, ListedFile] = {}
    for folder, folders, names in os.walk(path, onerror=lambda error: denied.append(os.path.relpath(error.filename, path))):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            file = Path(folder, name)
            with suppress(OSError):
                if not name.startswith(".") and file.is_file():
                    about = file.stat()
                    found[file.relative_to(path).as_posix()] = ListedFile(about.st_size, about.st_mtime_ns)
    return dict(sorted(found.items()))


def _detects(module: object, tree: SourceFiles) -> bool:
    try:
        return bool(module.detect(tree))  # type: ignore[attr-defined]
    except (Unreadable, Refused, OSError, ValueError):
        return False


def _nothing(path: Path, tree: SourceFiles, pictures: Pictures) -> str:
    """Why a folder has nothing to search."""
    if pictures.unread:
        kinds = ", ".join(f"{count} .{ending} ({what})" for ending, count, what in pictures.unread)
        return f"there is nothing in {path} that is read: {kinds}; JPEG, PNG, WEBP and GIF are"
    endings = Counter(os.path.splitext(name)[1].lower() or "without ending" for name in tree.sizes)
    seen = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(5))
    return (
        f"there are neither pictures (JPEG, PNG, WEBP, GIF) nor tables of texts (CSV, TSV, JSON lines, Parquet) in {path}: it has {seen}; "
        "`mirepoix list` names the formats of corpora"
    )


def _contents(tree: SourceFiles, form: str, tables: list[Table], pictures: Pictures) -> Contents:
    """What a run would read: of pictures by their number and those tables' rows, of other formats by reading for some seconds."""
    if form == any_table.NAME:
        return _of_tables(tree, tables, pictures)
    if form == pictures_folder.NAME and pictures.count:
        return _of_folder(tree, tables, pictures)
    return _of_rows(Source(tree, form))


def _of_tables(tree: SourceFiles, tables: list[Table], pictures: Pictures) -> Contents:
    """The rows of the tables that are read."""
    picture, text, query, id = (bool(tables[0].chosen(role)) for role in ("picture", "text", "query", "id"))
    rows = sum(table.rows for table in tables)
    item = "it" if picture and text else "i" if picture else "t"
    shown = max(pictures.count, rows) if id or not pictures.count else pictures.count
    apart = {"i": shown, "t": sum(table.captions for table in tables)}
    candidates = apart if item == "it" and not query else {item: rows if item != "i" else shown}
    tasks = [f"t->{item}"] if query else ["t->i", "i->t"] if item == "it" else []
    queries: dict[str, Counter[str]] = {}
    for table in tables if tasks else ():
        for value, count in table.splits:
            split = split_named(value) if value else tree.split(table.file)
            queries.setdefault(split, Counter()).update(dict.fromkeys(tasks, count))
    texts = [text for table in tables for text in table.texts]
    return Contents(candidates, {split: dict(found) for split, found in queries.items() if found.total()}, tuple(texts[:TEXTS]))


def _of_folder(tree: SourceFiles, tables: list[Table], pictures: Pictures) -> Contents:
    """The pictures, the rows of the caption tables, and the captions beside pictures, which are read of some of them."""
    texts = [text for table in tables for text in table.texts]
    captions = Counter[str]()
    for table in tables:
        captions[tree.split(table.file)] += table.captions or table.rows
    captioned = [name for name in picture_names(tree) if names_beside(tree, name)]
    looked = [captioned[number * len(captioned) // TEXTS] for number in range(TEXTS)] if len(captioned) > TEXTS else captioned
    beside = {name: [text for row in texts_beside(tree, name) if isinstance(row, tuple) for text in row[0] or row[1]] for name in looked}
    found = Counter[str]()
    of_split = Counter(tree.split(f"{name.rpartition('/')[0]}/") for name in looked)
    for name, given in beside.items():
        found[tree.split(f"{name.rpartition('/')[0]}/")] += len(given)
    for split, count in Counter(tree.split(f"{name.rpartition('/')[0]}/") for name in captioned).items():
        captions[split] += round(count * found[split] / max(1, of_split[split]))
    captions = +captions
    queries = {split: {"t->i": count, "i->t": count} for split, count in captions.items()}
    texts += [text for given in beside.values() for text in given]
    candidates = {"i": pictures.count} | ({"t": captions.total()} if captions else {})
    without = sum(not given for given in beside.values())
    notices = (f"of {len(looked):,} pictures looked at with files beside them, {without:,} have no caption in these",) if without else ()
    return Contents(candidates, queries, tuple(texts[:TEXTS]), notices, len(looked) == len(captioned))


def _of_rows(source: Source) -> Contents:
    """What is in the rows of a corpus, read for some seconds, a piece of each file first."""
    candidates: dict[str, set[str]] = {}
    queries: dict[tuple[str, str], set[str]] = {}
    texts: list[str] = []
    notices: list[str] = []
    end = perf_counter() + READING_SECONDS
    whole = True
    for number, table in enumerate(_tables(source)):
        rows = table.select(["kind", "id", "split", "task", "text", "detail", "source"]).to_pylist()
        found = table.filter(pc.equal(table["kind"], "corpus"))
        for row, code in zip([row for row in rows if row["kind"] == "corpus"], modalities(found), strict=True):
            held = candidates.setdefault(code.letters, set())
            held.add(row["id"] or f"{number} {len(held)}")
        for row in rows:
            if row["kind"] == "queries":
                known = queries.setdefault((row["split"], row["task"]), set())
                known.add(row["id"] or f"{number} {len(known)}")
            elif row["kind"] == "notices":
                notices.append(f"{row['source']}: {row['detail']}")
        texts += [row["text"] for row in rows if row["text"]][: max(0, TEXTS - len(texts))]
        if perf_counter() > end:
            whole = False
            break
    by_split: dict[str, dict[str, int]] = {}
    for (split, task), ids in queries.items():
        by_split.setdefault(split, {})[task] = len(ids)
    return Contents({letters: len(ids) for letters, ids in candidates.items()}, by_split, tuple(texts), tuple(notices[:5]), whole)


def _tables(source: Source) -> Iterator[pa.Table]:
    """All rows of a corpus, a piece of each file first."""
    reader = PieceReader([source])
    first: dict[str, int] = {}
    for number, (_, _, shard) in enumerate(reader.pieces):
        first.setdefault(shard.file, number)
    order = [*first.values(), *(number for number in range(len(reader.pieces)) if number not in set(first.values()))]
    for number in order:
        yield from reader.read(number)
