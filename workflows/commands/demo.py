"""The demonstration: runs a recipe, searches its endpoint three times, and prints where to look next."""

import os
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.publishing.receipt import read_receipt
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, row_to_item
from mirepoix.serving import store
from mirepoix.serving.http.client import KEY, search_endpoint, shown
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.recipes.registry import resolve
from mirepoix.workflows.run import RunRequest, print_outcome, run
from mirepoix.workflows.runner.progress import Output, display_of, write_event
from mirepoix.workflows.runner.tracking import tracking_uri

QUERIES = {"t->i": "a text", "i->t": "a picture", "it->t": "a picture and a question about it"}
"""The tasks of which a held-out query is searched, and how each is described."""


def demo(request: RunRequest, output: Output = "text") -> int:
    """Runs a recipe on a private cluster, searches the endpoint that it deployed, and ends both."""
    began = time.monotonic()
    if resolve(request.recipe, request.overrides, request.config).served is None:
        raise Refused(f"a demo searches an endpoint, and {request.recipe} serves nothing; give serve=ARM, one of its arms")
    with ExitStack() as resources:
        made = run(replace(request, private=True), resources, display_of(output))
        status = print_outcome(made, output=output)
        if status:
            return status
        url = read_receipt(_fetched(made, "deploy")).url
        measured = made.record if isinstance(made.config, Retrieval) else made.record["arms"][made.config.serve]
        asked = _queries(_fetched(made, "curate"), measured["headline"]["split"]) if "headline" in measured else []
        for query, task, relevant in asked:
            target = task.split("->")[1]
            reply = search_endpoint(url, query.text, query.images[0] if query.images else None, 3, target, os.environ.get(KEY))
            if output == "json":
                write_event("search", query=query.id, task=task, text=query.text, relevant=sorted(relevant), reply=reply)
                continue
            words = f' "{query.text}"' if query.text else ""
            print(f"\nsearch with {QUERIES[task]}{words}{f' (picture of {query.id})' if query.images else ''}, target {target}")
            print(shown(reply, relevant))
        if not asked and output != "json":
            print("\nno search is shown, as the corpus has no query")
    if output == "json":
        return 0
    served = made.config.served
    assert served is not None, "a demo deploys what it made"
    command = Path(sys.executable).with_name("mirepoix")
    end = f"is up at {made.endpoint}" if made.endpoint else "has ended with the cluster of the demo"
    print(f"\n{time.monotonic() - began:.0f} seconds in all; the endpoint {end}. Look next at")
    print(f"  the report        {store.join(made.folder, 'report.html')}")
    print(f"  the release       {made.report.stages[served].target}")
    released = made.folder if isinstance(made.config, Retrieval) else made.report.stages[served].target
    print(f"  the search page   http://127.0.0.1:8000   after   {command} serve {released}")
    uri = tracking_uri(request.storage)
    page = uri if uri.startswith("http") else f"http://127.0.0.1:5000   after   {command} mlflow --storage {request.storage}"
    print(f"  the MLflow page   {page}")
    return 0


def _fetched(made: Any, stage: str) -> Path:
    return store.fetch(made.report.stages[stage].target, store.cache_folder())


def _queries(curated: Path, split: str) -> list[tuple[Item, str, set[str]]]:
    """One held-out query of each task in QUERIES, with the ids of its answers."""
    queries = [row for row in read_part(curated, "queries").to_pylist() if row["split"] == split]
    qrels = read_part(curated, "qrels").to_pylist()
    chosen = []
    for task in QUERIES:
        row = next((row for row in queries if row["task"] == task), None)
        if row is not None:
            chosen.append((row_to_item(row), task, {judged["item_id"] for judged in qrels if judged["query_id"] == row["id"]}))
    return chosen
