"""Asking a served release and telling its reply, as the command line and the demo do; imports nothing that takes a second to load."""

from typing import Any

import httpx

from mirepoix.models.errors import Refused

KEY = "MIREPOIX_API_KEY"  # the environment variable in which a server and who asks it find the key


def search_endpoint(
    url: str, text: str = "", image: bytes | None = None, k: int = 10, target: str | None = None, api_key: str | None = None
) -> dict[str, Any]:
    """The reply of /v1/search to text, a picture or both; Refused with the server's own line where it declines."""
    fields = {"text": text, "k": str(k), "target": target or ""}
    files = [(name, (None, value.encode())) for name, value in fields.items()]
    if image is not None:
        files.append(("image", ("query", image)))
    headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
    try:
        reply = httpx.post(f"{url.rstrip('/')}/v1/search", files=files, headers=headers, timeout=90)
        told = reply.json()
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise Refused(f"{url!r} is no address; give one such as http://127.0.0.1:8000") from None
    except httpx.TransportError:
        raise Refused(f"nothing answers at {url}; start the server first, or give its --url") from None
    except ValueError:
        raise Refused(f"what answers at {url} is not Mirepoix; give the address of a release") from None
    if reply.status_code != 200:
        line = told.get("error", {}).get("message") if isinstance(told, dict) else None
        raise Refused(f"the server at {url} declined ({reply.status_code}): {line or 'no reason given'}")
    return told


def shown(reply: dict[str, Any], relevant: set[str] | None = None) -> str:
    """A search's reply as lines of a terminal; with `relevant`, what is right is marked."""
    lines = []
    for result in reply["results"]:
        mark = "" if relevant is None else ("* " if result["id"] in relevant else "  ")
        lines.append(
            f"  {result['rank']:>2}. {mark}{result['score']:.3f}  {result['modality']:<3} {result['id']:<14} {result['text'][:90]}".rstrip()
        )
    note = "   (* answers the query)" if relevant is not None else ""
    return "\n".join([*lines, f"  {len(lines)} results in {reply['took_ms']:.0f} ms, release {reply['release']}{note}"])
