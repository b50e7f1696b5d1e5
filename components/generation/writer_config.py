"""The language model that writes, the limits of what it may cost, and the rules by which its answers are accepted."""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from mirepoix.models.backbones.checkpoint_config import folder_fingerprint
from mirepoix.models.errors import Refused
from mirepoix.models.options import option, refuse_unknown
from mirepoix.serving.store import has_secret, refuse_credentials

_PLAIN_URL = re.compile(r"https?://(127\.0\.0\.1|[a-z][a-z0-9-]{0,60}(\.[a-z][a-z0-9-]{0,60}){0,4})(:\d{1,5})?(/[\w.-]{1,99}){0,9}/?", re.A)
"""URLs that httpx is known to accept; only others are parsed with httpx, whose import takes a seventh of a second."""


@dataclass(frozen=True)
class EndpointConfig:
    """An OpenAI-compatible endpoint.

    Servers choose the names of their models, so the same name at another URL is another model: the URL decides the result. How patiently
    requests are sent does not. A row whose request failed in the end is left out; `--force` asks again for such rows alone, as replies are
    cached.
    """

    url: str = option("http://127.0.0.1:8000/v1", "the URL before /chat/completions; a query such as ?api-version=1 is kept")
    model: str = option("", "name of the model at the endpoint")
    key_variable: str | None = option(None, "name of the environment variable that holds the key; null: no key is sent", decides=False)
    temperature: float | None = option(0.0, "0: the most likely answer; null: not sent, for models that accept none")
    max_new_tokens: int = option(400, "most tokens of an answer")
    length_field: Literal["max_tokens", "max_completion_tokens"] = option("max_tokens", "the request field for max_new_tokens")
    concurrency: int = option(16, "requests in flight", decides=False)
    timeout_s: float = option(120.0, "seconds after which a request is abandoned and retried", decides=False)
    retries: int = option(5, "most retries of a request", decides=False)
    backoff_s: float = option(1.0, "seconds before the first retry, with jitter; doubled for each further one", decides=False)
    longest_wait_s: float = option(60.0, "the longest wait; the request fails if the endpoint asks for a longer one", decides=False)

    def __post_init__(self) -> None:
        _refuse_url(self.url)
        refuse_unknown(self, "the endpoint's ")
        if min(self.max_new_tokens, self.concurrency) < 1 or self.retries < 0:
            raise Refused("the endpoint's max_new_tokens and concurrency must be at least 1, retries at least 0")
        if min(self.timeout_s, self.backoff_s, self.longest_wait_s) <= 0 or (self.temperature or 0) < 0:
            raise Refused("the endpoint's timeout_s, backoff_s and longest_wait_s must be above 0, temperature at least 0")


def _refuse_url(url: str) -> None:
    """Refuses a URL that has a secret in it, or is not one of an endpoint."""
    if has_secret("http://" + re.sub(r"^(https?:)?/*", "", url, flags=re.IGNORECASE)):  # also where the slashes were forgotten
        raise Refused(
            "the endpoint's url has a key, a user or a password in it, and is written into reports; give it without, "
            "and as key_variable the name of the environment variable that holds the key"
        )
    example = "give one such as https://host/v1"
    try:
        parts = urlsplit(url)
        (parts.hostname or "").encode("idna"), parts.port  # both raise ValueError where they are malformed
    except ValueError as error:
        raise Refused(f"the endpoint's url is {url!r} ({error}); {example}") from error
    if not _PLAIN_URL.fullmatch(url):
        import httpx

        try:
            httpx.URL(url)
        except httpx.InvalidURL as error:
            raise Refused(f"the endpoint's url is {url!r} ({error}); {example}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Refused(f"the endpoint's url is {url!r}; {example}")


@dataclass(frozen=True)
class LocalConfig:
    """A causal language model run by transformers in this process, one request at a time: for small models and for tests."""

    folder: str = option("", "its checkpoint folder: config.json, safetensors, tokenizer")
    temperature: float = option(0.0, "0: the most likely answer, always the same; above: answers are drawn by seed")
    max_new_tokens: int = option(400, "most tokens of an answer")

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0:
            raise Refused("the local writer's max_new_tokens must be at least 1, temperature at least 0")

    def outside(self) -> dict[str, str]:
        """The fingerprint of its folder, for the key of a stage; refused where the folder is missing."""
        found = folder_fingerprint(self.folder)
        return {"model folder": found} if found else {}


@dataclass(frozen=True)
class EngineConfig:
    """vLLM under Ray Data, on any number of GPUs; needs the packages of the `vllm` extra."""

    model: str = option("", "checkpoint folder, URI or hub id")
    temperature: float = option(0.0, "0: the most likely answer; above: answers are drawn by seed")
    max_new_tokens: int = option(400, "most tokens of an answer")
    max_model_len: int | None = option(None, "most tokens of a prompt with its answer; null: the limit of the model")
    workers: int = option(1, "engines", decides=False)
    gpus_per_worker: int = option(1, "GPUs of an engine: tensor parallelism", decides=False)
    batch_size: int = option(64, "requests in a batch of an engine", decides=False)

    def __post_init__(self) -> None:
        if min(self.max_new_tokens, self.workers, self.gpus_per_worker, self.batch_size, self.max_model_len or 1) < 1:
            raise Refused("the engine's max_new_tokens, max_model_len, workers, gpus_per_worker and batch_size must each be at least 1")
        if self.temperature < 0:
            raise Refused(f"the engine's temperature is {self.temperature}; give 0 or more")


WriterConfig = EndpointConfig | LocalConfig | EngineConfig
REFUSALS = (
    "i cannot", "i can't", "i can not", "i am unable", "i'm unable", "i am not able", "i'm not able", "i won't", "i will not",
    "i'm sorry", "i am sorry", "sorry, i", "sorry. i", "sorry, but", "sorry, that", "sorry, this", "sorry, it", "sorry, there", "sorry, we",
    "as an ai…, i", "as an ai i", "as an ai language model i", "as an artificial intelligence…, i", "as a language model…, i",
    "as a large language model…, i", "unfortunately, i", "unable to comply",
    "je ne peux pas", "je suis désolé", "je suis désolée", "désolé", "désolée", "en tant qu'ia… je",
    "en tant qu'intelligence artificielle… je", "en tant que modèle de langage… je",
    "es tut mir leid", "ich kann nicht", "ich kann das nicht", "als ki… ich", "als künstliche intelligenz… ich", "als sprachmodell… ich",
    "lo siento", "no puedo", "mi dispiace", "non posso", "desculpe", "desculpa", "sinto muito", "não posso", "het spijt me", "ik kan niet",
    "przepraszam", "przepraszamy", "nie mogę", "извините", "к сожалению, я", "я не могу", "üzgünüm", "maaf", "maafkan", "xin lỗi",
    "tôi không thể", "抱歉", "对不起", "對不起", "我无法", "我無法", "我不能",
    "作为ai…，我", "作为一个ai…，我", "作为一名ai…，我", "作为人工智能…，我", "作为一个人工智能…，我", "作为一个语言模型…，我",
    "作为一个大型语言模型…，我", "作為ai…，我", "作為一個ai…，我", "作為人工智慧…，我", "作為一個人工智慧…，我", "作為一個語言模型…，我",
    "申し訳あり", "申し訳ござ", "申し訳ない", "すみません", "죄송",
    "عذرا", "عذرًا", "آسف", "آسفة", "لا أستطيع", "माफ़ कीजिए", "माफ़ कीजिएगा",
)  # fmt: skip


@dataclass(frozen=True)
class JudgeConfig:
    """The lengths of prompts, and the rules by which answers are accepted."""

    field_characters: int = option(2000, "most characters of each question, answer, text of the evidence or caption in a prompt")
    max_characters: int = option(2000, "most characters of an answer; it is cut at the end of a sentence")
    repeats: float = option(0.9, "an answer is rejected if at least this share of its word trigrams is in the prompt")
    refusals: tuple[str, ...] = option(
        REFUSALS, "an answer that begins with one of these, in upper or lower case, is a refusal; … matches other words of the clause"
    )

    def __post_init__(self) -> None:
        if not 0 < self.repeats <= 1:
            raise Refused(f"judge.repeats is {self.repeats}; it is a share, give a number above 0 and up to 1")
        if min(self.field_characters, self.max_characters) < 1:
            raise Refused("judge.field_characters and max_characters must each be at least 1")


@dataclass(frozen=True)
class SpendingConfig:
    """The cache of replies, and the budget."""

    cache: str | None = option(
        None, "folder or URI where replies are cached for later runs; null: in the user's cache folder", decides=False
    )
    max_requests: int | None = option(None, "most requests of a run, retries included; null: no limit")
    max_tokens: int | None = option(None, "most tokens of prompts and answers that a run pays for; null: no limit")
    max_failed: float = option(0.2, "the stage fails if more than this share of the rows failed, as then the endpoint is at fault")

    def __post_init__(self) -> None:
        refuse_credentials(self.cache or "")
        if min(self.max_requests or 0, self.max_tokens or 0) < 0:
            raise Refused("spending.max_requests and max_tokens must each be at least 0, or null")
        if not 0 <= self.max_failed <= 1:
            raise Refused(f"spending.max_failed is {self.max_failed}; give a share from 0 to 1")


def seed_parameter(temperature: float | None, seed: int) -> dict[str, int]:
    """The seed as a request parameter, where the temperature makes it matter."""
    return {"seed": seed} if temperature else {}
