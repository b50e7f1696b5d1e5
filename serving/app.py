"""A release on Ray Serve: ingress -> encoder replicas (dynamic batches) -> index replicas; started, swapped and stopped as one."""

import errno
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import httpx
import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.context import _get_global_client
from ray.serve.schema import LoggingConfig

from mirepoix.models.errors import Refused
from mirepoix.models.options import option
from mirepoix.serving.http.api import About
from mirepoix.serving.http.client import KEY
from mirepoix.serving.http.schemas import Limits
from mirepoix.serving.release import open_release
from mirepoix.serving.replicas import EncoderReplica, IndexReplica, IngressReplica, verified_encoder

APPLICATION = "mirepoix"


@dataclass(frozen=True)
class ServeConfig:
    """Where a release is served, by how many, and what a request may cost."""

    host: str = option("127.0.0.1", "address to listen at; one beyond this machine needs a key")
    port: int = option(8000, "port to listen at; 0: the one at which the cluster's Serve listens already, else any free one")
    encoders: int = option(1, "encoder replicas")
    indexes: int = option(1, "index replicas, each with the whole index")
    ingresses: int = option(1, "ingress replicas")
    encoder_cpus: float = option(1.0, "CPUs of an encoder replica")
    encoder_gpus: float = option(0.0, "GPUs of an encoder replica")
    batch_size: int = option(32, "most items that are encoded together")
    batch_wait_s: float = option(0.005, "seconds that an item waits for company")
    start_timeout_s: float = option(300.0, "seconds until a server that does not answer is given up")
    limits: Limits = field(default_factory=Limits, metadata={"help": "what one request may cost"})

    def __post_init__(self) -> None:
        if min(self.encoders, self.indexes, self.ingresses, self.batch_size) < 1:
            raise Refused("encoders, indexes, ingresses and batch_size start at 1")
        if not 0 <= self.port < 65536:
            raise Refused(f"port is {self.port}; give one from 1 to 65535, or 0 for any free one")


@dataclass(frozen=True)
class Server:
    """A release that is being served."""

    url: str
    name: str
    version: str

    def stop(self) -> None:
        """Takes the release down, and Serve with it where nothing else is served."""
        with _hushed():
            if APPLICATION in serve.status().applications:
                serve.delete(APPLICATION)
            if not serve.status().applications:
                serve.shutdown()


def start(target: str, config: ServeConfig, api_key: str | None = None) -> Server:
    """Serves the release at a path or URI on the Ray cluster at hand, in place of the one that was; returns when it answers.

    The key that requests must carry is `api_key`, or the environment's MIREPOIX_API_KEY; without either, none is asked for.
    """
    assert ray.is_initialized(), "connect to a Ray cluster first"
    api_key = api_key or os.environ.get(KEY)
    there = _where_serve_listens()
    running = there is not None
    for host in (config.host, there[0] if running else config.host):
        if not api_key and not _loopback(host):
            raise Refused(f"host {host} is open to others and no key is set; set {KEY}, or serve on 127.0.0.1")
    if not config.port:
        config = replace(config, port=there[1] if running else _free_port(config.host))
    release = open_release(target)
    check_port(config, running)
    rehearsal = _verify.remote(target)
    about = About(release.name, release.version, release.widths, release.instructions)
    try:
        with _hushed():
            _open_port(config)
            ray.get(rehearsal)
            serve.run(_application(target, about, config, api_key), name=APPLICATION, route_prefix="/", logging_config=_LOGGING)
        _await_health(config, release.version)
    except (RuntimeError, RayError, TimeoutError) as error:
        if not running:
            serve.shutdown()
        raise _refusal(error, release.name) from error
    return Server(_url(config), release.name, release.version)


@contextmanager
def _hushed() -> Iterator[None]:
    """Serve's log in this process without its notices, for a block."""
    log = logging.getLogger("ray.serve")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


_LOGGING = LoggingConfig(enable_access_log=False, log_level="WARNING")


def _application(target: str, about: About, config: ServeConfig, api_key: str | None) -> serve.Application:
    waiting = config.limits.max_in_flight
    encoder = serve.deployment(
        EncoderReplica,
        name="Encoder",
        num_replicas=config.encoders,
        ray_actor_options={"num_cpus": config.encoder_cpus, "num_gpus": config.encoder_gpus},
        max_ongoing_requests=2 * config.batch_size,
        max_queued_requests=waiting,
    ).bind(target, config.batch_size, config.batch_wait_s)
    index = serve.deployment(
        IndexReplica,
        name="Index",
        num_replicas=config.indexes,
        ray_actor_options={"num_cpus": 0.5},
        max_ongoing_requests=16,
        max_queued_requests=waiting,
    ).bind(target)
    # The door turns away what is too much, in the API's own words; Serve's limit stands beyond it.
    return serve.deployment(
        IngressReplica,
        name="Ingress",
        num_replicas=config.ingresses,
        ray_actor_options={"num_cpus": 0.25},
        max_ongoing_requests=4 * waiting,
    ).bind(about, config.limits, api_key, config.batch_size, encoder, index)


def _url(config: ServeConfig) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _where_serve_listens() -> tuple[str, int] | None:
    """Host and port of the cluster's Serve, if it runs; it outlives the job that started it."""
    if not serve.status().proxies:
        return None
    options = _get_global_client().http_config
    return options.host, options.port


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def check_port(config: ServeConfig, running: bool) -> None:
    """Refuses a port that others hold, and a second port: Serve listens at one, chosen when it starts."""
    if running:
        try:
            httpx.get(f"{_url(config)}/-/routes", timeout=5).raise_for_status()
        except httpx.HTTPError:
            raise Refused(f"this cluster's Serve does not listen at port {config.port}; give --port as it was, or stop it first") from None
        return
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Refused(f"port {config.port} is in use; stop what listens there, or give another with --port") from None
            raise Refused(f"{config.host}:{config.port} cannot be listened at ({error.strerror}); give another host or port") from None


def _open_port(config: ServeConfig) -> None:
    location = "HeadOnly" if _loopback(config.host) else "EveryNode"
    http = {"host": config.host, "port": config.port, "request_timeout_s": config.limits.timeout_s + 10}
    serve.start(proxy_location=location, http_options=http, logging_config=_LOGGING)


@ray.remote(num_cpus=0)
def _verify(target: str) -> None:
    """Checks the golden vectors aside, on a CPU: a release that would not start must not take the place of one that runs."""
    verified_encoder(open_release(target))


def _refusal(error: Exception, name: str) -> Refused:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, Refused) else Refused(f"release {name} did not start: {str(error).strip().splitlines()[-1]}")


def _await_health(config: ServeConfig, version: str) -> None:
    """Returns when the release of this version answers."""
    end = time.monotonic() + config.start_timeout_s
    while time.monotonic() < end:
        try:
            reply = httpx.get(f"{_url(config)}/health", timeout=10)
            if reply.status_code == 200 and reply.json().get("release") == version:
                return
        except (httpx.HTTPError, ValueError):
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{_url(config)}/health did not answer within {config.start_timeout_s:g} seconds")
