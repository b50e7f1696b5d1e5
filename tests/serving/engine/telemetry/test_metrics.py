"""Every metric is documented with its labels, is there from the start, and says which replica it is of where several are merged."""

import re
from pathlib import Path

import yaml
from prometheus_client.parser import text_string_to_metric_families

from mirepoix.serving.engine.telemetry.metrics import CLASSES, OUTCOMES, PARTS, REASONS, Figures, merged

ENDPOINT = Path(__file__).parents[4] / "docs" / "endpoint.md"


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """The values of an exposition, by name and labels, as Prometheus reads it."""
    found = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in found}


def series_of(figures: Figures) -> dict[str, tuple[str, ...]]:
    """Every name that a query may have, with its labels; a histogram has three."""
    found = dict(figures.labels)
    for name in re.findall(r"^# TYPE (\w+) histogram$", figures.text().decode(), re.MULTILINE):
        labels = found.pop(name)
        found |= {f"{name}_bucket": (*labels, "le"), f"{name}_sum": labels, f"{name}_count": labels}
    return found


def test_every_metric_is_documented_with_its_labels_and_every_value_that_they_have():
    table = re.findall(r"^\| `(mirepoix_\w+)` \| (.*?) \| (.*?) \|$", ENDPOINT.read_text(), re.MULTILINE)
    documented = {name: tuple(re.findall(r"`(\w+)`", labels)) for name, labels, _ in table}
    assert documented == Figures().labels
    meanings = {name: what for name, _, what in table}
    for name, values in (("part_seconds", PARTS), ("queue_items", CLASSES), ("rejected_total", REASONS), ("swaps_total", OUTCOMES)):
        assert [*re.findall(r"`(\w+)`", meanings[f"mirepoix_{name}"])] == [*values]


def test_the_alerts_of_the_docs_ask_for_series_and_values_that_there_are():
    (rules,) = re.findall(r"```yaml\n(groups:.*?)```", ENDPOINT.read_text(), re.DOTALL)
    (group,) = yaml.safe_load(rules)["groups"]
    known, series = {"reason": REASONS, "outcome": OUTCOMES, "status": ("5..",)}, series_of(Figures())
    for rule in group["rules"]:
        for name, given in re.findall(r"(mirepoix_\w+)(?:\{(.*?)\})?", rule["expr"]):
            values = dict(re.findall(r'(\w+)=~?"(.*?)"', given))
            assert set(values) <= set(series[name]) and all(value in known[label] for label, value in values.items()), rule


def test_the_text_has_the_series_that_queries_may_name_and_no_others():
    figures = Figures()
    figures.requests.labels("/v1/search", 200, "abc").inc()
    figures.seconds.labels("/v1/search").observe(0.1)
    figures.in_flight.labels("/v1/").inc()
    figures.use_release("abc", "tiny")
    found = samples(figures.text().decode())
    assert {name: {label for label, _ in labels} for name, labels in found} == {
        name: set(labels) for name, labels in series_of(figures).items()
    }


def test_the_first_of_a_kind_is_a_rise_from_zero():
    text = samples(Figures().text().decode())
    assert all(text["mirepoix_rejected_total", (("reason", reason),)] == 0 for reason in REASONS)
    assert all(text["mirepoix_swaps_total", (("outcome", outcome),)] == 0 for outcome in OUTCOMES)
    assert all(text["mirepoix_part_seconds_count", (("part", part),)] == 0 for part in PARTS)


def test_what_is_known_elsewhere_is_read_when_the_text_is_made():
    figures, waiting = Figures(), [3]
    figures.queue_items.labels("bulk").set_function(lambda: waiting[0])
    for waiting[0] in (3, 0):
        assert samples(figures.text().decode())["mirepoix_queue_items", (("class", "bulk"),)] == waiting[0]


def test_the_release_metric_names_one_release():
    figures = Figures()
    for release in ("abc", "def"):
        figures.use_release(release, "tiny")
    assert [labels for name, labels in samples(figures.text().decode()) if name == "mirepoix_release_info"] == [
        (("model", "tiny"), ("release", "def"))
    ]


def test_texts_of_replicas_are_merged_with_a_label_and_each_metric_is_described_once():
    first, second = Figures(), Figures()
    first.requests.labels('/v1/items/{id:path}/"image"', 200, "abc").inc()
    second.requests.labels("/v1/search", 200, "abc").inc(2)
    for figures in (first, second):
        figures.tokens.inc(5)
    text = merged({"one": first.text().decode(), 'the "other"': second.text().decode()})
    found = samples(text)
    assert (
        found["mirepoix_requests_total", (("release", "abc"), ("replica", 'the "other"'), ("route", "/v1/search"), ("status", "200"))] == 2
    )
    odd = (("release", "abc"), ("replica", "one"), ("route", '/v1/items/{id:path}/"image"'), ("status", "200"))
    assert found["mirepoix_requests_total", odd] == 1
    assert found["mirepoix_tokens_total", (("replica", "one"),)] == 5
    assert len(found) == len(samples(first.text().decode())) + len(samples(second.text().decode()))
    described = [line for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(described) == len(set(described)) == len(Figures().labels)
    names = [re.split("[ {]", line)[0] for line in text.splitlines() if not line.startswith("#")]
    families = [re.sub("_(bucket|count|sum)$", "", name) for name in names]
    begins = [family for family, before in zip(families, ["", *families], strict=False) if family != before]
    assert len(begins) == len(set(begins)), "the samples of a metric are together, as the format wants them"


def test_samples_of_any_shape_get_the_label():
    text = '# TYPE a gauge\na 1\n# TYPE b gauge\nb{} 2\n# TYPE c gauge\nc{x="} {"} 3 1700000000\n'
    assert merged({"r": text}).splitlines()[1::2] == ['a{replica="r"} 1', 'b{replica="r"} 2', 'c{replica="r",x="} {"} 3 1700000000']
    assert merged({}) == ""
