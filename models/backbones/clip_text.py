"""Text as OpenAI's CLIP reads it before it looks tokens up."""

import html


def clean_text(text: str) -> str:
    """The text repaired by ftfy, with HTML entities unescaped twice, each run of white space as one blank, in lower case."""
    import ftfy  # takes 50 ms, and only CLIP's text tower needs it

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(text))).split()).lower()
