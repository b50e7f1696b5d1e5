"""What a search in this process returns: documents by rank, which a notebook shows as a table with their pictures."""

import base64
from dataclasses import dataclass, field
from html import escape
from io import BytesIO

from PIL import Image

from mirepoix.models.picture_formats import picture_format

TEXT_WIDTH = 90  # characters of a text in a line
_CELL = "text-align: left; vertical-align: middle"


@dataclass(frozen=True)
class RankedDocument:
    """A document of a release, by its rank for a query."""

    rank: int  # from 1
    score: float
    id: str
    modality: str  # as letters: t (text), i (picture), v (video), or several of them
    text: str
    thumbnail: bytes | None = field(default=None, repr=False)  # an encoded JPEG or PNG, its longer side 160 pixels at most
    source: str | None = None  # where it was read from: NAME/a/b.png or NAME/table.csv:12; None where that is not known

    @property
    def image(self) -> Image.Image | None:
        """The document's picture as the release keeps it, small; None where it has none."""
        if self.thumbnail is None:
            return None
        picture = Image.open(BytesIO(self.thumbnail))
        picture.load()
        return picture


class Ranking(list[RankedDocument]):
    """The documents that a search has found, best first."""

    def __repr__(self) -> str:
        """A line for each document, and below it one of where it was read from."""
        if not self:
            return "no documents"
        width = max(len(one.id) for one in self)
        lines = []
        for one in self:
            text = " ".join(one.text.split())[:TEXT_WIDTH]
            lines.append(f"{one.rank:>3}. {one.score:6.3f}  {one.modality:<3} {one.id:<{width}}  {text}".rstrip())
            lines += [f"{'':17}{one.source}"] * bool(one.source)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The table that a notebook shows."""
        head = "".join(f'<th style="{_CELL}">{name}</th>' for name in ("", "score", "", "id", "text", "source"))
        return f"<table><tr>{head}</tr>{''.join(map(_row, self))}</table>"


def _row(one: RankedDocument) -> str:
    picture = ""
    if one.thumbnail is not None:
        form = "png" if picture_format(one.thumbnail) == "PNG" else "jpeg"
        data = base64.b64encode(one.thumbnail).decode()
        picture = f'<img src="data:image/{form};base64,{data}" alt="" style="max-height: 96px">'
    cells = (str(one.rank), f"{one.score:.3f}", picture, escape(one.id), escape(one.text[:300]), escape(one.source or ""))
    return "<tr>" + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells) + "</tr>"
