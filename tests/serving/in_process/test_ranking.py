"""Found documents as a notebook and a terminal show them."""

from mirepoix.serving.in_process.ranking import RankedDocument, Ranking
from tests.serving.fixtures import drawing

DISC = drawing("disc", 0.6, 24)
FOUND = Ranking(
    [RankedDocument(1, 0.75, "a<b>", "it", 'two\nlines & "more"', DISC, "in/<a> b.png"), RankedDocument(2, 0.5, "second", "t", "x" * 400)]
)


def test_the_picture_of_a_document_is_opened_when_it_is_asked_for():
    assert FOUND[0].image is not None and FOUND[0].image.size == (24, 24)
    assert FOUND[1].image is None


def test_a_ranking_is_a_line_for_each_document_and_one_of_its_source_where_that_is_known():
    first = '  1.  0.750  it  a<b>    two lines & "more"\n                 in/<a> b.png'
    assert repr(FOUND) == f"{first}\n  2.  0.500  t   second  {'x' * 90}"
    assert repr(Ranking()) == "no documents"


def test_a_notebook_shows_pictures_and_nothing_that_a_document_wrote_as_html():
    html = FOUND._repr_html_()
    assert "a&lt;b&gt;" in html and "two\nlines &amp; &quot;more&quot;" in html and "<b>" not in html
    assert "in/&lt;a&gt; b.png" in html and ">source<" in html
    assert html.count("<img") == 1 and 'src="data:image/png;base64,iVBOR' in html
    assert "x" * 300 in html and "x" * 301 not in html
