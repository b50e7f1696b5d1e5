"""Submits a run as a job of a Ray cluster. The code of mirepoix is sent with the job; its dependencies must be on the cluster."""

import asyncio
import hashlib
import logging
import os
import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobSubmissionClient

from mirepoix.models.errors import Refused
from mirepoix.serving.store import refuse_credentials
from mirepoix.workflows.cluster.ray_cluster import TOKEN_ADVICE, environment
from mirepoix.workflows.cluster.shipped_code import stage_code
from mirepoix.workflows.config import ENDINGS

ANSWER_SECONDS = 8.0
LOST_TRIES, LOST_PAUSE = 10, 3.0
"""How often, and after how many seconds, a lost log connection is opened again."""
CARRIED = ("MIREPOIX_STORAGE", "MLFLOW_TRACKING_URI")
"""Variables of the submitter that the job gets; the cluster's secrets stay in the cluster's own environment."""
DETACHED = 130
"""Exit code after Ctrl-C, as of any command that was interrupted."""


@dataclass(frozen=True)
class SubmittedJob:
    """A job as it is sent to the cluster."""

    name: str
    entrypoint: str
    folder: Path
    variables: dict[str, str]


def submit(
    recipe: str,
    overrides: Sequence[str] = (),
    *,
    address: str,
    storage: str | None = None,
    config: Path | None = None,
    options: Sequence[str] = (),
    files: Mapping[str, Path] | None = None,
    follow: bool = True,
) -> int:
    """Run a recipe as a job of the cluster at http://HEAD:8265; returns the job's exit code, or 0 at once if it is not followed."""
    logging.getLogger("ray").setLevel(logging.WARNING)
    client = job_client(address)
    with tempfile.TemporaryDirectory(prefix="mirepoix-job-") as folder:
        job = prepare(recipe, overrides, Path(folder), storage, config, options, files)
        send(client, job)
    return follow_job(client, job.name) if follow else 0


def prepare(
    recipe: str,
    overrides: Sequence[str],
    folder: Path,
    storage: str | None = None,
    config: Path | None = None,
    options: Sequence[str] = (),
    files: Mapping[str, Path] | None = None,
) -> SubmittedJob:
    """A job whose working directory, written into an empty folder, holds our code, the config file, and the files that fields name."""
    if storage and "://" not in storage and not Path(storage).is_absolute():
        raise Refused(f"a job's storage cannot be the relative {storage!r}; give a URI, or an absolute path that all nodes share")
    variables = {name: os.environ[name] for name in CARRIED if os.environ.get(name)}
    if storage:
        variables["MIREPOIX_STORAGE"] = storage
    refuse_credentials(variables.get("MIREPOIX_STORAGE", ""))
    stage_code(folder)
    # Every process of a job, on whatever node, starts in a copy of the job's folder; of two values of a field the last one counts.
    shipped = {field: f"settings/{field}.json" for field in files or {}}
    settings = [f"{field}={copy}" for field, copy in shipped.items()]
    own = Path(recipe) if recipe.lower().endswith(ENDINGS) else None
    named = f"config/{own.name}" if own else recipe
    command = ["python", "-m", "mirepoix.workflows", "run", named, *overrides, *settings, *options]
    fingerprint = hashlib.sha256("\0".join(command).encode())
    for field, file in (files or {}).items():
        (folder / "settings").mkdir(exist_ok=True)
        shutil.copyfile(file, folder / shipped[field])
        fingerprint.update(file.read_bytes())
    for file in filter(None, (own, config)):
        if not file.is_file():
            raise Refused(f"there is no config file {str(file)!r}")
        (folder / "config").mkdir()
        shutil.copy(file, folder / "config")
        fingerprint.update(file.read_bytes())
    if config is not None:
        command += ["--config", f"config/{config.name}"]
    readable = re.sub(r"[^A-Za-z0-9]+", "-", own.stem if own else recipe).strip("-")
    name = f"{readable}-{fingerprint.hexdigest()[:6]}-{time.strftime('%Y%m%d-%H%M%S')}"
    return SubmittedJob(name, shlex.join(command), folder, variables)


def job_client(address: str) -> JobSubmissionClient:
    """A client of the cluster's job server; refused in seconds if it does not answer or rejects the token."""
    url = (address if "://" in address else f"http://{address}").rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise Refused(f"cannot submit to {address!r}; give the address of the head's dashboard, such as http://HEAD:8265")
    try:
        answer = httpx.get(f"{url}/api/version", headers=get_auth_headers_if_auth_enabled({}), timeout=ANSWER_SECONDS)
        if answer.status_code in (401, 403):
            problem = "asks for a token" if answer.status_code == 401 else "does not accept this token"
            raise Refused(f"the cluster at {url} {problem} ({answer.status_code}); {TOKEN_ADVICE}")
        if answer.status_code != 200 or "ray_version" not in answer.text:
            raise Refused(f"what answers at {url} (status {answer.status_code}) is no Ray dashboard; its address is http://HEAD:8265")
        with environment(RAY_ADDRESS=None, RAY_API_SERVER_ADDRESS=None):  # either would win over the address that is given
            return JobSubmissionClient(url)
    except AuthenticationError as error:
        raise Refused(f"no usable token for the cluster at {url}; {TOKEN_ADVICE}") from error
    except (httpx.TransportError, httpx.InvalidURL, ConnectionError) as error:
        raise Refused(
            f"no answer from {url} ({type(error).__name__}); check that the cluster is up, that its dashboard listens on that address "
            "(ray start --dashboard-host), and that the port is open to you"
        ) from error


def send(client: JobSubmissionClient, job: SubmittedJob) -> None:
    """Send a job; the cluster has all of it when this returns."""
    try:
        client.submit_job(
            submission_id=job.name,
            entrypoint=job.entrypoint,
            runtime_env={"working_dir": str(job.folder), "env_vars": job.variables},
        )
    except RuntimeError as error:
        reasons = [line for line in str(error).splitlines() if "Error: " in line]
        raise Refused(f"the cluster does not take the job: {(reasons or [str(error)])[-1].strip()}") from error
    _say(f"submitted {job.name}; see {client.get_address()}/#/jobs/{job.name}")


def follow_job(client: JobSubmissionClient, name: str) -> int:
    """Print a job's log until it ends and return its exit code; Ctrl-C leaves the job running."""
    look = f"ray job logs {name} --follow --address {client.get_address()}"
    stop = f"ray job stop {name} --address {client.get_address()}"
    try:
        details = asyncio.run(_tail(client, name))
    except KeyboardInterrupt:
        _say(f"\ndetached; {name} goes on. To look: {look}. To stop it: {stop}")
        return DETACHED
    except (RuntimeError, aiohttp.ClientError, OSError) as error:
        raise Refused(f"lost the cluster while {name} was running ({error}); it may still be. To look: {look}") from error
    code = _exit_code(details)
    _say(f"{name} {details.status.value.lower()}" + (f": {str(details.message).partition(', last available logs')[0]}" if code else ""))
    return code


async def _tail(client: JobSubmissionClient, name: str) -> JobDetails:
    """Print each part of a job's log once, over lost and new connections, until the job has ended; returns its details."""
    printed, lost = 0, 0
    while True:
        seen = 0
        try:
            async for text in client.tail_job_logs(name):
                fresh = text[max(0, printed - seen) :]
                seen += len(text)
                printed, lost = max(printed, seen), 0
                print(fresh, end="", flush=True)
            details = await asyncio.to_thread(client.get_job_info, name)
            if details.status.is_terminal():
                return details
        except (RuntimeError, aiohttp.ClientError, OSError):
            lost += 1
            if lost == LOST_TRIES:
                raise
        await asyncio.sleep(LOST_PAUSE if lost else 0.2)


def _exit_code(details: JobDetails) -> int:
    if details.status.value == "SUCCEEDED":
        return 0
    return details.driver_exit_code or 1


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
