"""A client of a served release, and its reply as text, for the command line and the demo; it imports no heavy library."""

from typing import Any

import httpx

from mirepoix.models.errors import Refused

KEY = "MIREPOIX_API_KEY"  # environment variable of the key, for the server and for its clients


class NoAnswer(Refused):
    """Nothing answers at the address of a server."""


def search_endpoint(
    url: str, text: str = "", image: bytes | None = None, k: int = 10, target: str | None = None, api_key: str | None = None
) -> dict[str, Any]:
    """The reply of /v1/search to text, a picture or both; Refused with the server's error message where it declines."""
    fields = {"text": text, "k": str(k), "target": target or ""}
    files: list[tuple[str, tuple[str | None, bytes]]] = [(name, (None, value.encode())) for name, value in fields.items()]
    if image is not None:
        files.append(("image", ("query", image)))
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        reply = httpx.post(f"{url.rstrip('/')}/v1/search", files=files, headers=headers, timeout=90)
        body = reply.json()
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise Refused(f"{url!r} is no address; give one such as http://127.0.0.1:8000") from None
    except httpx.TransportError:
        raise NoAnswer(f"nothing answers at {url}; start the server first, or give its --url") from None
    except ValueError:
        raise Refused(f"what answers at {url} is not Mirepoix; give the address of a release") from None
    if reply.status_code != 200:
        line = body.get("error", {}).get("message") if isinstance(body, dict) else None
        raise Refused(f"the server at {url} declined ({reply.status_code}): {line or 'no reason given'}")
    found: dict[str, Any] = body
    return found


def shown(reply: dict[str, Any], relevant: set[str] | None = None) -> str:
    """The reply of a search as lines of text, below each result where it was read from; results in `relevant` are marked."""
    lines = []
    for result in reply["results"]:
        mark = "" if relevant is None else ("* " if result["id"] in relevant else "  ")
        lines.append(
            f"  {result['rank']:>2}. {mark}{result['score']:.3f}  {result['modality']:<3} {result['id']:<14} {result['text'][:90]}".rstrip()
        )
        if result.get("source"):  # of a server of an earlier version, or of a release that knows none, there is none
            lines.append(f"{'':17}{'' if relevant is None else '  '}{result['source']}")
    note = "   (* answers the query)" if relevant is not None else ""
    why = [f"  {warning}" for warning in reply.get("warnings", ())]
    return "\n".join([*lines, *why, f"  {len(reply['results'])} results in {reply['took_ms']:.0f} ms, release {reply['release']}{note}"])
