"""Text is cleaned as OpenAI's tokenizer of CLIP cleans it; what that gave for these texts is written in."""

import random
import string
import subprocess
import sys

import pytest

from mirepoix.models.backbones.clip_text import clean_text

CLEANED = {
    "Tom &amp; Jerry": "tom & jerry",
    "it&amp;#39;s": "it's",
    "\u201cA star\u201d \u2013 it\u2019s": '"a star" \u2013 it\'s',
    "caf\u00c3\u00a9 au lait": "caf\u00e9 au lait",
    "a\t star \n at  night ": "a star at night",
    "\ufb01ne \uff21\uff22": "fine ab",
    "\u039f\u0394\u039f\u03a3 \u0130": "\u03bf\u03b4\u03bf\u03c2 i\u0307",
    "a < b &lt;br&gt; c": "a < b <br> c",
    "&nbsp;": "",
    "&lt;|endoftext|&gt;": "<|endoftext|>",
    "A small RED circle": "a small red circle",
    "a\u0301": "\u00e1",
}


@pytest.mark.parametrize("text", CLEANED)
def test_text_is_cleaned_as_by_openais_tokenizer(text):
    assert clean_text(text) == CLEANED[text]


def test_plain_text_is_only_folded_and_lower_cased():
    drawn = random.Random(0)
    for _ in range(200):
        text = "".join(drawn.choice(string.ascii_letters + string.digits + " .,;:!?'()-") for _ in range(40))
        assert clean_text(text) == " ".join(text.lower().split())


def test_the_library_that_repairs_text_is_loaded_only_when_a_text_is_cleaned():
    code = "import sys, mirepoix.models.retrievers.univldr; sys.exit('ftfy' in sys.modules)"
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0
