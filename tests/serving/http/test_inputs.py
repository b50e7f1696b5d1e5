"""What an input of an embeddings request is: words or a picture; and what is said where it is neither, or another one than was meant."""

import base64

import pytest

from mirepoix.serving.http.inputs import is_data_uri
from mirepoix.serving.http.limits_config import Limits
from tests.serving.http.test_api import PICTURE, error_of, uri


@pytest.fixture(scope="module")
def call(calling):
    return calling(Limits())


WRAPPED = f"  {uri(PICTURE)}\n"
PARAMETERS = uri(PICTURE).replace(";base64", ";charset=utf-8;base64")
SHOUTED = uri(PICTURE).replace("data:image/png;base64", "DATA:IMAGE/PNG;BASE64")


@pytest.mark.parametrize("given", [uri(PICTURE), [uri(PICTURE)], WRAPPED, PARAMETERS, SHOUTED], ids=lambda _: "")
def test_a_data_uri_is_the_picture_and_not_words(call, encoding, given):
    found = call.post("/v1/embeddings", {"input": given}).json()["data"][0]["embedding"]
    assert [(item.text, item.images) for item in encoding.asked] == [("", (PICTURE,))]
    assert found == call.post("/v1/embeddings", {"input": [{"image": uri(PICTURE)}]}).json()["data"][0]["embedding"]


def test_pictures_and_words_may_stand_in_one_list(call, encoding):
    assert call.post("/v1/embeddings", {"input": ["words", uri(PICTURE), {"text": "a", "image": uri(PICTURE)}]}).status_code == 200
    assert [item.modality.letters for item in encoding.asked] == ["t", "i", "it"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("data:application/pdf;base64,aGk=", "a data URI but no base64 picture"),
        ("data:text/plain,hello", "a data URI but no base64 picture"),
        ("data:image/svg+xml,%3Csvg/%3E", "a data URI but no base64 picture"),
        ("data:;base64,aGk=", "a data URI but no base64 picture"),
        ("data:image/png;base64,@@@", "not valid base64"),
        ("data:image/png;base64,aGk", "not valid base64"),
        ("data:image/png;base64,", "no bytes"),
        (f"data:image/png;base64,{base64.b64encode(b'hello').decode()}", "no JPEG, PNG, WEBP or GIF"),
    ],
)
def test_a_data_uri_that_is_no_picture_is_refused_with_what_is_wrong(call, given, said):
    for body in ({"input": given}, {"input": ["fine", given]}):
        assert said in error_of(call.post("/v1/embeddings", body), 400)["message"]


def test_the_refusal_names_the_input(call):
    error = error_of(call.post("/v1/embeddings", {"input": ["fine", "data:text/plain,hello"]}), 400)
    assert error["message"].startswith("input[1] is a data URI") and error["param"] == "input"


@pytest.mark.parametrize(
    "words",
    ["data: five samples, of which two", "data:image/png is how such a URI begins", "the data:image/png;base64,aGk=", "data:, a word"],
)
def test_words_about_data_are_words(call, encoding, words):
    assert not is_data_uri(words)
    assert call.post("/v1/embeddings", {"input": words}).status_code == 200
    assert encoding.asked[0].text == words


def test_in_a_field_of_text_everything_is_words(call, encoding):
    assert call.post("/v1/embeddings", {"input": [{"text": uri(PICTURE)}]}).status_code == 200
    assert (encoding.asked[0].text, encoding.asked[0].images) == (uri(PICTURE), ())


def test_pictures_given_as_strings_count_as_pictures_of_the_request(call):
    assert "33 pictures" in error_of(call.post("/v1/embeddings", {"input": [uri(PICTURE)] * 33}), 400)["message"]


def test_the_url_of_a_picture_is_words_with_a_warning(call, encoding):
    reply = call.post(
        "/v1/embeddings", {"input": ["https://example.com/a/cat.PNG?size=2", "see https://example.com/cat.png", "https://a.com/"]}
    )
    assert [item.modality.letters for item in encoding.asked] == ["t"] * 3
    (warning,) = reply.json()["warnings"]
    assert warning.startswith("input[0] is the URL of a picture") and "data URI" in warning


def test_without_a_warning_the_reply_has_no_such_field(call):
    assert "warnings" not in call.post("/v1/embeddings", {"input": "words"}).json()
