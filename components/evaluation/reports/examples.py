"""Queries with what was found for them, beside the best floor: where the encoder does better, and where it fails."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from mirepoix.components.evaluation.reports.wording import called

TITLES = {"wins": "better than {beside}", "losses": "worse than {beside}, or without an answer"}
ALONE = {"wins": "with an answer", "losses": "without an answer"}


def example_section(gallery: Mapping[str, Any], arm: str = "") -> Iterator[str]:
    """The cards of a gallery as `evaluate` wrote it."""
    if not gallery["wins"] and not gallery["losses"]:
        return
    beside = called(gallery["beside"])
    of = f" ({arm})" if arm else ""
    yield f"<h2>Examples{escape(of)} <span class=soft>by {escape(gallery['measure'])}; right answers are green</span></h2>"
    for kind, title in (TITLES if beside else ALONE).items():
        if gallery[kind]:
            yield f"<h3>{escape(called(gallery['system']))}: {escape(title.format(beside=beside))}</h3>"
            yield f"<div class=cards>{''.join(_card(card, gallery) for card in gallery[kind])}</div>"


def _card(card: Mapping[str, Any], gallery: Mapping[str, Any]) -> str:
    value = f"{called(gallery['system'])} {card['value']:.3f}"
    beside = f", {called(gallery['beside'])} {card['beside']:.3f}" if gallery["beside"] else ""
    parts = [
        f"<h4>{escape(card['task'])} · {escape(card['dataset'])} · {escape(value + beside)}</h4>",
        _items([card["query"] | {"relevant": False}], wide=True),
        "<h4>answer</h4>",
        _items([answer | {"relevant": True} for answer in card["answers"]]),
        f"<h4>found by {escape(called(gallery['system']))}</h4>",
        _items(card["found"]),
    ]
    if gallery["beside"]:
        parts += [f"<h4>found by {escape(called(gallery['beside']))}</h4>", _items(card["found_beside"])]
    return f"<div class=card>{''.join(parts)}</div>"


def _items(items: Sequence[Mapping[str, Any]], wide: bool = False) -> str:
    if not items:
        return "<p class=soft>nothing</p>"
    return f"<div class=items>{''.join(_item(item, wide) for item in items)}</div>"


def _item(item: Mapping[str, Any], wide: bool) -> str:
    picture = f'<img src="{escape(item["picture"])}" alt="">' if item.get("picture") else ""
    name = f" title={chr(34)}{escape(item['id'])}{chr(34)}" if item.get("id") else ""
    right = " right" if item["relevant"] else ""
    mark = "<b>✓</b> " if item["relevant"] else ""
    wider = " wide" if wide or not picture else ""
    return f'<div class="item{right}{wider}"{name}>{picture}{mark}{escape(item["text"])}</div>'
