"""A local language model: a transformers checkpoint folder, run in this process."""

import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mirepoix.components.generation.prompts import Request
from mirepoix.components.generation.replies import Reply, ReplyStore
from mirepoix.components.generation.writer_config import LocalConfig, seed_parameter
from mirepoix.models.backbones.checkpoints import quiet, refused_code
from mirepoix.models.errors import Refused, first_line
from mirepoix.serving.release import folder_digest


class Local:
    """A writer that generates with transformers; the model is loaded at the first request that is not cached."""

    def __init__(self, config: LocalConfig, seed: int):
        self.folder = Path(config.folder).expanduser()
        if not config.folder or not (self.folder / "config.json").is_file():
            raise Refused(f"the local writer's folder is {config.folder!r} and holds no config.json; give a checkpoint folder")
        self.config, self.name = config, self.folder.name
        parameters = {"temperature": config.temperature, "max_new_tokens": config.max_new_tokens} | seed_parameter(config.temperature, seed)
        self.identity = {"writer": "local", "model": folder_digest(self.folder), "parameters": parameters}

    def write(self, requests: Callable[[], Iterator[Request]], store: ReplyStore) -> Iterator[Reply]:
        """The replies, one after the other."""
        for request in requests():
            key = store.key(request.messages)
            yield store.find(key) or self._made(key, request, store)

    def _made(self, key: str, request: Request, store: ReplyStore) -> Reply:
        most = request.most_tokens + self.config.max_new_tokens
        if not store.reserve(most):
            return Reply(failure="budget")
        reply = self._generated(request, int(key[:15], 16))
        store.settle(most, reply.cost)
        store.record(reply.cost)
        if not reply.failure:
            store.save(key, reply)
        return reply

    @cached_property
    def _opened(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            with quiet():
                auto = {"local_files_only": True, "trust_remote_code": False}
                model: Any = AutoModelForCausalLM.from_pretrained(self.folder, use_safetensors=True, dtype="auto", **auto)
                tokenizer = AutoTokenizer.from_pretrained(self.folder, **auto)
        except (OSError, ValueError) as error:  # transformers' own refusals: not complete, not of a known kind
            why = refused_code(error) or first_line(error)
            raise Refused(f"the local writer's folder {self.folder} cannot be opened: {why}") from error
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
    """The prompt in the tokenizer's chat template; for a template without a system role, the system text goes before the user's."""
    request = request._replace(user=_escaped(tokenizer, request.user))
    if not tokenizer.chat_template:
        return f"{request.system}\n\n{request.user}\n\n"
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(request.messages, tokenize=False, add_generation_prompt=True)
    except TemplateError:
        alone = [{"role": "user", "content": f"{request.system}\n\n{request.user}"}]
        return tokenizer.apply_chat_template(alone, tokenize=False, add_generation_prompt=True)


def _escaped(tokenizer: Any, text: str) -> str:
    """The text with a space inside every special token of the tokenizer, so that only the template opens and ends a turn."""
    own = {token.strip() for token in (*tokenizer.all_special_tokens, *tokenizer.get_added_vocab())} - {""}
    pattern = re.compile("|".join(map(re.escape, sorted(own, key=len, reverse=True))) or r"(?!)", re.IGNORECASE)
    while (escaped := pattern.sub(lambda found: f"{found[0][0]} {found[0][1:]}" if len(found[0]) > 1 else " ", text)) != text:
        text = escaped
    return text
