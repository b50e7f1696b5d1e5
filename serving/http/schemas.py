"""Request bodies, and how they become items within the limits; URLs are never fetched."""

import asyncio
from itertools import islice
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mirepoix.models.item import Item
from mirepoix.serving.engine.truncation import Truncate
from mirepoix.serving.http.body import NoForm, form_parts, has_too_many_values
from mirepoix.serving.http.cl100k import NO_FILE, open_table
from mirepoix.serving.http.decoding import Decoder
from mirepoix.serving.http.guard import ApiError
from mirepoix.serving.http.inputs import is_data_uri, picture_bytes
from mirepoix.serving.http.limits_config import Limits


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Input(_Body):
    """One input that may be text, a picture or both."""

    text: str | None = None
    image: str | None = None


FIRST_FAULT = Field(fail_fast=True)
"""Stop at the first invalid element: collecting the errors of a million takes gigabytes."""
TokenId: TypeAlias = Annotated[int, Field(strict=True)]


class ImageUrl(_Body):
    url: str
    detail: str | None = None


class Part(_Body):
    type: Literal["text", "image_url"]
    text: str | None = None
    image_url: ImageUrl | None = None


class Message(_Body):
    role: Literal["system", "user"]
    content: str | Annotated[list[Part], FIRST_FAULT]


class EmbeddingsBody(_Body):
    """OpenAI's request, with inputs of text and picture, and messages; `instruction` is prepended to every input, as in training.

    An input may also be an array of token ids of OpenAI's cl100k_base. `role` is how the inputs are encoded: some retrievers encode
    queries and documents differently.
    """

    input: str | Annotated[list[str | Input | TokenId | Annotated[list[TokenId], FIRST_FAULT]], FIRST_FAULT] | None = None
    messages: Annotated[list[Message], FIRST_FAULT] | None = None
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1)
    instruction: str = ""
    role: Literal["query", "document"] = "document"
    truncate: Truncate = "end"
    user: str | None = None


class SearchBody(_Body):
    """A query, the modality of the items to find, and how many."""

    text: str | None = None
    image: str | None = None
    k: int = 10
    target: str | None = None
    instruction: str | None = None
    truncate: Truncate = "end"
    model: str | None = None


MARKS_PER_INPUT = 8
"""The brackets, braces and colons that an input may have in JSON: one of text and picture has 3, one as a part of a message 6."""
_NAMES = {name for cls in (EmbeddingsBody, SearchBody, Message, Part, ImageUrl, Input) for name in cls.model_fields}
PIECE = 256
"""Inputs that are read at once, so that short requests are answered in between: a millisecond or two."""
_Any = TypeVar("_Any", bound=_Body)


class Reader:
    """Parses requests, whose bodies the guard has bounded; raises an ApiError of one line for whatever is invalid."""

    def __init__(self, limits: Limits):
        self.limits = limits
        self.decoder = Decoder(limits)
        self.cl100k = open_table(limits.tiktoken)

    async def embeddings(self, request: Request) -> EmbeddingsBody:
        return _checked(EmbeddingsBody, self._bounded(await request.body()))

    async def search(self, request: Request) -> tuple[SearchBody, bytes | None]:
        """The request, from JSON or multipart, and the picture's bytes if a file was sent."""
        body = await request.body()
        content_type = request.headers.get("content-type", "")
        if not content_type.startswith("multipart/form-data"):
            return _checked(SearchBody, self._bounded(body)), None
        fields, upload = self._form(content_type, body)
        return _checked(SearchBody, fields), upload

    async def items(self, body: EmbeddingsBody) -> list[Item]:
        """The items of an embeddings request."""
        if (body.input is None) == (body.messages is None):
            raise ApiError(400, "give either input or messages", "input")
        instruction = self._text(body.instruction, "instruction")
        if body.messages is not None:
            return [await self._conversation(body.messages, instruction)]
        assert body.input is not None
        inputs = self._inputs(body.input)
        self._count(sum(one.image is not None for one in inputs.values()), "input")
        given = [() if one.image is None else (picture_bytes(one.image, name),) for name, one in inputs.items()]
        plain = iter(await self.decoder([picture for each in given for picture in each], "input"))
        items = []
        for n, ((name, one), each) in enumerate(zip(inputs.items(), given, strict=True)):
            if n % PIECE == PIECE - 1:
                await asyncio.sleep(0)
            items.append(self._item(name, one.text or "", tuple(islice(plain, len(each))), instruction))
        return items

    def _inputs(self, given: str | list[Any]) -> dict[str, Input]:
        """The inputs by the names that refusals call them by; a list of token ids alone is one input."""
        if isinstance(given, str) or (given and all(isinstance(one, int) for one in given)):
            return {"input": self._input(given, "input")}
        if not 1 <= len(given) <= self.limits.max_inputs:
            raise ApiError(400, f"input holds {len(given)} inputs; send 1 to {self.limits.max_inputs}", "input")
        names = [f"input[{n}]" for n in range(len(given))]
        return {name: self._input(one, name) for name, one in zip(names, given, strict=True)}

    def _input(self, given: str | Input | list[int] | int, name: str) -> Input:
        if isinstance(given, int):
            raise ApiError(400, f"{name} is a token id among other inputs; give a list of token ids alone, or of lists of these", "input")
        if isinstance(given, list):
            return Input(text=self._decoded(given, name))
        if isinstance(given, str):
            return Input(image=given) if is_data_uri(given) else Input(text=given)
        return given

    def _decoded(self, ids: list[int], name: str) -> str:
        if self.cl100k is None:
            raise ApiError(400, f"{name} {NO_FILE}", "input", "token_ids")
        if len(ids) > self.limits.max_text:
            raise ApiError(400, f"{name} has {len(ids)} token ids; at most {self.limits.max_text} are taken", "input")
        return self.cl100k.decode(ids, name)

    async def query(self, body: SearchBody, upload: bytes | None) -> Item:
        """The query of a search; an instruction that the request lacks is added by the API."""
        if not 1 <= body.k <= self.limits.max_results:
            raise ApiError(400, f"k is {body.k}; ask for 1 to {self.limits.max_results} results", "k")
        pictures = [upload] if upload is not None else [] if body.image is None else [picture_bytes(body.image, "image")]
        plain = tuple(await self.decoder(pictures, "image"))
        return self._item("text", body.text or "", plain, self._text(body.instruction or "", "instruction"))

    async def _conversation(self, messages: list[Message], instruction: str) -> Item:
        parts = [
            (message.role, part)
            for message in messages
            for part in ([Part(type="text", text=message.content)] if isinstance(message.content, str) else message.content)
        ]
        urls = [part.image_url.url for _, part in parts if part.image_url is not None]
        self._count(len(urls), "messages")
        instructions = [instruction, *(part.text for role, part in parts if role == "system" and part.text)]
        text = "\n".join(part.text for role, part in parts if role == "user" and part.text)
        plain = tuple(await self.decoder([picture_bytes(url, "messages") for url in urls], "messages"))
        return self._item("messages", text, plain, self._text("\n".join(filter(None, instructions)), "messages"))

    def _item(self, name: str, text: str, pictures: tuple[bytes, ...], instruction: str) -> Item:
        item = Item(id=name, text=self._text(text, name), images=pictures, instruction=instruction)
        if not item.modality:
            raise ApiError(400, f"{name} is empty; give text, a picture or both", name.split("[")[0])
        return item

    def _text(self, text: str, name: str) -> str:
        if len(text) > self.limits.max_text:
            raise ApiError(400, f"{name} has {len(text)} characters; at most {self.limits.max_text} are taken", name.split("[")[0])
        return text if text.strip() else ""

    def _count(self, pictures: int, name: str) -> None:
        if pictures > self.limits.max_pictures:
            raise ApiError(400, f"{name} has {pictures} pictures; at most {self.limits.max_pictures} are taken at once", name)

    def _bounded(self, body: bytes) -> bytes:
        """The same JSON, unless it has more values than any request within the limits."""
        if has_too_many_values(body, MARKS_PER_INPUT * (self.limits.max_inputs + 128)):
            raise ApiError(400, "the body has too many lists, objects or values; send less at once")
        return body

    def _form(self, content_type: str, body: bytes) -> tuple[dict[str, str], bytes | None]:
        """The fields of a form, and the file in it; an empty one counts as not given."""
        try:
            given = form_parts(content_type, body)
            fields = [(name, content.decode()) for name, file, content in given if file is None]
        except (NoForm, UnicodeDecodeError):
            raise ApiError(400, "the multipart body cannot be read; send fields, and one file named image") from None
        if len({name for name, _, _ in given}) < len(given):
            raise ApiError(400, "a field of the form is given twice; give each once, and the picture as a file or a data URI")
        files = [(name, content) for name, file, content in given if file is not None]
        if any(name != "image" for name, _ in files):
            raise ApiError(422, "there is no such file; send one file named image", "image")
        return {name: value for name, value in fields if value}, next((content for _, content in files if content), None)


def _checked(body: type[_Any], plain: bytes | dict[str, str]) -> _Any:
    try:
        return body.model_validate_json(plain) if isinstance(plain, bytes) else body.model_validate(plain)
    except ValidationError as error:
        raise _invalid(body, error.errors(include_url=False, include_input=False, include_context=False)) from None


def _invalid(body: type[_Body], errors: list[Any]) -> ApiError:
    """The error that pydantic found deepest in the body, as one line with its path, and never a value of the body."""
    error = max(errors, key=lambda error: len(error["loc"]))
    if error["type"] == "json_invalid":
        return ApiError(400, "the body is not valid JSON")
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][-1])[:64]
        return ApiError(422, f"{name!r} is no field; give some of {', '.join(body.model_fields)}", name)
    where = [str(step) for step in error["loc"] if isinstance(step, int) or step in _NAMES]
    if not where:
        return ApiError(422, f"the body must be a JSON object with some of {', '.join(body.model_fields)}")
    if where[0] == "input":
        return ApiError(422, 'input takes a text, a picture, token ids, {"text", "image"}, or a list of these', "input")
    return ApiError(422, f"{'.'.join(where)}: {error['msg'].lower()}", where[0])
