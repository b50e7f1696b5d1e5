"""Serves the release on the cluster of the run, and asks the endpoint whether it says what the release promised."""

import base64
import json
import math
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from mirepoix.models.errors import Refused
from mirepoix.serving.app import KEY, ServeConfig, start
from mirepoix.serving.release import COSINE
from mirepoix.serving.store import Context, Outcome, Rows

RECEIPT = "endpoint.json"


def work(context: Context, config: ServeConfig, release: Path) -> Outcome:
    """Starts the endpoint, and encodes the golden items over HTTP; it goes on serving as long as the cluster lives."""
    server = start(str(release), replace(config, port=config.port or free_port(config.host)))
    golden = json.loads((release / "golden.json").read_text())
    cosines = [_cosine(rows[0], asked) for rows, asked in zip(golden["vectors"], _embeddings(server.url, golden["items"]), strict=True)]
    if not min(cosines) >= COSINE:
        raise Refused(f"{server.url} gives golden vectors at cosine {min(cosines):.4f}, {COSINE} is needed: it encodes differently")
    receipt = {"url": server.url, "release": server.version, "name": server.name}
    (context.folder / RECEIPT).write_text(json.dumps(receipt, indent=2, sort_keys=True) + "\n")
    return Outcome(Rows(read=len(cosines), written=len(cosines)), {"golden_cosine": min(cosines)})


def stands(folder: Path, _: ServeConfig) -> bool:
    """Whether the endpoint that was started still serves that release."""
    receipt = json.loads((folder / RECEIPT).read_text())
    try:
        reply = httpx.get(f"{receipt['url']}/health", timeout=3)
        return reply.status_code == 200 and reply.json().get("release") == receipt["release"]
    except (httpx.HTTPError, ValueError):
        return False


def free_port(host: str) -> int:
    """A port that nobody listens at now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def _embeddings(url: str, items: list[dict[str, Any]]) -> list[list[float]]:
    key = os.environ.get(KEY)
    asked = [{"text": item["text"], "image": _data_uri(item["images"])} for item in items]
    reply = httpx.post(
        f"{url}/v1/embeddings",
        json={"input": [{name: value for name, value in item.items() if value} for item in asked], "encoding_format": "float"},
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=60,
    )
    reply.raise_for_status()
    return [entry["embedding"] for entry in reply.json()["data"]]


def _data_uri(images: list[str]) -> str | None:
    if not images:
        return None
    kind = "png" if base64.b64decode(images[0][:24]).startswith(b"\x89PNG") else "jpeg"
    return f"data:image/{kind};base64,{images[0]}"


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)
