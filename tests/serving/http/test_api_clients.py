"""Clients as others have them, unchanged: `openai`, LangChain and LlamaIndex, against the application over real HTTP."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openai
import pytest

from mirepoix.serving.http.api import build_app
from mirepoix.serving.http.keys import Keys, add_key
from mirepoix.serving.http.limits_config import Limits
from tests.serving.http.conftest import over_http
from tests.serving.http.test_api import LONG
from tests.vision import with_clients

CL100K = Path(sys.prefix) / "clients/llama_index/core/_static/tiktoken_cache/9b5ad71b2ce5302211f9c61530b329a4922fc6a4"
"""OpenAI's file, which lies in the wheel of llama-index-core under the name by which tiktoken looks for it."""
TEXTS = ["a disc painted in colour number 3", "☃ Übergrößen: 雪の上の赤い円 🍎", "data:image/png;base64,aGk="]
Vectors = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def address(encoding):
    with over_http(build_app(encoding, Limits(tiktoken=str(CL100K)))) as url:
        yield url


@pytest.fixture(scope="module")
def vectors(calling) -> Vectors:
    """What the application itself gives for words."""
    call = calling(Limits())

    def found(*texts: str) -> np.ndarray:
        return np.array(
            [each["embedding"] for each in call.post("/v1/embeddings", {"input": [{"text": text} for text in texts]}).json()["data"]]
        )

    return found


def ran(code: str, *arguments: str) -> list:
    """The values that a program of a client printed, a line each."""
    done = with_clients(code, *arguments)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


LANGCHAIN = """
import asyncio, json, os, sys
url, cache, *texts = sys.argv[1:]
os.environ["TIKTOKEN_CACHE_DIR"] = cache
import openai
from langchain_openai import OpenAIEmbeddings

plain = OpenAIEmbeddings(model="tiny", base_url=url, api_key="unused", max_retries=0)
print(json.dumps(plain.embed_documents(texts)))
print(json.dumps([plain.embed_query(texts[0])]))
print(json.dumps(asyncio.run(plain.aembed_documents(texts))))
cut = OpenAIEmbeddings(model="tiny", base_url=url, api_key="unused", max_retries=0, embedding_ctx_length=5)
print(json.dumps(cut.embed_documents(texts[1:2])))
"""
TEXTS_OF_LANGCHAIN = """
import json, sys
url, *texts = sys.argv[1:]
import openai
from langchain_openai import OpenAIEmbeddings

words = OpenAIEmbeddings(model="tiny", base_url=url, api_key="unused", max_retries=0, check_embedding_ctx_length=False)
print(json.dumps(words.embed_documents(texts)))
try:
    OpenAIEmbeddings(model="tiny", base_url=url, api_key="unused", max_retries=0).embed_query(texts[0])
except openai.BadRequestError as error:
    print(json.dumps([error.message, error.code, error.param]))
"""
LLAMA_INDEX = """
import asyncio, json, sys
url, *texts = sys.argv[1:]
from llama_index.embeddings.openai import OpenAIEmbedding
from llama_index.embeddings.openai_like import OpenAILikeEmbedding

for kind, name in ((OpenAIEmbedding, "model_name"), (OpenAILikeEmbedding, "model_name")):
    client = kind(**{name: "tiny"}, api_base=url, api_key="unused", max_retries=0)
    print(json.dumps(client.get_text_embedding_batch(texts)))
    print(json.dumps([client.get_query_embedding(texts[0])]))
    print(json.dumps(asyncio.run(client.aget_text_embedding_batch(texts))))
"""


def test_langchain_with_its_defaults_sends_token_arrays_and_gets_the_vectors_of_its_texts(address, vectors):
    documents, query, later, cut = ran(LANGCHAIN, f"{address}/v1", str(CL100K.parent), *TEXTS)
    assert np.allclose(documents, vectors(*TEXTS), atol=1e-5) and np.allclose(later, documents, atol=1e-5)
    assert np.allclose(query, vectors(TEXTS[0]), atol=1e-5)
    (mean,) = cut  # of the vectors of parts, some of which begin within a character
    assert np.isclose(np.linalg.norm(mean), 1, atol=1e-5) and not np.allclose(mean, documents[1], atol=1e-3)


def test_langchain_without_its_tokenizer_sends_texts_and_with_it_is_told_what_to_do(encoding, vectors, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(CL100K.parent))
    with over_http(build_app(encoding, Limits())) as url:
        documents, (message, code, param) = ran(TEXTS_OF_LANGCHAIN, f"{url}/v1", *TEXTS[:2])
    assert np.allclose(documents, vectors(*TEXTS[:2]), atol=1e-5)
    assert "check_embedding_ctx_length=False" in message and "--tiktoken FILE" in message and (code, param) == ("token_ids", "input")


def test_llama_index_gets_the_vectors_of_its_texts(address, vectors):
    found = ran(LLAMA_INDEX, f"{address}/v1", *TEXTS[:2])
    assert len(found) == 6
    for each in found:
        assert np.allclose(each, vectors(*TEXTS[: len(each)]), atol=1e-5)


def test_openais_client_gets_vectors_and_reads_warnings_and_errors(address, vectors):
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="unused", max_retries=0)
    reply = client.embeddings.create(model="tiny", input=TEXTS[:2])
    assert np.allclose([each.embedding for each in reply.data], vectors(*TEXTS[:2]), atol=1e-5) and reply.usage.total_tokens > 20
    assert [model.id for model in client.models.list()] == ["tiny"]
    long = client.embeddings.create(model="tiny", input=LONG, extra_body={"truncate": "start"})
    assert "its start was cut" in long.model_extra["warnings"][0]
    for given, kind, param in (
        ({"input": LONG, "extra_body": {"truncate": "none"}}, openai.BadRequestError, "input"),
        ({"input": "x", "dimensions": 7}, openai.BadRequestError, "dimensions"),
        ({"input": "x", "model": "gpt"}, openai.NotFoundError, "model"),
        ({"input": "x", "encoding_format": "int8"}, openai.UnprocessableEntityError, "encoding_format"),
    ):
        with pytest.raises(kind) as refused:
            client.embeddings.create(**{"model": "tiny"} | given)
        assert refused.value.param == param and refused.value.type == "invalid_request_error"


def test_openais_client_knows_a_wrong_key_and_waits_for_a_limit(encoding, tmp_path):
    key = add_key(tmp_path / "keys", "mine", {"requests_per_minute": 30})
    keys = Keys(tmp_path / "keys")
    with over_http(build_app(encoding, Limits(), keys)) as url:
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{url}/v1", api_key="mpx-wrong", max_retries=0).embeddings.create(model="tiny", input="x")
        impatient, patient = (openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=tries) for tries in (0, 3))
        for _ in range(30):
            impatient.embeddings.create(model="tiny", input="x")
        with pytest.raises(openai.RateLimitError) as refused:
            for _ in range(3):
                impatient.embeddings.create(model="tiny", input="x")
        assert refused.value.code == "rate_limit_exceeded" and refused.value.response.headers["retry-after"] in ("1", "2")
        assert patient.embeddings.create(model="tiny", input="x").data
