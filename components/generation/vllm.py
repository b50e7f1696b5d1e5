"""vLLM under Ray Data: all prompts on GPUs in one pass."""

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa

from mirepoix.components.generation.prompts import Request
from mirepoix.components.generation.replies import Reply, ReplyStore
from mirepoix.components.generation.writer_config import EngineConfig, seed_parameter
from mirepoix.components.ray_tasks import data_context
from mirepoix.models.errors import Refused


class Engine:
    """A writer that generates with `ray.data.llm`, in one pass over all requests that are not cached."""

    def __init__(self, config: EngineConfig, seed: int):
        if not config.model:
            raise Refused("the engine's model is not named; set writer.model to a checkpoint folder, URI or hub id")
        if importlib.util.find_spec("vllm") is None:
            raise Refused(
                "the writer is EngineConfig and vLLM is not installed; install mirepoix[vllm] on the nodes with GPUs, "
                "or set writer=EndpointConfig"
            )
        self.config, self.name = config, config.model
        self._sampling = {"temperature": config.temperature, "max_tokens": config.max_new_tokens} | seed_parameter(config.temperature, seed)
        self.identity = {"writer": "vllm", "model": config.model, "parameters": self._sampling}

    def write(self, requests: Callable[[], Iterator[Request]], store: ReplyStore) -> Iterator[Reply]:
        """The replies; the engine runs until all are complete, and each is saved as it arrives."""
        blocks, reserved = self._pending(requests(), store)
        failed = self._run(blocks, reserved, store) if reserved else {}
        for request in requests():
            key = store.key(request.messages)
            reply = failed.get(key) or store.find(key)
            fresh = reserved.pop(key, None) is not None
            yield Reply(failure="budget") if reply is None else replace(reply, cached=reply.cached and not fresh)

    def _pending(self, requests: Iterator[Request], store: ReplyStore) -> tuple[list[Any], dict[str, int]]:
        """The requests that are not cached, in Ray's object store for engines on any node, and the tokens reserved for each."""
        import ray

        blocks: list[Any] = []
        reserved: dict[str, int] = {}
        rows: list[dict[str, str]] = []
        for request in requests:
            key, most = store.key(request.messages), request.most_tokens + self.config.max_new_tokens
            if key in reserved or store.find(key) is not None or not store.reserve(most):
                continue
            reserved[key] = most
            rows.append({"key": key, "system": request.system, "user": request.user})
            if len(rows) == self.config.batch_size:
                blocks.append(ray.put(pa.Table.from_pylist(rows)))
                rows = []
        return [*blocks, *([ray.put(pa.Table.from_pylist(rows))] if rows else [])], reserved

    def _run(self, blocks: list[Any], reserved: dict[str, int], store: ReplyStore) -> dict[str, Reply]:
        """Runs the engine and saves its replies; returns the failed ones."""
        import ray
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        engine: dict[str, Any] = {"tensor_parallel_size": self.config.gpus_per_worker, "trust_remote_code": False}
        if self.config.max_model_len is not None:
            engine["max_model_len"] = self.config.max_model_len
        settings = vLLMEngineProcessorConfig(
            model_source=self.config.model,
            engine_kwargs=engine,
            concurrency=self.config.workers,
            batch_size=self.config.batch_size,
            should_continue_on_error=True,
        )
        processor = build_processor(settings, preprocess=partial(_preprocess, sampling=self._sampling), postprocess=_postprocess)
        data_context(ordered=False)
        failed = {}
        for row in processor(ray.data.from_arrow_refs(blocks)).iter_rows():
            reply = _reply(row, self.config.max_new_tokens)
            store.settle(reserved[row["key"]], reply.cost)
            store.record(reply.cost)
            if reply.failure:
                failed[row["key"]] = reply
            else:
                store.save(row["key"], reply)
        return failed


def _preprocess(row: dict[str, Any], sampling: dict[str, Any]) -> dict[str, Any]:
    return {"key": row["key"], "messages": Request(row["system"], row["user"]).messages, "sampling_params": sampling}


_OUTPUT = ("key", "generated_text", "num_input_tokens", "num_generated_tokens")


def _postprocess(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _OUTPUT}


def _reply(row: dict[str, Any], most: int) -> Reply:
    if error := row.get("__inference_error__"):
        return Reply(failure="failed", detail=str(error)[:500])
    tokens = int(row["num_generated_tokens"])
    return Reply(row["generated_text"], int(row["num_input_tokens"]), tokens, finish="length" if tokens >= most else "stop")
