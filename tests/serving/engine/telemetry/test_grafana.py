"""The dashboard shows every metric, and asks for no metric, label or value of a label that the server does not have."""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

from mirepoix.serving.engine.telemetry.metrics import CLASSES, OUTCOMES, PARTS, REASONS, Figures
from tests.serving.engine.telemetry.test_metrics import series_of

DASHBOARD = json.loads((Path(__file__).parents[4] / "serving" / "engine" / "telemetry" / "grafana.json").read_text())
OUTER = {"job", "instance", "replica"}
"""Labels that Prometheus adds where it scrapes, and that of several replicas."""
VALUES = {"part": PARTS, "class": CLASSES, "reason": REASONS, "outcome": OUTCOMES}
SELECTOR = re.compile(r"(mirepoix_\w+)(?:\{([^}]*)\})?")
SOURCE = {"type": "prometheus", "uid": "${datasource}"}


def problems(query: str) -> list[str]:
    """What a query asks for that is not there."""
    series, found = series_of(Figures()), []
    labels = set.intersection(*({*series.get(name, ())} for name, _ in SELECTOR.findall(query)))
    for name, matchers in SELECTOR.findall(query):
        if name not in series:
            found.append(name)
        for label, value in re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', matchers):
            if label not in {*series.get(name, ()), *OUTER}:
                found.append(f"{name}: {label}")
            elif label in VALUES and value not in VALUES[label]:
                found.append(f"{label}: {value}")
    grouped = [label.strip() for group in re.findall(r"\bby \(([^)]*)\)", query) for label in group.split(",")]
    return found + [f"by {label}" for label in grouped if label not in labels | OUTER]


def queries() -> dict[str, str]:
    """Every query of the dashboard, by where it is."""
    found = {f"{panel['title']} {target['refId']}": target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]}
    found |= {f"annotation {each['name']}": each["expr"] for each in DASHBOARD["annotations"]["list"]}
    return found | {
        f"variable {each['name']}": each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"
    }


@pytest.mark.parametrize("where", queries())
def test_a_query_asks_for_what_the_server_exports(where):
    query = queries()[where]
    assert SELECTOR.search(query) and not problems(query), query
    assert query.count("(") == query.count(")") and query.count("{") == query.count("}")
    for name in re.findall(r"(?:rate|increase)\((\w+)", query):
        assert name.endswith(("_total", "_bucket", "_sum", "_count")), "only what counts up has a rate"
    assert "histogram_quantile" not in query or re.search(r"by \(le\b", query)


def test_a_query_for_what_is_not_there_is_found():
    assert problems("sum by (rout) (rate(mirepoix_requests_total[5m]))") == ["by rout"]
    assert problems('mirepoix_requests_total{state="200", job="a"}') == ["mirepoix_requests_total: state"]
    assert problems('mirepoix_part_seconds_sum{part="encoding"}') == ["part: encoding"]
    assert problems("mirepoix_part_seconds") == ["mirepoix_part_seconds"]
    assert problems("sum by (part) (mirepoix_part_seconds_sum) / sum by (part) (mirepoix_batch_size_sum)") == ["by part"] * 2


def test_legends_name_labels_that_their_queries_keep():
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            kept = {label.strip() for group in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in group.split(",")}
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) == kept - {"le"}, panel["title"]


def test_every_metric_has_a_panel():
    shown = {name for query in queries().values() for name, _ in SELECTOR.findall(query)}
    families = {re.sub("_(bucket|sum|count)$", "", name) for name in shown}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in series_of(Figures())} == families


def test_panels_have_a_place_of_their_own_and_read_the_chosen_source():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for panel in DASHBOARD["panels"]:
        assert panel["datasource"] == SOURCE and all(target["datasource"] == SOURCE for target in panel["targets"])
        assert panel["title"] and panel["description"] and panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        apart = [one[at] + one[size] <= other[at] or other[at] + other[size] <= one[at] for at, size in (("x", "w"), ("y", "h"))]
        assert any(apart), (one, other)
