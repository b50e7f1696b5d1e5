"""What is in a folder: pictures, captions, tables, or a corpus of a known format, with its splits and its pairs."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import pyarrow as pa
import pyarrow.compute as pc

from mirepoix.components.corpus.parts import modalities
from mirepoix.components.ingestion.formats import folder as pictures_folder
from mirepoix.components.ingestion.formats import table as any_table
from mirepoix.components.ingestion.formats.fields import data_files
from mirepoix.components.ingestion.formats.rows import Unreadable, split_named
from mirepoix.components.ingestion.formats.source_files import SourceFiles
from mirepoix.components.ingestion.readers import FORMAT_MODULES, PieceReader, Source
from mirepoix.components.ingestion.sources_config import CAPTIONED
from mirepoix.models.errors import Refused
from mirepoix.workflows.init.columns import Table, look_at_table
from mirepoix.workflows.init.pictures import Pictures, look_at_pictures

MOST_TABLES = 20
READING_SECONDS = 5.0
"""A corpus is read for as long at most; of a larger one, the counts are those of the part that was read."""
TEXTS = 300


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
    tree = _opened(path)
    pictures = look_at_pictures(tree)
    found = [name for name, module in FORMAT_MODULES.items() if name != any_table.NAME and _detects(module, tree)]
    if not found and pictures_folder.holds_pictures(tree):
        found = [pictures_folder.NAME]
    beside = set(pictures_folder.sidecars(tree)) if pictures.count else set()
    files = [file for file in data_files(tree, *any_table.ENDINGS) if file not in beside]
    tables = [table for file in files[:MOST_TABLES] if (table := look_at_table(tree, file))]
    tables = [table for table in tables if table.chosen("picture") or table.chosen("text")]
    tables.sort(key=lambda table: (not table.chosen("picture"), -table.rows))
    named = [table for table in tables if table.chosen("picture")]
    # Pairs of texts are recognised by the order of columns alone; that a column names the pictures of the folder says more.
    if tables and (not found or (named and found[0] == "sentence-transformers")):
        found.insert(0, any_table.NAME)
    if not found:
        raise Refused(_nothing(path, tree, pictures))
    if found[0] == pictures_folder.NAME and pictures.count and len(pictures.refused) == pictures.looked:
        name, reason = pictures.refused[0]
        raise Refused(f"none of the {pictures.looked} pictures looked at in {path} can be read; {name}: {reason}")
    sidecars = Counter(os.path.splitext(file)[1].lower() for file in beside)
    contents = _contents(tree, found[0], tables, pictures)
    return Survey(str(path), pictures, found[0], tuple(found[1:]), tuple(tables), dict(sorted(sidecars.items())), contents, len(tree.sizes))


def _opened(path: Path) -> SourceFiles:
    """The files of a folder; refused if it is none, is empty, or may not be read."""
    if "://" in str(path):
        raise Refused(f"{path} is a URI; init looks at folders of this machine, and `mirepoix validate {path}` reads the other")
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
    if not tree.sizes:
        raise Refused(f"there is no file in {path}; give the folder of your pictures or texts")
    return tree


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
    if form == pictures_folder.NAME:
        counted = _of_folder(tree, tables, pictures)
        if counted is not None:
            return counted
    return _of_rows(Source(tree, form))


def _of_tables(tree: SourceFiles, tables: list[Table], pictures: Pictures) -> Contents:
    """The rows of the tables that have the columns of the first."""
    first = tables[0]
    named = {role: first.chosen(role) for role in ("picture", "text", "query", "split")}
    fitting = [table for table in tables if all(set(names) <= set(table.names) for names in named.values())]
    rows = sum(table.rows for table in fitting)
    picture, text, query = (bool(named[role]) for role in ("picture", "text", "query"))
    item = "it" if picture and text else "i" if picture else "t"
    candidates = {item: rows} if query or item != "it" else {"i": max(pictures.count, rows), "t": rows}
    queries: dict[str, Counter[str]] = {}
    for table in fitting:
        splits = table.splits if named["split"] else (tree.split(table.file),)
        for split in splits:
            tasks = {f"t->{item}": table.rows} if query else {"t->i": table.rows, "i->t": table.rows} if item == "it" else {}
            for task, count in tasks.items():
                queries.setdefault(split_named(split), Counter())[task] += round(count / len(splits))
    texts = [text for table in fitting for text in table.texts]
    exact = len(first.splits) <= 1
    return Contents(candidates, {split: dict(tasks) for split, tasks in queries.items()}, tuple(texts[:TEXTS]), (), exact)


def _of_folder(tree: SourceFiles, tables: list[Table], pictures: Pictures) -> Contents | None:
    """The pictures and the rows of the caption tables, without reading the pictures; None where pictures lie elsewhere."""
    source = Source(tree, pictures_folder.NAME)
    by_file = {table.file: table for table in tables}
    named = [by_file[shard.file] for shard in source.shards if not shard.part and shard.file in by_file]
    queries: dict[str, Counter[str]] = {}
    texts = [text for table in named for text in table.texts]
    captions = Counter[str]()
    for table in named:
        captions[tree.split(table.file)] += table.rows
    beside = pictures_folder.sidecars(tree)
    for file in beside:
        captions[tree.split(f"{file.rpartition('/')[0]}/")] += 1
    for split, count in captions.items():
        queries[split] = Counter({"t->i": count, "i->t": count})
    for file in beside[:TEXTS]:
        texts.append(tree.bytes(file, 0, min(2000, tree.sizes[file])).decode("utf-8", "replace"))
    candidates = {"i": pictures.count} | ({"t": captions.total()} if captions else {})
    return Contents(candidates, {split: dict(tasks) for split, tasks in queries.items()}, tuple(texts[:TEXTS]))


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
