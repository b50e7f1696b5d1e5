"""Chat templates of the retrievers over one multimodal language model, with which other libraries build the same tokens as training."""

from typing import Any

from mirepoix.models.encoder import Encoder
from mirepoix.models.retrievers.unite import SYSTEM

# Collects the contents of a conversation; its system message is the instruction.
_READ = """\
{%- set seen = namespace(image=0, video=0, asked="", text="") -%}
{%- for message in messages -%}
  {%- for part in ([{"type": "text", "text": message.content}] if message.content is string else message.content) -%}
    {%- if part.type == "text" and message.role == "system" -%}
      {%- set seen.asked = seen.asked + part.text -%}
    {%- elif part.type == "text" -%}
      {%- set seen.text = seen.text + part.text -%}
    {%- elif part.type in ("image", "image_url") -%}
      {%- set seen.image = seen.image + 1 -%}
    {%- elif part.type in ("video", "video_url") -%}
      {%- set seen.video = seen.video + 1 -%}
    {%- endif -%}
  {%- endfor -%}
{%- endfor -%}
{%- set asked, text = seen.asked | trim, seen.text | trim -%}
{%- set views = "<|vision_start|><|image_pad|><|vision_end|>" * seen.image + "<|vision_start|><|video_pad|><|vision_end|>" * seen.video -%}
"""
_STILL = """\
{%- if seen.video -%}
{{- raise_exception("clips would not be read as in training; give their frames as pictures, or no clip") -}}
{%- endif -%}
"""
_UNITE = """\
{%- set words = [asked, text] | select | join("\\n") -%}
{{- "<|im_start|>system\\nSYSTEM<|im_end|>\\n<|im_start|>user\\n" -}}
{{- views + (NEWLINE if views and words else "") + words -}}
REQUEST{{- "<|im_end|>\\n<|im_start|>assistant\\n<|endoftext|>" -}}
"""
_REQUEST = """\
{%- set names = ["sentence" if text, "image" if seen.image, "video" if seen.video] | select -%}
{{- "\\nSummary above " + names | join(" and ") + " in one word:" -}}
"""
_JFE = """\
{{- "<|im_start|>user\\n" + asked + ("\\n" if asked and (views or text) else "") -}}
{{- views + ("\\n" if views and text else "") + text + "<|im_end|>" -}}
"""


def chat_template(encoder: Encoder) -> str:
    """The Jinja template of an encoder whose architecture is in `CHATS`."""
    return _READ + ("" if reads_clips(encoder) else _STILL) + CHATS[encoder.architecture](encoder)


def reads_clips(encoder: Encoder) -> bool:
    """Whether other libraries read clips as this encoder does.

    They scale frames that have times differently, and no frame twice.
    """
    collator: Any = encoder.collator
    return collator.times is None and collator.config.min_frame_pixels is None


def _unite(encoder: Encoder) -> str:
    config: Any = encoder.config
    request = _REQUEST if config.prompt == "summary" else ""
    newline = '"\\n"' if config.newline_after_pictures else '""'
    return _UNITE.replace("SYSTEM", SYSTEM).replace("REQUEST", request).replace("NEWLINE", newline)


CHATS = {"unite": _unite, "jfe": lambda encoder: _JFE}
