"""What `validate` finds in a corpus, and how it is told: equal findings in one line, and what hangs on a row as a count beside it."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from mirepoix.components.corpus.parts import part_tables, rows_with_ids
from mirepoix.components.ingestion.readers import Source
from mirepoix.models.errors import Refused
from mirepoix.serving.pictures import REASONS as PICTURE_REASONS
from mirepoix.serving.store import write

UNANSWERED = "no answer is left"
DEPENDENT = ("answer was rejected", "query was rejected", UNANSWERED)
"""Reasons of rows that are rejected only because a row that they refer to is."""
UNJOINED = {"unknown item": ("corpus",), "unknown query": ("queries",), "duplicate id": ("corpus", "queries")}
"""Reasons of judgements that may be dependent in the same way, if the row that they name in these parts is rejected, not missing."""
FEW, PLACES, LINES, LINES_WRITTEN, NOTICES = 3, 10, 25, 10, 8
"""Equal findings that are told one by one; places that a line names; lines that are printed, fewer where all is written; notices."""

EMPTY: Mapping[str, str] = {}


@dataclass(frozen=True, order=True)
class Finding:
    """One row that training would not use."""

    file: str
    line: int
    part: str
    id: str
    reason: str
    detail: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.reason}{f': {self.detail}' if self.detail else ''} ({self.part} {self.id or 'without id'})"


@dataclass(frozen=True)
class Findings:
    """The contents of a corpus by kind, the rows that training would reject, and the reasons for which a run would stop."""

    rejected: list[Finding]
    dependent: int  # of these, rows that are rejected only because a row that they refer to is
    copies: list[Finding]  # rows that training would merge with another
    formats: dict[str, str]  # of each source
    candidates: dict[str, int]  # by modality
    queries: dict[str, dict[str, int]]  # by split and task
    judgements: dict[str, int]
    notices: list[dict[str, str]]  # files, columns and rows that are not read, and not counted as rejected
    refusals: list[str]  # why a run would stop with this corpus, a line each
    hints: list[str]  # files that are probably read in the wrong way
    same_picture: dict[str, str]  # rows that are rejected for the picture of another row, "PART ID", and the first row with it
    of_trainings: tuple[str, ...] = ()  # of the refusals, where no recipe was named, those of trainings, without which a search runs

    def rows(self, copies: bool = False, written: bool = False) -> list[str]:
        """The rejected rows as lines of text, with `copies` also those that would be merged; fewer lines where a file has them all."""
        groups = grouped([*self.rejected, *(self.copies if copies else ())], self.same_picture)
        most = LINES_WRITTEN if written else LINES
        lines = [str(group) for group in groups[:most]]
        if rest := groups[most:]:
            left = sum(len(group.findings) for group in rest)
            how = "" if written else "; --out FILE.csv or FILE.json writes them all"
            lines.append(f"and {left:,} more, in {len(rest):,} further lines like these{how}")
        return lines

    def text(self) -> str:
        """The contents in numbers, and the reasons for which a run would stop."""
        lines = [f"{name}: {form}" for name, form in self.formats.items()]
        lines.append("candidates  " + (", ".join(f"{letters} {count:,}" for letters, count in sorted(self.candidates.items())) or "none"))
        for split, tasks in sorted(self.queries.items()):
            lines.append(f"queries     {split}: " + ", ".join(f"{task} {count:,}" for task, count in sorted(tasks.items())))
        lines.append("judgements  " + (", ".join(f"{kind} {count:,}" for kind, count in self.judgements.items()) or "none"))
        notices = notice_lines(self.notices)
        lines += notices[:NOTICES] + [f"left aside  and {len(notices) - NOTICES:,} more"] * (len(notices) > NOTICES)
        for what, findings in (("merged", self.copies), ("rejected", self.rejected)):
            reasons = Counter((finding.part, finding.reason) for finding in findings)
            lines += [f"{what:<11} {count:,} of {part}: {reason}" for (part, reason), count in reasons.most_common()]
        lines += [f"hint        {hint}" for hint in self.hints]
        lines.append(self._total())
        lines += [f"a run would stop: {refusal}" for refusal in self.refusals if refusal not in self.of_trainings]
        lines += [f"a training would stop: {refusal}" for refusal in self.of_trainings]
        if self.of_trainings:
            lines.append(
                "hint        this concerns recipes that train; search and benchmarks do not: --recipe search validates by its rules"
            )
        return "\n".join(lines)

    def _total(self) -> str:
        rows, own = len(self.rejected), len(self.rejected) - self.dependent
        if not rows:
            return "nothing would be rejected"
        why = f": {own:,} for reasons of their own, {self.dependent:,} because they refer to these" if self.dependent else ""
        return f"{rows:,} row{'s' if rows > 1 else ''} would be rejected{why}"


@dataclass(frozen=True)
class Group:
    """Findings of one reason in one file, or files of one reason, and how many rows hang on them."""

    findings: Sequence[Finding]
    hanging: int
    same: int = 0  # rows of the same part with the picture of one of these

    def __str__(self) -> str:
        first, count = self.findings[0], len(self.findings)
        line = str(first)
        if count > 1:
            one_file = first.file == self.findings[-1].file
            what = "lines" if one_file else "files"
            places = [f"{each.line}" if one_file else Path(each.file).name for each in self.findings[:PLACES]]
            more = f" and {count - PLACES:,} more" if count > PLACES else ""
            line += f"; {count:,} {what} like this: {', '.join(places)}{more}"
        if self.same:
            picture = "the same picture" if count == 1 else "one of these pictures"
            line += f"; {self.same:,} more {'has' if self.same == 1 else 'have'} {picture}"
        if self.hanging:
            rows = "row refers" if self.hanging == 1 else "rows refer"
            line += f"; {self.hanging:,} {rows} to {'it' if count == 1 and not self.same else 'them'}"
        return line


def grouped(findings: Iterable[Finding], same_picture: Mapping[str, str] = EMPTY) -> list[Group]:
    """The findings with equal ones in one group, without those that hang on another or have its picture, which are counted there.

    A query by the picture of a candidate counts as a row that refers to it: both are mostly made of one file.
    """
    ordered = sorted(findings)
    causes = find_causes(ordered)
    numbers = {f"{finding.part} {finding.id}": number for number, finding in enumerate(ordered)}
    pictured = {numbers[row] for row, first in same_picture.items() if row in numbers and row.split()[0] == first.split()[0]}
    for row, first in same_picture.items():
        if row in numbers and first in numbers and causes.get(numbers[first]) is None:
            causes[numbers[row]] = numbers[first]
    hanging: Counter[int] = Counter()
    same: Counter[int] = Counter()
    for number, cause in causes.items():
        if cause is not None:
            further = causes.get(cause)
            (same if number in pictured else hanging)[cause if further is None else further] += 1
    alike: dict[tuple[str, str, str], list[int]] = {}
    for number, finding in enumerate(ordered):
        if causes.get(number) is None:
            alike.setdefault((finding.file, finding.part, finding.reason), []).append(number)
    for key in [key for key, same in alike.items() if len(same) == 1]:  # pictures are files of one row each
        alike.setdefault(("", *key[1:]), []).extend(alike.pop(key))
    groups = []
    for numbers_alike in alike.values():
        parts = [[number] for number in numbers_alike] if len(numbers_alike) <= FEW else [numbers_alike]
        for part in parts:
            groups.append(Group([ordered[n] for n in part], sum(hanging[n] for n in part), sum(same[n] for n in part)))
    return sorted(groups, key=lambda group: group.findings[0])


def find_causes(findings: Sequence[Finding]) -> dict[int, int | None]:
    """The findings that are only there because a row that they refer to is rejected, and which one that is, by their places in the list.

    None: that row is not in the list. The first judgement of a query that is lost is what the loss of the query hangs on.
    """
    first: dict[tuple[str, str], int] = {}
    for number, finding in enumerate(findings):
        if finding.reason not in (*DEPENDENT, "no answer"):
            first.setdefault((finding.part, finding.id), number)
    causes: dict[int, int | None] = {}
    of_query: dict[str, int] = {}
    judged = {number: finding for number, finding in enumerate(findings) if finding.part == "qrels"}
    for number, finding in judged.items():
        query, _, item = finding.id.partition(" ")
        named = {"queries": query, "corpus": item}
        known = [first[part, named[part]] for part in UNJOINED.get(finding.reason, ()) if (part, named[part]) in first]
        if known:
            causes[number] = known[0]
        elif finding.reason in DEPENDENT:
            part = "corpus" if finding.reason == DEPENDENT[0] else "queries"
            causes[number] = first.get((part, named[part]))
        if finding.reason not in ("query was rejected", "unknown query"):
            cause = causes.get(number, number)
            of_query.setdefault(query, number if cause is None else cause)
    for number, finding in judged.items():
        if finding.reason == "query was rejected" and causes.get(number) is None:
            causes[number] = of_query.get(finding.id.partition(" ")[0])
    for number, finding in enumerate(findings):
        if finding.part != "qrels" and (finding.reason in DEPENDENT or (finding.reason == "no answer" and finding.id in of_query)):
            causes[number] = of_query.get(finding.id)
    return causes


def find_same_pictures(read: Path, findings: Iterable[Finding]) -> dict[str, str]:
    """The rows that are rejected for pictures that an earlier such row has too, and that row; candidates are earlier than queries."""
    first: dict[bytes, str] = {}
    same: dict[str, str] = {}
    rejected = [finding for finding in findings if finding.reason in PICTURE_REASONS]
    for part in ("corpus", "queries", "triples"):
        ids = {finding.id for finding in rejected if finding.part == part}
        for table in rows_with_ids(read, part, ids) if ids else ():
            for row in table.select(["id", "images", "video"]).to_pylist():
                pictures = hashlib.sha256(b"".join(hashlib.sha256(each).digest() for each in (*row["images"], *row["video"]))).digest()
                name = f"{part} {row['id']}"
                if (known := first.setdefault(pictures, name)) != name:
                    same[name] = known
    return same


def notice_lines(notices: list[dict[str, str]]) -> list[str]:
    """What is not read, and not counted as rejected."""
    return [f"left aside  {notice['source']}: {notice['detail']}" for notice in notices]


def read_findings(folder: Path, named: list[Source]) -> list[Finding]:
    """The rejects of a stage, with paths as the user gave them."""
    homes = {source.tree.name: source.tree.given_root for source in named}
    found = []
    for table in part_tables(folder, "rejects"):
        for row in table.to_pylist():
            name, _, file = (row["source"] or "").partition("/")
            place = f"{homes[name]}/{file}" if name in homes and file else row["source"] or "unknown place"
            found.append(Finding(place, row["line"] or 0, row["part"] or "", row["id"] or "", row["reason"], row["detail"] or ""))
    return found


def write_findings(found: Findings, file: Path) -> None:
    """Writes all findings, notices, hints and refusals into a file, as JSON or, one a row, as CSV."""
    if file.suffix.lower() == ".json":
        content = json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n"
    else:
        text = io.StringIO(newline="")
        rows = csv.writer(text)
        rows.writerow(["what", *(field.name for field in fields(Finding))])
        for what, findings in (("rejected", found.rejected), ("merged", found.copies)):
            rows.writerows([what, *asdict(finding).values()] for finding in findings)
        for refusal in found.refusals:
            rows.writerow(["refusal", "", "", "", "", f"a {'training' if refusal in found.of_trainings else 'run'} would stop", refusal])
        rows.writerows(["hint", "", "", "", "", "", hint] for hint in found.hints)
        rows.writerows(["notice", notice["source"], "", "", "", "left aside", notice["detail"]] for notice in found.notices)
        content = text.getvalue()
    try:
        write(file, content.encode())
    except OSError as error:
        why = error.strerror or str(error)
        raise Refused(f"--out {file} cannot be written ({why}); give a file in a folder that you can write to") from error
