"""The result of `deploy`: the URL of the endpoint, and the release that it serves."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RECEIPT = "endpoint.json"


@dataclass(frozen=True)
class Receipt:
    """An endpoint that was started."""

    url: str
    release: str  # the version that it serves
    name: str

    def write(self, folder: Path) -> None:
        (folder / RECEIPT).write_text(json.dumps(asdict(self), indent=2, sort_keys=True) + "\n")


def read_receipt(folder: Path) -> Receipt:
    return Receipt(**json.loads((folder / RECEIPT).read_text()))


def still_served(folder: Path, _: Any) -> bool:
    """Whether the endpoint of the receipt in a folder answers; the runner calls it before it skips `deploy`."""
    return answers(read_receipt(folder))


def answers(receipt: Receipt) -> bool:
    """Whether the endpoint of a receipt answers and serves that release."""
    import httpx  # here, because a plan needs it only for a release that was deployed before

    try:
        reply = httpx.get(f"{receipt.url}/health", timeout=3)
        return reply.status_code == 200 and reply.json().get("release") == receipt.release
    except (httpx.HTTPError, ValueError):
        return False
