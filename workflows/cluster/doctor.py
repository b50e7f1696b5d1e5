"""Checks whether this machine can run mirepoix: one finding per line, with advice where something is missing."""

import importlib.metadata
import json
import os
import platform
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from packaging.requirements import Requirement

from mirepoix.models.errors import Refused, first_line
from mirepoix.serving.engine.memory import available_or_all
from mirepoix.serving.store import refuse_credentials
from mirepoix.workflows.storage import default_storage

GIB = 2**30
PORTS = {8000: "the search endpoint", 8265: "the dashboard of a Ray head", 5000: "an MLflow server"}
PACKAGES = ("ray", "torch", "deepspeed", "transformers", "peft", "mlflow", "pyarrow", "pillow", "numpy", "fastapi")
FAISS = ("faiss-cpu", "faiss-gpu", "faiss-gpu-cuvs")
TEST_PROGRAMS = {
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "systemd-analyze": "systemd",
}
"""Programs that the tests use, and their packages of Debian."""
PROBE_SECONDS = 60.0
FAISS_PROBE = """
import json, faiss
print(json.dumps({"version": faiss.__version__, "gpus": faiss.get_num_gpus(), "options": faiss.get_compile_options().split()}))
"""
OPERATORS_PROBE = """
import json, os, torch
if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
from deepspeed.ops.op_builder.all_ops import ALL_OPS, accelerator_name
from deepspeed.ops.op_builder.builder import probe_is_compatible
operators = {name: bool(probe_is_compatible(op)) for name, op in ALL_OPS.items() if name != "deepspeed_not_implemented"}
print(json.dumps({"accelerator": accelerator_name, "operators": operators}))
"""


@dataclass(frozen=True)
class MachineCheck:
    """One finding: what was checked, whether it suffices, what was found, and what to do."""

    what: str
    state: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def checks(storage: str | None = None) -> list[MachineCheck]:
    """Every check of this machine."""
    root = storage or default_storage()
    with probe(FAISS_PROBE) as faiss_probe, probe(OPERATORS_PROBE) as operators_probe:
        machine = [python(), cpus(), memory(), shared_memory(), *versions()]
        devices, pictures = gpus(), torchvision()
        ports = [port(number, use) for number, use in PORTS.items()]
        services = [*ray_authentication(), *storage_root(root), tracking(), programs_of_tests()]
        return [*machine, faiss(probe_result(faiss_probe)), devices, operators(probe_result(operators_probe)), pictures, *ports, *services]


def probe(code: str) -> subprocess.Popen:
    """A Python process whose last line is a JSON report. It does the imports that this process must not: one of them may crash."""
    return subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def probe_result(process: subprocess.Popen, seconds: float = PROBE_SECONDS) -> dict[str, Any] | str:
    """The report of a probe, or a line that says why there is none."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return f"no answer within {seconds:g} seconds"
    if process.returncode:
        return (err.strip().splitlines() or [f"it ended with status {process.returncode}"])[-1]
    return json.loads(out.splitlines()[-1])


def doctor_table(found: Iterable[MachineCheck]) -> str:
    """The checks as lines of text, advice below what needs it."""
    found = list(found)
    width = max(len(check.what) for check in found)
    lines = []
    for check in found:
        lines.append(f"{check.state:<4}  {check.what:<{width}}  {check.found}")
        if check.advice:
            lines.append(f"{'':<{6 + width}}  -> {check.advice}")
    counts = [f"{sum(check.state == state for check in found)} {state}" for state in ("ok", "warn", "fail")]
    return "\n".join([*lines, ", ".join(counts)])


def as_json(found: Iterable[MachineCheck]) -> str:
    """The checks as JSON."""
    return json.dumps([asdict(check) for check in found], indent=2)


def main(json_output: bool = False, storage: str | None = None, further: Iterable[MachineCheck] = ()) -> int:
    """Print the checks, with those of a recipe where one was asked for; 1 if one of them fails."""
    found = [*checks(storage), *further]
    print(as_json(found) if json_output else doctor_table(found))
    return int(any(check.state == "fail" for check in found))


def python(version: tuple[int, ...] = sys.version_info[:3]) -> MachineCheck:
    text = ".".join(map(str, version))
    if version < (3, 11):
        return MachineCheck("Python", "fail", text, "use Python 3.11 or newer")
    return MachineCheck("Python", "ok", f"{text}, {sys.executable}")


def cpus(count: int | None = None) -> MachineCheck:
    count = count or os.cpu_count() or 1
    if count < 2:
        return MachineCheck("CPUs", "warn", str(count), "runs will be slow; two or more are better")
    return MachineCheck("CPUs", "ok", f"{count}, {platform.machine()}")


def memory(needed: float = 4 * GIB, available: float | None = None) -> MachineCheck:
    available = available_or_all() if available is None else available
    if available < needed:
        advice = "end other processes, or run on a larger machine; the quickstart takes up to 4 GiB"
        return MachineCheck("memory", "warn", f"{available / GIB:.1f} GiB available", advice)
    return MachineCheck("memory", "ok", f"{available / GIB:.1f} GiB available")


def shared_memory(folder: Path = Path("/dev/shm"), needed: float = 0.5 * GIB) -> MachineCheck:
    if not folder.is_dir():
        return MachineCheck(str(folder), "ok", "not on this system; Ray uses the folder for temporary files")
    size = shutil.disk_usage(folder).total
    if size < needed:
        advice = "Ray's object store falls back to the disk, which is slow; in a container give --shm-size=2g"
        return MachineCheck(str(folder), "warn", f"{size / GIB:.2f} GiB", advice)
    return MachineCheck(str(folder), "ok", f"{size / GIB:.1f} GiB")


def floors() -> dict[str, Requirement]:
    """What mirepoix requires, by package; empty where it is not installed."""
    try:
        lines = importlib.metadata.requires("mirepoix") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = [Requirement(line) for line in lines]
    return {each.name: each for each in found if each.marker is None}


def installed(name: str) -> str | None:
    """The installed version of a package."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions(required: Mapping[str, Requirement] | None = None, version: Callable[[str], str | None] = installed) -> Iterator[MachineCheck]:
    required = floors() if required is None else required
    for name in PACKAGES:
        found, floor = version(name), required.get(name)
        needed = f"{name}{floor.specifier}" if floor else name
        if found is None:
            yield MachineCheck(name, "fail", "not installed", f"pip install '{needed}'")
        elif floor and not floor.specifier.contains(found, prereleases=True):
            yield MachineCheck(name, "fail", found, f"pip install '{needed}'")
        else:
            yield MachineCheck(name, "ok", found)


def faiss(reported: dict[str, Any] | str, version: Callable[[str], str | None] = installed) -> MachineCheck:
    """Exactly one FAISS wheel is installed, and loads; the wheels share one module, and pip installs several without an error."""
    found = {name: version(name) for name in FAISS if version(name)}
    text = ", ".join(f"{name} {number}" for name, number in found.items()) or "not installed"
    if len(found) > 1:
        advice = f"pip uninstall -y {' '.join(FAISS)} && pip install 'mirepoix[cpu]'  (or [gpu] or [gpu-cuda13]; only one of them)"
        return MachineCheck("FAISS", "fail", text, advice)
    if isinstance(reported, str) and not found:
        advice = "pip install 'mirepoix[cpu]'  (or [gpu] or [gpu-cuda13] on a machine with NVIDIA GPUs; only one of them)"
        return MachineCheck("FAISS", "fail", f"{text}: {reported}", advice)
    name = next(iter(found), "")
    instead = f"pip uninstall -y {name} && pip install 'mirepoix[cpu]'"
    if isinstance(reported, str):
        again = "pip install --force-reinstall --no-deps faiss-cpu"
        advice = again if name == "faiss-cpu" else f"install the CUDA libraries that it needs, or: {instead}"
        return MachineCheck("FAISS", "fail", f"{text} cannot be imported: {reported}", advice)
    text = text if found else f"{reported['version']}, a build that pip has no record of"
    text += f"; {reported['gpus']} GPUs; compiled with {' '.join(reported['options'])}"
    if name.startswith("faiss-gpu") and not reported["gpus"]:
        return MachineCheck("FAISS", "warn", text, f"it finds no GPU: check nvidia-smi, or {instead}")
    return MachineCheck("FAISS", "ok", text)


def gpus(nvidia_smi: str | None = None) -> MachineCheck:
    import torch

    smi = nvidia_smi or shutil.which("nvidia-smi")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return MachineCheck("GPUs", "ok", f"{len(names)}: {', '.join(sorted(set(names)))}")
    if smi and (listed := _output([smi, "-L"])):
        advice = f"torch {torch.__version__} does not find them; install the CUDA build of torch for this driver"
        return MachineCheck("GPUs", "warn", f"{len(listed.splitlines())} by nvidia-smi, none by torch", advice)
    return MachineCheck("GPUs", "ok", "none; everything runs on the CPU")


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def operators(reported: dict[str, Any] | str, compiler: str | None = None) -> MachineCheck:
    """Which operators of DeepSpeed can be compiled. Our settings use none; those of a user may (CPU offload, FusedAdam)."""
    if isinstance(reported, str):
        return MachineCheck(
            "DeepSpeed ops", "fail", f"DeepSpeed cannot be imported: {reported}", "pip install --force-reinstall --no-deps deepspeed"
        )
    compiler = compiler or shutil.which("g++") or shutil.which("c++")
    fit = [name for name, compatible in reported["operators"].items() if compatible] if compiler else []
    unfit = [name for name in reported["operators"] if name not in fit]
    text = f"none needed: ours use torch's own; on {reported['accelerator']} a settings file may ask for {', '.join(fit) or 'none'}"
    text += f", built by {compiler}" if compiler else " (no C++ compiler)"
    return MachineCheck("DeepSpeed ops", "ok", text + (f"; not for {', '.join(unfit)}" if unfit else ""))


def torchvision(version: Callable[[str], str | None] = installed) -> MachineCheck:
    found = version("torchvision")
    return MachineCheck(
        "torchvision", "ok", f"{found}; not used" if found else "not installed, and not needed: pictures are read by Pillow"
    )


def port(number: int, use: str) -> MachineCheck:
    what = f"port {number}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except PermissionError:
            return MachineCheck(what, "warn", "not allowed to this user", f"give {use} a port above 1023")
        except OSError:
            owner = _owner(number)
            return MachineCheck(
                what, "warn", f"in use{f' by {owner}' if owner else ''}", f"give {use} another port, or end the process that holds this one"
            )
    return MachineCheck(what, "ok", f"free for {use}")


def _owner(number: int) -> str:
    """The process that listens on a port, if this user may see it; else empty."""
    inodes = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
        inodes |= {row[9] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == number}
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(entry).removeprefix("socket:[").removesuffix("]") in inodes:
                name = (entry.parents[1] / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {entry.parents[1].name} ({name[:60]})"
        except OSError:
            continue
    return ""


def ray_authentication(environment: Mapping[str, str] = os.environ, home: Path | None = None) -> Iterator[MachineCheck]:
    mode = environment.get("RAY_AUTH_MODE", "")
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or (home or Path.home()) / ".ray" / "auth_token")
    if mode.lower() == "disabled":
        advice = "anyone who reaches a Ray head of yours can run code on it; export RAY_AUTH_MODE=token"
        yield MachineCheck("Ray tokens", "warn", "RAY_AUTH_MODE=disabled", advice)
    elif mode.lower() == "token" and not environment.get("RAY_AUTH_TOKEN") and not path.exists():
        yield MachineCheck(
            "Ray tokens", "fail", f"RAY_AUTH_MODE=token, but there is no {path}", "ray get-auth-token --generate, or set RAY_AUTH_TOKEN"
        )
    else:
        found = f"RAY_AUTH_MODE={mode}" if mode else "RAY_AUTH_MODE is not set; a private cluster makes its own token"
        yield MachineCheck("Ray tokens", "ok", found)
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        mode_text = f"{stat.S_IMODE(path.stat().st_mode):04o}"
        yield MachineCheck("Ray token file", "warn", f"{path} has mode {mode_text}", f"others can read it: chmod 600 {path}")


def storage_root(root: str, needed: float = 2 * GIB) -> Iterator[MachineCheck]:
    try:
        refuse_credentials(root)
    except Refused as refusal:
        yield MachineCheck("storage", "fail", "a URI with a key in it", str(refusal))
        return
    scheme = urlsplit(root).scheme
    if scheme not in ("", "file"):
        yield _remote_storage(root)
        return
    folder = Path(urlsplit(root).path if scheme else root)
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            yield MachineCheck("storage", "ok", f"{folder}, writable")
    except OSError as error:
        yield MachineCheck("storage", "fail", f"{folder}: {error.strerror}", "give another folder or URI by --storage or MIREPOIX_STORAGE")
    free = shutil.disk_usage(there).free
    if free < needed:
        yield MachineCheck(
            "disk", "warn", f"{free / GIB:.1f} GiB free at {folder}", "free some, or give another folder by MIREPOIX_STORAGE"
        )
    else:
        yield MachineCheck("disk", "ok", f"{free / GIB:.0f} GiB free at {folder}")


def _remote_storage(root: str) -> MachineCheck:
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem

    try:
        filesystem, path = FileSystem.from_uri(root)
        filesystem.get_file_info(path)
        return MachineCheck("storage", "ok", f"{root}, reached")
    except (ArrowException, OSError, ValueError) as error:
        return MachineCheck("storage", "fail", f"{root}: {first_line(error)}", "check the URI, its credentials, and the network")


def tracking(uri: str | None = None) -> MachineCheck:
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not uri:
        return MachineCheck("MLflow", "ok", "MLFLOW_TRACKING_URI is not set; runs go to a local SQLite store")
    if urlsplit(uri).scheme not in ("http", "https"):
        return MachineCheck("MLflow", "ok", uri)
    advice = "start it (docs/cluster.md), or unset MLFLOW_TRACKING_URI for a local store"
    try:
        answer = httpx.get(f"{uri.rstrip('/')}/health", timeout=5)
    except (httpx.TransportError, httpx.InvalidURL) as error:
        return MachineCheck("MLflow", "fail", f"{uri} does not answer ({type(error).__name__})", advice)
    if answer.status_code != 200:
        return MachineCheck("MLflow", "fail", f"{uri} answers {answer.status_code}", advice)
    return MachineCheck("MLflow", "ok", f"{uri}, reached")


def programs_of_tests() -> MachineCheck:
    """Whether the programs are there that the tests use beside Python's."""
    if missing := [program for program in TEST_PROGRAMS if not shutil.which(program)]:
        packages = " ".join(TEST_PROGRAMS[program] for program in missing)
        return MachineCheck("programs", "warn", f"no {', '.join(missing)}", f"only tests need these; apt-get install {packages}")
    return MachineCheck("programs", "ok", f"{', '.join(TEST_PROGRAMS)}, for the tests")
