"""Judgements: how relevant documents are for queries, in the files of TREC, BEIR and M-BEIR.

beir    query document relevance, below a line with the names of the columns
trec    query 0 document relevance
mbeir   query 0 document relevance task
"""

import gzip
from collections.abc import Iterator, Mapping
from pathlib import Path

from mirepoix.components.evaluation.files.columns import Layout, counted, first_columns, read_rows, refuse_white_space
from mirepoix.components.evaluation.files.runs import LAYOUTS as RUN_LAYOUTS
from mirepoix.models.errors import Refused

LAYOUTS = {
    "beir": Layout("query document relevance", 3, 0, 1, 2, int),
    "trec": Layout("query 0 document relevance", 4, 0, 2, 3, int),
    "mbeir": Layout("query 0 document relevance task", 5, 0, 2, 3, int),
}
QRELS_FORMS = tuple(LAYOUTS)
HEADER = "query-id\tcorpus-id\tscore\n"

Qrels = dict[str, dict[str, int]]
"""The relevance of documents, by query and document: what pytrec_eval takes."""


def read_qrels(path: str | Path, form: str | None = None) -> Qrels:
    """The judgements of a file; `form` None: recognised by the columns. A pair that is judged twice in different ways is refused."""
    path = Path(path)
    if form not in (None, *LAYOUTS):
        raise Refused(f"the format of judgements is {form!r}; give one of {', '.join(LAYOUTS)}")
    first = first_columns(path)
    if form is None:
        form = next((name for name, layout in LAYOUTS.items() if layout.columns == len(first)), None)
    if form is None:
        known = ", ".join(f"{layout.columns} ({name})" for name, layout in LAYOUTS.items())
        raise Refused(f"{path}:1: {counted(len(first))}, and the lines of judgements have {known}")
    layout = LAYOUTS[form]
    qrels: Qrels = {}
    for rows in read_rows(path, layout, header=len(first) == layout.columns and not _is_number(first[layout.value])):
        columns = (rows.queries.to_pylist(), rows.documents.to_pylist(), rows.values.tolist(), rows.lines)
        for query, document, relevance, line in zip(*columns, strict=True):
            if qrels.setdefault(query, {}).setdefault(document, relevance) != relevance:
                before = qrels[query][document]
                raise Refused(f"{path}:{line}: document {document!r} is judged {relevance} for query {query!r}, and {before} above")
    if not qrels:
        raise Refused(f"{path} has no judgement; give a file with a line for each")
    return qrels


def _is_number(text: bytes) -> bool:
    try:
        return int(text) is not None
    except ValueError:
        return False


def read_tasks(path: str | Path) -> dict[str, int]:
    """The id of the task of each query, of a run or judgements of M-BEIR."""
    path = Path(path)
    columns = len(first_columns(path))
    what = {layout.columns: layout.what for layout in (RUN_LAYOUTS["mbeir"], LAYOUTS["mbeir"])}.get(columns)
    if what is None:
        raise Refused(f"{path}:1: {counted(columns)}; the lines of M-BEIR have 5 (judgements) or 7 (a run), the last of them the task")
    tasks: dict[str, int] = {}
    for rows in read_rows(path, Layout(what, columns, 0, 2, columns - 1, int)):
        for query, task, line in zip(rows.queries.to_pylist(), rows.values.tolist(), rows.lines, strict=True):
            if tasks.setdefault(query, task) != task:
                raise Refused(f"{path}:{line}: query {query!r} is of the task {task}, and of {tasks[query]} above")
    return tasks


def write_qrels(
    path: str | Path, qrels: Mapping[str, Mapping[str, int]], form: str = "trec", tasks: Mapping[str, int] | None = None
) -> None:
    """Writes judgements; a name that ends in .gz is compressed. `tasks` are M-BEIR's ids of tasks, by query."""
    path = Path(path)
    if form not in LAYOUTS:
        raise Refused(f"the format of judgements is {form!r}; give one of {', '.join(LAYOUTS)}")
    with gzip.open(path, "wt", encoding="utf-8") if path.suffix == ".gz" else path.open("w", encoding="utf-8") as out:
        out.write(HEADER if form == "beir" else "")
        for query, judged in qrels.items():
            refuse_white_space([query, *judged], "query or document")
            out.writelines(_lines(query, judged, form, tasks or {}))


def _lines(query: str, judged: Mapping[str, int], form: str, tasks: Mapping[str, int]) -> Iterator[str]:
    if form == "mbeir" and query not in tasks:
        raise Refused(f"query {query!r} has no id of a task, which a line of M-BEIR ends with; give tasks={{query: id}}")
    for document, relevance in judged.items():
        if form == "beir":
            yield f"{query}\t{document}\t{relevance}\n"
        else:
            yield f"{query} 0 {document} {relevance}{f' {tasks[query]}' if form == 'mbeir' else ''}\n"
