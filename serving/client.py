"""Asking a served release, as the command line and the demo do."""

from typing import Any

import httpx

from mirepoix.models.errors import Refused


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
