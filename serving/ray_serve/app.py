"""Serves a release on Ray Serve: replicas of the application behind Ray's HTTP proxy, started, swapped and stopped.

A release takes the place of another one in the replicas that run: each opens it beside the one that answers, and proves it by its golden
vectors; where all have, each changes one reference. The `user_config` of the deployment then names the new release, for replicas that start
later.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import ray
from ray import serve
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.serve.context import _get_global_client
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from mirepoix.models.errors import Refused, typed_line
from mirepoix.models.options import revive
from mirepoix.serving.engine.memory import shortest
from mirepoix.serving.engine.telemetry.tracing import traces_endpoint
from mirepoix.serving.http.cl100k import open_table
from mirepoix.serving.http.client import KEY
from mirepoix.serving.http.keys import open_keys
from mirepoix.serving.http.ports import free_port, listening, refuse_open
from mirepoix.serving.ray_serve.deployment import APPLICATION, DEPLOYMENT, LOGGING, http_options, proxy_location
from mirepoix.serving.ray_serve.replicas import Place, Prepared, Replica
from mirepoix.serving.release import open_release
from mirepoix.serving.serve_config import ServeConfig
from mirepoix.serving.store import absolute

_LOG = logging.getLogger("ray.serve")
HEALTH_SECONDS = 1.0
"""How often Serve looks whether a replica is there: only then is a new one started in the place of one that died. Its default is 10 s."""
PORTS = 5
"""How many ports are tried where any will do: another process may take the free one that was chosen before Serve listens there."""
NONE_THERE = "no replica is there to prove the release; try again when one is, or stop the endpoint and start it with this release"
SHUTDOWN_SECONDS = 30.0
"""How long Serve's controller has to end, as in Serve's own call."""


@dataclass(frozen=True)
class Server:
    """A release that is being served."""

    url: str
    name: str
    version: str
    pause_s: float = 0.0  # of a swap: the seconds in which a replica answered nothing

    def stop(self) -> None:
        """Stops serving the release, and shuts Serve down if it serves nothing else."""
        with _quiet():
            if APPLICATION in serve.status().applications:
                serve.delete(APPLICATION)
            if not serve.status().applications:
                _shut_down()


def start(
    target: str,
    config: ServeConfig,
    api_key: str | None = None,
    stored: str | None = None,
    pause: bool = False,
    say: Callable[[str], None] = lambda line: None,
    pause_by: str = "--pause",
) -> Server:
    """Serves the release at a path or URI on the connected Ray cluster, and returns when it answers; another one that is served is swapped.

    Where memory does not hold both, a swap is refused unless `pause` is given; `pause_by`: how the user can give it, for the refusal.
    While it is served, its storage has a record of that, for `mirepoix gc`; of a copy, `stored` says where the release lies itself.
    Requests must carry `api_key`, or else the environment's MIREPOIX_API_KEY; if neither is set, no key is required.
    """
    assert ray.is_initialized(), "connect to a Ray cluster first"
    api_key = api_key or os.environ.get(KEY)
    address = _serve_address()
    running = address is not None
    for host in (config.host, address[0] if address else config.host):
        refuse_open(host, open_keys(config.keys, api_key) is not None)
    open_table(config.limits.tiktoken)  # refused here, before anything is started
    traces_endpoint(config.traces)
    any_port, pause_s = not config.port and not running, 0.0
    if not config.port:
        config = replace(config, port=address[1] if address else free_port(config.host))
    target, lies = absolute(target), absolute(stored or target)  # replicas run in other folders
    release = open_release(target)
    release.refuse_code(config.trust_remote_code)
    check_port(config, running)
    try:
        with _quiet():
            config = _open_port(config, PORTS if any_port else 1)
            if running and APPLICATION in serve.status().applications:
                pause_s = _change(target, lies, pause, say, pause_by)
            elif running:  # a release that would not start does not open the port of another application's Serve
                ray.get(_verify.remote(target, config.trust_remote_code))
            served = application({"release": target, "stored": lies}, config, api_key)
            serve.run(served, name=APPLICATION, route_prefix="/", logging_config=_LOGGING)
        _await_health(config, release.version)
    except (RuntimeError, RayError, RayServeException, TimeoutError) as error:
        opening_error = None
        if not running:
            serve.shutdown()
            opening_error = _opening_error(target, config.trust_remote_code)
        raise _refusal(opening_error or error, release.name) from error
    return Server(config.url, release.name, release.version, pause_s)


def _replicas() -> DeploymentHandle[Any]:
    return serve.get_deployment_handle(DEPLOYMENT, APPLICATION)


def _change(target: str, stored: str, pause: bool, say: Callable[[str], None], pause_by: str = "--pause") -> float:
    """Opens and proves a release in every replica, beside the one that answers; where one refuses, all forget it, else all change over.

    Serve would have them change one after the other, in which time a client would be answered now by the one release, now by the other.
    Returns the seconds in which a replica answered nothing.
    """
    places: list[Place] = _tell_all("place", target)
    others = [place for place in places if place.target != target]
    if (short := shortest(room for place in others for room in place.rooms)) is not None:
        if not pause:
            raise short.refusal(pause_by)
        say(short.pause)
        return _replace(target, stored, others)
    say("every replica opens the release beside the one that answers")
    try:
        prepared: list[Prepared] = _tell_all("prepare", target, stored)
        if refusals := [each.refusal for each in prepared if each.refusal]:
            raise Refused(refusals[0])
    except BaseException:  # Ctrl-C too, or the replicas that opened it would keep it
        _undo("forget", target)
        raise
    if not prepared:
        raise Refused(NONE_THERE)
    try:
        _tell_all("switch", target)
    except BaseException:  # one that was started meanwhile may not open the release
        if others:
            _undo("switch", others[0].target)
        raise
    return 0.0


def _replace(target: str, stored: str, places: Sequence[Place]) -> float:
    """Puts a release in the place of the one that answers, first in one replica, which proves it, and then in all others at once.

    Returns the longest pause of a replica. Where one refuses, all have the release before again.
    """
    first, before = places[0].replica, places[0].target
    paused: list[Prepared] = []
    try:
        for only, but in ((first, ""), ("", first)):
            paused += _tell_all("replace", target, stored, only, but)
            if refusals := [each.refusal for each in paused if each.refusal]:
                raise Refused(refusals[0])
    except BaseException:  # Ctrl-C too, or some would serve the one release, and some the other
        _undo("replace", before)
        raise
    if not paused:
        raise Refused(NONE_THERE)
    return max(each.pause_s for each in paused)


def _undo(method: str, *arguments: str) -> None:
    """Takes back what replicas were told, because of an error that is raised; where this fails too, the log says so."""
    try:
        _tell_all(method, *arguments)
    except Exception as error:  # noqa: BLE001 what is raised is the error before
        _LOG.error("replicas may differ: %s failed after a swap that was refused (%s); swap again", method, typed_line(error))


def _tell_all(method: str, *arguments: str) -> list[Any]:
    """What all replicas answer to a call; of one that has died nothing, for its successor is told by the `user_config`."""
    try:
        results = _replicas().broadcast(method, *arguments).results(return_exceptions=True)
    except DeploymentUnavailableError:  # there is no replica
        return []
    for result in results:
        if isinstance(result, Exception) and not isinstance(result, RayActorError):
            raise result
    return [result for result in results if not isinstance(result, RayActorError)]


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
    before = _LOG.level
    _LOG.setLevel(logging.WARNING)
    try:
        yield
    finally:
        _LOG.setLevel(before)


_LOGGING = LoggingConfig(**LOGGING)


def build(arguments: dict[str, Any]) -> serve.Application:
    """The application of a file for `serve deploy`, by its `args`: as `config` the settings that are not the defaults.

    The release is not among them, for other args start the replicas anew. It is in the `user_config` of the deployment: another one there,
    deployed again, is a swap, and each replica changes over once it has proved it.
    """
    if unknown := set(arguments) - {"config"}:
        raise Refused(f"args take config, and {', '.join(sorted(unknown))} is unknown; the release is in user_config of {DEPLOYMENT}")
    config: ServeConfig = revive(ServeConfig, arguments.get("config") or {})
    api_key = os.environ.get(KEY)
    refuse_open(config.host, bool(config.keys or api_key))
    return application({}, config, api_key)


def application(settings: dict[str, str], config: ServeConfig, api_key: str | None) -> serve.Application:
    """The application on Ray Serve: replicas that are told by `settings`, their `user_config`, which release they serve."""
    scaling: dict[str, Any] = {"num_replicas": config.encoders}
    if config.most_encoders > config.encoders:
        bounds = {"min_replicas": config.encoders, "max_replicas": config.most_encoders, "target_ongoing_requests": config.ongoing}
        scaling = {"autoscaling_config": {"initial_replicas": config.encoders, **bounds}}
    deployment = serve.deployment(
        name=DEPLOYMENT,
        **scaling,
        ray_actor_options={"num_cpus": config.encoder_cpus, "num_gpus": config.encoder_gpus},
        # The guard refuses excess requests with the API's own error; Serve's limit is higher, so that it is never reached first.
        max_ongoing_requests=4 * config.limits.max_in_flight + config.limits.max_reading,
        user_config=settings,
        graceful_shutdown_timeout_s=config.limits.timeout_s,
        health_check_period_s=HEALTH_SECONDS,
        max_surge_percent=100 if _has_room(config) else 0,
    )(Replica)
    # Serve restarts replicas of another version, and gives each deployment a random one: it has no public option for that.
    return deployment.options(_internal=True, version=_restart_version(config, api_key)).bind(config, api_key)


def _restart_version(config: ServeConfig, api_key: str | None) -> str:
    """A digest of what replicas are started with: where it is the same, they go on, with another release or another number of them."""
    scaled = replace(config, encoders=1, most_encoders=0, ongoing=1.0, start_timeout_s=1.0)
    told = json.dumps({"config": asdict(scaled), "key": api_key}, sort_keys=True, default=str).encode()
    return hashlib.sha256(told + _code()).hexdigest()


def _code() -> bytes:
    """A digest of the code of a replica, which another version of this package has otherwise."""
    package = Path(__file__).parents[1]
    files = sorted(file for folder in (package, package.with_name("models")) for file in folder.rglob("*.py"))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).digest()


def _has_room(config: ServeConfig) -> bool:
    """Whether replicas with other settings, or of other code, can be started before those that run are stopped."""
    free = ray.available_resources()
    wanted = {"CPU": config.encoder_cpus, "GPU": config.encoder_gpus}
    return all(config.encoders * each <= free.get(name, 0.0) for name, each in wanted.items())


def _serve_address() -> tuple[str, int] | None:
    """Host and port of the cluster's Serve, if it runs; it may have been started by an earlier job."""
    if not serve.status().proxies:
        return None
    client = _get_global_client()
    assert client is not None  # it raises where no Serve runs
    options = client.http_config
    return options.host, options.port


def check_port(config: ServeConfig, running: bool) -> None:
    """Refuses a port that is in use, and one that differs from that of a running Serve, which listens at a single port."""
    if running:
        try:
            httpx.get(f"{config.url}/-/routes", timeout=5).raise_for_status()
        except httpx.HTTPError:
            raise Refused(f"this cluster's Serve does not listen at port {config.port}; give its --port, or stop it first") from None
        return
    listening(config.host, config.port).close()


def _open_port(config: ServeConfig, tries: int) -> ServeConfig:
    """Starts Serve at the port; where it was chosen here and another process took it meanwhile, at another one, which is returned."""
    while True:
        try:
            serve.start(proxy_location=proxy_location(config), http_options=http_options(config), logging_config=_LOGGING)
        except (RuntimeError, RayError) as error:
            tries -= 1
            if not tries or "Failed to bind" not in str(error):
                raise
            serve.shutdown()
            config = replace(config, port=free_port(config.host))
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
    last_line = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
    return cause if isinstance(cause, Refused) else Refused(f"release {name} did not start: {last_line}")


def _await_health(config: ServeConfig, version: str) -> None:
    """Waits until the release of this version answers."""
    end = time.monotonic() + config.start_timeout_s
    while time.monotonic() < end:
        try:
            reply = httpx.get(f"{config.url}/health", timeout=10)
            if reply.status_code == 200 and reply.json().get("release") == version:
                return
        except (httpx.HTTPError, ValueError):
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{config.url}/health did not answer within {config.start_timeout_s:g} seconds")
