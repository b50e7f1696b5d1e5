"""Hints at files that are read in the wrong way: another encoding than UTF-8, or another delimiter than their format has."""

from collections.abc import Iterable
from pathlib import Path

from mirepoix.components.ingestion.formats.delimited import SAMPLE, Delimited, encoding_of, recognise
from mirepoix.components.ingestion.formats.rows import Unreadable
from mirepoix.components.ingestion.formats.source_files import is_ending
from mirepoix.components.ingestion.readers import Source
from mirepoix.models.errors import Refused
from mirepoix.workflows.checks.findings import Finding

MISREAD = ("bad row", "bad JSON", "unreadable")
TABLES = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz")
MOST = 5
NAMES = {";": "semicolons", ",": "commas", "|": "bars", "\t": "tabs"}


def find_hints(sources: Iterable[Source], findings: Iterable[Finding]) -> list[str]:
    """What may be wrong with the files of rows that could not be read, as their beginning shows."""
    misread = dict.fromkeys(finding.file for finding in findings if finding.reason in MISREAD)
    found: list[str] = []
    for source in sources:
        for file in source.tree.sizes:
            if (place := f"{source.tree.given_root}/{file}") in misread and len(found) < MOST:
                found.append(_hint(source, file, place))
    return [hint for hint in found if hint]


def _hint(source: Source, file: str, place: str) -> str:
    try:
        with source.tree.stream(file) as stream:
            encoding = encoding_of(stream.read(SAMPLE))
        name = Delimited(encoding, ",", ()).encoding_name
        if name != "UTF-8" and not is_ending(file, *TABLES[:2]):
            return f"{place} is {name}, and this format is read as UTF-8: iconv -f {name.upper()} -t UTF-8 {file} > {Path(file).stem}-utf8"
        if is_ending(file, *TABLES):
            form = recognise(source.tree, file)
            expected = "\t" if is_ending(file, ".tsv", ".tsv.gz") else ","
            if len(form.header) > 1 and form.delimiter != expected:
                cells = f"{place} has {NAMES[form.delimiter]} between its cells, not {NAMES[expected]}"
                return f"{cells}: write it anew, or name its columns ({', '.join(form.header[:3])}), as `mirepoix init` does"
    except (Refused, Unreadable, UnicodeError, OSError):
        return ""  # what was rejected says what is wrong
    return ""
