"""Serves a release on Ray Serve: ingress -> encoder replicas (dynamic batches) -> index replicas, started and stopped together."""

import errno
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import httpx
import numpy as np
import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.serve.context import _get_global_client
from ray.serve.schema import LoggingConfig

from mirepoix.models.errors import Refused
from mirepoix.models.item import Modality
from mirepoix.serving.http.api import About
from mirepoix.serving.http.cl100k import Cl100k
from mirepoix.serving.http.client import KEY
from mirepoix.serving.release import Release, open_release
from mirepoix.serving.replicas import EncoderReplica, IndexReplica, IngressReplica
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.serving.store import absolute

APPLICATION = "mirepoix"
PORTS = 5
"""How many ports are tried where any will do: another process may take the free one that was chosen before Serve listens there."""
SHUTDOWN_SECONDS = 30.0
"""How long Serve's controller has to end, as in Serve's own call."""


@dataclass(frozen=True)
class Server:
    """A release that is being served."""

    url: str
    name: str
    version: str

    def stop(self) -> None:
        """Stops serving the release, and shuts Serve down if it serves nothing else."""
        with _quiet():
            if APPLICATION in serve.status().applications:
                serve.delete(APPLICATION)
            if not serve.status().applications:
                _shut_down()


def start(target: str, config: ServeConfig, api_key: str | None = None, stored: str | None = None) -> Server:
    """Serves the release at a path or URI on the connected Ray cluster, in place of an earlier one; returns when it answers.

    While it is served, its storage has a record of that, for `mirepoix gc`; of a copy, `stored` says where the release lies itself.
    Requests must carry `api_key`, or else the environment's MIREPOIX_API_KEY; if neither is set, no key is required.
    """
    assert ray.is_initialized(), "connect to a Ray cluster first"
    api_key = api_key or os.environ.get(KEY)
    address = _serve_address()
    running = address is not None
    for host in (config.host, address[0] if address else config.host):
        if not api_key and not _loopback(host):
            raise Refused(f"host {host} is reachable from other machines and no key is set; set {KEY}, or serve on 127.0.0.1")
    if config.limits.tiktoken:
        Cl100k.open(config.limits.tiktoken)  # refused here, before anything is started
    any_port = not config.port and not running
    if not config.port:
        config = replace(config, port=address[1] if address else _free_port(config.host))
    release = open_release(target)
    release.refuse_code(config.trust_remote_code)
    check_port(config, running)
    about = About(release.name, release.version, release.widths, release.instructions, _documents(release))
    try:
        with _quiet():
            config = _open_port(config, PORTS if any_port else 1)
            if running:  # a release that would not start does not take the place of one that runs
                ray.get(_verify.remote(target, config.trust_remote_code))
            serve.run(
                _application(target, about, config, api_key, absolute(stored or target)),
                name=APPLICATION,
                route_prefix="/",
                logging_config=_LOGGING,
            )
        _await_health(config, release.version)
    except (RuntimeError, RayError, TimeoutError) as error:
        opening_error = None
        if not running:
            serve.shutdown()
            opening_error = _opening_error(target, config.trust_remote_code)
        raise _refusal(opening_error or error, release.name) from error
    return Server(_url(config), release.name, release.version)


def _shut_down() -> None:
    """Shuts Serve down; its controller is ended by a call of our own first.

    The controller ends while it is in that call. Serve lets Ray repeat its own one, so Ray would print that the task has failed.
    """
    client = _get_global_client(raise_if_no_controller_running=False)
    if client is not None:
        with suppress(RayActorError, GetTimeoutError):  # Serve's own call, which follows, warns of a controller that does not end
            ray.get(client._controller.graceful_shutdown.options(max_task_retries=0).remote(), timeout=SHUTDOWN_SECONDS)
    serve.shutdown()


@contextmanager
def _quiet() -> Iterator[None]:
    """Serve's log in this process at level WARNING, within the block."""
    log = logging.getLogger("ray.serve")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(before)


_LOGGING = LoggingConfig(enable_access_log=False, log_level="WARNING")


def _application(target: str, about: About, config: ServeConfig, api_key: str | None, stored: str) -> serve.Application:
    waiting = config.limits.max_in_flight
    encoder = serve.deployment(
        name="Encoder",
        num_replicas=config.encoders,
        ray_actor_options={"num_cpus": config.encoder_cpus, "num_gpus": config.encoder_gpus},
        max_ongoing_requests=2 * config.batch_size,
        max_queued_requests=waiting,
    )(EncoderReplica).bind(target, config.batch_size, config.batch_wait_s, config.trust_remote_code)
    index = serve.deployment(
        name="Index",
        num_replicas=config.indexes,
        ray_actor_options={"num_cpus": 0.5},
        max_ongoing_requests=16,
        max_queued_requests=waiting,
    )(IndexReplica).bind(target, (stored, _url(config)))
    # The guard refuses excess requests with the API's own error; Serve's limit is higher, so that it is never reached first.
    return serve.deployment(
        name="Ingress",
        num_replicas=config.ingresses,
        ray_actor_options={"num_cpus": 0.25},
        max_ongoing_requests=4 * waiting,
    )(IngressReplica).bind(about, config.limits, api_key, config.batch_size, encoder, index)


def _documents(release: Release) -> dict[str, int]:
    """How many documents a release has of each modality, by its letters."""
    codes, counts = np.unique(release.items()["modality"].to_numpy(), return_counts=True)
    return {Modality(code).letters: count for code, count in zip(codes.tolist(), counts.tolist(), strict=True)}


def _url(config: ServeConfig) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _serve_address() -> tuple[str, int] | None:
    """Host and port of the cluster's Serve, if it runs; it may have been started by an earlier job."""
    if not serve.status().proxies:
        return None
    client = _get_global_client()
    assert client is not None  # it raises where no Serve runs
    options = client.http_config
    return options.host, options.port


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def check_port(config: ServeConfig, running: bool) -> None:
    """Refuses a port that is in use, and one that differs from that of a running Serve, which listens at a single port."""
    if running:
        try:
            httpx.get(f"{_url(config)}/-/routes", timeout=5).raise_for_status()
        except httpx.HTTPError:
            raise Refused(f"this cluster's Serve does not listen at port {config.port}; give its --port, or stop it first") from None
        return
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((config.host, config.port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Refused(f"port {config.port} is in use; stop what listens there, or give another --port") from None
            raise Refused(
                f"the server cannot listen on {config.host}:{config.port} ({error.strerror}); give another host or port"
            ) from None


def _open_port(config: ServeConfig, tries: int) -> ServeConfig:
    """Starts Serve at the port; where it was chosen here and another process took it meanwhile, at another one, which is returned."""
    location = "HeadOnly" if _loopback(config.host) else "EveryNode"
    while True:
        http = {"host": config.host, "port": config.port, "request_timeout_s": config.limits.timeout_s + 10}
        try:
            serve.start(proxy_location=location, http_options=http, logging_config=_LOGGING)
        except (RuntimeError, RayError) as error:
            tries -= 1
            if not tries or "Failed to bind" not in str(error):
                raise
            serve.shutdown()
            config = replace(config, port=_free_port(config.host))
        else:
            return config


@ray.remote(num_cpus=0)
def _verify(target: str, trust_remote_code: bool) -> None:
    """Opens the encoder in a task, on a CPU; refused unless it reproduces the golden vectors, as a replica would refuse to start."""
    open_release(target).open_encoder(trust_remote_code=trust_remote_code)


def _opening_error(target: str, trust_remote_code: bool) -> Exception | None:
    """Why a release cannot be opened; None if it can. Of a replica that did not start, Serve gives a traceback as text."""
    try:
        ray.get(_verify.remote(target, trust_remote_code))
    except RayError as error:
        return error
    return None


def _refusal(error: Exception, name: str) -> Refused:
    cause = getattr(error, "cause", None)
    last_line = str(error).strip().splitlines()[-1].strip()
    return cause if isinstance(cause, Refused) else Refused(f"release {name} did not start: {last_line}")


def _await_health(config: ServeConfig, version: str) -> None:
    """Waits until the release of this version answers."""
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
