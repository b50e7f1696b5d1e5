"""Language models of one's own that write: a transformers folder in this process, or vLLM as a stage of Ray Data.

A writer has a name and an identity (its model and parameters, under which replies are kept) and `write(requests, desk)`: the replies in
the order of the requests, which it may read as often as it likes. It asks the desk first and leaves with it what it made.
"""

import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch

from mirepoix.components.generation.prompts import Request
from mirepoix.components.generation.replies import Reply, ReplyStore
from mirepoix.components.training.backbone import folder_fingerprint
from mirepoix.models.backbones.checkpoints import quiet
from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.serving.release import encoder_digest


class Writer(Protocol):
    """A language model that answers requests."""

    name: str
    identity: dict[str, Any]

    def write(self, requests: Callable[[], Iterator[Request]], desk: ReplyStore) -> Iterator[Reply]:
        """The replies, in the order of the requests."""


def _seeded(temperature: float | None, seed: int) -> dict[str, int]:
    """The seed as a parameter, where it decides anything."""
    return {"seed": seed} if temperature else {}


@dataclass(frozen=True)
class LocalConfig:
    """A causal language model of transformers, in this process and one request at a time: for small models and for tests."""

    folder: str = option("", "its checkpoint folder: config.json, safetensors, tokenizer")
    fingerprint: str | None = option(None, "of the folder, filled in when the run starts")
    temperature: float = option(0.0, "0 is the likeliest answer, the same each time; above, answers are drawn by seed")
    max_new_tokens: int = option(400, "an answer has at most so many tokens")

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0:
            raise Refused("the local writer's max_new_tokens must be at least 1, temperature at least 0")

    def fingerprinted(self) -> "LocalConfig":
        """The config with the fingerprint of its folder; refused where that is not there."""
        return replace(self, fingerprint=folder_fingerprint(self.folder))

    def build(self, seed: int) -> "Local":
        """The writer; refused where the folder is not there."""
        return Local(self, seed)


class Local:
    """Generates by transformers; the model is loaded when the first request is not known."""

    def __init__(self, config: LocalConfig, seed: int):
        self.folder = Path(config.folder).expanduser()
        if not config.folder or not (self.folder / "config.json").is_file():
            raise Refused(f"the local writer's folder is {config.folder!r} and holds no config.json; give a checkpoint folder")
        self.config, self.name = config, self.folder.name
        parameters = {"temperature": config.temperature, "max_new_tokens": config.max_new_tokens} | _seeded(config.temperature, seed)
        self.identity = {"writer": "local", "model": encoder_digest(self.folder), "parameters": parameters}

    def write(self, requests: Callable[[], Iterator[Request]], desk: ReplyStore) -> Iterator[Reply]:
        """The replies, one by one."""
        for request in requests():
            key = desk.key(request.messages)
            yield desk.known(key) or self._made(key, request, desk)

    def _made(self, key: str, request: Request, desk: ReplyStore) -> Reply:
        most = request.most_tokens + self.config.max_new_tokens
        if not desk.reserve(most):
            return Reply(failure="budget")
        reply = self._generated(request, int(key[:15], 16))
        desk.settle(most, reply.cost)
        desk.note(reply.cost)
        if not reply.failure:
            desk.keep(key, reply)
        return reply

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            with quiet():
                model = AutoModelForCausalLM.from_pretrained(self.folder, use_safetensors=True, local_files_only=True, dtype="auto")
                tokenizer = AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        except (OSError, ValueError) as error:  # transformers' own refusals: not complete, not of a known kind
            raise Refused(f"the local writer's folder {self.folder} cannot be opened: {str(error).splitlines()[0]}") from error
        return model.to(device).eval(), tokenizer

    def _generated(self, request: Request, seed: int) -> Reply:
        model, tokenizer = self._opened
        prompt = tokenizer(_templated(tokenizer, request), return_tensors="pt", add_special_tokens=not tokenizer.chat_template)
        length = prompt["input_ids"].shape[1]
        room = getattr(model.config, "max_position_embeddings", None)
        if room is not None and length + self.config.max_new_tokens > room:
            return Reply(failure="declined", detail=f"the prompt has {length} tokens, and the model takes {room} with the answer")
        drawn = {"do_sample": True, "temperature": self.config.temperature} if self.config.temperature else {"do_sample": False}
        end = model.generation_config.eos_token_id if model.generation_config.eos_token_id is not None else tokenizer.eos_token_id
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else end if isinstance(end, int) else 0
        with quiet(), torch.inference_mode(), torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            torch.manual_seed(seed)
            given = model.generate(
                **prompt.to(model.device), max_new_tokens=self.config.max_new_tokens, eos_token_id=end, pad_token_id=pad, **drawn
            )
        made = given[0, length:].tolist()
        ended = made and made[-1] in (end if isinstance(end, list) else [end])
        text = tokenizer.decode(made, skip_special_tokens=True)
        return Reply(text, length, len(made), finish="stop" if ended or len(made) < self.config.max_new_tokens else "length")


def _templated(tokenizer: Any, request: Request) -> str:
    """The prompt in the words of the tokenizer's chat template; one without a system role gets ours in front of the user's."""
    request = request._replace(user=_spelt(tokenizer, request.user))
    if not tokenizer.chat_template:
        return f"{request.system}\n\n{request.user}\n\n"
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(request.messages, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        alone = [{"role": "user", "content": f"{request.system}\n\n{request.user}"}]
        return tokenizer.apply_chat_template(alone, tokenize=False, add_generation_prompt=True)


def _spelt(tokenizer: Any, text: str) -> str:
    """The text with a space inside of all that the tokenizer has a token of its own for: only the template opens a turn or ends one."""
    own = {token.strip() for token in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab())} - {""}
    pattern = re.compile("|".join(map(re.escape, sorted(own, key=len, reverse=True))) or r"(?!)", re.IGNORECASE)
    while (spelt := pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}" if len(found[0]) > 1 else " ", text)) != text:
        text = spelt
    return text


@dataclass(frozen=True)
class EngineConfig:
    """vLLM, as Ray Data runs it: on GPUs, any number of them, with the packages of the `gpu` extra."""

    model: str = option("", "checkpoint folder, URI or hub id")
    temperature: float = option(0.0, "0 is the likeliest answer; above, answers are drawn by seed")
    max_new_tokens: int = option(400, "an answer has at most so many tokens")
    max_model_len: int | None = option(None, "tokens of a prompt with its answer; null: as many as the model takes")
    workers: int = option(1, "engines")
    gpus_per_worker: int = option(1, "GPUs of an engine: tensor parallelism")
    batch_size: int = option(64, "requests that an engine is given at a time")

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.workers, self.gpus_per_worker, self.batch_size, self.max_model_len or 1) < 1:
            raise Refused("the engine's max_new_tokens, max_model_len, workers, gpus_per_worker and batch_size must each be at least 1")
        if self.temperature < 0:
            raise Refused(f"the engine's temperature is {self.temperature}; give 0 or more")

    def build(self, seed: int) -> "Engine":
        """The writer; refused where vLLM is not installed."""
        return Engine(self, seed)


class Engine:
    """Generates by `ray.data.llm`, in one pass over all requests that are not known."""

    def __init__(self, config: EngineConfig, seed: int):
        if not config.model:
            raise Refused("the engine's model is not named; set writer.model to a checkpoint folder, URI or hub id")
        if importlib.util.find_spec("vllm") is None:
            raise Refused(
                "the writer is EngineConfig and vLLM is not installed; install mirepoix[gpu] on the nodes with GPUs, "
                "or set writer=EndpointConfig"
            )
        self.config, self.name = config, config.model
        self._sampling = {"temperature": config.temperature, "max_tokens": config.max_new_tokens} | _seeded(config.temperature, seed)
        self.identity = {"writer": "vllm", "model": config.model, "parameters": self._sampling}

    def write(self, requests: Callable[[], Iterator[Request]], desk: ReplyStore) -> Iterator[Reply]:
        """The replies; the engine runs until all are there, and each is kept as it comes."""
        blocks, asked = self._asked(requests(), desk)
        failed = self._run(blocks, asked, desk) if asked else {}
        for request in requests():
            key = desk.key(request.messages)
            reply = failed.get(key) or desk.known(key)
            fresh = asked.pop(key, None) is not None
            yield Reply(failure="budget") if reply is None else replace(reply, cached=reply.cached and not fresh)

    def _asked(self, requests: Iterator[Request], desk: ReplyStore) -> tuple[list[Any], dict[str, int]]:
        """What must be asked, in Ray's store, for engines may stand on other nodes; and what each may cost, as long as the budget lasts."""
        import ray

        blocks: list[Any] = []
        asked: dict[str, int] = {}
        rows: list[dict[str, str]] = []
        for request in requests:
            key, most = desk.key(request.messages), request.most_tokens + self.config.max_new_tokens
            if key in asked or desk.known(key) is not None or not desk.reserve(most):
                continue
            asked[key] = most
            rows.append({"key": key, "system": request.system, "user": request.user})
            if len(rows) == self.config.batch_size:
                blocks.append(ray.put(pa.Table.from_pylist(rows)))
                rows = []
        return [*blocks, *([ray.put(pa.Table.from_pylist(rows))] if rows else [])], asked

    def _run(self, blocks: list[Any], asked: dict[str, int], desk: ReplyStore) -> dict[str, Reply]:
        """Asks the engine, keeps what it answers, and tells what it failed at."""
        import ray
        from ray.data.llm import build_processor, vLLMEngineProcessorConfig

        engine: dict[str, Any] = {"tensor_parallel_size": self.config.gpus_per_worker}
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
        ray.data.DataContext.get_current().enable_progress_bars = False
        failed = {}
        for row in processor(ray.data.from_arrow_refs(blocks)).iter_rows():
            reply = _reply(row, self.config.max_new_tokens)
            desk.settle(asked[row["key"]], reply.cost)
            desk.note(reply.cost)
            if reply.failure:
                failed[row["key"]] = reply
            else:
                desk.keep(row["key"], reply)
        return failed


def _preprocess(row: dict[str, Any], sampling: dict[str, Any]) -> dict[str, Any]:
    return {"key": row["key"], "messages": Request(row["system"], row["user"]).messages, "sampling_params": sampling}


_ANSWERED = ("key", "generated_text", "num_input_tokens", "num_generated_tokens")


def _postprocess(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in _ANSWERED}


def _reply(row: dict[str, Any], most: int) -> Reply:
    if error := row.get("__inference_error__"):
        return Reply(failure="failed", detail=str(error)[:500])
    tokens = int(row["num_generated_tokens"])
    return Reply(row["generated_text"], int(row["num_input_tokens"]), tokens, finish="length" if tokens >= most else "stop")
