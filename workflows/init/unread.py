"""What a run would not read of a folder, with the reasons, and what looks amiss."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from mirepoix.components.ingestion.formats import delimited
from mirepoix.components.ingestion.formats import folder as pictures_folder
from mirepoix.components.ingestion.formats import table as any_table
from mirepoix.components.ingestion.formats.fields import unused_files
from mirepoix.components.ingestion.formats.listed_pictures import found_path, suffix
from mirepoix.components.ingestion.formats.rows import RowError, Unreadable
from mirepoix.components.ingestion.formats.source_files import SourceFiles, is_ending
from mirepoix.components.ingestion.readers import PICTURES, Source
from mirepoix.models.errors import Refused
from mirepoix.models.picture_formats import PICTURE_ENDINGS
from mirepoix.workflows.init.columns import Table
from mirepoix.workflows.init.pictures import UNREAD, Pictures
from mirepoix.workflows.init.words import first_names, plural

SHOWN = 4  # tables that are not read, by their names


def files_of(source: Source) -> set[str]:
    """The files that a source reads."""
    try:
        return set(source.files)
    except (Unreadable, Refused, OSError, ValueError):
        return set()


def hints(folder: str, looked: Mapping[str, Table | None], denied: list[str]) -> Iterator[str]:
    """What to know or mend: folders that may not be read or are hidden, links that are followed, tables whose first line has no names."""
    links, hidden = _apart(folder)
    if links:
        yield f"{first_names(links, SHOWN)}: links to folders, which are followed; what is there is read as if it were here"
    if hidden:
        yield f"{first_names(hidden, SHOWN)}: hidden folders, which are not read"
    for closed in denied[:SHOWN]:
        yield f"{closed} may not be read, and is left out here; make it readable, or move it elsewhere: a run refuses a folder with it"
    for table in filter(None, looked.values()):
        if table.headless:
            yield f"{table.file}: its first line has {table.headless!r}, which looks like data; give it a first line of column names"


def _apart(folder: str) -> tuple[list[str], list[str]]:
    """Below a local folder, the links to folders and the hidden folders, by their names in it."""
    links: list[str] = []
    hidden: list[str] = []
    for home, names, _ in os.walk(folder):
        for name in sorted(names):
            path = os.path.join(home, name)
            if name.startswith("."):
                hidden.append(os.path.relpath(path, folder))
            elif os.path.islink(path):
                links.append(os.path.relpath(path, folder))
        names[:] = [name for name in names if not name.startswith(".")]
    return links, hidden


def unread(
    tree: SourceFiles,
    source: Source,
    looked: Mapping[str, Table | None],
    read: list[Table],
    modalities: Iterable[str],
    pictures: Pictures,
    tables: list[str],
) -> Iterator[str]:
    """What is not read, a line each: files with the reason, and columns."""
    taken = files_of(source)
    if pictures.count and not any("i" in letters for letters in modalities):
        yield f"the {pictures.count:,} pictures, which {source.format} does not read: write folder+PATH to search these"
    if source.format == pictures_folder.NAME:
        for table in read:
            names = [column.name for column in table.columns if column.role in ("split", "id", "query")]
            if names:
                yield f"{', '.join(names)} of {table.file}: the format folder reads a picture's path and captions alone"
    if source.tree.only:
        taken = {source.tree.only, *tree.files(PICTURES)}
        yield f"all but {source.tree.only}, since the other tables have some of its columns, and not all"
    if source.format not in (pictures_folder.NAME, any_table.NAME):
        return  # its notices name what it does not read
    read_files = {table.file for table in read}
    left = [file for file in looked if file not in (taken if looked[file] is None else read_files)]
    for file in left[:SHOWN]:
        yield f"{file}, {_why_unread(tree, file, looked[file], read, bool(pictures.count))}"
    more = max(0, len(left) - SHOWN) + len(set(tables) - looked.keys() - taken)
    if more:
        instead = "sources.path: [one=FILE, other=FILE], sources.columns: [one:text=COLUMN, other:text=COLUMN]"
        yield f"{more:,} more {plural('table', more)}; tables of other columns can be sources of their own, each with a name: {instead}"
    for notice in unused_files(tree, taken | set(looked)):
        file = notice.source.removeprefix(f"{tree.name}/")
        if suffix(file) in UNREAD:
            continue  # counted with the pictures
        many = re.search(r" and \d+ more of \.\w+", notice.detail)
        yield f"{file}{many[0] if many else ''}, {_why_unread(tree, file, None, read, bool(pictures.count))}"
    sheets = [file for file in tree.sizes if suffix(file) in ("xlsx", "xls", "ods", "numbers")]
    if sheets:
        others = f" and {len(sheets) - 1} more" if len(sheets) > 1 else ""
        yield f"{sheets[0]}{others}, a spreadsheet: save it as CSV"


def _why_unread(tree: SourceFiles, file: str, table: Table | None, read: list[Table], pictures: bool) -> str:
    """Why a file beside pictures or tables is not read, and what to do."""
    if table is not None and read and read[0].file != file and not pictures_folder.is_caption_table(list(table.names)):
        missing = [column.name for column in read[0].columns if column.chosen and column.name not in table.names]
        return f"which has no column {', '.join(missing)}" if missing else "which has other columns"
    if table is not None and pictures:
        texts = ",".join(f"text={name}" for name in table.chosen("text"))
        instead = f"; for its texts in place of the pictures write sources.columns: [{texts}]" if texts else ""
        named = [column.why for column in table.columns if column.role == "picture"]
        return f"since {named[0] if named else 'no column of it names the pictures'}{instead}"
    if pictures and file in pictures_folder.sidecars(tree):
        return "which are captions beside pictures: the format folder reads these, and no split, id or query; write folder+PATH for it"
    if is_ending(file, ".txt"):
        with suppress(Unreadable, OSError, RowError):
            form = delimited.recognise(tree, file)
            cells = [cell for row in form.rows[:1] for cell in row] if len(form.header) > 1 else []
            if any(found_path(tree, file.rpartition("/")[0], cell) in tree.sizes for cell in cells if suffix(cell) in PICTURE_ENDINGS):
                return f"which looks like a table of captions: call it {file.removesuffix('.txt')}.csv"
        return "which is beside no picture of that name"
    if is_ending(file, ".json"):
        return "which is no list of rows: write its captions as CSV or JSON lines, with the columns file_name and caption"
    return "which cannot be read as a table" if is_ending(file, *(f".{name}" for name in any_table.ENDINGS)) else "a kind that is not read"
