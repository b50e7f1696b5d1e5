"""What Ray Serve is told of an endpoint, whether `mirepoix serve` starts it or a file that `serve deploy` takes. It imports no Ray."""

from typing import Any, Literal

from mirepoix.serving.http.ports import loopback
from mirepoix.serving.serve_config import ServeConfig

APPLICATION, DEPLOYMENT = "mirepoix", "Retriever"
BUILDER = "mirepoix.serving.ray_serve.app:build"
"""What makes the application of a file."""
LOGGING: dict[str, Any] = {"log_level": "WARNING", "enable_access_log": False}
AFTER_TIMEOUT_SECONDS = 10
"""How much later than the guard Ray's proxy gives a request up, so that the guard's own error is the one that is seen."""


def proxy_location(config: ServeConfig) -> Literal["HeadOnly", "EveryNode"]:
    """Where Ray's proxies listen: on other nodes nothing reaches one that listens for its own machine."""
    return "HeadOnly" if loopback(config.host) else "EveryNode"


def http_options(config: ServeConfig) -> dict[str, Any]:
    """How Ray's proxies listen."""
    return {"host": config.host, "port": config.port, "request_timeout_s": config.limits.timeout_s + AFTER_TIMEOUT_SECONDS}
