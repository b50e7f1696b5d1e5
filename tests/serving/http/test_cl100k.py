"""Arrays of token ids are read as OpenAI's cl100k_base where its file was given, and refused elsewhere."""

import base64
from pathlib import Path

import pytest

from mirepoix.models.errors import Refused
from mirepoix.serving.http.cl100k import TOKENS, Cl100k
from mirepoix.serving.http.limits_config import Limits
from tests.serving.http.test_api import error_of


def table() -> list[bytes]:
    """As many tokens as cl100k_base has: all bytes, then any others."""
    return [bytes([byte]) for byte in range(256)] + [f" w{n}".encode() for n in range(256, TOKENS)]


def written(folder: Path, tokens: list[bytes], first: int = 0) -> Path:
    file = folder / "cl100k_base.tiktoken"
    file.write_bytes(b"".join(base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(tokens, first)))
    return file


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    return written(tmp_path_factory.mktemp("tiktoken"), table())


@pytest.fixture(scope="module")
def opened(file) -> Cl100k:
    return Cl100k.open(file)


@pytest.fixture(scope="module")
def call(calling, file):
    return calling(Limits(tiktoken=str(file)))


def test_tokens_are_their_bytes_one_after_the_other(opened):
    assert opened.decode([*b"caf", *"é".encode(), 300, 100_255], "input") == "café w300 w100255"


def test_half_of_a_character_that_a_client_cut_through_is_left_out(opened):
    snow = "☃".encode()
    assert opened.decode([*snow[1:], *b"snow", *snow[:2]], "input") == "snow"


@pytest.mark.parametrize(
    ("id", "what"),
    [(100_257, "a control token"), (100_276, "a control token"), (100_256, "no token"), (-1, "no token"), (10**30, "no token")],
)
def test_an_id_that_stands_for_no_words_is_refused(call, id, what):
    error = error_of(call.post("/v1/embeddings", {"input": [[1], [1, id]]}), 400)
    assert error["message"].startswith(f"input[1] has the id {id}, {what} of cl100k_base") and error["param"] == "input"


@pytest.mark.parametrize(
    ("tokens", "first"),
    [(table()[:-1], 0), ([*table(), b"more"], 0), (table(), 1), ([*table()[:-1], b"a"], 0), ([b"\x00\x00", *table()[1:]], 0)],
    ids=["too few", "too many", "from 1", "one twice", "a byte lacks"],
)
def test_a_file_of_another_vocabulary_is_refused(tmp_path, tokens, first):
    with pytest.raises(Refused, match=r"is not cl100k_base\.tiktoken"):
        Cl100k.open(written(tmp_path, tokens, first))


@pytest.mark.parametrize("content", [b"", b"hello\n", b"IQ== one\n", b"\xff\xfe 0\n", b"{}"])
def test_a_file_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "vocabulary").write_bytes(content)
    with pytest.raises(Refused, match="is not cl100k_base"):
        Cl100k.open(tmp_path / "vocabulary")


def test_a_file_that_is_not_there_is_refused_with_its_name(tmp_path):
    with pytest.raises(Refused, match=r"nothing\.tiktoken cannot be read \(No such file or directory\)"):
        Cl100k.open(tmp_path / "nothing.tiktoken")


def test_an_array_is_the_text_that_it_stands_for(call, encoding):
    words = call.post("/v1/embeddings", {"input": "disc"}).json()
    for given in ([*b"disc"], [[*b"disc"]]):
        reply = call.post("/v1/embeddings", {"input": given}).json()
        assert encoding.asked[0].text == "disc" and reply == words


def test_arrays_stand_beside_texts(call, encoding):
    assert call.post("/v1/embeddings", {"input": [[*b"disc"], "bar", {"text": "a"}]}).status_code == 200
    assert [item.text for item in encoding.asked] == ["disc", "bar", "a"]


def test_an_array_that_spells_a_data_uri_is_words(call, encoding):
    spelt = "data:image/png;base64,aGk="
    assert call.post("/v1/embeddings", {"input": [*spelt.encode()]}).status_code == 200
    assert encoding.asked[0].text == spelt


@pytest.mark.parametrize(
    ("given", "status", "said"),
    [
        ([[]], 400, "input[0] is empty"),
        ([[1], [*b" \n"]], 400, "input[1] is empty"),
        ([1, "a"], 400, "input[0] is a token id among other inputs"),
        ([[97]] * 2049, 400, "2049 inputs"),
        ([97] * 70_000, 400, "70000 token ids"),
        ([300] * 20_000, 400, "100000 characters"),
        ([[100_257]], 400, "input[0] has the id 100257, a control token"),
        ([1.5], 422, "token ids"),
        ([True], 422, "token ids"),
        ([[[1]]], 422, "token ids"),
        (7, 422, "token ids"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(call, given, status, said):
    error = error_of(call.post("/v1/embeddings", {"input": given}), status)
    assert said in error["message"] and error["param"] == "input"


def test_without_the_file_an_array_is_refused_with_what_to_do(calling):
    for given in ([1, 2], [[1, 2]], ["words", [1, 2]]):
        error = error_of(calling(Limits()).post("/v1/embeddings", {"input": given}), 400)
        assert "check_embedding_ctx_length=False" in error["message"] and "--tiktoken FILE" in error["message"]
        assert (error["param"], error["code"]) == ("input", "token_ids")


def test_a_server_with_another_file_does_not_start(calling, tmp_path):
    with pytest.raises(Refused, match="is not cl100k_base"):
        calling(Limits(tiktoken=str(written(tmp_path, table()[:300]))))
