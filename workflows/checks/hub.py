"""Whether the models that a config names by hub id are here, or can be fetched: asked of the cache first, then of the hub, in parallel."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import quote

from mirepoix.models.errors import Refused
from mirepoix.workflows.checks.problem import Problem

HUB_SECONDS = 5.0
"""All questions to the hub together take no longer; what has not answered by then counts as unreachable."""
DESCRIPTIONS = ("config.json", "modules.json", "adapter_config.json")
WEIGHTS = (".safetensors", ".bin")
State = Literal["here", "reached", "offline", "unknown id", "not allowed", "no answer"]


class HubModel(NamedTuple):
    """A model of the hub, as a field of the config names it."""

    field: str
    id: str
    revision: str | None


def find_models(
    models: Iterable[HubModel], environment: Mapping[str, str] = os.environ, seconds: float = HUB_SECONDS
) -> dict[HubModel, tuple[State, str]]:
    """For each model whether it can be had, and the detail of what the hub said."""
    found: dict[HubModel, tuple[State, str]] = {}
    asked = []
    for model in dict.fromkeys(models):
        if snapshot(model.id, model.revision) is not None:
            found[model] = "here", ""
        elif environment.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            found[model] = "offline", "HF_HUB_OFFLINE is set"
        else:
            asked.append(model)
    return found | _ask_all(asked, lambda model: ask(model, environment, seconds), seconds)


def why_not(model: HubModel, state: State, detail: str) -> Problem | None:
    """The reason for which a model cannot be had, and what to do; None where it can."""
    cures: dict[State, str] = {
        "offline": "unset HF_HUB_OFFLINE, fetch it where there is a network, or give a folder",
        "unknown id": f"correct the id, or give a folder; {_TOKEN}",
        "not allowed": f"accept the model's licence on its page, and {_TOKEN}",
        "no answer": "connect to the network, set HF_ENDPOINT to a mirror, or give a folder",
    }
    if state not in cures:
        return None
    here = f"{model.id} is neither a folder nor in the cache of this machine"
    return Problem(f"{model.field}={model.id}", f"{here}, and {detail}", cures[state])


_TOKEN = "set HF_TOKEN if it is private"


def _ask_all(models: list[HubModel], ask_one: Callable[[HubModel], tuple[State, str]], seconds: float) -> dict[HubModel, tuple[State, str]]:
    """Asks for all models at the same time; a name server may keep a thread longer than the answer is waited for."""
    answers: dict[HubModel, tuple[State, str]] = {}

    def keep(model: HubModel) -> None:
        answers[model] = ask_one(model)

    threads = [threading.Thread(target=keep, args=(model,), daemon=True) for model in models]
    until = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    late: tuple[State, str] = ("no answer", f"no answer within {seconds:g} seconds")
    return {model: answers.get(model, late) for model in models}


def ask(model: HubModel, environment: Mapping[str, str] = os.environ, seconds: float = HUB_SECONDS) -> tuple[State, str]:
    """Asks the hub for the description of a model, by the header alone.

    No redirection is followed, so that a token is sent to no other host: one means that the file is there.
    """
    import urllib.error
    import urllib.request

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    endpoint = environment.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    said: tuple[State, str] = ("unknown id", f"{endpoint} has none of {', '.join(DESCRIPTIONS)} of it")
    for name in DESCRIPTIONS:
        url = f"{endpoint}/{quote(model.id)}/resolve/{quote(model.revision or 'main', safe='')}/{name}"
        request = urllib.request.Request(url, method="HEAD", headers=_token())
        try:
            with urllib.request.build_opener(Stay).open(request, timeout=seconds):
                return "reached", ""
        except urllib.error.HTTPError as error:
            if error.code < 400:
                return "reached", ""
            code = error.headers.get("X-Error-Code", "")
            if code == "EntryNotFound":
                continue
            if code == "GatedRepo" or error.code == 403:
                return "not allowed", f"{endpoint} answers {error.code}: this token may not read it"
            if error.code == 401 and code != "RepoNotFound" and not _token():
                return "not allowed", f"{endpoint} answers 401 to a request without a token"
            if error.code in (401, 404):
                what = f"revision {model.revision} of it" if code == "RevisionNotFound" else "such model"
                return "unknown id", f"{endpoint} answers {error.code}: there is no {what}, or it is private"
            if error.code < 500:
                continue
            return "no answer", f"{endpoint} answers {error.code}"
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            return "no answer", f"{endpoint} cannot be reached ({getattr(reason, 'strerror', None) or str(reason) or type(error).__name__})"
    return said


def _token() -> dict[str, str]:
    from huggingface_hub import get_token

    token = get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def snapshot(id: str, revision: str | None) -> Path | None:
    """The folder of a model in the local cache, if its description and its weights are there."""
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for name in DESCRIPTIONS:
        try:
            found = try_to_load_from_cache(id, name, cache_dir=constants.HF_HUB_CACHE, revision=revision)
        except HFValidationError as error:
            raise Refused(f"{id!r} is neither a folder here nor a hub id, which is OWNER/NAME; give one of them") from error
        if isinstance(found, str):
            folder = Path(found).parent
            if any(file.suffix in WEIGHTS for file in folder.rglob("*")):
                return folder
    return None
