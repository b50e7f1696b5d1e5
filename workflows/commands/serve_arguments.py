"""The arguments of the command `serve`."""

import argparse
from pathlib import Path
from typing import Any

SERVING = """examples:
  mirepoix serve                                 the latest release of the storage
  mirepoix serve @champion                       a server that follows the alias; one that runs already swaps once
  mirepoix serve RELEASE                         where a server of yours has the port: it swaps to that release, and no request fails
  mirepoix serve --rollback                      that server serves again the release before the present one
  mirepoix serve RELEASE encoders=2 limits.timeout_s=30
  mirepoix serve RELEASE --write serve.yaml; serve deploy serve.yaml
"""


def add_serve(commands: Any, release: str) -> argparse.ArgumentParser:
    """Adds the parser of the command; `release` says how one is named."""
    serve: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="serve a release until Ctrl-C; where a server of yours has the port, in place of the one that it serves",
        epilog=SERVING,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    serve.add_argument("release", metavar="RELEASE", nargs="?", help=f"{release} (default: latest)")
    serve.add_argument("overrides", metavar="NAME=VALUE", nargs="*", help="settings, such as batch.batch_size=64; --settings lists all")
    serve.add_argument("--open", action="store_true", help="open the search page in the browser once it answers")
    serve.add_argument("--host", help="address to listen at (default: 127.0.0.1); others need MIREPOIX_API_KEY or --keys")
    serve.add_argument("--port", type=int, help="port to listen at; 0: any free one (default: 8000)")
    serve.add_argument("--encoders", type=int, help="encoders: child processes here, replicas on Ray Serve (default: 1)")
    serve.add_argument("--keys", metavar="FILE", help="the keys that requests must carry, as `mirepoix keys` writes them")
    serve.add_argument("--tiktoken", metavar="FILE", help="OpenAI's cl100k_base.tiktoken, to read arrays of token ids by")
    what = "where memory does not hold both releases, close the old one before opening the new one; requests wait"
    serve.add_argument("--pause", action="store_true", help=what)
    what = "address of an OpenTelemetry collector (default: OTEL_EXPORTER_OTLP_ENDPOINT, or none)"
    serve.add_argument("--traces", metavar="URL", help=what)
    serve.add_argument("--rollback", action="store_true", help="serve again the release before the present one")
    serve.add_argument("--config", type=Path, metavar="FILE", help="settings as YAML, as --settings prints them")
    serve.add_argument("--settings", action="store_true", help="print every setting with its help, and serve nothing")
    serve.add_argument(
        "--write", type=Path, metavar="FILE", help="write a file for `serve deploy` of Ray Serve with these settings, and serve nothing"
    )
    serve.add_argument("--local", action="store_true", help="on this machine without a cluster; this is the default without --address")
    serve.add_argument("--ray", action="store_true", help="on Ray Serve, on a private cluster where no address is given")
    serve.add_argument("--address", help="HOST:6379 of a Ray head to serve on; default: RAY_ADDRESS")
    return serve
