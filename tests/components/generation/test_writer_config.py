"""Invalid settings of endpoint, model, judge and budget are refused, and no key is repeated in the message."""

import pytest

from mirepoix.components.generation.writer_config import EndpointConfig, EngineConfig, JudgeConfig, LocalConfig, SpendingConfig
from mirepoix.models.errors import Refused


def config(url: str, **changes) -> EndpointConfig:
    return EndpointConfig(**{"url": url, "model": "m", "concurrency": 4, "backoff_s": 0.01, "timeout_s": 5.0, **changes})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"url": "host:8000/v1"}, "give one such as https://host/v1"),
        ({"url": "http://me:secret@host/v1"}, "has a key, a user or a password in it.*key_variable"),
        ({"url": "http:me:secret@host/v1"}, "has a key, a user or a password in it"),
        ({"url": "http://me@host/v1"}, "has a key, a user or a password in it"),
        ({"url": "https://host/v1?api-key=secret"}, "has a key, a user or a password in it"),
        ({"url": "http://127.0.0.1:99999/v1"}, "Port out of range.*give one such as https://host/v1"),
        ({"url": "http://[::1/v1"}, "Invalid IPv6 URL.*give one such as https://host/v1"),
        ({"url": "http://a..b/v1"}, "label empty.*give one such as https://host/v1"),
        ({"url": "http://host\n/v1"}, "non-printable.*give one such as https://host/v1"),
        ({"concurrency": 0}, "at least 1"),
        ({"timeout_s": 0.0}, "above 0"),
        ({"length_field": "length"}, "max_completion_tokens"),
    ],
)
def test_what_no_endpoint_can_be_is_refused(change, message):
    with pytest.raises(Refused, match=message) as refused:
        config(**{"url": "http://x/v1", **change})
    assert "secret" not in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "call", [lambda: LocalConfig(max_new_tokens=0), lambda: EngineConfig(workers=0), lambda: EngineConfig(temperature=-1.0)]
)
def test_what_no_model_of_ones_own_can_be_is_refused(call):
    with pytest.raises(Refused):
        call()


@pytest.mark.parametrize("change", [{"repeats": 0.0}, {"field_characters": 0}, {"max_characters": 0}])
def test_what_no_judge_can_be_is_refused(change):
    with pytest.raises(Refused, match=r"judge\."):
        JudgeConfig(**change)


@pytest.mark.parametrize("change", [{"max_requests": -1}, {"max_failed": 1.5}, {"cache": "s3://key:secret@bucket/replies"}])
def test_what_no_budget_can_be_is_refused(change):
    with pytest.raises(Refused):
        SpendingConfig(**change)
