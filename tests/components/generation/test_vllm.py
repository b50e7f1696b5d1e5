"""vLLM generates the replies that are not stored yet, through Ray Data, within the budget."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray.data.llm

from mirepoix.components.generation.prompts import Request
from mirepoix.components.generation.replies import Reply, ReplyStore
from mirepoix.components.generation.vllm import Engine
from mirepoix.components.generation.writer import open_writer
from mirepoix.components.generation.writer_config import EngineConfig, LocalConfig, SpendingConfig
from mirepoix.models.errors import Refused

ASKS = [Request("You write.", f"Tell of {thing}.") for thing in ("the sea", "a lamp", "the old tower")]


def written(
    config: LocalConfig | EngineConfig, home: Path, requests: Sequence[Request] = ASKS, seed: int = 0, **spending
) -> tuple[list[Reply], ReplyStore]:
    writer = open_writer(config, seed)
    store = ReplyStore(SpendingConfig(cache=str(home / "cache"), **spending), str(home / "scratch"), writer.identity)
    return list(writer.write(lambda: iter(requests), store)), store


def test_the_engine_is_refused_where_vllm_is_not_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Refused, match=r"vLLM is not installed; install mirepoix\[vllm\] on the nodes with GPUs, or set"):
        open_writer(EngineConfig(model="some/model"), 0)
    with pytest.raises(Refused, match="model is not named"):
        open_writer(EngineConfig(), 0)


def processor_of(settings, preprocess, postprocess):
    """Ray Data's stages with a stand-in for the engine; rows come out as its own do."""
    assert settings.model_source == "some/model" and settings.should_continue_on_error
    assert settings.engine_kwargs["tensor_parallel_size"] == 2 and settings.engine_kwargs["max_model_len"] == 512

    def run(row: dict) -> dict:
        given = {**row, **preprocess(row)}
        assert [message["role"] for message in given["messages"]] == ["system", "user"]
        assert given["sampling_params"] == {"temperature": 0.0, "max_tokens": 30}
        user_text = given["messages"][1]["content"]
        if "lamp" in user_text:
            return {**row, "generated_text": "", "num_input_tokens": 0, "num_generated_tokens": 0, "__inference_error__": "too long"}
        made = postprocess(
            {
                **given,
                "generated_text": f"Of it: {user_text}",
                "num_input_tokens": 9,
                "num_generated_tokens": 30 if "sea" in user_text else 4,
            }
        )
        return {**row, **made, "__inference_error__": ""}

    return lambda dataset: dataset.map(run)


@pytest.fixture
def engine(monkeypatch, ray_cluster) -> EngineConfig:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: True if name == "vllm" else real(name, *more))
    monkeypatch.setattr(ray.data.llm, "build_processor", processor_of)
    return EngineConfig("some/model", max_new_tokens=30, max_model_len=512, gpus_per_worker=2, batch_size=2)


def test_the_engine_answers_what_is_not_known_through_ray_data(engine, tmp_path, monkeypatch):
    found, store = written(engine, tmp_path, [*ASKS, ASKS[0]])
    assert [reply.text for reply in found] == ["Of it: Tell of the sea.", "", "Of it: Tell of the old tower.", "Of it: Tell of the sea."]
    assert [reply.failure for reply in found] == ["", "failed", "", ""] and found[1].detail == "too long"
    assert [reply.finish for reply in found[::2]] == ["length", "stop"] and [reply.cached for reply in found] == [False, False, False, True]
    assert store.requests == 3 and store.tokens == 39 + 13
    monkeypatch.setattr(Engine, "_run", lambda self, blocks, asked, store: {key: Reply(failure="failed") for key in asked})
    again, _ = written(engine, tmp_path)
    assert [reply.failure for reply in again] == ["", "failed", ""] and again[0].cached and again[2].cached


def test_the_engine_is_given_no_more_than_the_budget_allows(engine, tmp_path):
    found, store = written(engine, tmp_path, max_requests=1)
    assert [reply.failure for reply in found] == ["", "budget", "budget"] and store.requests == 1
