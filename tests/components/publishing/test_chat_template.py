"""A chat template renders a conversation to the same tokens as the collator makes of an item."""

import re

import pytest

from mirepoix.components.publishing.chat_template import chat_template
from mirepoix.models.backbones.twins import make_twin
from mirepoix.models.item import Item
from mirepoix.models.retrievers.jfe import Jfe
from mirepoix.models.retrievers.jfe_config import JfeConfig
from mirepoix.models.retrievers.unite import Unite
from mirepoix.models.retrievers.unite_config import UniteConfig
from tests.models.conftest import ITEMS, SIZES, WORDS, picture

READ = {
    "unite": (Unite, UniteConfig()),
    "unite, raw": (Unite, UniteConfig(prompt="raw")),
    "unite, one line": (Unite, UniteConfig(newline_after_pictures=False)),
    "jfe": (Jfe, JfeConfig()),
}
MORE = [
    Item("spaces", text="  a\n small circle \n"),
    Item("stops", text="Ends so.", instruction="Begins so.\n\n"),
    Item("instruction alone", images=(picture(),), instruction="Find a text."),
    Item("much", text="all of it", images=(picture(), picture()), video=(picture(), picture()), instruction="Find."),
    Item("other letters", text="Ein Stern über Zürich, 星 ☆"),
    Item("braces", text="{{ messages }} {% if %}"),
]


@pytest.fixture(scope="module", params=READ)
def encoder(request, tmp_path_factory):
    retriever, config = READ[request.param]
    return retriever.build(make_twin(tmp_path_factory.mktemp("twin"), "qwen2_vl", WORDS * 20, SIZES, seed=0), config)


def conversation(item):
    seen = [{"type": "image"}] * len(item.images) + [{"type": "video"}] * bool(item.video)
    asked = [{"role": "system", "content": item.instruction}] if item.instruction else []
    return [*asked, {"role": "user", "content": [*seen, {"type": "text", "text": item.text}]}]


@pytest.mark.parametrize("item", [*ITEMS, *MORE], ids=lambda item: item.id)
def test_its_tokens_are_the_collators(item, encoder):
    prompt = encoder.tokenizer.apply_chat_template(conversation(item), chat_template=chat_template(encoder), tokenize=False)
    # Each view is one token in a prompt, to be repeated for every place of its features.
    counts = iter(len(view.ids) - 2 for view in encoder.collator._views(item))
    prompt = re.sub(r"<\|(image|video)_pad\|>", lambda pad: pad[0] * next(counts), prompt)
    assert encoder.tokenizer(prompt)["input_ids"] == encoder.collator([item])["input_ids"][0].tolist()


def test_text_parts_are_concatenated_and_pictures_may_be_image_or_image_url(encoder):
    render = encoder.tokenizer.apply_chat_template
    split = [{"type": "text", "text": "a small "}, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "circle"}]
    whole = [{"type": "image"}, {"type": "text", "text": "a small circle"}]
    one, other = (
        render([{"role": "user", "content": content}], chat_template=chat_template(encoder), tokenize=False) for content in (split, whole)
    )
    assert one == other


def test_a_plain_string_is_a_text(encoder):
    render = encoder.tokenizer.apply_chat_template
    one, other = (
        render([{"role": "user", "content": content}], chat_template=chat_template(encoder), tokenize=False)
        for content in ("a circle", [{"type": "text", "text": "a circle"}])
    )
    assert one == other
