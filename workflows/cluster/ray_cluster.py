"""The Ray cluster of a run: a private one, or one that is already up.

A private cluster leaves nothing on the host. Its token, logs and spilled objects are in one folder that only its user may enter; Ray makes
its temporary folder readable for everybody, so it is inside that one. A janitor removes the folder when the driver has ended. If both are
killed, the next driver removes it: a driver holds a file lock in its folder as long as it lives.
"""

import fcntl
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import ray
from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # compiled
from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest  # type: ignore[attr-defined]  # made when imported
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
from ray.exceptions import AuthenticationError

from mirepoix.models.errors import Refused, first_line
from mirepoix.serving.serve_config import MIDDLEWARES, PROXY_CALLBACK
from mirepoix.workflows.cluster.janitor import LOCK, MARK, clear, end
from mirepoix.workflows.cluster.machine import LEAST_CPUS
from mirepoix.workflows.cluster.shipped_code import code_root, stage_code
from mirepoix.workflows.storage import JOB_VARIABLE

PREFIX = "mirepoix-ray-"
LONGEST_FOLDER = 38
"""Longest path of the folder: the names of Ray's sockets in it must fit in 107 bytes."""
STORE_SHARE, LEAST_STORE = 1 / 100, 200_000_000
"""Share of the machine's memory for Ray's object store, and its floor in bytes: stages hand folders on, so little is stored there."""
START_TRIES = 3
NOT_UP = (Exception, RuntimeError, ConnectionError, TimeoutError)
"""The exact types of what `ray.init` raises when its processes are not up in time; Ray has no class of its own for that."""
PROXY_READY, PROXY_READY_SECONDS = "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60"
"""After so many seconds Ray Serve kills a proxy that is still starting, and begins anew; 5 s, its default, are too few under load."""
PROXY_CALLS = {"RAY_SERVE_PROXY_USE_GRPC": "1", "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1)}
"""Ray Serve's proxy calls replicas by gRPC, which takes less CPU time than calls of actors. A reply beyond Serve's limit of 4 MB for a
message would be lost, so the limit is gRPC's own."""
CONNECT_SECONDS = 5.0
TOKEN_ADVICE = "set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's own token"


@contextmanager
def environment(**variables: str | None) -> Iterator[None]:
    """Sets environment variables for a block, or with None unsets them, and restores them afterwards."""
    before = {name: os.environ.get(name) for name in variables}
    _set(variables)
    try:
        yield
    finally:
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def authentication(**variables: str | None) -> Iterator[None]:
    """Environment variables for a block, with Ray's authentication read from them: Ray caches what it read first, so the cache is reset."""
    try:
        with environment(**variables):
            Config.initialize("")
            AuthenticationTokenLoader.instance().reset_cache()
            yield
    finally:
        Config.initialize("")
        AuthenticationTokenLoader.instance().reset_cache()


def _short_temporary_root() -> Path:
    """The system's folder for temporary files, or /tmp where that one is too deep for a socket name."""
    root = Path(tempfile.gettempdir())
    return root if len(str(root)) + len(PREFIX) + 18 <= LONGEST_FOLDER + 8 else Path("/tmp")


def _new_folder() -> tuple[Path, int]:
    """A private folder and the descriptor that holds its lock; the lock is taken before it gets its name, so no sweep comes between."""
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=_short_temporary_root()))
    held = os.open(folder / f"{LOCK}.new", os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    os.rename(folder / f"{LOCK}.new", folder / LOCK)
    return folder, held


def sweep() -> list[Path]:
    """Remove the private folders of this user whose driver is dead; returns them."""
    removed = []
    for folder in _short_temporary_root().glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or folder.stat().st_uid != os.getuid():
                continue
            held = os.open(folder / LOCK, os.O_RDWR)
        except FileNotFoundError:  # just made, or removed by another sweep
            continue
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            clear(folder)
            removed.append(folder)
        finally:
            os.close(held)
    return removed


@contextmanager
def private_cluster(num_cpus: int | None = None) -> Iterator[str]:
    """A Ray cluster of our own on this machine, yielded by its address; while it is up children find it through RAY_ADDRESS."""
    assert not ray.is_initialized(), "this process already uses a Ray cluster"
    sweep()
    folder, held = _new_folder()
    janitor = subprocess.Popen(
        [sys.executable, "-I", "-S", Path(__file__).with_name("janitor.py"), folder], stdin=subprocess.PIPE, start_new_session=True
    )
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    paths = [str(code_root()), os.environ.get("PYTHONPATH", "")]
    try:
        with authentication(
            RAY_ADDRESS=None,
            RAY_AUTH_MODE="token",
            RAY_AUTH_TOKEN=None,
            RAY_AUTH_TOKEN_PATH=str(token),
            RAY_USAGE_STATS_ENABLED="0",
            # Idle workers keep what they imported, half a gigabyte each; a new one is there in a second or two.
            RAY_num_workers_soft_limit="0",
            # A worker starts when there is a task for it: Ray would start one for each CPU at once, most of which end idle after a second.
            RAY_prestart_worker_first_driver="0",
            # Off: Ray pins the lineage of objects, and with it the stage's worker, to reconstruct what a lost node had; here is one node.
            RAY_lineage_pinning_enabled="0",
            # One heap: Ray trains in a thread, and the large tensors of a batch fragment the heaps that the C library gives each thread.
            MALLOC_ARENA_MAX="1",
            # jemalloc returns freed memory to the system; with the default a curating process holds twice as much.
            ARROW_DEFAULT_MEMORY_POOL="jemalloc" if "jemalloc" in pa.supported_memory_backends() else None,
            RAY_worker_maximum_startup_concurrency="4",
            PYTHONPATH=os.pathsep.join(path for path in paths if path),  # workers import us from wherever the driver did
        ):
            try:
                _start(folder, num_cpus or max(LEAST_CPUS, os.cpu_count() or 1))
                address = ray.get_runtime_context().gcs_address
                with environment(RAY_ADDRESS=address):
                    yield address
            finally:
                ray.shutdown()
    finally:
        janitor.communicate()
        os.close(held)


@contextmanager
def kept_sigterm() -> Iterator[None]:
    """What this process does on SIGTERM stays: starting Ray installs a handler that prints a stack trace and ends the process at once."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


def _start(folder: Path, num_cpus: int) -> None:
    """`ray.init` in a folder, tried again where Ray's processes are not up within 30 s; no setting of Ray changes these."""
    for attempt in range(1, START_TRIES + 1):
        try:
            with kept_sigterm(), environment(**{MARK: str(folder)}, **_serve_environment()):
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    object_store_memory=max(LEAST_STORE, int(_memory_of_the_machine() * STORE_SHARE)),
                    include_dashboard=False,
                    logging_level=logging.WARNING,
                    log_to_driver=False,
                    _temp_dir=str(folder / "ray"),
                )
            return
        except Exception as error:
            if type(error) not in NOT_UP:
                raise
            ray.shutdown()
            end(folder)  # Ray does not end the processes that started until this one exits
            shutil.rmtree(folder / "ray", ignore_errors=True)
            happened = f"({_one_line(error)}); the load average is {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs"
            if attempt == START_TRIES:
                raise Refused(
                    f"Ray did not start in {START_TRIES} tries {happened}; run the same command again when the machine is less busy, "
                    "or give --address or RAY_ADDRESS of a cluster that is up"
                ) from error
            print(f"Ray did not start {happened}; trying again, {attempt + 1} of {START_TRIES}", file=sys.stderr, flush=True)


def _serve_environment() -> dict[str, str]:
    """What Ray Serve reads from the environment when its processes start, where the user has set nothing."""
    ours = {PROXY_READY: PROXY_READY_SECONDS, PROXY_CALLBACK: MIDDLEWARES, **PROXY_CALLS}
    return {name: os.environ.get(name, value) for name, value in ours.items()}


def _memory_of_the_machine() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@contextmanager
def connect(address: str | None = None) -> Iterator[str]:
    """The cluster at an address or at RAY_ADDRESS, given by its address; refused in seconds if it does not answer or rejects the token."""
    if ray.is_initialized():
        yield ray.get_runtime_context().gcs_address
        return
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        raise Refused("no Ray cluster was given; give --address HOST:6379 or set RAY_ADDRESS, or leave both out for a private cluster")
    if "://" in address:
        raise Refused(
            f"cannot run on {address!r}: a run connects to the head's own port, HOST:6379, from a machine of the cluster; "
            "from any other machine use `mirepoix submit RECIPE --address http://HEAD:8265`"
        )
    if address != "auto":
        _probe(address)
    with tempfile.TemporaryDirectory(prefix="mirepoix-code-") as staging:
        shipped: dict[str, Any] = {} if JOB_VARIABLE in os.environ else {"working_dir": str(stage_code(Path(staging)))}
        shipped = {**shipped, "env_vars": {PROXY_CALLBACK: os.environ.get(PROXY_CALLBACK, MIDDLEWARES)}}
        try:
            with kept_sigterm(), environment(RAY_ADDRESS=None):
                ray.init(address=address, runtime_env=shipped, logging_level=logging.WARNING)
        except (ConnectionError, AuthenticationError) as error:
            raise Refused(f"cannot connect to the Ray cluster at {address!r}: {_one_line(error)}; {TOKEN_ADVICE}") from error
    try:
        joined = ray.get_runtime_context().gcs_address
        with environment(RAY_ADDRESS=joined):
            yield joined
    finally:
        ray.shutdown()


def _probe(address: str) -> None:
    """Ask a head for its name, as Ray would; Ray itself tries for 20 s and then ends the whole process."""
    with refusals_of_head(address), grpc.insecure_channel(address) as channel:
        NodeInfoGcsServiceStub(channel).GetClusterId(
            GetClusterIdRequest(), metadata=token_metadata(), timeout=CONNECT_SECONDS, wait_for_ready=False
        )


def token_metadata() -> tuple[tuple[str, str], ...]:
    """What a call to a head brings along: the token of the cluster, where there is one."""
    return tuple(AuthenticationTokenLoader.instance().get_token_for_http_header().items())


@contextmanager
def refusals_of_head(address: str) -> Iterator[None]:
    """Refuses what goes wrong in a block that calls the head at an address."""
    try:
        yield
    except AuthenticationError as error:
        raise Refused(f"no token for the Ray cluster at {address!r}: {_one_line(error)}") from error
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            raise Refused(f"the Ray cluster at {address!r} does not accept this token; {TOKEN_ADVICE}") from error
        raise Refused(
            f"no Ray head answers at {address!r} ({error.code().name}); check that it is up and that this is HOST:PORT of the head itself, "
            "or leave --address and RAY_ADDRESS out for a private cluster"
        ) from error


def _one_line(error: Exception) -> str:
    return first_line(error).split(". ")[0]


def is_given(address: str | None = None) -> bool:
    """Whether there is a cluster to join: at an address, at RAY_ADDRESS, or in use by this process."""
    return bool(address or os.environ.get("RAY_ADDRESS") or ray.is_initialized())


def cluster(address: str | None = None) -> AbstractContextManager[str]:
    """The cluster at an address or at RAY_ADDRESS where one is given, else a private one."""
    return connect(address) if is_given(address) else private_cluster()
