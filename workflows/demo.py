"""The demonstration: a recipe from nothing to a searched endpoint, then three searches of it, and where to look next."""

import json
import os
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from mirepoix.components.corpus.parts import read_part
from mirepoix.components.publishing import deploy
from mirepoix.models.errors import Refused
from mirepoix.models.item import Item, row_to_item
from mirepoix.serving import store
from mirepoix.serving.http.client import KEY, search_endpoint, shown
from mirepoix.workflows.dag.retrieval import Retrieval
from mirepoix.workflows.run import RunRequest, ended, resolve, run
from mirepoix.workflows.runner.lease import cache_folder
from mirepoix.workflows.runner.tracking import tracking_uri

# What is searched for: a held-out query of each kind, by its task.
ASKED = {"t->i": "a text", "i->t": "a picture", "it->t": "a picture and a question about it"}


def demo(order: RunRequest) -> int:
    """Runs the order on a private cluster, searches what it deployed, and leaves nothing running."""
    began = time.monotonic()
    if resolve(order.recipe, order.overrides, order.config).served is None:
        raise Refused(f"a demo searches what is served, and {order.recipe} serves nothing; give serve=ARM, one of its arms")
    with ExitStack() as resources:
        made = run(replace(order, private=True), resources)
        status = ended(made)
        if status:
            return status
        url = json.loads((_fetched(made, "deploy") / deploy.RECEIPT).read_text())["url"]
        measured = made.told if isinstance(made.config, Retrieval) else made.told["arms"][made.config.serve]
        for query, task, relevant in _queries(_fetched(made, "curate"), measured["headline"]["split"]):
            words = f' "{query.text}"' if query.text else ""
            print(f"\nsearch with {ASKED[task]}{words}{f' (picture of {query.id})' if query.images else ''}, target {task.split('->')[1]}")
            image = query.images[0] if query.images else None
            print(shown(search_endpoint(url, query.text, image, 3, task.split("->")[1], os.environ.get(KEY)), relevant))
    command = Path(sys.executable).with_name("mirepoix")
    end = f"goes on at {made.endpoint}" if made.endpoint else "went with the demo's cluster"
    print(f"\n{time.monotonic() - began:.0f} seconds in all; the endpoint {end}. Look next at")
    print(f"  the report        {store.join(made.folder, 'report.html')}")
    print(f"  the release       {made.report.stages[made.config.served].target}")
    released = made.folder if isinstance(made.config, Retrieval) else made.report.stages[made.config.served].target
    print(f"  the search page   http://127.0.0.1:8000   after   {command} serve {released}")
    uri = tracking_uri(order.storage)
    server = "" if uri.startswith("http") else f"   after   {command.with_name('mlflow')} server --workers 1 --backend-store-uri {uri}"
    print(f"  the MLflow page   {uri if uri.startswith('http') else 'http://127.0.0.1:5000'}{server}")
    return 0


def _fetched(made: Any, stage: str) -> Path:
    return store.fetch(made.report.stages[stage].target, cache_folder())


def _queries(curated: Path, split: str) -> list[tuple[Item, str, set[str]]]:
    """One held-out query of each kind that we show, with what answers it."""
    queries = [row for row in read_part(curated, "queries").to_pylist() if row["split"] == split]
    qrels = read_part(curated, "qrels").to_pylist()
    chosen = []
    for task in ASKED:
        row = next((row for row in queries if row["task"] == task), None)
        if row is not None:
            chosen.append((row_to_item(row), task, {judged["item_id"] for judged in qrels if judged["query_id"] == row["id"]}))
    return chosen
